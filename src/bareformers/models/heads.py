"""The models of `transformers` on top of the stack."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    CausalLMOutputWithPast,
    ImageClassifierOutput,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
)

from bareformers import registry
from bareformers.blocks.base import Block
from bareformers.blocks.layers import GATED, activation, norm
from bareformers.errors import InputError, unknown
from bareformers.mixers.base import SelfInitialised, init_linear
from bareformers.mixers.state import new_state
from bareformers.models.config import BareConfig
from bareformers.models.stack import Stack


class BareModel(PreTrainedModel):
    """What the heads share: initialisation, embeddings, the loss, and decoding state."""

    config_class = BareConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: BareConfig) -> None:
        super().__init__(config)
        self._no_split_modules = [registry.blocks.parse(config.block, "block")[0].__name__]

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # As custom code, a module without tensors of its own, such as a block, would be passed over; that is for code
        # which writes to what was loaded, and ours initialises through `transformers.initialization`.
        super()._initialize_weights(module, is_custom_code=False)

    def _init_weights(self, module: nn.Module) -> None:
        fixed = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init_linear(module, fixed)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=fixed or module.embedding_dim**-0.5)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SelfInitialised):
            module.init_weights(fixed or self.config.hidden_size**-0.5)

    def fold(self) -> None:
        """Take trained gains into the weights that they multiply, for inference; outputs stay what they are."""
        for module in self.modules():
            if isinstance(module, Block):
                module.fold()

    @property
    def stack(self) -> Stack:
        """The stack that owns the token embeddings."""
        return self.decoder if hasattr(self, "decoder") else self.encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.stack.embeddings.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.stack.embeddings.tokens = value

    def loss_and_logits(
        self,
        hidden: Tensor,
        labels: Tensor | None,
        loss_only: bool,
        smoothing: float,
        num_items_in_batch: Tensor | int | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Cross-entropy of `labels` [B, T] (-100: nothing to predict), and the logits [B, T, V].

        With `loss_only` the logits are made at labelled positions only and not returned: a third of a training step.
        """
        if labels is None:
            return None, self.lm_head(hidden)
        real = labels != -100
        if loss_only:
            logits, chosen = None, self.lm_head(hidden[real])
        else:
            logits = self.lm_head(hidden)
            chosen = logits[real]
        total = F.cross_entropy(chosen.float(), labels[real], label_smoothing=smoothing, reduction="sum")
        return total / (real.sum() if num_items_in_batch is None else num_items_in_batch), logits


class GenerativeModel(BareModel, GenerationMixin):
    """A model that decodes token by token with its own state."""

    _is_stateful = True  # a state cannot be rolled back, which assisted decoding would need

    def new_state(self) -> Cache:
        """An empty decoding state, to be passed as `past_key_values`."""
        return new_state(len(self.decoder.blocks))

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """`transformers`' generation with our state; see `GenerationMixin.generate`."""
        config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None) or self.generation_config
        if kwargs.get("use_cache") is None:
            kwargs["use_cache"] = config.use_cache is not False
        if kwargs["use_cache"] and kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = self.new_state()
        return super().generate(*args, **kwargs)

    def _state(self, past_key_values: Cache | None, use_cache: bool | None, labels: Tensor | None) -> Cache | None:
        if past_key_values is None and use_cache and labels is None and not self.training:
            return self.new_state()
        return past_key_values


