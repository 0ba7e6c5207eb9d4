"""Summaries and replies, by encoder-decoders and by one decoder: run, shown, started from, handed on, pared."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tokenizers.processors import TemplateProcessing

from bareformers import assessment, decoding, inspection, reduction, run_folder
from bareformers import distillation as distilling
from bareformers import run as running
from bareformers.data.corpus import Corpus
from bareformers.data.examples import IGNORED, prompts_of
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.measure import quality
from bareformers.models import BareForCausalLM, BareForSeq2SeqLM
from bareformers.recipe import Task, load, load_distillation
from bareformers.report import html
from tests.test_pretrained import tokenizer
from tests.training import tiny

SCORES = {"rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "distinct_1", "distinct_2", "loss", "perplexity"}
QUICK = ("training.precision=fp32", "training.budget.steps=4", "evaluation.max_sentences=6")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def carry_out(path, *overrides):
    return running.run(load(path, [*QUICK, *overrides]), "bareformers run tiny.yaml", log=lambda sentence: None)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Summaries by encoder-decoders and replies by one decoder: what was returned, and the folder."""
    found = {}
    for task, decoder_only in (("summarisation", False), ("dialogue", True)):
        path = tiny.replies(tmp_path_factory.mktemp(task), task, decoder_only)
        found[task] = carry_out(path, "evaluation.speed_rounds=1"), path.parent / "run"
    return found


@pytest.fixture(scope="module")
def alone(both):
    """A run of one decoder: its folder, model, data and settings."""
    folder = both["dialogue"][1] / "dot_product" / "seed0"
    return folder, *run_folder.reload(folder, [])


@pytest.mark.parametrize("task", ["summarisation", "dialogue"])
def test_what_is_measured(both, task):
    comparison, folder = both[task]
    assert comparison.headline == {"summarisation": "rouge_l", "dialogue": "loss"}[task]
    for variant in comparison.variants:
        assert SCORES | {"distinct_1_references", "distinct_2_references"} == set(variant.quality)
        assert next(iter(variant.quality)) == comparison.headline
        assert variant.cost["state_bytes"].value > 0 and variant.speed["decode_tokens_per_second"].value > 0
    assert comparison.variant("average").floor
    architecture = {"summarisation": BareForSeq2SeqLM, "dialogue": BareForCausalLM}[task]
    model, _ = run_folder.load_model(folder / "average" / "seed0")
    assert type(model) is architecture
    assert model.config.max_position_embeddings == {"summarisation": 32, "dialogue": 65}[task]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "ROUGE-L" in page and "distinct-2 of the references" in page and "nrefs:1" in page
    assert "was left out" not in page


def test_samples_are_prompts_beside_references(both):
    folder = both["dialogue"][1]
    found = json.loads((folder / "average" / "seed0" / "samples.json").read_text(encoding="utf-8"))
    assert found["kind"] == "answers" and len(found["samples"]) == 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<dt>prompt</dt>" in page and found["samples"][1]["reference"] in page


def test_long_prompts_are_shown_without_their_middle():
    assert html.shortened("short\ntext") == "short\ntext"
    long = " ".join(map(str, range(1000)))
    assert html.shortened(long).startswith("0 1 2") and html.shortened(long).endswith(" 998 999")
    assert " […] " in html.shortened(long) and len(html.shortened(long)) < 710


# One sequence of both


CORPUS = Corpus("pairs", *(tuple(tiny.reversals(count, seed)) for seed, count in enumerate((80, 8, 8))))


@pytest.fixture(scope="module")
def pairs():
    """The same pairs for both kinds of models."""
    return {decoder_only: prepare(CORPUS, "translation", 280, 24, decoder_only=decoder_only) for decoder_only in (0, 1)}


