"""The four models and the tools of `transformers` that people bring to them."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    Trainer,
    TrainingArguments,
)

from bareformers.models import (
    BareConfig,
    BareForCausalLM,
    BareForMaskedLM,
    BareForSeq2SeqLM,
    BareForSequenceClassification,
)
from tests.models.sizes import build, right_padded, small, tokens

GENERATIVE = {BareForCausalLM: False, BareForMaskedLM: False, BareForSeq2SeqLM: True}
heads = pytest.mark.parametrize("cls, encoder_decoder", GENERATIVE.items())

AUTO = [
    (AutoModelForCausalLM, BareForCausalLM, False),
    (AutoModelForMaskedLM, BareForMaskedLM, False),
    (AutoModelForSeq2SeqLM, BareForSeq2SeqLM, True),
    (AutoModelForSequenceClassification, BareForSequenceClassification, False),
]


@pytest.mark.parametrize("auto, cls, encoder_decoder", AUTO)
def test_auto_classes(auto, cls, encoder_decoder, tmp_path):
    config = small(is_encoder_decoder=encoder_decoder, mixer="gaussian")
    net = auto.from_config(config)
    assert type(net) is cls
    net.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is BareConfig
    assert type(auto.from_pretrained(tmp_path)) is cls


def labelled():
    """Tokens and labels of which some are not to be predicted."""
    labels = tokens(seed=1)
    labels[0, 5:] = -100
    labels[1, 0] = -100
    return dict(input_ids=tokens(), labels=labels)


@heads
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_is_cross_entropy(cls, encoder_decoder, label_smoothing):
    net = build(cls, is_encoder_decoder=encoder_decoder)
    given = labelled()
    out = net(**given, smoothing=label_smoothing)
    logits, labels = out.logits, given["labels"]
    if cls is BareForCausalLM:
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)
    torch.testing.assert_close(out.loss, expected)


@heads
def test_loss_only_is_the_loss(cls, encoder_decoder):
    net = build(cls, is_encoder_decoder=encoder_decoder)
    given = labelled()
    whole, only = net(**given, smoothing=0.1), net(**given, smoothing=0.1, loss_only=True)
    torch.testing.assert_close(only.loss, whole.loss)
    assert only.logits is None and whole.logits is not None


@heads
def test_loss_over_the_items_of_a_larger_batch(cls, encoder_decoder):
    net = build(cls, is_encoder_decoder=encoder_decoder)
    given = labelled()
    predicted = given["labels"][:, 1:] if cls is BareForCausalLM else given["labels"]
    count = (predicted != -100).sum()
    torch.testing.assert_close(net(**given, num_items_in_batch=2 * count).loss, net(**given).loss / 2)


def test_labels_become_decoder_inputs():
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True)
    labels = torch.tensor([[5, 6, 2], [7, 2, -100]])
    assert net.shift_right(labels).tolist() == [[1, 5, 6], [1, 7, 2]]
    assert net.shift_right(torch.tensor([[7, -100, -100]])).tolist() == [[1, 7, 0]]
    source = tokens(2)
    by_hand = net(source, decoder_input_ids=net.shift_right(labels)).logits
    torch.testing.assert_close(net(source, labels=labels).logits, by_hand)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_reads_real_positions(pooling):
    net = build(BareForSequenceClassification, classifier_pooling=pooling, num_labels=3, mixer="none")
    ids = tokens(1, 4)
    hidden = net.encoder(ids).last_hidden_state[0]
    expected = net.classifier({"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[pooling])
    right = torch.cat([ids, tokens(1, 3, seed=2)], 1)
    left = torch.cat([tokens(1, 3, seed=2), ids], 1)
    mask = right_padded(7, 4)
    for padded, keep in ((ids, None), (right, mask), (left, mask.flip(1))):
        torch.testing.assert_close(net(padded, keep).logits[0], expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mixer", ["dot_product", "average"])
def test_concat_pooling(mixer, causal):
    given = dict(classifier_pooling="concat", classifier_causal=causal, num_labels=3, mixer=mixer)
    net = build(BareForSequenceClassification, **given)
    ids = tokens(1, 4)
    hidden = net.stack(ids).last_hidden_state[0]
    assert net.stack.role == ("decoder" if causal else "encoder")
    expected = net.classifier(torch.cat([hidden[-1], hidden.amax(0), hidden.mean(0)]))
    right = torch.cat([ids, tokens(1, 3, seed=2)], 1)
    left = torch.cat([tokens(1, 3, seed=2), ids], 1)
    mask = right_padded(7, 4)
    for padded, keep in ((ids, None), (right, mask), (left, mask.flip(1))):
        torch.testing.assert_close(net(padded, keep).logits[0], expected)
    nothing = net(right, torch.zeros_like(mask), labels=torch.tensor([0]))
    nothing.loss.backward()
    assert nothing.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None)


def test_a_causal_classifier_reads_from_left_to_right(tmp_path):
    net = build(BareForSequenceClassification, classifier_pooling="first", classifier_causal=True, num_labels=3)
    ids = tokens(1, 6)
    changed = torch.cat([ids[:, :1], tokens(1, 5, seed=3)], 1)
    assert torch.equal(net(ids).logits, net(changed).logits)
    net.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.classifier_causal and torch.equal(again(ids).logits, net(ids).logits)
    language = build(BareForCausalLM)
    assert set(language.stack.state_dict()) == set(net.stack.state_dict())


@pytest.mark.parametrize("num_labels, loss", [(1, F.mse_loss), (3, F.cross_entropy)])
def test_classification_loss(num_labels, loss):
    net = build(BareForSequenceClassification, num_labels=num_labels)
    labels = torch.tensor([0.5, 1.0, 2.0]) if num_labels == 1 else torch.tensor([0, 2, 1])
    out = net(tokens(), labels=labels)
    torch.testing.assert_close(out.loss, loss(out.logits.squeeze(-1), labels))


@pytest.mark.parametrize("cls, encoder_decoder", [(BareForCausalLM, False), (BareForSeq2SeqLM, True)])
def test_sampling(cls, encoder_decoder):
    net = build(cls, is_encoder_decoder=encoder_decoder)
    torch.manual_seed(1)
    drawn = net.generate(
        tokens(), do_sample=True, top_k=0, temperature=2.0, num_return_sequences=2, max_new_tokens=5, eos_token_id=None
    )
    assert drawn.shape == (6, 6 if encoder_decoder else 13)
    assert len({tuple(row) for row in drawn.tolist()}) > 3


def test_generation_without_state_makes_none():
    net = build(BareForCausalLM)
    for kwargs in (dict(use_cache=False), dict(generation_config=GenerationConfig(use_cache=False, pad_token_id=0))):
        out = net.generate(tokens(), **kwargs, max_new_tokens=3, return_dict_in_generate=True)
        assert out.past_key_values is None


def test_a_prompt_continues_from_a_state():
    net = build(BareForCausalLM)
    ids = tokens(2, 9)
    state = net.new_state()
    first = net(ids[:, :5], past_key_values=state).logits
    rest = net(ids[:, 5:], past_key_values=state).logits
    torch.testing.assert_close(torch.cat([first, rest], 1), net(ids).logits)
    assert state.get_seq_length() == 9


@heads
def test_embeddings_stay_tied(cls, encoder_decoder, tmp_path):
    net = build(cls, is_encoder_decoder=encoder_decoder)
    net.save_pretrained(tmp_path)
    for model in (net, cls.from_pretrained(tmp_path)):
        tied = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        tied += [model.encoder.embeddings.tokens.weight] if encoder_decoder else []
        assert len({weight.data_ptr() for weight in tied}) == 1


@heads
def test_embeddings_can_be_untied(cls, encoder_decoder, tmp_path):
    net = build(cls, is_encoder_decoder=encoder_decoder, tie_word_embeddings=False)
    net.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is not loaded.get_input_embeddings().weight
    assert torch.equal(loaded.get_output_embeddings().weight, net.get_output_embeddings().weight)


@pytest.mark.parametrize("auto, cls, encoder_decoder", AUTO)
def test_bfloat16(auto, cls, encoder_decoder, tmp_path):
    build(cls, is_encoder_decoder=encoder_decoder).save_pretrained(tmp_path)
    net = cls.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    given = dict(decoder_input_ids=tokens(seed=1)) if encoder_decoder else {}
    logits = net(tokens(), attention_mask=right_padded(8, 8, 5, 1), **given).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_embeddings_can_be_given():
    net = build(BareForCausalLM)
    ids = tokens()
    torch.testing.assert_close(net(inputs_embeds=net.get_input_embeddings()(ids)).logits, net(ids).logits)


@pytest.mark.parametrize("cls, encoder_decoder", [(BareForCausalLM, False), (BareForSeq2SeqLM, True)])
def test_the_trainer_of_transformers(cls, encoder_decoder, tmp_path):
    net = build(cls, is_encoder_decoder=encoder_decoder)
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    examples = [dict(input_ids=row, labels=row) for row in tokens(8)]
    trainer = Trainer(
        net,
        TrainingArguments(
            str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=0.01,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
        ),
        train_dataset=examples,
        eval_dataset=examples,
    )
    start = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.evaluate()["eval_loss"] < start
    assert all(not torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_lora():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    net = build(BareForCausalLM)
    plain = net(tokens()).logits
    adapted = peft.get_peft_model(
        net, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["value", "output"], lora_dropout=0.0)
    )
    torch.testing.assert_close(adapted(tokens()).logits, plain)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all("lora_" in name for name in trained)
    adapted(tokens(), labels=tokens()).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    assert adapted.generate(input_ids=tokens(), max_new_tokens=3, eos_token_id=None).shape == (3, 11)
