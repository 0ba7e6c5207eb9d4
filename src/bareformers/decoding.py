"""Text that a trained model writes for text that it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import set_seed

from bareformers.data.tasks.translation import source_ids
from bareformers.errors import InputError
from bareformers.measure import quality
from bareformers.recipe import Task


def translate(model: Any, tokenizer: Any, sentences: Iterable[str], beams: int, length_penalty: float) -> Iterator[str]:
    """Translations of sentences, or other answers to texts, one after the other; an empty line stays empty."""
    decoder_only = not model.config.is_encoder_decoder
    limit = Task.room(model.config.max_position_embeddings, decoder_only)
    for number, sentence in enumerate(sentences, 1):
        if not sentence.strip():
            yield ""
            continue
        ids = source_ids(tokenizer, sentence, decoder_only)
        if (length := len(ids) - decoder_only) > limit:
            raise InputError(f"line {number} has {length} tokens, and this model reads {limit} at most; split it")
        inputs = torch.tensor([ids])
        decoded = quality.decode(model, tokenizer, [([0], {"input_ids": inputs})], limit - 1, beams, length_penalty)
        yield decoded.texts[0].strip()


def generate(model: Any, tokenizer: Any, prompt: str, num_tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and a continuation of at most `num_tokens` tokens; temperature 0 is greedy."""
    if not model.can_generate():
        raise InputError("this model fills in or classifies and continues no text; use `bareformers evaluate`")
    ids = [tokenizer.eos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    if "unk_token" in tokenizer.special_tokens_map and tokenizer.unk_token_id in ids:
        known = tokenizer.get_vocab()
        word = next((word for word in prompt.split() if word not in known), tokenizer.unk_token)
        raise InputError(
            f"the prompt has the word {word!r}, which this model does not know; "
            f"write words of its data, such as {tokenizer.decode([len(known) - 2, len(known) - 1])}"
        )
    limit = model.config.max_position_embeddings
    if len(ids) >= limit:
        raise InputError(f"the prompt has {len(ids)} tokens, and this model was trained on {limit} at most; shorten it")
    if len(ids) + num_tokens > limit:
        raise InputError(
            f"the prompt has {len(ids)} tokens and {num_tokens} were asked for, but this model was trained on "
            f"{limit} at most; write --tokens {limit - len(ids)} or a shorter prompt"
        )
    set_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    output = model.generate(torch.tensor([ids]), max_new_tokens=num_tokens, **sampling)
    return str(tokenizer.decode(output[0], skip_special_tokens=True))
