"""A comparison as a run would leave it, with numbers that are made up but plausible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bareformers.report.result import Comparison, Measure, RunResult, aggregate

# name: (floor, description, BLEU, perplexity, parameters, state bytes, peak memory, train tok/s, decode tok/s)
VARIANTS: dict[str, tuple[bool, str, float, float, int, int, float, float, float]] = {
    "dot_product": (
        False, "dot_product (encoder, decoder, cross) in pre_ln",
        40.1, 6.31, 7_612_416, 98_304, 1.42e9, 4125, 812,
    ),
    "gaussian": (
        False, "gaussian (encoder, decoder), dot_product (cross) in pre_ln",
        39.4, 6.52, 6_825_984, 33_152, 1.21e9, 4612, 905,
    ),
    "dense_synthesizer": (
        False, "dense_synthesizer (encoder, decoder), dot_product (cross) in pre_ln",
        39.9, 6.36, 7_350_272, 66_304, 1.36e9, 4310, 798,
    ),
    "delta": (
        False, "delta (encoder, decoder, cross) in residual",
        38.2, 6.97, 7_620_608, 12_288, 1.55e9, 3320, 1310,
    ),
    "average": (
        True, "average (encoder, decoder), dot_product (cross) in pre_ln",
        24.5, 14.8, 6_825_984, 2_048, 1.17e9, 4702, 930,
    ),
}  # fmt: skip
SENTENCE = "the old harbour lies behind the hill where the fishermen mend their nets".split()
TARGET = "der alte Hafen liegt hinter dem Hügel , wo die Fischer ihre Netze flicken".split()


def run_results(seeds: int = 3) -> list[RunResult]:
    """One result per variant and seed."""
    random = np.random.default_rng(7)
    runs = []
    for seed in range(1, seeds + 1):
        for name, (floor, description, bleu, perplexity, parameters, state, peak, train, decode) in VARIANTS.items():
            jitter = random.normal(size=4)
            runs.append(
                RunResult(
                    variant=name,
                    seed=seed,
                    floor=floor,
                    description=description,
                    quality={
                        "bleu": Measure(value=bleu + 0.18 * jitter[0], better="higher"),
                        "chrf": Measure(value=bleu + 19.3 + 0.2 * jitter[1], better="higher"),
                        "perplexity": Measure(value=perplexity * (1 + 0.008 * jitter[0]), better="lower"),
                    },
                    cost={
                        "parameters": Measure(value=parameters, better="lower"),
                        "state_bytes": Measure(value=state, unit="bytes", better="lower"),
                        "peak_memory": Measure(value=peak * (1 + 0.001 * jitter[2]), unit="bytes", better="lower"),
                    },
                    speed={
                        "train_tokens_per_second": Measure(
                            value=train * (1 + 0.006 * jitter[3]), unit="tokens/s", better="higher"
                        ),
                        "decode_tokens_per_second": Measure(
                            value=decode * (1 + 0.008 * jitter[2]), unit="tokens/s", better="higher"
                        ),
                    },
                    budget={
                        "asked": {"tokens": 20_000_000},
                        "spent": {"tokens": 20_004_102, "steps": 4884, "seconds": 20e6 / train},
                    },
                    signature="nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
                )
            )
    return runs


def comparison(seeds: int = 3, **changes: Any) -> Comparison:
    """The runs gathered; `changes` override the arguments of `aggregate`."""
    given: dict[str, Any] = {
        "name": "who_needs_attention",
        "title": "Who needs dot-product attention?",
        "description": "Help texts from English to German: every mixer in the same encoder-decoder, "
        "trained on the same 20 M tokens.",
        "command": "bareformers run recipes/who_needs_attention.yaml seeds=3",
        "baseline": "dot_product",
        "headline": "bleu",
        "order": list(VARIANTS),
        "created": "2026-11-22T08:00:00+00:00",
        "environment": {
            "device": "cpu, 2 threads", "dtype": "bfloat16 autocast", "processor": "Intel Xeon (Sapphire Rapids)",
            "python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.18.0",
        },
        "recipe": {
            "task": "translation", "data": {"source": "parallel", "root": "data/help"}, "budget": {"tokens": "20M"},
            "model": {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
            "variants": {name: {"mixer": name} for name in VARIANTS}, "seeds": [1, 2, 3],
        },
        "notes": [
            "Read 61,204 pairs from data/help (English, German).",
            "Removed 1,911 pairs that occur twice and 204 whose lengths differ by more than a factor of three.",
            "Left out 318 training pairs longer than 128 tokens.",
        ],
    }  # fmt: skip
    return aggregate(run_results(seeds), **(given | changes))


def metrics(name: str, seed: int) -> list[dict[str, Any]]:
    """A learning curve that ends near the variant's perplexity."""
    random = np.random.default_rng([seed, *name.encode()])
    *_, perplexity, _, _, _, speed, _ = VARIANTS[name]
    end, rows = float(np.log(perplexity)), []
    for step in range(20, 4885, 20):
        tokens = step * 4096
        loss = end + (9.0 - end) * (1 + step / 60) ** -1.0 + 0.004 * (seed - 2)
        row = {"step": step, "tokens": tokens, "seconds": tokens / speed}
        noisy = loss - 0.05 + 0.06 * random.normal()
        rows.append(row | {"loss": noisy, "learning_rate": 5e-4, "tokens_per_second": speed})
        if step % 200 == 0:
            rows.append(row | {"validation_loss": loss + 0.006 * random.normal()})
    return rows


