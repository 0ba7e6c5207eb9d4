"""What the laws run over, read from the registry: a mixer that is registered later is tested because it exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.base import SelfInitialised, Slot, TokenMixer
from bareformers.mixers.linear import FastWeights
from bareformers.mixers.masks import Mask
from bareformers.models import BareConfig, BareForCausalLM, BareForSeq2SeqLM
from tests.reference import attentionless  # noqa: F401  (writes its equations beside the others)

PADDINGS = ("none", "right", "left", "ragged")

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "alr": [{"form": "factorised", "width": 12}],
    "delta": [
        {"feature_map": "dpfp", "key_norm": "sum", "conv": 0, "output_norm": False},
        {"feature_map": "elu"},
    ],
    "dense": [{"max_offset": 3}],
    "dot_product": [{"positions": "rotary"}, {"positions": "relative"}, {"num_heads": 1}],
    "fast_weights": [{"squash": True}],
    "gaussian": [
        {"normalize": True},
        {"offsets": (0, -2, 3), "std": 0.5},
        {"std": (0.5, 1.5), "normalize": True},
        {"length_ratio": 1.4},
        {"length_ratio": 1.4, "normalize": True},
    ],
    "gaussian_2d": [
        {"width": 4},
        {"width": 3, "normalize": True, "std": 2.0},
        {"width": 5, "offsets": ((0, 0), (1, -2)), "std": (0.5, 1.5)},
    ],
    "linear": [
        {"feature_map": {"name": "dpfp", "nu": 2}},
        {"feature_map": {"name": "favor", "num_directions": 5}},
        {"feature_map": "identity", "normalize": False},
        {"conv": 3},
    ],
    "mixture": [
        {"of": ["random", "dot_product"]},
        {"of": ["dense", "random"]},
        {"of": ["dense", "factorized_random"]},
        {"of": [{"name": "dot_product", "positions": "rotary"}, {"name": "random", "max_offset": 3}]},
    ],
    "random": [{"max_offset": 3}],
    "sliding_window": [
        {"window": 3, "positions": "rotary"},
        {"window": 4},
        {"window": 2, "positions": "relative"},
    ],
}
"""Options worth running every law with, beside the defaults; the first of a mixer that has none stand for them."""

BLOCK_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "alr": [{"form": "factorised", "width": 12}],
    "post_ln": [{"deep_norm": True}],
    "resi_dual": [{"scale": 0.3}],
    "v_skipinit": [{"centred": False}],
}
"""The same for blocks."""

SELF = {"encoder", "decoder"}
ROLE_OPTIONS = {"length_ratio": {"cross"}, "max_offset": SELF, "positions": SELF}
"""Options that mean something in these roles only."""


@dataclass(frozen=True)
class Case:
    """A mixer with options in a role, and what the config of a model around it says besides."""

    name: str
    role: str
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, self.role, *_words(self.options), *_words(self.config)])

    @property
    def cls(self) -> type[TokenMixer]:
        return registry.mixers.get(self.name)

    @property
    def spec(self) -> dict[str, Any]:
        """What a recipe would say."""
        return {"name": self.name, **self.options}

    @property
    def normalized(self) -> bool:
        """Whether the rows of the map sum to 1.

        The density that the Gaussian paper uses does not, nor the row of a DPFP query that matches no key: it is 0.
        """
        if self.name in ("gaussian", "gaussian_2d"):
            return self.options.get("normalize", False)
        return "dpfp" not in str(self.options.get("feature_map"))

    def rounding(self, usual: float) -> float:
        """How far two ways to the same numbers may lie apart: farther for sums over chunks that begin elsewhere."""
        return 5e-6 if issubclass(self.cls, FastWeights) else usual

    def slot(self, **sizes: Any) -> Slot:
        """A small place for it."""
        usual = dict(hidden_size=16, num_heads=2, max_length=132, max_context_length=130, length_ratio=0.9)
        return Slot(role=self.role, layer=0, **{**usual, **sizes})

    def build(self, dtype: torch.dtype = torch.float32, **sizes: Any) -> TokenMixer:
        """The mixer, initialised as a model would and then disturbed, so that no bias stays 0."""
        cls, slot = self.cls, self.slot(**sizes)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            mixer = cls(slot, registry.checked(cls.Options, self.options, self.name))
            for part in reversed(list(mixer.modules())):  # a model too begins inside
                if isinstance(part, SelfInitialised):
                    part.init_weights(slot.hidden_size**-0.5)
        disturb(mixer)
        return mixer.to(dtype).eval()


def _words(given: dict[str, Any]) -> Iterator[str]:
    """`key=value` for each entry; `block=sas` for a block, with its options behind."""
    for key, value in given.items():
        if key == "block" and isinstance(value, dict):
            yield "-".join([f"block={value['name']}", *(f"{k}={v}" for k, v in value.items() if k != "name")])
        else:
            yield f"{key}={value}"


def cases(
    *roles: str, variants: bool = True, absent: bool = True, maps: bool = False, also: tuple[Case, ...] = ()
) -> Any:
    """Parametrise a law with every registered mixer in each of its roles (or those of `roles`).

    Without `variants` each mixer comes once a role, and those of `also`: enough where a law takes its time. With `maps`
    only mixers come that have one.
    """
    found = [*_cases(roles or registry.ROLES, variants, absent, maps), *also]
    return pytest.mark.parametrize("case", found, ids=str)


def cases_in_blocks() -> Any:
    """Parametrise a law with every registered block, and in each with every mixer that it can hold."""
    found = [
        pytest.param(name, case, id=f"{name}-{case}")
        for name, block in registry.blocks
        for case in _cases(registry.ROLES, False, True, False)
        if not block.needs_map or case.role == "cross" or case.cls.has_map or case.cls.absent
        if block.replaceable or case.cls.part in ("mixer", "head")
    ]
    return pytest.mark.parametrize("block, case", found)


def _cases(roles: tuple[str, ...], variants: bool, absent: bool, maps: bool) -> Iterator[Case]:
    for name, cls in registry.mixers:
        if cls.absent and not absent or maps and not cls.has_map:
            continue
        choices = _choices(name, cls)
        for options in choices if variants else choices[:1]:
            for role in roles:
                if role in cls.roles and _fits(options, role):
                    yield Case(name, role, options)


def _choices(name: str, cls: type[TokenMixer]) -> list[dict[str, Any]]:
    """The options to run the laws with: none at all, where the mixer can do without, and its variants."""
    variants = VARIANTS.get(name, [])
    try:
        cls.Options()
    except (TypeError, InputError):
        if not variants:
            raise LookupError(
                f"mixer {name!r} cannot do without options: write some under VARIANTS in tests/laws/cases.py"
            ) from None
        return variants
    return [{}, *variants]


def _fits(options: Any, role: str) -> bool:
    """Whether every option, those of a mixture's terms too, means something in the role."""
    if isinstance(options, dict):
        return all(role in ROLE_OPTIONS.get(key, registry.ROLES) and _fits(options[key], role) for key in options)
    return not isinstance(options, list) or all(_fits(term, role) for term in options)