class BareForCausalLM(GenerativeModel):
    """Decoder-only language model."""

    _tied_weights_keys = {"lm_head.weight": "decoder.embeddings.tokens.weight"}

    def __init__(self, config: BareConfig) -> None:
        super().__init__(config)
        self.decoder = Stack(config, "decoder")
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        loss_only: bool = False,
        smoothing: float = 0.0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] of the next token; the loss where `labels` [B, T] (not shifted, -100 ignored) are given."""
        past_key_values = self._state(past_key_values, use_cache, labels)
        out = self.decoder(
            input_ids,
            attention_mask,
            inputs_embeds,
            past_key_values=past_key_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        shifted = None
        if labels is not None:
            shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
        loss, logits = self.loss_and_logits(out.last_hidden_state, shifted, loss_only, smoothing, num_items_in_batch)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class BareForSeq2SeqLM(GenerativeModel):
    """Encoder-decoder; both stacks share their token embeddings, since the vocabulary is joint."""

    _tied_weights_keys = {
        "lm_head.weight": "decoder.embeddings.tokens.weight",
        "encoder.embeddings.tokens.weight": "decoder.embeddings.tokens.weight",
    }

    def __init__(self, config: BareConfig) -> None:
        if not config.is_encoder_decoder:
            raise InputError("an encoder-decoder model needs is_encoder_decoder: true in its config")
        super().__init__(config)
        self.encoder = Stack(config, "encoder")
        self.decoder = Stack(config, "decoder")
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.encoder

    def shift_right(self, labels: Tensor) -> Tensor:
        """Labels [B, T] as decoder inputs: the start token, then all but the last; padding for -100."""
        inputs = F.pad(labels[:, :-1], (1, 0), value=self.config.decoder_start_token_id)
        return inputs.masked_fill(inputs == -100, self.config.pad_token_id)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The name under which the collators of `transformers` look for `shift_right`."""
        return self.shift_right(labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        loss_only: bool = False,
        smoothing: float = 0.0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [B, T, V] of the decoder; the loss where `labels` [B, T] (-100 ignored) are given.

        `decoder_input_ids` are made from `labels` where they are not given.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids,
                attention_mask,
                inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
            )
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise InputError("an encoder-decoder model needs decoder_input_ids or labels")
            decoder_input_ids = self.shift_right(labels)
        past_key_values = self._state(past_key_values, use_cache, labels)
        out = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_inputs_embeds,
            context=encoder_outputs[0],
            context_mask=attention_mask,
            past_key_values=past_key_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        loss, logits = self.loss_and_logits(out.last_hidden_state, labels, loss_only, smoothing, num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoder_outputs[0],
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
        )


