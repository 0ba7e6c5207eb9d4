"""How good a model is: likelihood of held-out text, and translations against references."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Likelihood:
    """Total negative log-likelihood in nats over `num_tokens` predicted tokens spelling `num_bytes` bytes of UTF-8."""

    nats: float
    num_tokens: int
    num_bytes: int | None = None

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / max(self.num_tokens, 1)

    @property
    def perplexity(self) -> float:
        """Per token; depends on the tokenizer."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """Independent of the tokenizer."""
        return self.nats / math.log(2) / self.num_bytes if self.num_bytes else None


def num_predicted(labels: Tensor, causal: bool) -> int:
    """How many of `labels` [B, T] are predicted: not -100, and not the first of a row where the model shifts them."""
    return int((labels[:, int(causal) :] != -100).sum())


@torch.no_grad()
def likelihood(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], num_bytes: int | None = None, causal: bool = False
) -> Likelihood:
    """Evaluate `model` on batches with `labels` (-100 ignored).

    Args:
        model: any model of `transformers` that returns a mean loss over the labels.
        causal: whether the model shifts the labels, so that the first of each row is not predicted.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    nats, num_tokens = 0.0, 0
    for batch in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        count = num_predicted(batch["labels"], causal)
        nats += float(model(**batch).loss) * count
        num_tokens += count
    model.train(training)
    return Likelihood(nats, num_tokens, num_bytes)


@dataclass(frozen=True)
class Decoded:
    """Outputs in the order of the inputs, and how many ran to the length limit without ending."""

    texts: list[str]
    num_unfinished: int


@torch.no_grad()
def decode(
    model: Any,
    tokenizer: Any,
    batches: Iterable[tuple[Sequence[int], dict[str, Tensor]]],
    max_new_tokens: int,
    beams: int = 1,
    length_penalty: float = 1.0,
) -> Decoded:
    """Generate for batches of (indices of the inputs, model inputs); the texts come back by index."""
    model.eval()
    device = model.device
    texts: dict[int, str] = {}
    num_unfinished = 0
    for indices, batch in batches:
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask") if name in batch}
        ids = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            num_beams=beams,
            length_penalty=length_penalty if beams > 1 else None,
            do_sample=False,
        )
        if not model.config.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        num_unfinished += int((ids != tokenizer.eos_token_id).all(1).sum())
        decoded = tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts.update(zip(indices, decoded, strict=True))
    return Decoded([texts[index] for index in sorted(texts)], num_unfinished)


@dataclass(frozen=True)
class TranslationScores:
    """Corpus scores by sacreBLEU, 0 to 100, with the signature that makes them comparable."""

    bleu: float
    chrf: float
    signature: str


def translation_scores(outputs: Sequence[str], references: Sequence[str]) -> TranslationScores:
    """BLEU (Post 2018, arXiv:1804.08771) and chrF of detokenised text against one reference each."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    score = bleu.corpus_score(list(outputs), [list(references)]).score
    return TranslationScores(
        score, chrf.corpus_score(list(outputs), [list(references)]).score, str(bleu.get_signature())
    )
