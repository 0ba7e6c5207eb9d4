"""`bench`: what it measures, what it leaves out and why, and who overtakes whom. No test asserts a time."""

import csv
import json
import shlex
from types import SimpleNamespace

import pytest
import torch

from bareformers import bench, cli, registry
from bareformers.errors import InputError
from bareformers.measure import speed
from bareformers.mixers.base import TokenMixer
from bareformers.models import BareConfig, BareForCausalLM
from bareformers.report import benchmark as reporting
from bareformers.report import words
from bareformers.report.result import Benchmark, Measure, VariantResult
from tests.training import tiny

TIMES = ("forward_ms", "forward_backward_ms", "prefill_ms", "step_ms")
COSTS = ("peak_memory", "state_bytes", "parameters")
WIDTH, FLOAT = 16, 4


def settings(mixers="all", lengths=(8, 16), **changes):
    given = {"hidden_size": WIDTH, "heads": 2, "rounds": 1, **changes}
    return bench.Settings(bench.spec_list(mixers, "--mixers"), lengths, **given)


def measure(folder, *args, **changes):
    """A benchmark so small that its calls are not repeated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.speed, "SLICE", 0.0)
        return bench.bench(settings(*args, **changes), "bareformers bench", folder, log=lambda sentence: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All mixers in the decoder role."""
    path = tmp_path_factory.mktemp("all")
    measure(path)
    return path


@pytest.fixture(scope="module")
def found(folder):
    return Benchmark.load(folder / "result.json")


def able(role):
    """The mixers that `all` stands for in a role."""
    return {
        name
        for name, cls in registry.mixers
        if role in cls.roles and not cls.absent and not bench.required_options(name)
    }


def at(keys, *lengths):
    return {f"{key}@{length}" for key in keys for length in lengths}


# What it measures


def test_every_measure_of_every_mixer_at_every_length(found):
    assert {variant.name for variant in found.variants} == able("decoder")
    assert found.variants[0].name == found.baseline == "dot_product"
    for variant in found.variants:
        assert set(variant.speed) == at(TIMES, 8, 16), variant.name
        assert set(variant.cost) == at(COSTS, 8, 16), variant.name
        assert all(each.finite and each.value > 0 and each.unit == "ms" for each in variant.speed.values())
        assert all(each.better == "lower" for _, each in variant.measures())
    assert {variant.name for variant in found.variants if variant.floor} == {
        name for name in able("decoder") if registry.mixers.get(name).floor
    }
    assert found.settings["lengths"] == [8, 16] and found.environment["dtype"] == "fp32"


def test_what_all_leaves_out_is_said(found):
    assert any(note.startswith("none was left out: ") for note in found.notes)
    missing = set(registry.mixers.names()) - able("decoder")
    assert {note.partition(" ")[0] for note in found.notes} == missing


def test_states_are_those_of_the_real_tensors(found):
    for variant in found.variants:
        short, long = (variant.cost[f"state_bytes@{length}"].value for length in (8, 16))
        linear = cli.growth(registry.mixers.get(variant.name).state_formula, "decoder") == "linear in t"
        linear = linear or variant.name == "sliding_window"  # whose window of 64 is not full yet
        assert long == (2 * short if linear else short), variant.name
    expected = {"dot_product": 2 * 16 * WIDTH, "random": 16 * WIDTH, "dense": 16 * WIDTH, "average": WIDTH}
    for name, numbers in expected.items():
        assert found.variant(name).cost["state_bytes@16"].value == numbers * FLOAT, name


def test_a_fixed_length_is_the_length_that_is_measured(found):
    linear_map = WIDTH * WIDTH + WIDTH
    for length in (8, 16):
        assert found.reference.cost[f"parameters@{length}"].value == 4 * linear_map
        assert found.variant("random").cost[f"parameters@{length}"].value == 2 * linear_map + 2 * length * length


def test_an_encoder_does_not_decode(tmp_path):
    found = measure(tmp_path, "gaussian", role="encoder")
    for variant in found.variants:
        assert set(variant.speed) == at(("forward_ms", "forward_backward_ms"), 8, 16)
        assert set(variant.cost) == at(("peak_memory", "parameters"), 8, 16)