OTHER_FORMS = (
    Case("dot_product", "decoder", {"positions": "rotary"}),
    Case("dot_product", "decoder", {"positions": "relative"}),
    Case("random", "decoder", {"max_offset": 3}),
    Case("dense", "decoder", {"max_offset": 3}),
    Case("linear", "decoder", {"conv": 3}),
)
"""Variants that compute in another way than their mixer does otherwise."""


def layouts() -> list[dict[str, Any]]:
    """Every registered block by itself, with options, and without norms where it can do: what a config says of it."""
    found: list[dict[str, Any]] = []
    for name, cls in registry.blocks:
        found.append({"block": name})
        found += [{"block": {"name": name, **options}} for options in BLOCK_VARIANTS.get(name, [])]
        if cls.norm_free:
            found.append({"block": name, "norm": "none"})
    return found


IN_BLOCKS = (
    *(Case("dot_product", "decoder", config=layout) for layout in layouts() if layout != {"block": "pre_ln"}),
    Case("mixture", "decoder", {"of": ["dense", "dot_product"]}, {"block": "sas_p"}),
)
"""A mixer in every block but the usual, for the laws of models."""

each_layout = pytest.mark.parametrize("layout", layouts(), ids=lambda layout: "-".join(_words(layout)))

paddings = pytest.mark.parametrize("padding", PADDINGS)


