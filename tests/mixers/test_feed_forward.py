"""What the paper, its code and our additions say of the attentionless mixers beyond their equations."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from bareformers.errors import InputError
from bareformers.mixers import base
from bareformers.mixers.base import Slot
from tests.laws.cases import Case, batch, close, keep_mask, noise
from tests.laws.test_naive import check
from tests.laws.test_step import decode

# The authors' code at L = 50, D = 128 and 8 heads; theirs of the cross role writes all positions.
PARAMETERS = {
    "encoder": {"XS": 339_275, "S": 659_350, "M": 10_261_600, "L": 40_988_800, "XL": 163_897_600},
    "decoder": {"XS": 176_203, "S": 339_478, "M": 5_237_728, "L": 20_912_128, "XL": 83_609_728},
    "cross": {"XS": 992_150, "S": 1_952_300, "M": 30_756_800, "L": 122_931_200, "XL": 491_628_800},
    "heads": {"XS": 11_633_600, "S": 23_158_400, "M": 46_208_000, "L": 92_307_200},
}
PLACES = [("alr", role, role) for role in ("encoder", "decoder", "cross")]
PLACES += [("alrr", "encoder", "encoder"), ("elr", "encoder", "encoder"), ("aslr", "encoder", "heads")]


@pytest.mark.parametrize("name, role, row", PLACES)
def test_parameters_are_those_of_the_paper(name, role, row):
    slot = Slot(role, 0, hidden_size=128, num_heads=8, max_length=50, max_context_length=50)
    for size, expected in PARAMETERS[row].items():
        with torch.device("meta"):
            mixer = base.build({"name": name, "size": size, **({"sees_future": True} if role == "cross" else {})}, slot)
        kept = 0 if mixer.output is None else 128 * 128 + 128
        assert sum(parameter.numel() for parameter in mixer.parameters()) - kept == expected, size


def test_a_size_is_a_width():
    widths = [Case("alr", "encoder", options).build().width for options in ({}, {"size": "S"}, {"width": 50})]
    assert widths == [50] * 3
    assert Case("alr", "cross", {"size": "XS"}).build().width == 50


@pytest.mark.parametrize(
    "name, role", [("alr", role) for role in ("encoder", "decoder", "cross")] + [("aslr", "encoder")]
)
def test_a_long_and_wide_one_is_built_on_no_device(name, role):
    slot = Slot(role, 0, hidden_size=512, num_heads=8, max_length=512, max_context_length=512)
    with torch.device("meta"):
        mixer = base.build(name, slot)
    assert all(parameter.is_meta for parameter in mixer.parameters())


FUTURE = Case("alr", "cross", {"sees_future": True})


@pytest.mark.parametrize("sees_future", [False, True])
def test_the_cross_role_sees_the_future_where_it_is_told_to(sees_future):
    mixer = Case("alr", "cross", {"sees_future": sees_future}).build()
    given = batch(FUTURE, 12, 11, "none")
    before, _ = given.run(mixer)
    given.x[:, 9] += 1
    after, _ = given.run(mixer)
    assert torch.equal(before[:, :9], after[:, :9]) != sees_future
    assert not torch.equal(before[:, 9:], after[:, 9:])


@pytest.mark.parametrize("options", [{}, {"form": "factorised", "width": 12}])
@pytest.mark.parametrize("padding", ["none", "right", "ragged"])
def test_what_sees_the_future_computes_its_equation(options, padding):
    check(Case("alr", "cross", {"sees_future": True, **options}), padding, 9, 7, torch.float64)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_factorised_heads_compute_their_equation(role):
    check(Case("aslr", role, {"form": "factorised", "width": 12}), "ragged", 9, 1, torch.float64)


def test_what_sees_the_future_sees_the_newest_token_while_decoding():
    mixer, given = FUTURE.build(), batch(FUTURE, 7, 5, "none")
    steps = [y for y, _ in decode(mixer, given, [3, 1, 1, 2])]
    for stop, y in zip((3, 4, 5, 7), steps, strict=True):
        prefix = batch(FUTURE, 7, 5, "none")
        prefix.x = prefix.x[:, :stop]
        whole, _ = prefix.run(mixer)
        close(y, whole[:, -y.shape[1] :], 2e-6)


@pytest.mark.parametrize("role", ["encoder", "decoder", "cross"])
def test_the_factorised_form_is_a_full_one(role):
    thin = Case("alr", role, {"form": "factorised", "width": 12}).build(torch.float64)
    full = Case("alr", role, {"width": 12}).build(torch.float64)
    assert (thin.position_width, thin.channel_width) == (4, 3)
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            owner = thin.get_submodule(name.split(".")[0]) if "." in name else None
            if hasattr(owner, "positions"):
                weight = torch.einsum("nla,ndc->nldac", owner.positions, owner.channels).flatten(-2)
                parameter.copy_(weight)
            else:
                parameter.copy_(thin.get_parameter(name))
    given = batch(Case("alr", role), 9, 7, "ragged", torch.float64)
    close(given.real(given.run(thin)[0]), given.real(given.run(full)[0]), 1e-9)
    assert sum(p.numel() for p in thin.parameters()) < sum(p.numel() for p in full.parameters()) / 3


@pytest.mark.parametrize("name", ["alr", "aslr"])
def test_a_step_of_decoding_reads_the_weights_of_its_position_only(name):
    mixer = Case(name, "decoder").build()
    lengths = []
    total = mixer.first.total
    mixer.first.total = lambda x, *others: lengths.append(x.shape[2]) or total(x, *others)
    for _ in range(2):
        for _ in decode(mixer, batch(Case(name, "decoder"), 9, 1, "left"), [5, 1, 1, 2]):
            assert lengths == [132], "W1 g and W1 b are made once"


def changed_by_an_optimizer(mixer):
    parameters = [*mixer.first.parameters(), *mixer.input_norm.parameters()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(parameters, 0.1).step()


def changed_in_inference_mode(mixer):
    with torch.inference_mode():
        mixer.input_norm.bias.add_(1)


CHANGES = {
    "optimizer": changed_by_an_optimizer,
    "inference_mode": changed_in_inference_mode,
    "load": lambda mixer: mixer.load_state_dict({key: 1.1 * each for key, each in mixer.state_dict().items()}),
    "assign": lambda mixer: mixer.load_state_dict(
        {key: 1.1 * each for key, each in mixer.state_dict().items()}, assign=True
    ),
    "parameter": lambda mixer: setattr(mixer.input_norm, "bias", torch.nn.Parameter(mixer.input_norm.bias + 1)),
    "rounded": lambda mixer: mixer.to(torch.bfloat16).to(torch.float64),
}


@pytest.mark.parametrize("options", [{}, {"form": "factorised", "width": 12}])
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_kept_of_parameters_is_made_again_where_they_change(options, change, mode):
    mixer = Case("alr", "encoder", options).build(torch.float64)
    given = batch(Case("alr", "encoder"), 9, 1, "right", torch.float64)
    keys = mixer.state_dict().keys()
    with mode():
        before, _ = given.run(mixer)
        assert torch.equal(given.run(mixer)[0], before)
    twin, sent = copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer))
    assert mixer.state_dict().keys() == keys and not [*mixer.buffers()]
    for each in (twin, sent, mixer):
        assert (each.kept.tensor is None) == (each is not mixer)
        change(each)
        expected, _ = given.run(each)
        with mode():
            found, _ = given.run(each)
        close(found, expected, 1e-6)
        assert not torch.equal(found, before)


@pytest.mark.parametrize("padding", ["none", "left"])
def test_parameters_without_versions_keep_nothing(padding):
    with torch.inference_mode():
        mixer = Case("alr", "encoder").build()
        given = batch(Case("alr", "encoder"), 9, 1, padding)
        before, _ = given.run(mixer)
        mixer.input_norm.bias.add_(1)
        assert mixer.kept.tensor is None and not torch.equal(given.run(mixer)[0], before)


@pytest.mark.parametrize("name", ["alr", "aslr", "elr"])
def test_each_gradient_is_made_in_one_piece(name):
    """Of a full map; it is where the tokens are what that of a slice would be, and elsewhere that of the constants."""
    mixer, given = Case(name, "encoder").build(torch.float64), batch(Case(name, "encoder"), 5, 1, "none", torch.float64)
    given.run(mixer)[0].square().sum().backward()
    found = {key: parameter.grad for key, parameter in mixer.named_parameters()}
    assert found["first.weight"][:, 5:].abs().amin((0, 2, 3)).max() > 0
    assert (found["second.weight"][:, 5:] == 0).all() and (found["second.weight"][:, :5] != 0).any()
    mixer.zero_grad()
    given.x = F.pad(given.x, (0, 0, 0, 127))
    given.keep = torch.arange(132).expand(3, -1) < 5
    given.real(given.run(mixer)[0]).square().sum().backward()
    for key, parameter in mixer.named_parameters():
        close(found[key], parameter.grad, 1e-9, key)


SMALL = dict(max_length=5, max_context_length=4)


@pytest.mark.parametrize("name", ["alr", "aslr", "alrr", "elr"])
def test_more_tokens_than_positions(name):
    for role in sorted(base.registry.mixers.get(name).roles):
        mixer, given = Case(name, role).build(**SMALL), batch(Case(name, role), 6, 4, "none")
        with pytest.raises(InputError, match=f"'{name}' has a fixed length of 5 positions and was given 6"):
            given.run(mixer)


def test_more_context_than_positions():
    with pytest.raises(InputError, match="'alr' has a fixed length of 4 positions and was given 5"):
        batch(Case("alr", "cross"), 3, 5, "none").run(Case("alr", "cross").build(**SMALL))


@pytest.mark.parametrize(
    "name, role", [("alr", "encoder"), ("alr", "decoder"), ("aslr", "decoder"), ("elr", "encoder")]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_for_no_position(name, role, side):
    case = Case(name, role)
    mixer, given = case.build(**SMALL), batch(case, 5, 1, "none")
    y, _ = given.run(mixer)
    pads = (4, 0) if side == "left" else (0, 4)
    given.x, given.keep = F.pad(given.x, (0, 0, *pads), value=7.0), F.pad(torch.ones(3, 5, dtype=torch.bool), pads)
    z, _ = given.run(mixer)
    close(given.real(z), y.flatten(0, 1), 1e-6)


def test_padding_of_a_context_counts_for_no_position():
    case = Case("alr", "cross")
    mixer, given = case.build(**SMALL), batch(case, 5, 4, "none")
    y, _ = given.run(mixer)
    given.context_keep = F.pad(torch.ones(3, 4, dtype=torch.bool), (0, 3))
    given.context = F.pad(given.context, (0, 0, 0, 3), value=7.0)
    close(given.run(mixer)[0], y, 1e-6)


def stretched(x, length):
    """x [T, D] on as many points, both ends among them."""
    return F.interpolate(x.T[None], size=length, mode="linear", align_corners=True)[0].T


@pytest.mark.parametrize("name", ["alr", "aslr", "alrr", "elr"])
@pytest.mark.parametrize("padding", ["none", "right", "left", "ragged"])
def test_beyond_its_length_it_interpolates(name, padding):
    case = Case(name, "encoder", {"beyond": "interpolate"})
    mixer, given = case.build(torch.float64, **SMALL), batch(case, 11, 1, padding, torch.float64)
    y, _ = given.run(mixer)
    output, mixer.output = mixer.output or torch.nn.Identity(), None
    for row, tokens in enumerate(given.x):
        tokens = tokens if given.keep is None else tokens[given.keep[row]]
        if len(tokens) > 5:
            alone = batch(case, 5, 1, "none", torch.float64)
            alone.x = stretched(tokens, 5)[None]
            expected = stretched(alone.run(mixer)[0][0], len(tokens))
        else:
            alone = batch(case, len(tokens), 1, "none", torch.float64)
            alone.x = tokens[None]
            expected = alone.run(mixer)[0][0]
        close(y[row] if given.keep is None else y[row][given.keep[row]], output(expected), 1e-6)


def test_a_single_position_interpolates():
    case = Case("alr", "encoder", {"beyond": "interpolate"})
    y, _ = batch(case, 6, 1, "right").run(case.build(max_length=1))
    assert y.isfinite().all()


def test_many_positions_in_a_graph():
    """In a graph the padded length decides, and rows that are not too long stay as they are."""
    case = Case("alr", "encoder", {"beyond": "interpolate"})
    mixer, x, keep = case.build(**SMALL), noise(3, 11, 16, seed=2), keep_mask(11, "left")

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = mixer

        def forward(self, x, keep):
            return self.mixer(x, base.Mask(11, 11, causal=False, device=x.device, keep=keep))[0]

    program = torch.export.export(Mixed(), (x, keep), strict=False).module()
    close(program(x, keep)[keep], Mixed()(x, keep)[keep], 1e-6)


MISTAKES = [
    ({"name": "alr", "size": "S", "width": 50}, "encoder", {}, "write size: S or width: 50, not both"),
    ({"name": "alr", "size": "XXL"}, "encoder", {}, "unknown size 'XXL'; did you mean 'XL'"),
    ({"name": "alr", "width": 0}, "encoder", {}, "width is at least 1, not 0"),
    ({"name": "aslr", "size": "XL"}, "encoder", {}, "aslr has no size XL.* write size: L, or a width"),
    ({"name": "alr", "form": "factored"}, "encoder", {}, "form"),
    ({"name": "alr", "beyond": "extrapolate"}, "encoder", {}, "beyond"),
    ({"name": "alr", "beyond": "interpolate"}, "decoder", {}, "in the encoder role only.* decoder_mixer"),
    ({"name": "alr", "beyond": "interpolate"}, "cross", {}, "in the encoder role only.* cross_mixer"),
    ({"name": "aslr", "beyond": "interpolate"}, "decoder", {}, "in the encoder role only.* decoder_mixer"),
    ({"name": "alr", "sees_future": True}, "decoder", {}, "in the cross role only.* decoder_mixer"),
    ({"name": "alr", "sees_future": True}, "encoder", {}, "in the cross role only.* encoder_mixer"),
    ({"name": "elr", "sees_future": True}, "encoder", {}, "no option 'sees_future'"),
    ("alrr", "decoder", {}, "'alrr' cannot be decoder_mixer"),
    ("elr", "cross", {}, "'elr' cannot be cross_mixer"),
    ("aslr", "cross", {}, "'aslr' cannot be cross_mixer"),
    ("alr", "encoder", dict(dropout=0.1), "'alr' has no map whose entries could drop; write attention_dropout: 0"),
]


@pytest.mark.parametrize("spec, role, sizes, words", MISTAKES, ids=[f"{row[0]}-{row[1]}" for row in MISTAKES])
def test_a_mistake_is_answered_in_one_sentence(spec, role, sizes, words):
    with pytest.raises(InputError, match=words) as raised:
        base.build(spec, Case("", role).slot(**sizes))
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)