def test_cross_reads_a_context_of_the_same_length(tmp_path):
    found = measure(tmp_path, role="cross", batch=2)
    assert {variant.name for variant in found.variants} == able("cross")
    for variant in found.variants:
        assert set(variant.speed) == at(TIMES, 8, 16) and set(variant.cost) == at(COSTS, 8, 16)
    for length in (8, 16):
        assert found.reference.cost[f"state_bytes@{length}"].value == 2 * length * WIDTH * FLOAT


@pytest.mark.parametrize("name", sorted(able("decoder")))
def test_a_decoding_step_gives_the_last_position(name, monkeypatch):
    monkeypatch.setattr(bench, "CHUNK", 3)
    chosen = settings(name)
    case = bench.Case.build(name, chosen, bench.Inputs.draw(chosen, 8))
    step = bench.Decoding(case)
    size = step.state_bytes()
    assert step.state_bytes() == size
    with torch.no_grad():
        whole = case.mix(0, 8)
        step.state.tensors, step.state.length = dict(step.filled), step.last
        last = case.mix(7, 8, step.state)
    assert torch.allclose(last, whole[:, -1:], atol=1e-4), name


def test_a_single_position(tmp_path):
    found = measure(tmp_path, "gaussian,average", lengths=(1,))
    assert all(set(variant.speed) == at(TIMES, 1) for variant in found.variants)


def test_cases_start_alike_and_leave_the_generator_alone():
    chosen, before = settings(), torch.get_rng_state()
    first, second = (bench.Case.build("delta", chosen, bench.Inputs.draw(chosen, 8)) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first.mixer.parameters(), second.mixer.parameters(), strict=True))
    assert torch.equal(first.inputs.x, second.inputs.x) and torch.equal(before, torch.get_rng_state())
    assert all(parameter.isfinite().all() for parameter in first.mixer.parameters())


def test_training_leaves_no_gradients():
    chosen = settings()
    case = bench.Case.build("dot_product", chosen, bench.Inputs.draw(chosen, 8))
    case.backward()
    assert all(parameter.grad is not None for parameter in case.mixer.parameters()) and case.inputs.x.grad is not None
    case.train()
    assert all(parameter.grad is None for parameter in case.mixer.parameters()) and case.inputs.x.grad is None


# Layers in place of mixers

LINEAR_MAP = WIDTH * WIDTH + WIDTH
FEED_FORWARD = 2 * 4 * WIDTH * WIDTH + 5 * WIDTH
"""Parameters of these parts of a layer."""


def around(mixer="dot_product", blocks="all", **changes):
    """Settings for blocks around a mixer."""
    return settings(mixer, blocks=bench.spec_list(blocks, "--blocks"), **changes)


def measure_blocks(folder, mixer="dot_product", blocks="all", **changes):
    return measure(folder, mixer, blocks=bench.spec_list(blocks, "--blocks"), **changes)


@pytest.fixture(scope="module")
def layers_folder(tmp_path_factory):
    """All blocks in the decoder role."""
    path = tmp_path_factory.mktemp("blocks")
    measure_blocks(path)
    return path


@pytest.fixture(scope="module")
def layers(layers_folder):
    return Benchmark.load(layers_folder / "result.json")


def built(name, length=8, **changes):
    """A case of a layer."""
    chosen = around(blocks=name, **changes)
    return bench.Case.build(name, chosen, bench.Inputs.draw(chosen, length))


def test_every_measure_of_every_block_at_every_length(layers):
    assert layers.variants[0].name == layers.baseline == "pre_ln"
    assert {variant.name for variant in layers.variants} == set(registry.blocks.names()) and not layers.notes
    for variant in layers.variants:
        assert set(variant.speed) == at(TIMES, 8, 16), variant.name
        assert set(variant.cost) == at(COSTS, 8, 16), variant.name
        assert all(each.finite and each.value > 0 for _, each in variant.measures())
        assert not variant.floor and variant.description
    expected = {"compared": "blocks", "mixer": "dot_product", "norm": "layer", "intermediate_size": 4 * WIDTH}
    assert expected.items() <= layers.settings.items()
    assert "the mixer dot_product" in layers.description and "from the middle of a stack" in layers.description


