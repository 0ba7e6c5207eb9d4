"""The fast form computes the paper's equation, and so does its gradient."""

import copy

import pytest
import torch
from torch.func import functional_call

from tests.laws.cases import batch, cases, close, paddings
from tests.reference.equations import naive

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}
CUT_OFF = 2e-6  # of the Gaussian, which ends where its weights fall below 1e-7


@cases()
@paddings
@pytest.mark.parametrize("length, context_length", [(1, 7), (7, 1)])
def test_fast_equals_naive(case, padding, length, context_length):
    check(case, padding, length, context_length, torch.float64)


@cases()
@pytest.mark.parametrize(
    "length, context_length, padding, dtype",
    [
        (65, 66, "none", torch.float32),
        (65, 66, "ragged", torch.float64),
        (130, 127, "right", torch.float64),
        (130, 127, "ragged", torch.float32),
    ],
    ids=str,
)
def test_fast_equals_naive_where_forms_change(case, padding, length, context_length, dtype):
    """Both sides of the lengths at which gaussian and dot_product take another form."""
    check(case, padding, length, context_length, dtype)


def check(case, padding, length, context_length, dtype):
    """Outputs and gradients of the module in `dtype` against the loop in float64."""
    mixer = case.build(dtype)
    given = batch(case, length, context_length, padding, dtype)
    found = _outputs_and_gradients(mixer, given, lambda m, g: g.run(m)[0])
    exact = copy.deepcopy(mixer).double()
    given = batch(case, length, context_length, padding, dtype)
    given.x = given.x.double()
    if given.context is not None:
        given.context = given.context.double()
    expected = _outputs_and_gradients(exact, given, lambda m, g: naive(m, g.x, g.keep, g.context, g.context_keep))
    assert found.keys() == expected.keys()
    for name in found:
        tolerance = max(TOLERANCE[dtype], CUT_OFF if case.name == "gaussian" else 0)
        close(found[name], expected[name], tolerance, name)


def _outputs_and_gradients(mixer, given, function):
    """The real outputs, and the gradients of a loss over them."""
    inputs = {"x": given.x, **({} if given.context is None else {"context": given.context})}
    for tensor in inputs.values():
        tensor.requires_grad_()
    y = given.real(function(mixer, given))
    if y.requires_grad:
        weights = torch.linspace(0, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
        (y * weights).sum().backward()
    leaves = {**inputs, **dict(mixer.named_parameters())}
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return {"y": y, **{f"gradient of {name}": gradient for name, gradient in gradients.items()}}


@cases(absent=False)
@pytest.mark.parametrize("padding", ["none", "right", "ragged"])
def test_gradcheck(case, padding):
    mixer = case.build(torch.float64, hidden_size=4, max_length=4, max_context_length=4)
    given = batch(case, 4, 3, padding, torch.float64, width=4)
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    inputs = [given.x] if given.context is None else [given.x, given.context]

    def mixed(*leaves):
        context = leaves[1] if given.context is not None else None
        named = dict(zip(names, leaves[len(inputs) :], strict=True))
        y, _ = functional_call(mixer, named, (leaves[0], given.mask()), {"context": context})
        return given.real(y)

    leaves = [leaf.detach().requires_grad_() for leaf in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(mixed, leaves, fast_mode=True)


def test_a_mixer_without_a_loop_says_where_to_write_it():
    class Unwritten(torch.nn.Module):
        name = "unwritten"

    with pytest.raises(LookupError, match="write its equation in tests/reference/equations.py"):
        naive(Unwritten(), torch.zeros(1, 1, 4), None)