def maps(name: str) -> dict[str, np.ndarray]:
    """Three layers of four heads: Gaussian bands, uniform floors, or something that looks attended to."""
    random = np.random.default_rng([*name.encode()])
    arrays: dict[str, np.ndarray] = {}
    for role, queries, keys in (
        ("encoder", SENTENCE, SENTENCE), ("decoder", TARGET, TARGET), ("cross", TARGET, SENTENCE),
    ):  # fmt: skip
        arrays[f"{role}/queries"], arrays[f"{role}/keys"] = np.array(queries), np.array(keys)
        rows, columns = np.mgrid[: len(queries), : len(keys)]
        for layer in range(3):
            logits = random.normal(scale=1.6, size=(4, len(queries), len(keys))) - 0.25 * abs(rows - columns)
            if name == "gaussian" and role != "cross":
                offsets = np.array([-1, 1, -2, 0])[:, None, None]
                logits = -((columns - rows - offsets) ** 2) / 2.0
            if name == "average" and role != "cross":
                logits = np.zeros_like(logits)
            if role == "decoder":
                logits = np.where(columns > rows, -np.inf, logits)
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            arrays[f"{role}/{layer}"] = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float16)
    return arrays


SAMPLES = [
    (
        "Click the arrow next to the icon to open the submenu.",
        "Klicken Sie auf den Pfeil neben dem Symbol, um das Untermenü zu öffnen.",
        {
            "gaussian": "Klicken Sie auf den Pfeil neben dem Symbol, um das Menü zu öffnen.",
            "average": "Klicken Sie auf das Symbol, um das Symbol zu öffnen.",
        },
    ),
    (
        "Returns the number of rows in a reference or array.",
        "Gibt die Anzahl der Zeilen in einem Bezug oder einer Matrix zurück.",
        {
            "delta": "Gibt die Anzahl der Zeilen in einer Referenz oder Matrix zurück.",
            "average": "Gibt die Anzahl der Zeilen zurück.",
        },
    ),
    (
        "Select the cells that you want to protect, then choose Format - Cells.",
        "Markieren Sie die Zellen, die Sie schützen möchten, und wählen Sie Format - Zellen.",
        {
            "dense_synthesizer": "Wählen Sie die Zellen aus, die Sie schützen möchten, und wählen Sie Format - Zellen.",
            "average": "Wählen Sie die Zellen die Zellen und Format - Zellen.",
        },
    ),
]


def samples(name: str) -> dict[str, Any]:
    """Translations; a variant without its own gives the reference."""
    return {
        "kind": "translation",
        "samples": [
            {"source": source, "reference": reference, "output": outputs.get(name, reference)}
            for source, reference, outputs in SAMPLES
        ],
    }


def signal(name: str) -> list[dict[str, Any]]:
    """Three layers of each stack at three times; cosines rise with depth, most where all is averaged."""
    random = np.random.default_rng([*name.encode(), 1])
    rows = []
    for step in (0, 2442, 4884):
        layers = []
        for stack in ("encoder", "decoder"):
            for layer in range(4):
                share = layer / 3 * (0.9 if name == "average" else 0.4)
                layers.append({
                    "stack": stack,
                    "layer": layer,
                    "rms": (1 + layer) * (1 + step / 1000),
                    "cosine": share + 0.01 * random.normal(),
                    "effective_rank": 60 * (1 - share) + 1,
                    "attention_entropy": None if layer == 0 or name == "delta" else 2.5 - step / 3000,
                    "kurtosis": 1 + 0.1 * layer + step / 5000,
                    "gradient_norm": 0.01 * 3.0 ** -layer,
                })  # fmt: skip
        rows.append({"step": step, "tokens": 4096 * step, "layers": layers})
    return rows


def leave(folder: Path, made: Comparison) -> Path:
    """Write everything a run leaves into `folder`."""
    made.save(folder / "result.json")
    for variant in made.variants:
        for seed, run in zip(variant.seeds, variant.runs, strict=True):
            (folder / run).mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row) for row in metrics(variant.name, seed)]
            (folder / run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            lines = [json.dumps(row) for row in signal(variant.name)]
            (folder / run / "signal.jsonl").write_text("\n".join(lines) + "\n")
            (folder / run / "samples.json").write_text(json.dumps(samples(variant.name)))
            if variant.name != "delta":
                np.savez_compressed(folder / run / "maps.npz", **maps(variant.name))
    return folder


LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def with_lengths(made: Comparison) -> Comparison:
    """Add a cost and a speed at several lengths: dot product grows with the square, the others do not."""
    for number, variant in enumerate(made.variants):
        for length in LENGTHS:
            time = 4 + 0.9 * number + length * 0.02 * (1 + 0.3 * number) + (length**2 * 2e-5 if number == 0 else 0)
            state = variant.cost["state_bytes"].value * (length / 256 if number in (0, 2) else 1)
            variant.speed[f"forward_ms@{length}"] = Measure(value=time, unit="ms", better="lower", spread=0.2, seeds=3)
            variant.cost[f"state_bytes@{length}"] = Measure(
                value=state, unit="bytes", better="lower", spread=0.0, seeds=3
            )
    return made