def test_the_target_alone_is_predicted(pairs):
    beside, below = (pairs[decoder_only].train for decoder_only in (0, 1))
    for index in range(len(below)):
        source, target = beside[index]["input_ids"].tolist(), beside[index]["labels"].tolist()
        assert below[index]["input_ids"].tolist() == [2, *source, *target]
        assert below[index]["labels"].tolist() == [IGNORED] * (1 + len(source)) + target
        assert source[-1] == target[-1] == 2
        assert prompts_of(below)[index]["input_ids"].tolist() == [2, *source]
    assert (below.label_tokens == beside.label_tokens).all() and below.num_bytes == beside.num_bytes
    assert pairs[1].length_ratio == pairs[0].length_ratio and pairs[1].form == "decoder_only"


def test_both_forms_count_the_same_tokens(pairs):
    nets = [tiny.model(pairs[form], max_position_embeddings=49) for form in (0, 1)]
    assert [type(net) for net in nets] == [BareForSeq2SeqLM, BareForCausalLM]
    settings = {"batch_tokens": 128}
    found = [assessment.held_out_likelihood(nets[form], pairs[form], settings) for form in (0, 1)]
    assert found[0].num_tokens == found[1].num_tokens == sum(pairs[0].test.label_tokens)
    assert found[0].num_bytes == found[1].num_bytes


def test_the_end_of_a_dialogue_stays():
    texts = [(" ".join(f"{letter}{number}" for number in range(30)), "yes") for letter in "abcdefgh"]
    corpus = Corpus("pairs", tuple(texts[:6]), (texts[6],), (texts[7],))
    found = {task: prepare(corpus, task, 270, 12, "cut") for task in ("dialogue", "summarisation")}
    shown = {task: data.tokenizer.decode(data.test[0]["input_ids"][:-1]) for task, data in found.items()}
    assert shown["dialogue"].endswith("29") and shown["summarisation"].startswith("h0 h1")
    assert len(found["dialogue"].test[0]["input_ids"]) == 12


def test_several_references(pairs):
    rows = tuple((source, target, "another") for source, target in CORPUS.test)
    data = prepare(Corpus("pairs", CORPUS.train, CORPUS.validation, rows), "summarisation", 280, 24)
    assert "Of the test pairs, 8 have several references: likelihood is that of the first." in data.notes
    assert (data.test.labels.ids == pairs[0].test.labels.ids).all()
    settings = {"batch_tokens": 256, "beams": 1, "length_penalty": 1.0, "max_sentences": 3, "samples": 2}
    settings |= {"headline": ""}
    scores, signature, outputs, _ = assessment.evaluate(tiny.model(data), data, settings)
    assert signature.startswith("nrefs:2|") and outputs[0].reference == rows[0][1]


def test_what_needs_no_texts_is_scored_without(alone, monkeypatch):
    _, model, data, settings = alone
    whole = assessment.evaluate(model, data, settings)[0]
    assert assessment.needs_texts(data, ["loss", "bleu"]) and not assessment.needs_texts(data, ["loss", "perplexity"])
    found = assessment.scores_of(model, data, settings, ["rouge_l", "loss"])
    assert found == {name: whole[name] for name in ("rouge_l", "loss")}

    def never(*given):
        raise AssertionError("something was written")

    monkeypatch.setattr(quality, "decode", never)
    assert assessment.scores_of(model, data, settings, ["perplexity"]) == {"perplexity": whole["perplexity"]}


@pytest.mark.parametrize("decoder_only", [False, True])
def test_positions_hold_what_they_are_to_hold(decoder_only):
    for length in (2, 3, 17):
        positions = Task(name="dialogue", max_length=length, decoder_only=decoder_only).positions
        assert Task.room(positions, decoder_only) == length == Task.room(positions - 1, decoder_only) + 1


