"""Names: one each, offered when misspelt, and open to other packages."""

import dataclasses
import sys

import pytest
from safetensors.torch import load_file

from bareformers import decoding, registry, run_folder
from bareformers import run as running
from bareformers.errors import InputError
from bareformers.recipe import load
from bareformers.registry import Registry, checked, mixer
from tests.training import tiny

KINDS = {"mixer": registry.mixers, "block": registry.blocks, "source": registry.sources}


def test_everything_of_the_design_is_registered():
    assert {"dot_product", "gaussian", "random", "dense", "none", "average"} <= set(registry.mixers.names())
    assert {"post_ln", "pre_ln"} <= set(registry.blocks.names())
    sources = {"python_stdlib", "text", "parallel", "jsonl", "hub", "libreoffice_help"}
    assert sources <= set(registry.sources.names())


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_registers_says_what_it_is(kind):
    for name, cls in KINDS[kind]:
        assert cls.name == name and KINDS[kind].get(name) is cls
        assert cls.__doc__.strip().partition("\n")[0].endswith("."), f"{name} has no sentence for `bareformers list`"
        if kind != "source":
            assert cls.paper and dataclasses.is_dataclass(cls.Options)
        assert dataclasses.is_dataclass(cls) or kind != "source"


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_is_answered_with_the_known(kind):
    known = KINDS[kind].names()[0]
    with pytest.raises(InputError, match=f"unknown {kind} '{known}x'; did you mean '{known}'.* known are .*{known}"):
        KINDS[kind].get(f"{known}x")
    with pytest.raises(InputError, match=f"unknown {kind} '?42'?"):
        KINDS[kind].get("42")


def made(name="Thing", module="somewhere"):
    return type(name, (), {"__module__": module, "__qualname__": name})


def test_a_name_is_given_once():
    things = Registry("thing", "bareformers.mixers")
    first = things.add("one", made())
    with pytest.raises(InputError, match="thing 'one' is registered twice, by somewhere and by elsewhere"):
        things.add("one", made("Other", "elsewhere"))
    with pytest.raises(InputError, match="thing 'one' is registered twice, by somewhere and by elsewhere"):
        things.add("one", made("Thing", "elsewhere"))
    assert things._classes == {"one": first}
    again = things.add("one", made())
    assert things._classes == {"one": again}, "a module that is imported again replaces its own"


@pytest.mark.parametrize("name", ["Gaussian", "pre-ln", "2d", "", "a b"])
def test_names_are_in_snake_case(name):
    with pytest.raises(InputError, match="a thing needs a name in snake_case"):
        Registry("thing", "bareformers.mixers").add(name, made())


def test_unknown_roles():
    with pytest.raises(InputError, match=r"mixer 'x' names unknown roles \['decodr'\]; known are encoder, decoder"):
        mixer("x", roles={"decodr", "cross"}, paper="none", parameters="0", state="0")
    assert "x" not in registry.mixers.names()


@dataclasses.dataclass
class Options:
    path: str
    offsets: tuple[int, ...] = (0,)
    std: float = 1.0
    hidden: int = dataclasses.field(default=3, init=False)

    def __post_init__(self):
        if self.std <= 0:
            raise ValueError("std must be above 0")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"pth": "x"}, "thing 'a' has no option 'pth'; did you mean 'path'.* its options are path, offsets, std$"),
        ({"path": "x", "hidden": 3}, "thing 'a' has no option 'hidden'"),
        ({}, "thing 'a' needs path"),
        ({"path": "x", "std": 0}, "thing 'a': std must be above 0"),
        ({"path": "x", "std": "wide"}, "thing 'a': "),
        ({"path": "x", "offsets": "many"}, "thing 'a': "),
        ({"path": 5}, "thing 'a': "),
    ],
)
def test_options_that_do_not_fit(given, words):
    with pytest.raises(InputError, match=words) as raised:
        checked(Options, given, "thing 'a'")
    assert "\n" not in str(raised.value)


def test_options_that_fit():
    made = checked(Options, {"path": "x", "offsets": [-1, 1], "std": 2}, "thing 'a'")
    assert made == Options("x", (-1, 1), 2)


def test_no_options_at_all():
    @dataclasses.dataclass
    class Nothing:
        pass

    with pytest.raises(InputError, match="thing 'a' has no option 'x': it takes no options"):
        checked(Nothing, {"x": 1}, "thing 'a'")


PLUGIN = '''
from dataclasses import dataclass

from bareformers.mixers.base import MapMixer
from bareformers.registry import mixer


@mixer("previous_of_a_test", roles={"decoder"}, paper="none", parameters="2*d*d", state="t*d")
class Previous(MapMixer):
    """Reads one position, so many back."""

    @dataclass
    class Options:
        back: int = 1

    def weights(self, x, mask, context, state):
        distance = mask.query_positions[:, None, :, None] - mask.key_positions[:, None, None, :]
        seen = (distance == self.options.back).to(x.dtype).expand(-1, self.slot.num_heads, -1, -1)
        return seen if mask.allowed is None else seen * mask.allowed
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "plugin_of_a_test.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path / "cache"))
    yield "plugin_of_a_test"
    tiny.forget(registry.mixers, "previous_of_a_test")
    sys.modules.pop("plugin_of_a_test", None)


def test_a_plugin_needs_nothing_else(plugin, tmp_path):
    overrides = [
        f"plugins=[{plugin}]",
        "variants.previous={mixer: {name: previous_of_a_test, back: 2}}",
        "training.budget.steps=2",
    ]
    recipe = load(tiny.language_modelling(tmp_path, "average"), overrides)
    comparison = running.run(recipe, "bareformers run", log=lambda sentence: None)
    assert comparison.variant("previous").description == "previous_of_a_test in pre_ln"
    folder = recipe.folder / "previous" / "seed0"
    assert load_file(folder / "model" / "model.safetensors")
    assert "previous_of_a_test" in registry.mixers.names()

    tiny.forget(registry.mixers, "previous_of_a_test")
    sys.modules.pop(plugin)
    model, tokenizer = run_folder.load_model(folder)  # imports the plugin that its recipe names
    assert model.decoder.blocks[0].mixer.options.back == 2
    assert decoding.generate(model, tokenizer, "the ", 4, 0.0, 0).startswith("the ")


def test_a_plugin_is_gone_after_its_test():
    assert "previous_of_a_test" not in registry.mixers.names()


@pytest.mark.parametrize("content", ["import nowhere_at_all", None])
def test_a_plugin_that_cannot_be_imported(tmp_path, monkeypatch, content):
    monkeypatch.syspath_prepend(tmp_path)
    if content:
        (tmp_path / "broken_plugin.py").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="plugin 'broken_plugin' cannot be imported") as raised:
        run_folder.import_plugins(["broken_plugin"])
    assert "\n" not in str(raised.value)
