"""Mixers in the place of the attention of trained models, of `transformers` and of ours.

`swap` replaces, `put_back` undoes it, `load` opens what `save_pretrained` wrote of a model with replacements.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.base import TokenMixer
from bareformers.paring import families, ours
from bareformers.paring.adapter import Adapter
from bareformers.paring.families import New


@dataclass(frozen=True, eq=False)
class Replaced:
    """One mixer that `swap` put in.

    Attributes:
        role: `encoder`, `decoder` or `cross`.
        layer: depth, from 0.
        spec: the mixer, as `{"name": .., <options>}`.
        modules: what was there before, by dotted path.
        told: what the config said of this place before.
    """

    role: str
    layer: int
    spec: dict[str, Any]
    modules: dict[str, nn.Module]
    told: Any


class Planned(NamedTuple):
    """One mixer that is to come in, and where."""

    role: str
    layer: int
    new: New

    @property
    def mixer(self) -> TokenMixer:
        first: Any = next(iter(self.new.modules.values()))
        return first.mixer if isinstance(first, Adapter) else first


def swap(
    model: Any,
    mixer: str | Mapping[str, Any],
    layers: int | Iterable[int] | None = None,
    role: str | None = None,
    max_length: int | None = None,
) -> list[Replaced]:
    """Put a mixer in the place of attention, in a model of `transformers`, or of another mixer, in one of ours.

    Projections that both have start as copies of those that were there, the rest as in a new model, by torch's
    generator. The config then says what was swapped, so that `save_pretrained` and `load` keep it. `dot_product` in a
    model with rotary positions gets these, unless it says `positions`: it changes nothing. Any other mixer has to learn
    before it is any good: `distill` puts in one that has.

        model = AutoModelForCausalLM.from_pretrained("gpt2")
        replaced = swap(model, "linear", layers=[4, 5])
        put_back(model, replaced)

    Args:
        model: is changed in place. One of `transformers` of a family in `paring.families.FAMILIES`, with a head or
            without, or one of ours.
        mixer: as in recipes, `gaussian` or `{"name": "alr", "size": "S"}`; `bareformers list mixers` has the names.
        layers: which, from 0; by default all.
        role: `encoder`, `decoder` or `cross`; by default that of the only self attention.
        max_length: positions that a mixer of fixed length is built for; by default those of the model.

    Returns:
        What `put_back` needs, one for each layer.

    Raises:
        InputError: model, mixer, layers or role do not fit each other; the model is then as it was.
    """
    model = unwrapped(model)
    return [install(model, each) for each in planned(model, mixer, layers, role, max_length)]


def planned(
    model: Any,
    mixer: str | Mapping[str, Any],
    layers: int | Iterable[int] | None = None,
    role: str | None = None,
    max_length: int | None = None,
) -> list[Planned]:
    """What `swap` would put in; the model stays as it is."""
    insides = insides_of(model)
    places = insides.places(model)
    role = chosen(role, places, model)
    wanted = numbered(layers, len(places[role].layers), role)
    cls, _ = registry.mixers.parse(dict(mixer) if isinstance(mixer, Mapping) else mixer, f"{role}_mixer")
    spec = {"name": mixer} if isinstance(mixer, str) else json.loads(json.dumps(dict(mixer)))
    if cls.absent:
        raise InputError(f"{cls.name} leaves nothing in the place of an attention ({role}_mixer); write average")
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length is at least 1, not {max_length}")
    news = insides.fit(model, places[role], role, wanted, spec, max_length)
    return [Planned(role, layer, new) for layer, new in zip(wanted, news, strict=True)]


def install(model: Any, each: Planned) -> Replaced:
    """Put in one mixer that was planned for a model, or for one that it is a copy of."""
    before = {path: model.get_submodule(path) for path in each.new.modules}
    told = insides_of(model).tell(model.config, each.role, each.layer, each.new.said)
    for path, module in each.new.modules.items():
        model.set_submodule(path, module.train(before[path].training))
    return Replaced(each.role, each.layer, each.new.spec, before, told)


def put_back(model: Any, replaced: Replaced | Iterable[Replaced]) -> None:
    """Undo what `swap` or `distill` returned, the last first: the very modules that were there, and the config's words.

        replaced = distill(model, "gaussian", batches, layers=[0, 1])
        put_back(model, replaced[1])  # layer 1 has its attention again
        put_back(model, replaced[0])

    Args:
        model: the one that was changed; not a copy, nor one that `load` has opened, which never had the modules.
        replaced: all that was returned, or a part. Of several in one place the latest goes back first.

    Raises:
        InputError: the place is gone, for a later replacement took what is around it; put that one back first.
    """
    model = unwrapped(model)
    for each in reversed([replaced] if isinstance(replaced, Replaced) else list(replaced)):
        if missing := [path for path in each.modules if families.inside(model, path) is None]:
            raise InputError(f"the model has no {missing[0]} to put back; put back first what came after it")
        for path, module in each.modules.items():
            model.set_submodule(path, module.train(model.get_submodule(path).training))
        insides_of(model).restore(model.config, each.role, each.layer, each.told)


def unwrapped(model: Any) -> Any:
    """The model of `transformers` inside of what other libraries put around it."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"mixers fit into models of transformers, not into {type(model).__name__}; pass such a model")
    return model


