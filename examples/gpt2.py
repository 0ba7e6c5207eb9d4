"""A memory of constant size in a layer of GPT-2.

    python examples/gpt2.py
    python examples/gpt2.py --model gpt2 --text lines.txt --layers 4 5

Attention keeps keys and values of all that was read. Linear attention keeps one matrix for each head, however long the
text. Decoding token by token with this state gives what reading the whole text anew for every token would give.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from texts import answers, arguments, batches, mixer, parsed, perplexity
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from bareformers import distill, load, put_back
from bareformers.mixers.state import LayerState


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = dict(vocab_size=200, n_embd=64, n_layer=3, n_head=4, n_positions=128)
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, initializer_range=0.1)).eval()


def generated(model: Any, prompt: Tensor, use_cache: bool) -> Any:
    """24 tokens behind a prompt [1, T], with their logits."""
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=24,
        min_new_tokens=24,
        use_cache=use_cache,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=model.config.eos_token_id,
    )


@torch.no_grad()
def state_bytes(model: Any, length: int) -> list[int]:
    """What each layer remembers of a text."""
    layers = model(torch.full((1, length), 3), use_cache=True).past_key_values.layers
    return [each.num_bytes() if isinstance(each, LayerState) else 2 * each.keys.nbytes for each in layers]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--mixer", type=mixer, default="linear", help="its name, or {name: delta, <options>}")
    parser.add_argument("--layers", type=int, nargs="+", default=[1], help="from 0")
    asked = parsed(parser)

    model = load(asked.model) if asked.model else tiny()
    (*text, held_out), tokenizer = batches(asked, model)
    original, before = answers(model, held_out), perplexity(model, held_out)

    replaced = distill(model, asked.mixer, text, asked.layers, steps=asked.steps)
    print(f"perplexity: {before:.2f} with attention, {perplexity(model, held_out):.2f} distilled")

    longest = held_out["attention_mask"].sum(-1).argmax()
    prompt = held_out["input_ids"][longest, :8][None]
    cached, whole = generated(model, prompt, use_cache=True), generated(model, prompt, use_cache=False)
    apart = max(float((one - other).abs().max()) for one, other in zip(cached.logits, whole.logits, strict=True))
    same = "the same" if torch.equal(cached.sequences, whole.sequences) else "not the same"
    print(f"with and without the state: {same} tokens, logits apart by {apart:.1e}")
    new = cached.sequences[0]
    print(f"generated: {tokenizer.decode(new) if tokenizer else new.tolist()}")

    for layer, (short, long) in enumerate(zip(state_bytes(model, 16), state_bytes(model, 64), strict=True)):
        print(f"state of layer {layer}: {short:,} bytes after 16 tokens, {long:,} after 64")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(asked.output or folder)
        again = load(asked.output or folder)
    same = "the same" if torch.equal(answers(again, held_out), answers(model, held_out)) else "not the same"
    print(f"loaded again: {same} logits")
    put_back(model, replaced)
    print(f"put back: {'the same' if torch.equal(answers(model, held_out), original) else 'not the same'} logits")


if __name__ == "__main__":
    main()
