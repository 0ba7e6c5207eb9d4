"""How good a model is: likelihood of held-out text, outputs against references, tokens, classes and scores told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
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
    """How many of `labels` [B, T] or [B] are predicted: not -100, nor the first of a row if the model shifts them."""
    return int(((labels[:, 1:] if causal else labels) != -100).sum())


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
class Recalled:
    """What a model answers where labels ask: a causal one with the true tokens before each answer in sight.

    Attributes:
        likelihood: of the true answers.
        num_right: answers of which the likeliest token is the true one.
        num_whole: sequences of which all answers are right.
        answers: the likeliest token for each label of a sequence, in the order of the inputs.
    """

    likelihood: Likelihood
    num_right: int
    num_whole: int
    answers: list[list[int]]

    @property
    def accuracy(self) -> float:
        """Right answers, in percent."""
        return 100 * self.num_right / max(self.likelihood.num_tokens, 1)

    @property
    def exact(self) -> float:
        """Sequences of which all answers are right, in percent."""
        return 100 * self.num_whole / max(len(self.answers), 1)


@torch.no_grad()
def recalled(
    model: nn.Module, batches: Iterable[tuple[Sequence[int], dict[str, Tensor]]], causal: bool = True
) -> Recalled:
    """Evaluate a model on batches of (indices of the inputs, inputs with `labels` [B, T]).

    Args:
        causal: whether it shifts its labels, so that the first of each row is not predicted.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    nats, num_tokens, num_right, num_whole = 0.0, 0, 0, 0
    answers: dict[int, list[int]] = {}
    for indices, batch in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        out = model(**batch)
        true, guessed = batch["labels"], out.logits.argmax(-1)
        if causal:
            true, guessed = true[:, 1:], guessed[:, :-1]
        asked = true != -100
        right = asked & (guessed == true)
        count = int(asked.sum())
        nats += float(out.loss) * count
        num_tokens += count
        num_right += int(right.sum())
        num_whole += int((right == asked).all(1).sum())
        given = (row[mask].tolist() for row, mask in zip(guessed, asked, strict=True))
        answers.update(zip(indices, given, strict=True))
    model.train(training)
    return Recalled(Likelihood(nats, num_tokens), num_right, num_whole, [answers[index] for index in sorted(answers)])


@dataclass(frozen=True)
class Classified:
    """The likeliest class of each text beside the true one, in the order of the inputs.

    Attributes:
        likelihood: of the true classes; its tokens are texts.
    """

    likelihood: Likelihood
    true: list[int]
    guessed: list[int]

    @property
    def accuracy(self) -> float:
        """Texts whose likeliest class is the true one, in percent."""
        right = sum(true == guess for true, guess in zip(self.true, self.guessed, strict=True))
        return 100 * right / max(len(self.true), 1)

    @property
    def f1(self) -> float:
        """The mean of F1 over the classes that are true or guessed somewhere, in percent."""
        from sklearn.metrics import f1_score

        return 100 * float(f1_score(self.true, self.guessed, average="macro", zero_division=0.0))

    @property
    def matthews(self) -> float:
        """The correlation of true and guessed classes (Matthews 1975), times 100; 0 where all guesses are one class."""
        from sklearn.metrics import matthews_corrcoef

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one class alone
            return 100 * float(matthews_corrcoef(self.true, self.guessed))


@dataclass(frozen=True)
class Regressed:
    """The score that a model gives each text beside the true one, in the order of the inputs.

    Attributes:
        loss: the mean squared error in the square of the standard deviation that the model was trained with.
    """

    loss: float
    true: list[float]
    told: list[float]

    @property
    def pearson(self) -> float:
        """Pearson's correlation of both, times 100; 0 where either is the same for all texts."""
        from scipy.stats import pearsonr

        return self._correlation(pearsonr)

    @property
    def spearman(self) -> float:
        """Spearman's, of their ranks, times 100; 0 where either is the same for all texts."""
        from scipy.stats import spearmanr

        return self._correlation(spearmanr)

    @property
    def constant(self) -> str:
        """Which of both has no correlation with anything, for it is the same for all texts; empty where none."""
        sides = {"what is told": self.told, "what is true": self.true}
        # What differs by rounding alone is the same.
        alike = (name for name, scores in sides.items() if max(scores) - min(scores) <= 1e-6 * max(map(abs, scores)))
        return next(alike, "")

    def _correlation(self, measure: Callable[..., Any]) -> float:
        if self.constant:
            return 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that are all but the same
            return 100 * float(measure(self.true, self.told).statistic)