@pytest.mark.parametrize("name", registry.blocks.names())
def test_a_layer_has_the_parameters_of_one_in_a_model(name, layers):
    model = BareForCausalLM(
        BareConfig(
            vocab_size=11,
            hidden_size=WIDTH,
            num_attention_heads=2,
            num_hidden_layers=3,
            intermediate_size=4 * WIDTH,
            block=name,
        )
    )
    middle = model.decoder.blocks[1]
    assert layers.variant(name).cost["parameters@8"].value == sum(p.numel() for p in middle.parameters())
    mine = {key: tensor.shape for key, tensor in built(name).mixer.block.named_parameters()}
    assert mine == {key: tensor.shape for key, tensor in middle.named_parameters()}


def test_what_blocks_save_in_parameters(layers):
    norm, gains = 2 * WIDTH, 3 * 2
    expected = {
        "pre_ln": 4 * LINEAR_MAP + FEED_FORWARD + 2 * norm,
        "parallel": 4 * LINEAR_MAP + FEED_FORWARD + norm,
        "v_skipinit": 4 * LINEAR_MAP + FEED_FORWARD + 2 * norm + gains + 3,
        "sas": 2 * LINEAR_MAP + FEED_FORWARD + 2 * norm + gains + 3,
        "sas_p": 2 * LINEAR_MAP + FEED_FORWARD + norm + gains + 2,
    }
    for name, number in expected.items():
        assert layers.variant(name).cost["parameters@16"].value == number, name


def test_without_values_the_state_is_half_and_one_sum(layers):
    for length in (8, 16):
        found = {each.name: each.cost[f"state_bytes@{length}"].value / FLOAT / WIDTH for each in layers.variants}
        assert found["pre_ln"] == found["post_ln"] == found["resi_dual"] == found["parallel"] == 2 * length
        assert found["sas"] == found["sas_p"] == length + 1
        assert found["v_skipinit"] == 2 * length + 1


@pytest.mark.parametrize("name", registry.blocks.names())
def test_a_decoding_step_of_a_layer_gives_the_last_position(name, monkeypatch):
    monkeypatch.setattr(bench, "CHUNK", 3)
    case = built(name)
    with torch.no_grad():
        for parameter in case.mixer.parameters():  # at the start some see nothing but their own position
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        step = bench.Decoding(case)
        whole = case.mix(0, 8)
        step.state.tensors, step.state.length = dict(step.filled), step.last
        last = case.mix(7, 8, step.state)
    assert torch.allclose(last, whole[:, -1:], atol=1e-4), name


@pytest.mark.parametrize("name", registry.blocks.names())
def test_all_of_a_layer_learns(name):
    case = built(name)
    case.backward()
    assert all(parameter.grad is not None for parameter in case.mixer.parameters()) and case.inputs.x.grad is not None


def test_blocks_have_the_last_word_on_how_their_mixers_start():
    block = built("sas").mixer.block
    assert not block.mixer.query.weight.any() and block.mixer.key.weight.any()
    assert (block.mixer.shaping.gains == 1).all() and block.ffn.outer.gain.item() == pytest.approx(0.1)


def test_layers_in_an_encoder(tmp_path):
    found = measure_blocks(tmp_path, blocks="sas_p", role="encoder")
    for variant in found.variants:
        assert set(variant.speed) == at(("forward_ms", "forward_backward_ms"), 8, 16)
        assert set(variant.cost) == at(("peak_memory", "parameters"), 8, 16)


def test_pre_ln_comes_first_and_options_are_named():
    entries, notes = bench.choose(around(blocks="sas_p,{name: post_ln, deep_norm: true}"))
    assert [entry.label for entry in entries] == ["pre_ln", "sas_p", "post_ln deep_norm=true"]
    assert notes == ["pre_ln was added: the others are held against it."]


def test_a_mixer_that_some_blocks_cannot_hold():
    entries, notes = bench.choose(around("delta"))
    needing = {name for name, cls in registry.blocks if cls.needs_map}
    assert {entry.label for entry in entries} == set(registry.blocks.names()) - needing
    assert {note.partition(" ")[0] for note in notes} == needing
    assert all("shapes the map of its mixer, and 'delta' has none" in note for note in notes)
    with pytest.raises(InputError, match="'sas' shapes the map of its mixer, and 'delta' has none"):
        bench.choose(around("delta", "sas"))


