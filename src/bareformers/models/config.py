"""The one config: sizes, positions, and which mixer and block sit where."""

# No deferred annotations here: `strict` checks the types of fields only where it sees them as types.
from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from bareformers import registry
from bareformers.blocks import layers
from bareformers.blocks.base import Place
from bareformers.errors import InputError, unknown
from bareformers.mixers.base import Slot

POSITIONS = ("sinusoidal", "learned", "none")
POOLINGS = ("mean", "first", "last", "concat")
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


@strict
class BareConfig(PreTrainedConfig):
    """Sizes and choices of a model.

    `mixer` says what moves information between positions: a name, `{name: gaussian, std: 0.5}`, a list that is tiled
    over depth, or `{default: dot_product, layers: {0: gaussian, -1: none}}`. `encoder_mixer`, `decoder_mixer` and
    `cross_mixer` override it for their role.
    """

    model_type = "bareformer"

    vocab_size: int = 8000
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_encoder_layers: int | None = None  # encoder-decoder only; as many as num_hidden_layers by default
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_act: str = "relu"
    max_position_embeddings: int = 512
    position_embedding: str = "sinusoidal"  # or learned, none
    embedding_norm: bool = False
    scale_embedding: bool = True  # multiply token embeddings by sqrt(hidden_size)
    norm: str = "layer"  # or rms; or none, in blocks that can do without
    norm_eps: float | int = 1e-5
    block: Any = "pre_ln"
    mixer: Any = "dot_product"
    encoder_mixer: Any = None
    decoder_mixer: Any = None
    cross_mixer: Any = None
    length_ratio: float | int = 1.0  # source tokens per target token of the training data, for mixers that align by it
    use_bias: bool = True
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    initializer_range: float | int | None = None  # standard deviation; by default 1 / sqrt(inputs) of each linear map
    classifier_pooling: str = "mean"  # or first, last; or concat: the last, the maximum and the mean beside each other
    classifier_causal: bool = False  # whether a classifier reads from left to right, as a causal language model does
    score_mean: float | int | None = None  # of a regression: the scores that it was trained on, which it gives too
    score_std: float | int | None = None
    # Of a classifier for several tasks at once, whose outputs each has, in this order: one for each of its labels, or
    # one for its score, as in [{name: trec, labels: [place, number]}, {name: stsb, score_mean: 2.7, score_std: 1.5}].
    members: list[dict[str, Any]] | None = None
    # Of models that read images, which have patches for tokens:
    image_size: int | list[int] | None = None  # height and width in pixels, or one for both
    patch_size: int | None = None  # pixels on a side
    num_channels: int | None = None
    image_mean: list[float] | None = None  # of each channel, where pixels go from 0 to 1
    image_std: list[float] | None = None
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in SIZES:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.num_encoder_layers is not None and self.num_encoder_layers < 1:
            raise InputError(f"num_encoder_layers is at least 1, not {self.num_encoder_layers}")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}; "
                f"write {self.hidden_size // self.num_attention_heads * self.num_attention_heads or 1}, or other heads"
            )
        if self.length_ratio <= 0:
            raise InputError(f"length_ratio is above 0, not {self.length_ratio}")
        if self.position_embedding not in POSITIONS:
            raise unknown("position_embedding", self.position_embedding, POSITIONS)
        if self.classifier_pooling not in POOLINGS:
            raise unknown("classifier_pooling", self.classifier_pooling, POOLINGS)
        if self.position_embedding == "sinusoidal" and self.hidden_size % 2:
            raise InputError(f"sinusoidal positions need an even hidden_size, not {self.hidden_size}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is a probability in [0, 1), not {getattr(self, name)}")
        layers.activation(layers.GATED.get(self.hidden_act, self.hidden_act))
        if self.score_std is not None and self.score_std <= 0:
            raise InputError(f"score_std is above 0, not {self.score_std}")
        if self.image_size is not None:
            self._check_images()
        self._check_parts()

    def _check_images(self) -> None:
        """Raise where what is said of images does not go together."""
        size, patch, channels = self.image_size, self.patch_size, self.num_channels
        if patch is None or patch < 1 or channels is None or channels < 1:
            raise InputError(
                f"a model of images needs patch_size and num_channels of 1 or more, not {patch}, {channels}"
            )
        if isinstance(size, list) and len(size) != 2 or any(side < 1 or side % patch for side in self.pixels):
            raise InputError(
                f"image_size is the height and the width, both multiples of patch_size {patch}, not {size}; "
                f"write another patch_size"
            )
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name) or [1.0] * channels) != channels:
                raise InputError(f"{name} has a number for each of the {channels} channels, not {getattr(self, name)}")
        if min(self.image_std or [1.0]) <= 0:
            raise InputError(f"image_std is above 0, not {self.image_std}")
        rows, columns = self.grid
        if self.max_position_embeddings < self.num_leading + rows * columns:
            token = " and the class token" * self.num_leading
            raise InputError(
                f"max_position_embeddings {self.max_position_embeddings} is less than the {rows} × {columns} "
                f"patches{token} of an image; write {self.num_leading + rows * columns}"
            )

    def _check_parts(self) -> None:
        """Raise where block, norm and mixers do not go together."""
        block, _ = registry.blocks.parse(self.block, "block")
        if self.norm not in (*layers.NORMS, "none"):
            raise unknown("norm", self.norm, [*layers.NORMS, "none"])
        if self.norm == "none" and not block.norm_free:
            able = [name for name, other in registry.blocks if other.norm_free]
            raise InputError(f"block {block.name!r} needs its norms; write norm: layer, or block: {' or '.join(able)}")
        roles = ("encoder", "decoder", "cross") if self.is_encoder_decoder else ("encoder", "decoder")
        for role in roles:
            for layer in range(self.num_layers(role)):
                mixer, _ = registry.mixers.parse(self.mixer_spec(role, layer), f"layer {layer}")
                if role != "cross" and block.needs_map and not (mixer.has_map or mixer.absent):
                    able = [name for name, other in registry.mixers if other.has_map]
                    raise InputError(
                        f"block {block.name!r} shapes the map of its mixer, and {mixer.name!r} has none; "
                        f"write one of {', '.join(able)}, or block: pre_ln"
                    )
                if mixer.part not in ("mixer", "head") and not block.replaceable:
                    able = [name for name, other in registry.blocks if other.replaceable]
                    raise InputError(
                        f"{mixer.name!r} stands for the wiring of a layer too, and block {block.name!r} has one of its "
                        f"own; write block: {' or '.join(able)}, or a mixer such as 'alr'"
                    )

    @classmethod
    def from_recipe(cls, **given: Any) -> "BareConfig":
        """A config from what a recipe says; a key that is no field is an `InputError`."""
        known = sorted(cls.__annotations__.keys() | {"is_encoder_decoder"})
        for key in given:
            if key not in known:
                raise unknown("model key", key, known)
        try:
            return cls(**given)
        except InputError:
            raise
        except (
            TypeError,
            ValueError,
            StrictDataclassError,
        ) as error:  # what `strict` says of a value of the wrong type
            raise InputError(f"model: {' '.join(str(error).split())}") from error

    @property
    def outputs_of(self) -> dict[str, slice]:
        """Of several tasks at once, which outputs of the classifier are those of each member."""
        found, start = {}, 0
        for member in self.members or ():
            stop = start + len(member.get("labels") or [None])
            found[member["name"]] = slice(start, stop)
            start = stop
        return found

    def give_labels(
        self, labels: Sequence[str] | None, score_mean: float | None = None, score_std: float | None = None
    ) -> None:
        """What one task tells: classes, or where there are none a score."""
        self.members, self.score_mean, self.score_std = None, score_mean, score_std
        self.problem_type = None if labels else "regression"
        self._name_outputs(labels or ["score"])

    def give_members(self, members: Sequence[dict[str, Any]]) -> None:
        """What several tasks at once tell."""
        self.members, self.score_mean, self.score_std, self.problem_type = [*members], None, None, None
        self._name_outputs(
            [f"{member['name']}/{label}" for member in members for label in member.get("labels") or ["score"]]
        )

    def _name_outputs(self, names: Sequence[str]) -> None:
        self.id2label, self.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the images that a model reads."""
        assert self.image_size is not None
        height, width = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of an image."""
        assert self.patch_size is not None
        return self.pixels[0] // self.patch_size, self.pixels[1] // self.patch_size

    @property
    def num_leading(self) -> int:
        """How many positions come before the patches of an image: a class token, where that is what is pooled."""
        return int(self.image_size is not None and self.classifier_pooling == "first")

    @property
    def kept_norm(self) -> str:
        """The kind of norm outside of blocks, which `norm: none` keeps."""
        return "layer" if self.norm == "none" else self.norm

    def num_layers(self, role: str) -> int:
        """Depth of the stack that a role belongs to."""
        if role == "encoder" and self.is_encoder_decoder and self.num_encoder_layers is not None:
            return self.num_encoder_layers
        return self.num_hidden_layers

    def mixer_spec(self, role: str, layer: int) -> dict[str, Any]:
        """What sits at `layer` in `role`, as `{name: ..., <options>}`."""
        spec = getattr(self, f"{role}_mixer")
        spec = self.mixer if spec is None else spec
        if isinstance(spec, dict) and "default" in spec:
            if extra := set(spec) - {"default", "layers"}:
                raise InputError(f"a mixer per layer has the keys default and layers, not {', '.join(sorted(extra))}")
            layers = spec.get("layers") or {}
            if not isinstance(layers, dict) or not all(str(index).lstrip("-").isdigit() for index in layers):
                raise InputError(f"layers says which mixer sits at which depth, as in {{0: gaussian}}, not {layers!r}")
            depth = self.num_layers(role)
            if outside := [index for index in map(int, layers) if not -depth <= index < depth]:
                raise InputError(f"mixer names layer {outside[0]}, but there are {depth}, numbered from 0")
            chosen = {int(index) % depth: choice for index, choice in layers.items()}
            if len(chosen) < len(layers):
                raise InputError(f"mixer names a layer twice, from the top and from the bottom: {list(layers)}")
            spec = chosen.get(layer, spec["default"])
        elif isinstance(spec, list | tuple):
            if not spec:
                raise InputError("a list of mixers needs at least one")
            spec = spec[layer % len(spec)]
        if isinstance(spec, str):
            return {"name": spec}
        if not isinstance(spec, dict):
            raise InputError(f"a mixer is a name or a mapping with a name, not {spec!r}")
        return dict(spec)

    def slot(self, role: str, layer: int) -> Slot:
        """What the mixer at `layer` in `role` is told."""
        return Slot(
            role=role,
            layer=layer,
            hidden_size=self.hidden_size,
            num_heads=self.num_attention_heads,
            max_length=self.max_position_embeddings,
            max_context_length=self.max_position_embeddings,
            length_ratio=self.length_ratio,
            dropout=self.attention_dropout,
            use_bias=self.use_bias,
            grid_width=None if self.image_size is None else self.grid[1],
            num_leading=self.num_leading,
        )

    def place(self, role: str, layer: int) -> Place:
        """What the block at `layer` of the stack of `role` is told."""
        other = {"encoder": "decoder", "decoder": "encoder"}[role]
        return Place(
            role=role,
            layer=layer,
            num_layers=self.num_layers(role),
            num_other_layers=self.num_layers(other) if self.is_encoder_decoder else 0,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            hidden_act=self.hidden_act,
            norm=self.norm,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            use_bias=self.use_bias,
        )