def insides_of(model: Any) -> Any:
    """The module that knows the insides of a model."""
    return ours if model.config.model_type == ours.MODEL_TYPE else families


def chosen(role: str | None, places: Collection[str], model: Any) -> str:
    """The role that is meant; an `InputError` where the model does not have it, or which one is not clear."""
    selves = [each for each in places if each != "cross"]
    if role is None and len(selves) == 1:
        return selves[0]
    if role is None or role not in places:
        said = f"no attention in the role {role!r}" if role else "attention in several roles"
        known = " or ".join(repr(each) for each in ("encoder", "decoder", "cross") if each in places)
        raise InputError(f"{type(model).__name__} has {said}; write role={known}")
    return role


def numbered(layers: int | Iterable[int] | None, depth: int, role: str) -> list[int]:
    """The layers that are meant, each once."""
    if layers is None:
        return list(range(depth))
    wanted = list(dict.fromkeys([layers] if isinstance(layers, int) else layers))
    for layer in wanted:
        if not isinstance(layer, int) or not 0 <= layer < depth:
            raise InputError(f"there is no layer {layer!r} in the role {role}; write numbers from 0 to {depth - 1}")
    return wanted


def load(source: str | Path, **kwargs: Any) -> Any:
    """A model of `transformers`, or of ours, from a folder or from the hub, with the mixers that its config tells of.

        swap(model, "linear", layers=[4, 5])
        model.save_pretrained("with_linear")
        again = load("with_linear")

    Weights are read from safetensors, or from GGUF (`gguf_file=`) where nothing was swapped: pickles can run code. Nor
    is code run that lies beside a model.

    Args:
        source: a folder that `save_pretrained` has written, or a name on the hub.
        kwargs: for `from_pretrained`.

    Returns:
        The model, in evaluation, of the class that its config names.

    Raises:
        InputError: the model is damaged or incomplete, its weights are pickles, or its config names no known class.
    """
    if kwargs.pop("trust_remote_code", False):
        raise InputError(f"code that lies beside the model {source} is never run; leave trust_remote_code out")
    if not kwargs.pop("use_safetensors", True):
        raise InputError(f"weights of {source} that are pickles could run code; leave use_safetensors out")
    where: dict[str, Any] = {
        key: kwargs[key] for key in ("cache_dir", "revision", "subfolder", "token") if key in kwargs
    }
    is_gguf, folder = kwargs.get("gguf_file") is not None, Path(source) / kwargs.get("subfolder", "")
    if not is_gguf and any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
        raise InputError(f"the weights in {folder} are pickles, which can run code; save the model as safetensors")
    try:
        told = [] if is_gguf and not (folder / "config.json").exists() else swaps_in(source, where)
        if told and is_gguf:
            raise InputError(f"GGUF files hold no mixers, and the config of {source} names some; leave gguf_file out")
        if is_gguf:
            return unpacked(AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **kwargs))
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        cls = class_of(config, source)
        model, found = swapped(cls, told, source).from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True, **kwargs
        )
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"the model in {source} is damaged or incomplete: {' '.join(str(error).split())}") from error
    # What authors publish may hold heads that the class they name has not.
    kinds = [("missing_keys", "its tensors lack"), ("unexpected_keys", "config.json has no place for")]
    for kind, said in kinds if told else kinds[:1]:
        if names := sorted(found[kind]):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise InputError(f"the model in {source} is damaged or incomplete: {said} {names[0]}{more}")
    model.__class__ = cls
    return model


def unpacked(model: Any) -> Any:
    """A model whose weights came out of a GGUF file, as one that never was quantised, so that it can be saved."""
    model.config.__dict__.pop("quantization_config", None)
    for trace in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(trace, None)
    return model.eval()


def swaps_in(source: str | Path, where: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the config of a model tells of swaps; an `InputError` where `swap` has not written it so."""
    told = PreTrainedConfig.get_config_dict(source, **where)[0].get("bareformers", {"mixers": []})
    entries = told.get("mixers") if isinstance(told, dict) else None
    keys = {"role", "layer", "mixer", "max_length"}
    if not isinstance(entries, list) or not all(isinstance(each, dict) and set(each) == keys for each in entries):
        raise InputError(f"bareformers in the config of {source} is not as swap writes it, but {told!r}")
    return entries


def class_of(config: Any, source: str | Path) -> Any:
    """The class that a config names."""
    name = (config.architectures or [""])[0]
    classes: list[Any] = [PreTrainedModel]
    for each in classes:
        classes += each.__subclasses__()
    known = {each.__name__: each for each in classes}
    found = (getattr(transformers, name, None) or known.get(name)) if name else None
    if found is None:
        raise InputError(f"architectures in the config of {source} names no class of transformers, but {name!r}")
    return found


def swapped(cls: Any, told: Sequence[Mapping[str, Any]], source: str | Path) -> Any:
    """A class that is built with what a config tells of, so that its weights can be loaded."""
    if not told:
        return cls

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        for each in told:
            try:
                swap(self, each["mixer"], each["layer"], each["role"], each["max_length"])
            except InputError as error:
                raise InputError(f"bareformers in the config of {source} does not fit: {error}") from error

    return type(cls.__name__, (cls,), {"__init__": build, "__module__": cls.__module__})