def test_a_mixer_with_options_goes_into_every_block():
    entries, notes = bench.choose(around("{name: gaussian, std: 2}"))
    assert {entry.label for entry in entries} == set(registry.blocks.names()) and not notes


def test_layers_without_a_mixer(tmp_path):
    found = measure_blocks(tmp_path, "none", blocks="parallel")
    assert found.reference.cost["parameters@8"].value == FEED_FORWARD + 2 * WIDTH
    assert found.reference.cost["state_bytes@16"].value == 0


def test_without_norms():
    entries, notes = bench.choose(around(norm="none"))
    able = {name for name, cls in registry.blocks if cls.norm_free}
    assert {entry.label for entry in entries} == able | {"pre_ln"}
    kept, *left = notes
    assert kept == "pre_ln keeps its norms (norm: layer), which it cannot do without."
    assert len(left) == len(registry.blocks.names()) - len(entries)
    assert all("was left out" in note and "needs its norms" in note for note in left)
    (sas,) = [entry for entry in entries if entry.label == "sas"]
    assert sas.parameters[8] == 2 * LINEAR_MAP + FEED_FORWARD + 3 * 2 + 3
    assert [entry.label for entry in bench.choose(around(blocks="pre_ln,sas", norm="none"))[0]] == ["pre_ln", "sas"]
    with pytest.raises(InputError, match="'post_ln' needs its norms"):
        bench.choose(around(blocks="post_ln", norm="none"))


def test_a_block_with_and_without_norms():
    entries, _ = bench.choose(around(blocks="sas_p,{name: sas_p, norm: none},{name: sas_p, norm: rms}"))
    found = {entry.label: entry.parameters[8] for entry in entries}
    assert found["sas_p"] - found["sas_p norm=none"] == 2 * WIDTH
    assert found["sas_p"] - found["sas_p norm=rms"] == WIDTH


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"blocks": "sass"}, "unknown block 'sass'; did you mean 'sas'?"),
        ({"blocks": "all,sass"}, "unknown block 'sass'"),
        ({"blocks": "{name: post_ln, deepnorm: true}"}, "no option 'deepnorm'; did you mean 'deep_norm'?"),
        ({"blocks": "{norm: none}"}, "a block is a name, or a mapping"),
        ({"blocks": "{name: sas"}, "--blocks cannot read '{name: sas'; write options as in {name: post_ln"),
        ({"blocks": ""}, "--blocks names nothing"),
        ({"blocks": "sas,sas"}, "--blocks names 'sas' twice"),
        ({"role": "cross"}, "none has the role cross; write --role decoder"),
        ({"mixer": "all"}, "--blocks puts the same mixer into every block; write one, as in --mixers dot_product"),
        ({"mixer": "average,random"}, "--blocks puts the same mixer into every block"),
        ({"mixer": "gausian"}, "unknown mixer 'gausian'; did you mean 'gaussian'"),
        ({"mixer": "{default: gaussian}"}, "a mixer is a name, or a mapping"),
        ({"norm": "layr"}, "unknown norm 'layr'; did you mean 'layer'?"),
        ({"blocks": "{name: sas, norm: layr}"}, "unknown norm 'layr'"),
    ],
)
def test_blocks_that_cannot_be(changes, sentence):
    with pytest.raises(InputError) as caught:
        bench.choose(around(**changes))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_what_only_blocks_have():
    with pytest.raises(InputError, match="--norm is a matter of blocks; write --blocks all beside it"):
        settings("gaussian", norm="rms")
    with pytest.raises(InputError, match="--intermediate-size is a matter of blocks"):
        settings("gaussian", intermediate_size=32)


def test_the_width_of_the_feed_forward_network():
    (entry,) = bench.choose(around(blocks="pre_ln", intermediate_size=WIDTH))[0]
    assert entry.parameters[8] == 4 * LINEAR_MAP + 2 * LINEAR_MAP + 2 * 2 * WIDTH


