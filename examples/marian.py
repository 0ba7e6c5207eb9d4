"""Other mixers in all three roles of a translator: Marian, BART.

    python examples/marian.py
    python examples/marian.py --model Helsinki-NLP/opus-mt-de-en --text german.txt --layers 0 1

The mixers learn from the model's own translations of your text, one role after the other: what the encoder reads, what
the decoder has written so far, and what the decoder takes from the encoder. Beam search goes on as before.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from texts import arguments, batches, mixer, parsed
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from bareformers import distill, load, put_back


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = dict(vocab_size=200, d_model=64, encoder_layers=2, decoder_layers=2, max_position_embeddings=64)
    for stack in ("encoder", "decoder"):
        sizes |= {f"{stack}_attention_heads": 4, f"{stack}_ffn_dim": 128}
    special = dict(pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, forced_eos_token_id=None)
    return MarianMTModel(MarianConfig(**sizes, **special, init_std=0.1)).eval()


def translated(model: Any, batch: dict[str, Tensor], **how: Any) -> Tensor:
    """[B, T], the translations of a batch."""
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found: Tensor = model.generate(**given, do_sample=False, max_new_tokens=32, **how)
    return found


def with_labels(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with the model's own translations as what is to be written."""
    written = translated(model, batch, num_beams=1)[:, 1:]
    return {**batch, "labels": written.masked_fill(written == model.config.pad_token_id, -100)}


@torch.no_grad()
def answers(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """[N, V], the logits of each token that is to be written."""
    return model(**batch).logits[batch["labels"] != -100]


def main() -> None:
    parser = arguments(__doc__)
    for role, default in (("encoder", "gaussian"), ("decoder", "linear"), ("cross", "gaussian")):
        parser.add_argument(f"--{role}", type=mixer, default=default, help="a mixer, or null for what is there")
    parser.add_argument("--layers", type=int, nargs="+", default=[0], help="from 0, of each role")
    asked = parsed(parser)

    model = load(asked.model) if asked.model else tiny()
    found, tokenizer = batches(asked, model)
    *text, held_out = [with_labels(model, batch) for batch in found]
    original = answers(model, held_out)

    replaced = []
    for role in ("encoder", "decoder", "cross"):
        if chosen := getattr(asked, role):
            replaced += distill(model, chosen, text, asked.layers, role, steps=asked.steps)
            same = (answers(model, held_out).argmax(-1) == original.argmax(-1)).float().mean()
            print(f"{role}: {100 * same:.0f} % of the next tokens as before")

    some = {name: tensor[:2] for name, tensor in held_out.items()}
    stepped, whole = (translated(model, some, num_beams=4, use_cache=cache) for cache in (True, False))
    print(f"beams with and without the state: {'the same' if torch.equal(stepped, whole) else 'other'} translations")
    first = stepped[0]
    print(f"translated: {tokenizer.decode(first, skip_special_tokens=True) if tokenizer else first.tolist()}")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(asked.output or folder)
        again = load(asked.output or folder)
    same = torch.equal(answers(again, held_out), answers(model, held_out))
    print(f"loaded again: {'the same' if same else 'not the same'} logits")
    put_back(model, replaced)
    print(f"put back: {'the same' if torch.equal(answers(model, held_out), original) else 'not the same'} logits")


if __name__ == "__main__":
    main()
