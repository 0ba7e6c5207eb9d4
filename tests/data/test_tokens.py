"""The tokenizer is lossless, deterministic and cached by content."""

import subprocess
import sys

import pytest

from bareformers.data.tokens import bytes_per_token, train_tokenizer
from bareformers.errors import InputError

TEXTS = [f"the number {index} is not the number {index + 1}, said the man\n" for index in range(200)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, 300, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    "text",
    ["  leading", "trailing \n", "\t\r\n\n x", "n't . do ?", "naïve 😀 日本\x00\x7f", "a </s> <pad><s> <mask>", " "],
)
def test_round_trip(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert min(ids) > 3, "text never becomes a special token"
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([1, *ids, 2, 0, 0], skip_special_tokens=True) == text
    assert bytes_per_token(tokenizer)[ids].sum() == len(text.encode())


def test_special_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<mask>"]
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id)
    assert ids == (0, 1, 2, 3)
    assert len(tokenizer) == 300
    assert bytes_per_token(tokenizer)[:4].tolist() == [0, 0, 0, 0]


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "  the </s> man\n said"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_the_cache_knows_texts_and_size(tmp_path):
    train_tokenizer(TEXTS, 300, tmp_path)
    first = next(tmp_path.glob("tokenizers/*.json"))
    written = first.stat().st_mtime_ns
    train_tokenizer(iter(TEXTS), 300, tmp_path)
    assert [first] == list(tmp_path.glob("tokenizers/*")) and first.stat().st_mtime_ns == written
    train_tokenizer(TEXTS, 301, tmp_path)
    train_tokenizer(TEXTS[1:], 300, tmp_path)
    train_tokenizer([TEXTS[0] + TEXTS[1], *TEXTS[2:]], 300, tmp_path)
    assert len(list(tmp_path.glob("tokenizers/*"))) == 4


def test_equal_texts_give_equal_tokenizers_in_other_processes(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bareformers.data.tokens import train_tokenizer\n"
        "train_tokenizer([f'{i} ab{i % 5} cd{i % 3} {i * 7} ef{i % 11}' for i in range(500)], 275, Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True)
    train_tokenizer([f"{i} ab{i % 5} cd{i % 3} {i * 7} ef{i % 11}" for i in range(500)], 275, tmp_path / "b")
    first, second = (next(tmp_path.glob(f"{name}/tokenizers/*.json")) for name in ("a", "b"))
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


def test_vocabulary_sizes_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="vocab_size 259 is too small: .* need 260"):
        train_tokenizer(TEXTS, 259, tmp_path)
    assert len(train_tokenizer(TEXTS, 260, tmp_path)) == 260
    with pytest.raises(InputError, match="vocab_size 9000 is more than") as caught:
        train_tokenizer(TEXTS, 9000, tmp_path)
    possible = int(str(caught.value).split("write task.vocab_size: ")[1].split()[0])
    assert len(train_tokenizer(TEXTS, possible, tmp_path)) == possible