def test_the_page_speaks_of_blocks(layers_folder, layers):
    text = (layers_folder / "report.html").read_text(encoding="utf-8")
    assert f"{len(layers.variants)} blocks" in text and "the blocks take turns" in text
    assert '<th scope="col">block</th>' in text and '<th scope="col">mixer</th>' not in text
    assert "stands alone" not in text
    with (layers_folder / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {row["block"] for row in csv.DictReader(file)} == set(registry.blocks.names())
    *measures, overtaking = reporting.tables(layers)
    assert all(table.columns[0].header == "block" for table in (*measures, overtaking))
    assert overtaking.title == "From which length on each block is better than pre_ln"


def test_the_command_line_measures_blocks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.speed, "SLICE", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--blocks", "sas_p", "--norm", "rms", "--lengths", "8,16", "--hidden-size", 16, "--heads", 2]
    outcome = tiny.command(capsys, "bench", *words, "--rounds", 1, "--output", tmp_path)
    assert outcome.code == 0 and "pre_ln was added" in outcome.err
    assert "From which length on each block is better than pre_ln" in outcome.out
    command = shlex.split(json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["command"])
    assert command[2:8] == ["--mixers", "dot_product", "--blocks", "sas_p", "--norm", "rms"]
    assert tiny.command(capsys, *command[1:]).code == 0


def test_one_round_has_no_spread():
    assert bench.milliseconds(speed.Timing(0.002, 0.0, 1)) == Measure(value=2.0, unit="ms", better="lower")
    assert bench.milliseconds(speed.Timing(0.002, 0.001, 3)).spread == 1.0


# What does not fit


def pretended(limit, law):
    """A memory in which a call at a length takes `law(length)`, and the lengths at which that was tried."""
    memory, tried, entry = bench.Memory(settings(), limit), [], SimpleNamespace(label="x")

    def probe(entry, what, length):
        tried.append(length)
        memory.taken[entry.label, what][length] = law(length)
        return True

    memory.probe = probe
    return memory.needed(entry, "backward", 8192), tried


def test_a_square_is_known_from_one_short_length():
    assert pretended(8192**2, lambda length: length**2) == (8192**2, [64])


def test_what_grows_slower_is_tried_at_longer_lengths_until_it_fits():
    needed, tried = pretended(2e9, lambda length: 1e5 * length)
    assert 8192e5 <= needed <= 2e9 and tried == [64, 128, 256, 512, 1024, 2048, 4096]


def test_nothing_is_tried_that_may_not_fit():
    needed, tried = pretended(1e9, lambda length: 1000 * length**2)
    assert needed == 1000 * 8192**2 and tried == [64, 128, 256, 512]


def test_what_was_measured_counts():
    memory = bench.Memory(settings(), 1e9)
    memory.taken["x", "forward"] = {4096: 1e8}
    assert memory.needed(SimpleNamespace(label="x"), "forward", 8192) == 4e8


def test_a_mixer_too_large_is_left_out_with_a_sentence(tmp_path):
    found = measure(tmp_path, "random", lengths=(8, 512), memory_limit=1_500_000)
    (note,) = [note for note in found.notes if note.startswith("random at 512 tokens: everything is left out")]
    assert "2.1" in note and "--memory-limit" in note
    random = found.variant("random")
    assert "forward_backward_ms@8" in random.speed and "state_bytes@8" in random.cost
    assert not any(key.endswith("@512") for key, _ in random.measures())
    assert "state_bytes@512" in found.reference.cost
    assert note in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_allocation_that_fails_is_left_out_too(tmp_path, monkeypatch):
    def fails(step, device):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(bench.cost, "peak_bytes", fails)
    found = measure(tmp_path, "average")
    for variant in found.variants:
        assert set(variant.speed) == at(["step_ms"], 8, 16)
    assert sum("may take more than there is" in note for note in found.notes) == 2 * 2 * 2


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    def fails(step, device):
        raise RuntimeError("ours")

    monkeypatch.setattr(bench.cost, "peak_bytes", fails)
    with pytest.raises(RuntimeError, match="ours"):
        measure(tmp_path, "average")


def test_nothing_fits(tmp_path):
    with pytest.raises(InputError, match="nothing fits into 1"):
        measure(tmp_path, "average", memory_limit=1)
    assert not (tmp_path / "result.json").exists()


def test_free_memory_is_that_of_a_machine():
    assert 2**20 < bench.free_memory() < 2**50


# What it is asked


def test_names_and_options_in_braces():
    text = "gaussian, {name: gaussian, offsets: [-1, 1], std: 2},random+dot_product"
    specs = bench.spec_list(text, "--mixers")
    assert specs == ("gaussian", {"name": "gaussian", "offsets": [-1, 1], "std": 2}, "random+dot_product")
    assert [bench.label_of(spec) for spec in specs] == [
        "gaussian", "gaussian offsets=[-1,1] std=2", "random+dot_product",
    ]  # fmt: skip


def test_the_dot_product_comes_first_and_once():
    entries, notes = bench.choose(settings("average,dot_product"))
    assert [entry.label for entry in entries] == ["dot_product", "average"] and not notes
    entries, notes = bench.choose(settings("{name: dot_product, positions: rotary}"))
    assert [entry.label for entry in entries] == ["dot_product", "dot_product positions=rotary"]
    assert notes == ["dot_product was added: the others are held against it."]


def test_all_may_be_joined_with_more():
    entries, _ = bench.choose(settings("all,random+dot_product"))
    assert {entry.label for entry in entries} == able("decoder") | {"random+dot_product"}


@pytest.mark.parametrize(
    "mixers, sentence",
    [
        ("gausian", "unknown mixer 'gausian'; did you mean 'gaussian'"),
        ("all,gausian", "unknown mixer 'gausian'"),
        ("{name: gaussian, stdd: 1}", "no option 'stdd'; did you mean 'std'"),
        ("{gaussian}", "a mixer is a name, or a mapping"),
        ("{name: gaussian", "--mixers cannot read '{name: gaussian'"),
        ("none", "leaves its sub-layer out"),
        ("average,,random", "--mixers names nothing between two commas"),
        ("", "--mixers names nothing"),
        ("average,average", "--mixers names 'average' twice"),
    ],
)
def test_mixers_that_cannot_be(mixers, sentence):
    with pytest.raises(InputError) as caught:
        bench.choose(settings(mixers))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0", "8,", "-8", "1.5", "4k", "²"])
def test_lengths_that_are_none(text):
    with pytest.raises(InputError, match="--lengths is a list of whole numbers above 0"):
        bench.length_list(text)


def test_lengths_are_sorted():
    assert bench.length_list("1024, 64,64") == (64, 1024)


def test_sizes_and_roles_that_cannot_be():
    with pytest.raises(InputError, match="write --hidden-size 15, or other heads"):
        settings(heads=3)
    with pytest.raises(InputError, match="unknown role 'encodr'; did you mean 'encoder'"):
        settings(role="encodr")


@pytest.fixture
def both_sides():
    @registry.mixer("both_sides", roles={"encoder"}, paper="ours", parameters="0", state="0")
    class BothSides(TokenMixer):
        """Gives back what it is given."""

        def forward(self, x, mask, context=None, state=None, want_weights=False):
            return x, None

    yield "both_sides"
    tiny.forget(registry.mixers, "both_sides")


def test_a_mixer_for_another_role(both_sides):
    entries, notes = bench.choose(settings("all"))
    assert both_sides not in [entry.label for entry in entries]
    (note,) = [note for note in notes if note.startswith("both_sides was left out: ")]
    assert "cannot be decoder_mixer" in note
    with pytest.raises(InputError, match="cannot be decoder_mixer"):
        bench.choose(settings(both_sides))
    assert [entry.label for entry in bench.choose(settings(both_sides, role="encoder"))[0]] == [
        "dot_product",
        "both_sides",
    ]


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        measure(tmp_path / "file", "average")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match="holds something else than a benchmark"):
        measure(tmp_path, "average")
    assert (tmp_path / "result.json").read_text() == "{}"


