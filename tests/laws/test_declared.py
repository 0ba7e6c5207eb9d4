"""What a mixer declares of its costs is what it costs."""

import dataclasses

import pytest

from bareformers.mixers.state import MixerState
from tests.laws.cases import batch, cases
from tests.laws.test_step import decode

SIZES = dict(max_length=12, max_context_length=10, use_bias=False)


def evaluate(formula: str, mixer, **sizes: int) -> int:
    """A formula of `registry.mixer` with the names that it may use: sizes, role, options, attributes of the mixer.

    Where an option is None, the attribute of its name says what it came to.
    """
    slot = mixer.slot
    given = dict(d=slot.hidden_size, h=slot.num_heads, n=slot.max_length, m=slot.max_context_length, role=slot.role)
    given |= {field.name: getattr(mixer.options, field.name) for field in dataclasses.fields(mixer.options)} | sizes
    code = compile(formula, mixer.name, "eval")
    open_names = [name for name in code.co_names if given.get(name) is None and hasattr(mixer, name)]
    return eval(code, {"__builtins__": {}}, given | {name: getattr(mixer, name) for name in open_names})


@cases()
def test_parameters_are_as_declared(case):
    mixer = case.build(**SIZES)
    measured = sum(parameter.numel() for parameter in mixer.parameters())
    assert measured == evaluate(mixer.parameters_formula, mixer), mixer.parameters_formula


@cases("decoder", "cross")
@pytest.mark.parametrize("positions", [1, 5, 10])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_state_is_as_declared(case, positions, padding):
    mixer = case.build(**SIZES)
    length, context_length = (3, positions) if case.role == "cross" else (positions, 1)
    given = batch(case, length, context_length, padding)
    state = MixerState()
    for _ in decode(mixer, given, [1] * length, state=state):
        pass
    assert state.num_numbers() == 3 * evaluate(mixer.state_formula, mixer, t=positions), mixer.state_formula
