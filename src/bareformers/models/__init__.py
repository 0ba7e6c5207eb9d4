"""One config, one stack and its heads, registered with the Auto classes of `transformers`."""

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from bareformers.models.config import BareConfig
from bareformers.models.heads import (
    BareForCausalLM,
    BareForImageClassification,
    BareForMaskedLM,
    BareForSeq2SeqLM,
    BareForSequenceClassification,
)

__all__ = [
    "BareConfig",
    "BareForCausalLM",
    "BareForImageClassification",
    "BareForMaskedLM",
    "BareForSeq2SeqLM",
    "BareForSequenceClassification",
]

AutoConfig.register(BareConfig.model_type, BareConfig, exist_ok=True)
AutoModelForCausalLM.register(BareConfig, BareForCausalLM, exist_ok=True)
AutoModelForImageClassification.register(BareConfig, BareForImageClassification, exist_ok=True)
AutoModelForMaskedLM.register(BareConfig, BareForMaskedLM, exist_ok=True)
AutoModelForSeq2SeqLM.register(BareConfig, BareForSeq2SeqLM, exist_ok=True)
AutoModelForSequenceClassification.register(BareConfig, BareForSequenceClassification, exist_ok=True)