def test_an_earlier_benchmark_is_replaced(tmp_path):
    measure(tmp_path, "average", lengths=(8,))
    measure(tmp_path, "gaussian", lengths=(8,))
    names = [variant.name for variant in Benchmark.load(tmp_path / "result.json").variants]
    assert names == ["dot_product", "gaussian"]


# What it says


LENGTHS = (64, 128, 1024)


def made_up(key="forward_ms", spread=0.2, **values):
    """A benchmark in which mixers took these milliseconds at the lengths, as far as they go."""
    return Benchmark(
        name="made_up",
        created="2026-11-22T08:00:00+00:00",
        command="bareformers bench",
        baseline="dot",
        variants=[
            VariantResult(
                name=name,
                seeds=[0],
                runs=[],
                speed={
                    f"{key}@{length}": Measure(value=value, unit="ms", better="lower", spread=spread)
                    for length, value in zip(LENGTHS, taken, strict=False)
                },
            )
            for name, taken in values.items()
        ],
    )


@pytest.mark.parametrize(
    "taken, said",
    [
        ((2, 3, 4), "from 128"),
        ((0.5, 1, 2), "always"),
        ((2, 5, 15.9), "never up to 1,024"),  # 0.1 less at the longest, where the spread is 0.2
        ((1, 4, 16), "never up to 1,024"),
        ((0.5, 5, 17), "only at 64"),
        ((0.5, 3, 17), "only at 64 and 128"),
        ((0.5, 5, 4), "from 1,024"),
        ((2, 3), "from 128, as far as 128"),
        ((2,), "never up to 64"),
        ((), words.NOT_MEASURED),
    ],
)
def test_overtaking(taken, said):
    made = made_up(dot=(1, 4, 16), other=taken)
    assert reporting.overtakes(made, made.variant("other"), "forward_ms") == said


