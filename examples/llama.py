"""Mixers in models with rotary positions and heads that share keys and values: Llama, SmolLM2, Qwen2.

    python examples/llama.py
    python examples/llama.py --model HuggingFaceTB/SmolLM2-135M --text lines.txt --gaussian 0 1 --linear 12

`dot_product` in the place of the attention changes nothing, which shows that what is compared after it is fair. Then
one mixer after another is distilled into layers of their own; texts of several lengths go through the model together.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from texts import answers, arguments, batches, off, parsed, perplexity
from torch import Tensor
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM

from bareformers import distill, load, put_back, swap


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = dict(vocab_size=200, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    config = LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.1)
    return LlamaForCausalLM(config).eval()


def continued(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """[B, 12], what the model writes behind prompts [B, T], padded on the left."""
    found = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=12, min_new_tokens=12, pad_token_id=0
    )
    return found[:, ids.shape[1] :]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--gaussian", type=int, nargs="*", default=[0], help="layers for fixed Gaussians")
    parser.add_argument("--linear", type=int, nargs="*", default=[2], help="layers for linear attention")
    asked = parsed(parser)

    model = load(asked.model) if asked.model else tiny()
    (*text, held_out), tokenizer = batches(asked, model)
    original, before = answers(model, held_out), perplexity(model, held_out)

    replaced = swap(model, "dot_product")
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    same = off(answers(model, held_out), original)
    print(f"dot_product in all layers ({heads} heads, {shared} of keys and values): off by {100 * same:.1e} %")
    put_back(model, replaced)

    replaced = []
    for mixer, layers in (("gaussian", asked.gaussian), ("linear", asked.linear)):
        if layers:
            replaced += distill(model, mixer, text, layers, steps=asked.steps)
            print(f"with {mixer}: perplexity {perplexity(model, held_out):.2f}, and {before:.2f} before all")

    longest = held_out["attention_mask"].sum(-1).argmax()
    long = held_out["input_ids"][longest, :8][None]
    missing = long.shape[1] // 2
    short = long[:, missing:]
    ids = torch.cat([long, pad(short, (missing, 0))])
    mask = torch.ones_like(ids)
    mask[1, :missing] = 0
    together, alone = continued(model, ids, mask)[1], continued(model, short, torch.ones_like(short))[0]
    print(f"padded beside a longer text, and alone: {'the same' if torch.equal(together, alone) else 'other'} tokens")
    print(f"generated: {tokenizer.decode(alone) if tokenizer else alone.tolist()}")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(asked.output or folder)
        again = load(asked.output or folder)
    same = torch.equal(answers(again, held_out), answers(model, held_out))
    print(f"loaded again: {'the same' if same else 'not the same'} logits")
    put_back(model, replaced)
    print(f"put back: {'the same' if torch.equal(answers(model, held_out), original) else 'not the same'} logits")


if __name__ == "__main__":
    main()