class MaskedLMHead(nn.Module):
    """BERT's prediction head: a transform, then the tied embeddings with a bias."""

    def __init__(self, config: BareConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.act = activation(GATED.get(config.hidden_act, config.hidden_act))
        self.norm = norm(config.kept_norm, config.hidden_size, config.norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.norm(self.act(self.transform(hidden))))


class BareForMaskedLM(BareModel):
    """Encoder-only model that fills in masked tokens."""

    _tied_weights_keys = {"lm_head.decoder.weight": "encoder.embeddings.tokens.weight"}

    def __init__(self, config: BareConfig) -> None:
        super().__init__(config)
        self.encoder = Stack(config, "encoder")
        self.lm_head = MaskedLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head.decoder = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        loss_only: bool = False,
        smoothing: float = 0.0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits [B, T, V]; the loss where `labels` [B, T] (-100 where the token was not masked) are given."""
        out = self.encoder(
            input_ids,
            attention_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        loss, logits = self.loss_and_logits(out.last_hidden_state, labels, loss_only, smoothing, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)


class BareForSequenceClassification(BareModel):
    """Labels or scores a whole sequence, from the mean, the first or the last real position, or from a concatenation.

    Its stack is an encoder, which reads on both sides, or with `classifier_causal` a decoder. For several tasks at once
    the outputs are divided among the `members` of the config: `outputs_of` says which are whose, and `for_member` makes
    a model of one of them.
    """

    def __init__(self, config: BareConfig) -> None:
        super().__init__(config)
        if config.classifier_causal:
            self.decoder = Stack(config, "decoder")
        else:
            self.encoder = Stack(config, "encoder")
        parts = 3 if config.classifier_pooling == "concat" else 1
        self.classifier = nn.Linear(parts * config.hidden_size, config.num_labels)
        self.post_init()

    def pool(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """[B, T, D] -> [B, D] over real positions, whatever side the padding is on; [B, 3 D] of a concatenation.

        That is the last position, the maximum and the mean (Howard & Ruder, ACL 2018, arXiv:1801.06146, section 3.3).
        """
        ones = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        keep = ones if attention_mask is None else attention_mask.long()
        count = keep.sum(1).clamp_min(1)
        pooled = []
        if self.config.classifier_pooling in ("first", "last", "concat"):
            first = keep.argmax(1)
            index = first if self.config.classifier_pooling == "first" else first + count - 1
            pooled.append(hidden[torch.arange(hidden.shape[0], device=hidden.device), index])
        if self.config.classifier_pooling == "concat":
            largest = hidden.masked_fill(keep[..., None] == 0, -torch.inf).amax(1)
            pooled.append(largest.masked_fill(largest.isneginf(), 0.0))  # a row of padding alone has no maximum
        if self.config.classifier_pooling in ("mean", "concat"):
            pooled.append(((hidden.float() * keep[..., None]).sum(1) / count[:, None]).to(hidden.dtype))
        return torch.cat(pooled, -1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        smoothing: float = 0.0,
        num_items_in_batch: Tensor | int | None = None,
        members: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, num_labels]; squared error for one label (regression), cross-entropy for more.

        Scores are as the data has them, and their error counts in the square of `score_std`. For several tasks at once,
        the loss needs `members` [B], the number of each row's own, whose outputs alone count.
        """
        out = self.stack(
            input_ids,
            attention_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        outputs = self.classifier(self.pool(out.last_hidden_state, attention_mask))
        loss = self.loss_of(outputs, labels, smoothing, num_items_in_batch, members)
        return SequenceClassifierOutput(
            loss=loss, logits=self.rescaled(outputs), hidden_states=out.hidden_states, attentions=out.attentions
        )

    def rescaled(self, outputs: Tensor) -> Tensor:
        """What the classifier gives [B, num_labels], with scores as the data has them."""
        config = self.config
        if config.score_std is not None or config.members:
            outputs = outputs.float()  # steps of bf16 are wide where scores are large
        if config.score_std is not None:
            return outputs * config.score_std + config.score_mean
        scored = [member for member in config.members or () if "score_std" in member]
        for member in scored:
            own = torch.zeros(config.num_labels, dtype=torch.bool, device=outputs.device)
            own[config.outputs_of[member["name"]]] = True
            outputs = torch.where(own, outputs * member["score_std"] + member["score_mean"], outputs)
        return outputs

    def loss_of(
        self,
        outputs: Tensor,
        labels: Tensor | None,
        smoothing: float,
        num_items_in_batch: Tensor | int | None,
        members: Tensor | None = None,
    ) -> Tensor | None:
        """The loss of what the classifier gives [B, num_labels] where `labels` [B] are given."""
        if labels is None:
            return None
        config = self.config
        if config.members is None:
            total = _summed_loss(outputs, labels, smoothing, config.score_mean, config.score_std)
        elif members is None:
            raise InputError("the loss of several tasks needs members [batch], the number of each row's in the config")
        else:
            total = outputs.new_zeros((), dtype=torch.float32)
            for number, member in enumerate(config.members):
                rows = members == number
                own = outputs[rows, config.outputs_of[member["name"]]]
                scale = member.get("score_mean"), member.get("score_std")
                total = total + _summed_loss(own, labels[rows], smoothing, *scale)
        return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)

    def for_member(self, name: str) -> BareForSequenceClassification:
        """One of several tasks alone: a model with a copy of the encoder, and with that task's outputs."""
        places = self.config.outputs_of
        if name not in places:
            raise unknown("member", name, places)
        config, member = copy.deepcopy(self.config), self.config.members[list(places).index(name)]
        config.give_labels(member.get("labels"), member.get("score_mean"), member.get("score_std"))
        alone = type(self)(config).to(self.device, self.dtype).train(self.training)
        alone.stack.load_state_dict(self.stack.state_dict())
        own = {key: tensor[places[name]] for key, tensor in self.classifier.state_dict().items()}
        alone.classifier.load_state_dict(own)
        return alone


def _summed_loss(outputs: Tensor, labels: Tensor, smoothing: float, mean: float | None, std: float | None) -> Tensor:
    """Of one task: squared error of one output, in the square of `std`; else cross-entropy."""
    if outputs.shape[-1] == 1:
        aims = (labels.float() - (mean or 0.0)) / (std or 1.0)
        return F.mse_loss(outputs.squeeze(-1).float(), aims, reduction="sum")
    return F.cross_entropy(outputs.float(), labels.long(), label_smoothing=smoothing, reduction="sum")


class BareForImageClassification(BareForSequenceClassification):
    """Labels an image, which it reads as the sequence of its patches.

    It pools their mean, or with `classifier_pooling: first` a class token in front of them.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: BareConfig) -> None:
        if config.image_size is None:
            raise InputError("a model of images needs image_size, patch_size and num_channels in its config")
        super().__init__(config)

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        smoothing: float = 0.0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Logits [B, num_labels] of `pixel_values` [B, C, H, W], which go from 0 to 1; the loss as of sequences."""
        if (pixel_values is None) == (inputs_embeds is None):
            raise InputError("a model of images needs pixel_values [batch, channels, height, width], or inputs_embeds")
        out = self.stack(
            inputs_embeds=self.embed(pixel_values) if inputs_embeds is None else inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        logits = self.classifier(self.pool(out.last_hidden_state, None))
        loss = self.loss_of(logits, labels, smoothing, num_items_in_batch)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )

    def embed(self, pixel_values: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, T, D], the patches as the stack reads them."""
        return self.get_input_embeddings()(pixel_values)
