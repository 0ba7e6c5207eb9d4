"""One tokenizer for every variant of a comparison: byte-level BPE, which can spell any text, or whole made-up words."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bareformers.errors import InputError

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}  # ids 0 to 3
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256  # every byte is a token
UNKNOWN = "<unk>"  # of word tokenizers: id 4

# Said out loud, the library neither warns when a data loader forks after we tokenized, nor gives up its threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def train_tokenizer(texts: Iterable[str], vocab_size: int, cache: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE of exactly `vocab_size` tokens, trained on `texts` or found in the folder `cache`.

    `<pad>`, `<s>`, `</s>` and `<mask>` have ids 0 to 3 and are never made from text that happens to spell them.
    Encoding adds none of them; decoding gives back the text to the byte, leading spaces too. Equal texts in equal
    order give an equal tokenizer, which is kept by their hash, the size and the version of `tokenizers`.

    Raises:
        InputError: the size is below 260 (the bytes and the special tokens), or above what the texts can give.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise InputError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens "
            f"need {SMALLEST_VOCABULARY}; write that or more"
        )
    texts = list(texts)
    file = cache / "tokenizers" / f"{_key(texts, vocab_size)}.json"
    if not file.exists():
        _write(_train(texts, vocab_size).to_str(), file)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(file)),
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # "</s>" in a text is four characters, not the end
        **SPECIAL_TOKENS,
    )


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each of `words`, in their order, behind the special tokens and `<unk>`.

    White space parts words, and decoding puts a space between them. Any other word becomes `<unk>`.
    """
    vocabulary = dict.fromkeys([*SPECIAL_TOKENS.values(), UNKNOWN, *words])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,  # else "k1 ?" would become "k1?"
        split_special_tokens=True,
        unk_token=UNKNOWN,
        **SPECIAL_TOKENS,
    )


def is_ours(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer was made here, for models that were trained here."""
    return tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values())) == list(range(len(SPECIAL_TOKENS)))


def bytes_per_token(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """How many bytes of text each id stands for, [largest id + 1]; none for special tokens.

    All zeros where the vocabulary is not byte-level, for then ids do not tell bytes.
    """
    vocabulary = tokenizer.get_vocab()
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    sizes = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    for token, index in vocabulary.items():
        if index in added:
            sizes[index] = len(added[index].encode())
        elif alphabet.issuperset(token):
            sizes[index] = len(token)  # a byte-level vocabulary writes every byte as one character
        else:
            return np.zeros_like(sizes)
    sizes[tokenizer.all_special_ids] = 0
    return sizes


def _train(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    if (possible := tokenizer.get_vocab_size()) < vocab_size:
        raise InputError(
            f"vocab_size {vocab_size} is more than the training text can give: "
            f"it gives {possible}; write task.vocab_size: {possible} or less, or train on more text"
        )
    return tokenizer


def _key(texts: list[str], vocab_size: int) -> str:
    digest = sha256(f"byte-level BPE, {vocab_size}, tokenizers {tokenizers.__version__}".encode())
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _write(content: str, file: Path) -> None:
    """Write a file whole or not at all, while others may read or write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as scratch:
        whole = Path(scratch, file.name)
        whole.write_text(content, encoding="utf-8")
        os.replace(whole, file)