@dataclass
class Batch:
    """What a mixer reads: x [B, T, D], keep [B, T], and for the cross role a context [B, S, D] with its own."""

    role: str
    x: Tensor
    keep: Tensor | None
    context: Tensor | None = None
    context_keep: Tensor | None = None

    def mask(self, start: int = 0, stop: int | None = None) -> Mask:
        """Who sees whom where the positions before `start` are remembered and those up to `stop` are new."""
        stop = self.x.shape[1] if stop is None else stop
        keep = None if self.keep is None else self.keep[:, :stop]
        own = Mask(stop - start, stop, causal=self.role != "encoder", device=self.x.device, keep=keep)
        if self.context is None:
            return own
        return Mask(
            stop - start,
            self.context.shape[1],
            causal=False,
            device=self.x.device,
            keep=self.context_keep,
            query_positions=own.query_positions,
            query_keep=own.query_keep,
        )

    def run(self, mixer: TokenMixer, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """The whole sequence in one call."""
        return mixer(self.x, self.mask(), context=self.context, **kwargs)

    def real(self, y: Tensor) -> Tensor:
        """[tokens, ..]: the rows of y [B, T, ..] at real tokens, row by row."""
        return y.flatten(0, 1) if self.keep is None else y[self.keep]


def batch(
    case: Case, length: int, context_length: int, padding: str, dtype: torch.dtype = torch.float32, width: int = 16
) -> Batch:
    """Three rows of noise, of `length`, two thirds and a third of it, padded on one side or, ragged, on all."""
    cross = case.role == "cross"
    return Batch(
        case.role,
        noise(3, length, width, seed=2).to(dtype),
        keep_mask(length, padding),
        noise(3, context_length, width, seed=3).to(dtype) if cross else None,
        keep_mask(context_length, padding) if cross else None,
    )


def keep_mask(length: int, padding: str) -> Tensor | None:
    """[3, length] bool, or None for no padding."""
    if padding == "none":
        return None
    keep = torch.zeros(3, length, dtype=torch.bool)
    for row, real in enumerate((length, (2 * length + 2) // 3, (length + 2) // 3)):
        if padding == "ragged":
            real = (2 * length + 2) // 3
        start = {"right": 0, "left": length - real, "ragged": (length - real) * row // 2}[padding]
        keep[row, start : start + real] = True
    return keep


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def disturb(module: nn.Module) -> None:
    """Add a little noise to every parameter, so that zeros and ones hide nothing."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


SIZES = dict(
    vocab_size=23,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=24,
    dropout=0.0,
)


def fresh(case: Case, encoder_decoder: bool | None = None, **config: Any) -> BareForCausalLM | BareForSeq2SeqLM:
    """A small model with the mixer in its role: a causal LM for the decoder role, else an encoder-decoder."""
    encoder_decoder = case.role != "decoder" if encoder_decoder is None else encoder_decoder
    given = {**SIZES, f"{case.role}_mixer": case.spec, "is_encoder_decoder": encoder_decoder, **case.config, **config}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return (BareForSeq2SeqLM if encoder_decoder else BareForCausalLM)(BareConfig(**given)).eval()


def model(case: Case, encoder_decoder: bool | None = None, **config: Any) -> BareForCausalLM | BareForSeq2SeqLM:
    """`fresh`, and then disturbed as if it had learned."""
    built = fresh(case, encoder_decoder, **config)
    disturb(built)
    return built


def token_batch(net: nn.Module, length: int = 9, padding: str = "none") -> dict[str, Tensor]:
    """Tokens for `model`, padded on a side, with decoder tokens for an encoder-decoder."""
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(3, 23, (3, length), generator=generator)
    keep = keep_mask(length, padding)
    keep = torch.ones_like(ids) if keep is None else keep.long()
    inputs = {"input_ids": ids * keep, "attention_mask": keep}
    if net.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(3, 23, (3, length - 2), generator=generator)
    return inputs


def close(found: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Equal up to `tolerance` of the largest expected number (and of 1); the dtype does not matter."""
    expected, found = expected.detach().double(), found.detach().double()
    assert found.shape == expected.shape, f"{what}: shape {list(found.shape)}, expected {list(expected.shape)}"
    assert found.isfinite().all(), f"{what}: not finite"
    if found.numel():
        error = (found - expected).abs().max().item()
        scale = max(1.0, expected.abs().max().item())
        assert error <= tolerance * scale, f"{what}: differs by {error:.2e}, allowed is {tolerance * scale:.2e}"