def test_overtaking_at_a_single_length():
    made = made_up(dot=(1,), other=(0.5,))
    assert reporting.overtakes(made, made.variant("other"), "forward_ms") == "always"
    assert reporting.overtakes(made, made.variant("other"), "state_bytes") == words.NOT_MEASURED


def test_ratios_and_growth():
    made = made_up(dot=(1, 4, 16), other=(2, 4.1, 4))
    other = made.variant("other")
    found = [reporting.ratio(made, other, f"forward_ms@{length}") for length in LENGTHS]
    assert found == [("2.00×", "worse"), ("1.02×", "level"), ("0.25×", "better")]
    assert reporting.ratio(made, made.reference, "forward_ms@64") == ("", "")
    assert reporting.growth(made.reference, "forward_ms", list(LENGTHS)) == "16×"
    assert reporting.growth(other, "forward_ms", [64]) == ""
    single = made_up(spread=None, dot=(1,), other=(2,))
    assert reporting.ratio(single, single.variant("other"), "forward_ms@64") == ("2.00×", "untested")


@pytest.mark.parametrize("ratio, text", [(0, "0"), (0.001, "1/1,000"), (0.5, "0.50×"), (1, "1.00×"), (64, "64×")])
def test_shares(ratio, text):
    assert words.share(ratio) == text


def test_summary():
    made = made_up(dot=(1, 4, 16), a=(2, 3, 4), b=(2, 5, 17))
    assert reporting.summary(made) == (
        "Better than dot in the time of a forward pass: a from 128 tokens on; "
        "b not at 1,024 tokens, the longest measured."
    )
    assert reporting.summary(made_up(dot=(1, 2))) == "Only dot was measured: nothing to compare with."


def test_the_file_for_other_programs(folder, found):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(1 for variant in found.variants for _ in variant.measures())
    (row,) = [row for row in rows if (row["mixer"], row["measure"], row["length"]) == ("average", "state_bytes", "16")]
    assert float(row["value"]) == WIDTH * FLOAT and row["unit"] == "bytes" and row["floor"] == "true"


def test_the_page_shows_everything_and_needs_nothing(folder, found):
    text = (folder / "report.html").read_text(encoding="utf-8")
    for variant in found.variants:
        assert f"<b>{variant.name}</b>" in text
    for measure in (*TIMES, *COSTS):
        assert words.label(measure) in text
    assert text.count('<svg class="figure"') == len((*TIMES, *COSTS))
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert all(note.replace("'", "&#39;") in text for note in found.notes)


def test_one_length_has_tables_and_no_figure(tmp_path):
    found = measure(tmp_path, "average", lengths=(8,))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No figures: they need at least two lengths." in text and '<svg class="figure"' not in text
    assert len(reporting.tables(found)) == len((*TIMES, *COSTS)) + 1


def test_hostile_text_is_only_text(tmp_path):
    hostile = "<script>alert('x')</script>"
    made = made_up(dot=(1, 4, 16))
    made.variants.append(made.reference.model_copy(update={"name": hostile}))
    made.command, made.notes, made.settings = hostile, [hostile], {hostile: hostile}
    made.save(tmp_path / "result.json")
    assert reporting.is_benchmark(tmp_path / "result.json")
    assert "<script" not in reporting.build(tmp_path).read_text(encoding="utf-8")
