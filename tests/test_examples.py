"""The examples do what they say, on their tiny models and on folders with tokenizers and text."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bareformers import load
from tests.training import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
DISTILBERT = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48)
BART = {
    f"{stack}_{key}": value for stack in ("encoder", "decoder") for key, value in dict(layers=2, ffn_dim=48).items()
}
HEADS = dict(encoder_attention_heads=4, decoder_attention_heads=4, d_model=32, decoder_start_token_id=0)
SPECIAL = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=80)
OTHERS = {
    "bert": (hf.RobertaForSequenceClassification, hf.RobertaConfig(vocab_size=124, num_labels=3, **SIZES, **SPECIAL)),
    "bert-base": (hf.DistilBertModel, hf.DistilBertConfig(vocab_size=124, **DISTILBERT, **SPECIAL)),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(vocab_size=124, n_embd=32, n_layer=2, n_head=4, **SPECIAL)),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(vocab_size=124, tie_word_embeddings=True, **SIZES, **SPECIAL)),
    "marian": (hf.BartForConditionalGeneration, hf.BartConfig(vocab_size=124, **BART, **HEADS, **SPECIAL)),
}
"""Models of other classes than those that the examples make."""


@pytest.fixture
def example(monkeypatch, capsys, tmp_path):
    """Runs an example with words of a command line; returns what it prints."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    yield run
    sys.modules.pop("texts", None)


@pytest.fixture
def other(tmp_path):
    """Saves a model with a tokenizer, and a file of text; returns the words that name both."""

    def save(name):
        cls, config = OTHERS[name]
        said = ["<pad>", "<unk>", "<s>", "</s>", *tiny.vocabulary()]
        inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(said)}, unk_token="<unk>"))
        inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        inside.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
        special = dict(pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")
        hf.PreTrainedTokenizerFast(tokenizer_object=inside, **special).save_pretrained(tmp_path / "model")
        torch.manual_seed(0)
        cls(config).save_pretrained(tmp_path / "model")
        lines = [f"{item.text} {item.text}" for item in tiny.labelled(40, seed=0)]
        (tmp_path / "lines.txt").write_text("\n\n".join(lines), encoding="utf-8")
        return "--model", tmp_path / "model", "--text", tmp_path / "lines.txt", "--steps", 4

    return save


def numbers(said, pattern):
    """The numbers at the groups of a pattern, in the order of what is said."""
    found = re.findall(pattern, said)
    assert found, f"{pattern} is not in\n{said}"
    return [float(each.replace(",", "")) for group in found for each in ([group] if isinstance(group, str) else group)]


def is_kept(said):
    """That a model was the same once loaded, and once put back."""
    assert "loaded again: the same logits" in said and "put back: the same logits" in said
    return True


def test_bert(example, tmp_path):
    said = example("bert", "--output", tmp_path / "distilled")
    untaught, taught = numbers(said, r"(?:swapped in|distilled): off by ([\d.]+) %")
    assert 0 < taught < untaught and is_kept(said)
    assert len(numbers(said, r"gaussian in encoder layer [01]: misses ([\d.]+) %")) == 2
    assert all(time > 0 for time in numbers(said, r"attention ([\d.]+) ms, distilled ([\d.]+) ms"))
    told = load(tmp_path / "distilled").config.bareformers["mixers"]
    assert [each["mixer"] for each in told] == [{"name": "gaussian"}] * 2


def test_gpt2(example):
    said = example("gpt2")
    assert is_kept(said) and "with and without the state: the same tokens" in said
    assert numbers(said, r"apart by ([\d.e-]+)")[0] < 1e-3
    short, long = numbers(said, r"state of layer 0: ([\d,]+) bytes after 16 tokens, ([\d,]+)")
    assert long == 4 * short
    short, long = numbers(said, r"state of layer 1: ([\d,]+) bytes after 16 tokens, ([\d,]+)")
    assert long == short


def test_llama(example):
    said = example("llama", "--steps", 20)
    assert is_kept(said) and numbers(said, r"2 of keys and values\): off by ([\d.e+-]+) %")[0] < 0.01
    assert "padded beside a longer text, and alone: the same tokens" in said
    first, _, second, _ = numbers(said, r"perplexity ([\d.]+), and ([\d.]+) before all")
    assert first != second


def test_marian(example):
    said = example("marian", "--steps", 20)
    assert is_kept(said) and "beams with and without the state: the same translations" in said
    assert all(0 < share <= 100 for share in numbers(said, r"(?:encoder|decoder|cross): (\d+) %"))


def test_vit(example):
    said = example("vit")
    before, now = numbers(said, r"parameters: ([\d,]+) before, ([\d,]+) now")
    per_layer = 2 * (64 * 64 + 64) - 4 * 17 * 17  # queries and keys go, and a logit for two patches comes
    assert is_kept(said) and before - now == 2 * per_layer
    before, now = numbers(said, r"multiply-adds for an image: ([\d,]+) before, ([\d,]+) now")
    assert now < before


@pytest.mark.slow
def test_ours(example, tmp_path):
    said = example("ours", "--output", tmp_path / "out")
    assert "loaded again: the same weights" in said
    before, distilled = numbers(said, r"bits_per_byte ([\d.]+) before, bits_per_byte ([\d.]+) distilled")
    assert numbers(said, r"put back: bits_per_byte ([\d.]+)") == [before] and distilled != before
    assert load(tmp_path / "out" / "distilled").config.mixer_spec("decoder", 0) == {"name": "linear"}
    assert (tmp_path / "out" / "pared" / "report.html").exists() and "pared: " in said


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_of_the_user(name, example, other):
    words = other(name)
    said = example(name.partition("-")[0], *words, *(("--linear", "1") if name == "llama" else ()))
    assert is_kept(said) and "misses" in said
    if name == "bert-base":
        assert "of the answers" not in said
    if name in ("gpt2", "llama", "marian"):
        text = re.search(r"(?:generated|translated): (.*)", said)[1]
        assert set(text.split()) <= {"<pad>", "<unk>", "<s>", "</s>", *tiny.vocabulary()}


def test_images_of_the_user(example, tmp_path):
    torch.manual_seed(0)
    config = hf.ViTConfig(image_size=16, patch_size=8, num_labels=3, **SIZES)
    hf.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    hf.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.new("L", (20, 30), 40 * number).save(tmp_path / "images" / f"{number}.png")
    said = example("vit", "--model", tmp_path / "model", "--images", tmp_path / "images", "--steps", 2, "--layers", 1)
    assert is_kept(said) and "random in encoder layer 1: misses" in said


@pytest.mark.parametrize(
    "name, word, sentence",
    [
        ("bert", "--model", "--model reads the text of --text: give both"),
        ("gpt2", "--text", "--model reads the text of --text: give both"),
        ("vit", "--images", "--model reads the images of --images: give both"),
    ],
)
def test_a_model_needs_something_to_read(name, word, sentence, example, capsys):
    with pytest.raises(SystemExit):
        example(name, word, "something")
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_readme_has_every_example(path):
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_help_of_the_classifier(example, capsys):
    with pytest.raises(SystemExit) as ended:
        example("fine_tune_classifier", "--help")
    assert ended.value.code == 0 and "--validation" in capsys.readouterr().out