def test_the_loss_is_that_of_a_loop(alone):
    _, model, data, settings = alone
    nats, count = 0.0, 0
    for index in range(len(data.test)):
        source, target = data.test.texts[index]
        prompt, answer = (data.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (source, target))
        prompt = [2, *prompt[-(tiny.MAX_LENGTH - 1) :], 2]
        for token in [*answer[: tiny.MAX_LENGTH - 1], 2]:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
            nats -= float(logits.log_softmax(-1)[token])
            count += 1
            prompt.append(token)
    found = assessment.held_out_likelihood(model, data, settings)
    assert found.num_tokens == count and found.nats == pytest.approx(nats, rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_replies_in_batches_are_those_one_by_one(alone, beams):
    folder, model, data, _ = alone
    settings = {"max_sentences": None, "batch_tokens": 400, "beams": beams, "length_penalty": 1.0}
    together, _ = assessment.decoded(model, data, settings, 8)
    assert any(each.output for each in together)
    prompts = prompts_of(data.test)
    assert len(set(prompts.lengths)) > 2
    for index, output in enumerate(together):
        ids = torch.from_numpy(prompts[index]["input_ids"].astype(np.int64))[None]
        single = quality.decode(model, data.tokenizer, [([0], {"input_ids": ids})], 8, beams)
        assert single.texts[0].strip() == output.output


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("decoder_only", [False, True])
def test_what_is_translated_is_framed_as_in_training(framed, decoder_only, monkeypatch):
    """As of a pared BART, whose tokenizer puts `<s>` before a source."""
    words = tokenizer("<s>", "</s>", "red", "green", bos_token="<s>", eos_token="</s>", pad_token="[PAD]")
    if framed:
        special = [(name, words.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
        words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    pairs = (("red green red", "green"),)
    data = prepare(
        Corpus("pairs", pairs, pairs, pairs), "translation", 300, 8, tokenizer=words, decoder_only=decoder_only
    )
    read = []
    monkeypatch.setattr(quality, "decode", lambda *given: read.extend(given[2]) or quality.Decoded(["green"], 0))
    limit = 17 if decoder_only else 8
    config = SimpleNamespace(is_encoder_decoder=not decoder_only, max_position_embeddings=limit)
    model = SimpleNamespace(config=config)
    assert list(decoding.translate(model, words, [" red green red ", "  "], 1, 1.0)) == ["green", ""]
    expected = (prompts_of(data.test) if decoder_only else data.test)[0]["input_ids"].tolist()
    assert [(rows, inputs["input_ids"].tolist()) for rows, inputs in read] == [([0], [expected])]
    assert len(expected) == 3 + (2 if decoder_only or framed else 1)
    with pytest.raises(InputError, match=r"line 1 has \d+ tokens, and this model reads 8 at most; split it"):
        list(decoding.translate(model, words, ["red " * 8], 1, 1.0))


def test_replies_from_the_command_line(both, alone, capsys):
    folder, model, data, _ = alone
    source = data.test.texts[0][0]
    (expected,) = decoding.translate(model, data.tokenizer, [source], 2, 1.0)
    outcome = tiny.command(capsys, "translate", folder, stdin=f"{source}\n\n".encode())
    assert outcome.code == 0 and outcome.out == f"{expected}\n\n"
    whole = tiny.command(capsys, "translate", folder, "--whole", stdin=f"{source}\n\n".encode())
    assert whole.code == 0 and whole.out.count("\n") == 1
    assert "line 1 has" in tiny.command(capsys, "translate", folder, stdin=b"word " * 99).sentence
    assert "use `bareformers translate`" in tiny.command(capsys, "generate", folder, "--prompt", "a").sentence
    summaries = both["summarisation"][1] / "average" / "seed0"
    assert tiny.command(capsys, "translate", summaries, stdin=source.encode()).code == 0
    assert "distinct_1_references" in tiny.command(capsys, "evaluate", folder, "evaluation.max_sentences=2").out


MISTAKES = {
    "no_pairs": (
        "task.name=language_modelling",
        "language_modelling does not read decoder_only, so it would",
    ),
    "encoder": ("model.encoder_mixer=average", "a model with decoder_only has no encoder, so encoder_mixer would do"),
    "layers": ("model.num_encoder_layers=1", "a model with decoder_only has no encoder, so num_encoder_layers would"),
    "positions": (
        "model.max_position_embeddings=40",
        "40 is less than the 65 positions that a source and a target of task.max_length 32 take",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(tmp_path, mistake):
    override, sentence = MISTAKES[mistake]
    with pytest.raises(InputError, match=sentence):
        carry_out(tiny.replies(tmp_path, "dialogue", True), override)


# What else is done with such runs


def test_a_decoder_starts_from_a_language_model(tmp_path):
    (tmp_path / "general").mkdir()
    carry_out(tiny.language_modelling(tmp_path / "general", "dot_product"), "model.max_position_embeddings=65")
    start = tmp_path / "general" / "run" / "dot_product" / "seed0"
    path = tiny.replies(tmp_path, "dialogue", True)
    words = (f"start_from={start}", "training.learning_rate=1e-12")
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**given, "model": {}, "variants": {"again": {}}}), encoding="utf-8")
    carry_out(path, *words)
    ours, theirs = (run_folder.load_model(run)[0] for run in (tmp_path / "run" / "again" / "seed0", start))
    learnt = dict(theirs.named_parameters())
    assert all(torch.allclose(each, learnt[name], atol=1e-8) for name, each in ours.named_parameters())
    with pytest.raises(InputError, match="dialogue cannot start from .*; start from a run of translation or summar"):
        carry_out(path, words[0], "task.decoder_only=false", f"output={tmp_path / 'other'}")


@pytest.mark.parametrize("task", ["summarisation", "dialogue"])
def test_students_take_over_parts(both, tmp_path, task):
    recipe = {
        "name": "handed",
        "teacher": str(both[task][1] / "dot_product" / "seed0"),
        "students": {"mean": {"decoder_mixer": "average"}},
        "training": {"budget": {"steps": 2}, "batch_tokens": 256, "evaluations": 1, "checkpoints": 1},
        "finetune": {"budget": {"steps": 1}, "batch_tokens": 256, "evaluations": 1, "checkpoints": 1, "logits": 0.5},
        "evaluation": {"speed_rounds": 0, "samples": 1, "max_sentences": 2, "beams": 1},
        "orders": ["alone"],
        "output": str(tmp_path / "handed"),
    }
    path = tmp_path / "handed.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    comparison = distilling.distill(load_distillation(path, []), "bareformers distill", log=lambda sentence: None)
    assert set(comparison.variant("mean").quality) >= SCORES
    study = json.loads((tmp_path / "handed" / "layers.json").read_text(encoding="utf-8"))
    assert ("decoded greedily" in study["settings"]) is (task == "summarisation")
    assert study["teacher"]["loss"]["value"] == pytest.approx(comparison.variant("teacher").quality["loss"].value)


def test_a_decoder_is_pared(alone, tmp_path):
    steps = {"budget": {"steps": 1}, "batch_tokens": 256, "evaluations": 1, "checkpoints": 1, "warmup_steps": 0}
    pared = reduction.pare(
        alone[0],
        candidates=["average"],
        max_drop=1000.0,
        target="parameters",
        training=steps,
        finetune=None,
        search={"examples": 8},
        evaluation={"speed_rounds": 0, "samples": 1, "max_sentences": 2, "beams": 1},
        output=tmp_path / "pared",
        log=lambda sentence: None,
    )
    assert pared.study.metric == "perplexity" and math.isfinite(pared.study.original)
    assert run_folder.reads_sources(tmp_path / "pared", pared.model)


def test_what_an_inspection_shows(alone):
    found = inspection.inspect(str(alone[0]))
    assert len(found.signal) == 2 and any(key.startswith("decoder/") for key in next(iter(found.maps.values())))
