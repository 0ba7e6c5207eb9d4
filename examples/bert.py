"""Another mixer in some layers of an encoder: BERT, MiniLM, RoBERTa, DistilBERT.

    python examples/bert.py
    python examples/bert.py --model runs/minilm_sst2 --text sentences.txt --mixer gaussian --layers 0 1

Swapped in, a mixer knows nothing; distilled on your text, it does what the attention did, as far as it can. The last
batch of the text is kept for the comparison. A classifier made by fine_tune_classifier.py is a good model to try.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from texts import answers, arguments, batches, mixer, off, parsed
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from bareformers import distill, load, put_back, swap
from bareformers.measure.speed import interleaved


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = dict(vocab_size=200, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    config = BertConfig(**sizes, max_position_embeddings=64, num_labels=3, initializer_range=0.05)
    return BertForSequenceClassification(config).eval()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--mixer", type=mixer, default="gaussian", help="its name, or {name: alr, width: 32}")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1], help="from 0")
    asked = parsed(parser)

    model = load(asked.model) if asked.model else tiny()
    (*text, held_out), _ = batches(asked, model)
    original = answers(model, held_out)

    def compare(name: str, said: Tensor) -> None:
        same = ""
        if model.base_model is not model:  # with a head, the greatest number is the answer
            share = (said.argmax(-1) == original.argmax(-1)).float().mean()
            same = f", {100 * share:.0f} % of the answers the same"
        print(f"{name}: off by {100 * off(said, original):.1f} %{same}")

    torch.manual_seed(0)
    replaced = swap(model, asked.mixer, asked.layers)
    compare("swapped in", answers(model, held_out))
    put_back(model, replaced)

    replaced = distill(model, asked.mixer, text, asked.layers, steps=asked.steps)
    taught = answers(model, held_out)
    compare("distilled", taught)

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(asked.output or folder)
        again = load(asked.output or folder)
    print(f"loaded again: {'the same' if torch.equal(answers(again, held_out), taught) else 'not the same'} logits")

    put_back(model, replaced)
    print(f"put back: {'the same' if torch.equal(answers(model, held_out), original) else 'not the same'} logits")

    models = {"attention": model, "distilled": again}
    times = interleaved({name: lambda each=each: answers(each, held_out) for name, each in models.items()}, rounds=9)
    rows, length = held_out["input_ids"].shape
    said = ", ".join(f"{name} {1000 * times[name].seconds:.2f} ms" for name in models)
    print(f"a batch of {rows} texts of {length} tokens: {said}")


if __name__ == "__main__":
    main()
