"""Trained models of anybody, and the data that they are opened with."""

import json

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from bareformers import pretrained, run_folder
from bareformers.assessment import evaluate
from bareformers.cli import app
from bareformers.data.corpus import Corpus
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.paring.surgery import insides_of, swap
from bareformers.paring.teaching import places_of
from bareformers.recipe import Evaluation, load_paring, paring
from tests.training import tiny

NAMES = ["stone", "animal", "plant"]
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


@pytest.fixture
def data(tmp_path):
    """Files whose names begin alike."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, side in enumerate(("train", "dev", "test")):
        lines = [f"{NAMES[int(item.label)]} {item.text}\n" for item in tiny.labelled(60, seed=number)]
        (folder / f"small.{side}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def tokenizer(*more, **special):
    said = {word for item in tiny.labelled(500, seed=0) for word in item.text.split()}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(said), *more]
    inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=inside, unk_token="[UNK]", **special)


def classifier(folder, **special):
    special = special or dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    words = tokenizer(**special)
    words.save_pretrained(folder)
    labels = dict(id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)})
    config = hf.BertConfig(vocab_size=len(words), max_position_embeddings=40, **SIZES, **labels)
    torch.manual_seed(0)
    return hf.BertForSequenceClassification(config)


# Models


def test_a_model_with_replacements_is_evaluated(tmp_path, data, capsys):
    run = tmp_path / "run"
    model = classifier(run / "model")
    swap(model, "gaussian", 1)
    model.eval().save_pretrained(run / "model")
    section = pretrained.section_for(pretrained.data_of(data / "small"), "classification")
    said = {"data": section, "task": {"name": "classification", "max_length": 20}, "evaluation": {"samples": 1}}
    (run / "recipe.yaml").write_text(json.dumps(said), encoding="utf-8")
    found, prepared, settings = run_folder.reload(run, [])
    assert prepared.labels == tuple(NAMES) and found.config.bareformers == model.config.bareformers
    ids = torch.randint(4, 30, (2, 9))
    assert torch.equal(found(ids).logits, model(ids).logits) and not found.training
    expected = evaluate(model, prepared, settings)[0]["accuracy"].value
    app(["evaluate", str(run)], standalone_mode=False)
    assert f"{expected:.4f}" in capsys.readouterr().out


def test_what_a_model_does(tmp_path):
    heads = {
        "BertForMaskedLM": "masked_language_modelling",
        "GPT2LMHeadModel": "language_modelling",
        "LlamaForCausalLM": "language_modelling",
        "MarianMTModel": "translation",
    }
    for name, task in heads.items():
        cls = getattr(hf, name)
        with torch.device("meta"):
            assert pretrained.task_of(cls(cls.config_class()), {}) == task
    for name in ("BartForSequenceClassification", "BertModel", "MarianModel"):
        cls = getattr(hf, name)
        with torch.device("meta"), pytest.raises(InputError, match=f"a {name} does no task that is known here"):
            pretrained.task_of(cls(cls.config_class()), {})


def test_classifiers_that_read_from_left_to_right_know_what_pads(tmp_path):
    words = tokenizer(eos_token="[SEP]")
    words.save_pretrained(tmp_path)
    config = hf.GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=20, num_labels=3)
    hf.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    model, _, _ = pretrained.opened(str(tmp_path))
    assert model.config.pad_token_id == 3
    assert model(torch.tensor([[4, 5, 3, 3], [4, 5, 6, 7]])).logits.shape == (2, 3)


def test_language_models_whose_tokenizer_does_not_tell_bytes():
    words = tokenizer("\u2581a", eos_token="[SEP]")  # as SentencePiece writes the beginning of a word
    corpus = Corpus("documents", *((" ".join(item.text for item in tiny.labelled(40, seed)),) for seed in range(3)))
    prepared = prepare(corpus, "language_modelling", 9, 16, tokenizer=words)
    assert prepared.test.num_bytes == 0
    config = hf.GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=20)
    quality, *_ = evaluate(hf.GPT2LMHeadModel(config), prepared, Evaluation(samples=1).model_dump())
    assert set(quality) == {"loss", "perplexity"}


def damaged(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def wordless(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "is damaged or incomplete"),
        (wordless, "has no tokenizer with words; put the one beside the model"),
    ],
)
def test_models_that_cannot_be_opened(tmp_path, harm, message):
    classifier(tmp_path).save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(InputError, match=message):
        pretrained.opened(str(tmp_path))


def test_a_tokenizer_that_is_too_large(tmp_path):
    classifier(tmp_path).save_pretrained(tmp_path)
    words = hf.AutoTokenizer.from_pretrained(tmp_path)
    words.add_tokens(["one more"])
    words.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tokens and its tokenizer .* put the tokenizer beside it"):
        pretrained.opened(str(tmp_path))


def test_insides_that_are_not_known_are_said():
    with torch.device("meta"):
        model = hf.T5ForConditionalGeneration(hf.T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2))
    for ask in (places_of, insides_of(model).positions):
        with pytest.raises(InputError, match="nothing is known of the insides of a t5"):
            ask(model)


# Data


def test_files_whose_names_begin_alike(data):
    names = {"train": "small.train.txt", "validation": "small.dev.txt", "test": "small.test.txt"}
    sides = {side: str(data / name) for side, name in names.items()}
    assert pretrained.data_of(f"{data}/small") == sides == pretrained.sides_in(data, "small")
    with pytest.raises(InputError, match="there is no folder .*smal, nor .*smal.train.txt"):
        pretrained.data_of(f"{data}/smal")
    with pytest.raises(InputError, match="has no training data"):
        pretrained.data_of(data)
    for side in ("train", "test"):
        (data / f"{side}.tsv").write_text("sentence\tlabel\nx y\tplant\n", encoding="utf-8")
    assert pretrained.data_of(data) == {side: str(data / f"{side}.tsv") for side in ("train", "test")}
    assert pretrained.data_of("{name: text, path: %s}" % ("a/" * 300)) == {"name": "text", "path": "a/" * 300}


def test_files_without_a_source(tmp_path):
    table = tmp_path / "train.csv"
    table.write_bytes(b'\xef\xbb\xbftext,"label",other\r\n"a, b",x,1\r\n')
    said = pretrained.section_for({"train": str(table)}, "classification")
    columns = {"format": "csv", "text": "text", "label": "label"}
    assert said == {"name": "labelled_text", **columns, "train": str(table)}
    own = {"train": [str(table)], "text": 3, "label": 1}
    assert pretrained.section_for(own, "classification") == {"name": "labelled_text", "format": "csv", **own}
    lines = {"path": ["a.txt", "b.txt"]}
    assert pretrained.section_for(lines, "classification") == {"name": "labelled_text", **lines}
    sides = {"train": "a.txt", "test": "b.txt"}
    for task in ("language_modelling", "masked_language_modelling"):
        assert pretrained.section_for(sides, task) == {"name": "text", **sides}
    assert pretrained.section_for({"root": "pairs"}, "translation") == {"name": "parallel", "root": "pairs"}
    assert pretrained.section_for({"name": "x"}, "recall") == {"name": "x"}


@pytest.mark.parametrize(
    ("given", "task", "message"),
    [
        ({"validation": "a.txt"}, "classification", "names no training data; write train: or path:"),
        ({"train": 3}, "classification", "names no training data"),
        ({"train": []}, "language_modelling", "names no training data"),
        ({"train": "train.csv"}, "language_modelling", "train.csv is a table, and language_modelling needs text"),
        ({"train": "a.txt"}, "translation", "which files belong to translation is not clear"),
        ({"train": "nowhere.csv"}, "classification", "cannot read nowhere.csv"),
    ],
)
def test_sections_that_say_too_little(given, task, message):
    with pytest.raises(InputError, match=message):
        pretrained.section_for(given, task)


def test_tables_that_cannot_be_read(tmp_path):
    table = tmp_path / "train.tsv"
    table.write_bytes("text\tlabel\nschön\tx\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not valid UTF-8"):
        pretrained.section_for({"train": str(table)}, "classification")
    table.write_text("words\tlabel\n", encoding="utf-8")
    with pytest.raises(InputError, match="has the columns words, label, and a text and a label are needed"):
        pretrained.section_for({"train": str(table)}, "classification")


def test_files_of_two_data_sets_do_not_mix():
    own = {"name": "labelled_text", "train": "a", "validation": "b", "test": "c", "format": "tsv"}
    assert pretrained.laid_over(own, {"train": "d"}) == {"train": "d"}
    assert pretrained.laid_over({"name": "text", "path": "a"}, {"name": "text", "train": "d"})["train"] == "d"
    assert "path" not in pretrained.laid_over({"name": "text", "path": "a"}, {"name": "text", "train": "d"})
    assert pretrained.laid_over(own, {"test": "d"}) == {**own, "test": "d"}
    assert pretrained.laid_over(own, {"name": "jsonl", "text": "x"}) == {"name": "jsonl", "text": "x"}
    assert pretrained.laid_over(own, {}) == own and pretrained.laid_over(None, {"a": 1}) == {"a": 1}
    pairs = {"name": "parallel", "root": "a", "source": "en", "target": "de"}
    assert pretrained.laid_over(pairs, {"root": "b"}) == {**pairs, "root": "b"}


def test_data_as_a_whole_replaces_that_of_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    own = {"name": "labelled_text", "train": "a", "validation": "a", "test": "a"}
    path.write_text(json.dumps({"name": "x", "model": "y", "data": own}), encoding="utf-8")
    assert load_paring(path, ['data={"train": "b", "validation": "b"}']).data == {"train": "b", "validation": "b"}
    assert load_paring(path, ["data.test=b"]).data == {**own, "test": "b"}


def test_references_in_arguments_that_lead_nowhere():
    with pytest.raises(InputError, match="pare: Interpolation key 'HOME' not found"):
        paring({"name": "x", "model": "y", "data": {"path": "${HOME}/a"}})
    with pytest.raises(InputError, match="is no override"):
        paring({"name": "x", "model": "y"}, ["max_drop"])
    assert paring({"name": "x", "model": "y", "max_drop": 2}, ["description=${name}"]).description == "x"