@dataclass(frozen=True, eq=False)
class Judged:
    """What a model gives for each text beside its label, in the order of the inputs.

    Attributes:
        loss: its mean.
        labels: [texts], numbers of classes, or scores.
        logits: [texts, outputs].
    """

    loss: float
    labels: Tensor
    logits: Tensor

    def classified(self) -> Classified:
        """As of a classifier."""
        return Classified(
            Likelihood(self.loss * len(self.labels), len(self.labels)),
            self.labels.long().tolist(),
            self.logits.argmax(-1).tolist(),
        )

    def regressed(self) -> Regressed:
        """As of a regression, of one output."""
        return Regressed(self.loss, self.labels.tolist(), self.logits[:, 0].tolist())

    def of(self, rows: Tensor, outputs: slice) -> Judged:
        """Some texts [texts] and outputs; the loss is still that of all."""
        return Judged(self.loss, self.labels[rows], self.logits[rows, outputs])


@torch.no_grad()
def judged(model: nn.Module, batches: Iterable[tuple[Sequence[int], dict[str, Tensor]]]) -> Judged:
    """Evaluate a model on batches of (indices of the inputs, inputs with `labels` [B])."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    total = 0.0
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for indices, batch in batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        out = model(**batch)
        total += float(out.loss) * len(indices)
        rows = zip(batch["labels"].cpu(), out.logits.float().cpu(), strict=True)
        found.update(zip(indices, rows, strict=True))
    model.train(training)
    labels, logits = (torch.stack([found[index][side] for index in sorted(found)]) for side in (0, 1))
    return Judged(total / len(found), labels, logits)


def classified(model: nn.Module, batches: Iterable[tuple[Sequence[int], dict[str, Tensor]]]) -> Classified:
    """Evaluate a classifier, as `judged`."""
    return judged(model, batches).classified()


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


def translation_scores(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> TranslationScores:
    """BLEU (Post 2018, arXiv:1804.08771) and chrF of detokenised text against one reference or more each."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    streams: Any = [list(stream) for stream in zip_longest(*references)]  # None where an output has fewer than others
    score = bleu.corpus_score(list(outputs), streams).score
    return TranslationScores(score, chrf.corpus_score(list(outputs), streams).score, str(bleu.get_signature()))


ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our names of the measures, and those of the library."""


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), stemmed: means over the outputs of F1 in percent.

    Of several references each measure has that which suits the output best. By `rouge-score`, whose words are runs of
    the letters a to z and of digits.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE.values()), use_stemmer=True)
    found = [scorer.score_multi(those, output) for output, those in zip(outputs, references, strict=True)]
    return {
        name: 100 * sum(scores[key].fmeasure for scores in found) / max(len(found), 1) for name, key in ROUGE.items()
    }


def distinct(texts: Iterable[str]) -> dict[str, float]:
    """Distinct words and pairs of words, of all that there are, in percent (Li et al. 2016, arXiv:1510.03055).

    Words are parted by white space. The share falls as there are more texts, so only equally many can be compared.
    """
    words = [text.split() for text in texts]
    grams: dict[str, list[Any]] = {
        "distinct_1": [word for row in words for word in row],
        "distinct_2": [pair for row in words for pair in pairwise(row)],
    }
    return {name: 100 * len(set(found)) / max(len(found), 1) for name, found in grams.items()}
