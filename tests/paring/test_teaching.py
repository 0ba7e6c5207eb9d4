"""Mixers that learn what the attention of a model does, in models of `transformers` and in ours."""

import copy

import pytest
import torch
import transformers as hf

from bareformers.errors import InputError
from bareformers.models import BareConfig, BareForCausalLM, BareForSeq2SeqLM
from bareformers.paring.surgery import load, put_back
from bareformers.paring.teaching import Candidates, Place, distill, learn, named, places_of, without_cache
from tests.paring.test_surgery import PLACES, tiny


def batches(name, count=3, padding=True):
    torch.manual_seed(2)
    found = []
    for _ in range(count):
        if name == "vit":
            found.append({"pixel_values": torch.randn(2, 1, 8, 8)})
            continue
        ids, keep = torch.randint(3, 97, (3, 9)), torch.ones(3, 9, dtype=torch.long)
        if padding:
            keep[0, -4:] = 0
        batch = {"input_ids": ids, "attention_mask": keep}
        if name in ("marian", "bart", "ours"):
            labels = torch.randint(3, 97, (3, 7))
            labels[1, -3:] = -100
            batch["labels"] = labels
        if name in ("bert-decoder", "gpt2-reading"):
            batch["encoder_hidden_states"] = torch.randn(3, 5, 32)
        found.append(batch)
    return found


def ours(cls=BareForSeq2SeqLM, **changes):
    torch.manual_seed(0)
    sizes = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    config = BareConfig.from_recipe(
        **sizes, max_position_embeddings=40, is_encoder_decoder=cls is BareForSeq2SeqLM, dropout=0.0, **changes
    )
    model = cls(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def model_of(name):
    return ours() if name == "ours" else tiny(name)


def silent(sentence):
    pass


def output(model, batch):
    """What the model gives at real positions."""
    with torch.no_grad():
        logits = model(**batch).logits
    keep = batch["labels"] != -100 if "labels" in batch else batch.get("attention_mask")
    return logits if keep is None else logits[keep.bool()]


def state(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


everywhere = pytest.mark.parametrize(
    "name, role",
    [*PLACES, *(("ours", role) for role in ("encoder", "decoder", "cross"))],
    ids=lambda value: value,
)


@everywhere
def test_attention_learns_nothing_of_itself(name, role):
    model = model_of(name)
    given = batches(name)
    before = [output(model, batch) for batch in given]
    candidates = Candidates(model, [(place, "dot_product") for place in places_of(model) if place.role == role])
    with candidates.lessons() as lessons:
        found = lessons(**given[0]).detach()
    assert float(found[:, 0].max()) == 0.0 and float(found[:, 2].min()) > 0
    replaced = distill(model, "dot_product", given, role=role, steps=4, log=silent)
    assert {each.role for each in replaced} == {role}
    for batch, expected in zip(given, before, strict=True):
        torch.testing.assert_close(output(model, batch), expected, atol=1e-5, rtol=1e-5)


@everywhere
def test_the_rest_of_the_model_stays(name, role):
    model = model_of(name)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    modes = {key: module.training for key, module in model.named_modules()}
    before, config, given = state(model), copy.deepcopy(model.config.to_dict()), batches(name)
    expected = output(model, given[0])
    replaced = distill(model, "gaussian", given, role=role, steps=3, log=silent)
    after = model.state_dict()
    gone = tuple(path for each in replaced for path in each.modules)
    kept = [key for key in before if not key.startswith(gone)]
    assert len(kept) < len(before) and all(torch.equal(before[key], after[key]) for key in kept)
    assert not torch.allclose(output(model, given[0]), expected)
    put_back(model, replaced)
    assert model.config.to_dict() == config
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == flags
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(output(model, given[0]), expected)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "ours"])
@pytest.mark.parametrize("mixer", ["gaussian", {"name": "alr", "size": "XS"}, {"name": "elr", "size": "XS"}], ids=named)
def test_losses_fall(name, mixer):
    if "elr" in named(mixer) and name != "bert":
        pytest.skip("a whole layer is replaced in encoders of transformers only")
    model, given = model_of(name), batches(name)
    role = places_of(model)[0].role

    def losses(steps):
        candidates = Candidates(model, [(place, mixer) for place in places_of(model) if place.role == role])
        with candidates.lessons() as lessons:
            before = lessons(**given[0]).detach()[:, 0]
            learn(lessons, list(candidates.students.values()), given, steps, 3e-3, silent)
            return before, lessons(**given[0]).detach()[:, 0]

    before, after = losses(25)
    assert bool((after < 0.95 * before).all())


def test_output_projections_stay_those_of_the_attention():
    model = tiny("bert")
    before = [layer.attention.output.dense.weight.clone() for layer in model.bert.encoder.layer]
    distill(model, "gaussian", batches("bert"), steps=4, learning_rate=0.01, log=silent)
    for layer, weight in zip(model.bert.encoder.layer, before, strict=True):
        assert torch.equal(layer.attention.self.mixer.output.weight, weight)
        assert layer.attention.self.mixer.output.weight.requires_grad


@pytest.mark.parametrize(
    "name, role",
    [("bert", "encoder"), ("gpt2", "decoder"), ("marian", "encoder"), ("marian", "decoder"), ("marian", "cross")]
    + [("ours", role) for role in ("encoder", "decoder", "cross")],
)
def test_padding_is_not_learnt_from(name, role):
    def learnt(noise):
        model, given = model_of(name), batches(name)
        for batch in given:
            hidden = batch["attention_mask"] == 0
            batch["input_ids"][hidden] = noise
        candidates = Candidates(model, [(Place(role, 0), "gaussian")])
        with candidates.lessons() as lessons:
            found = lessons(**given[0])
            real = given[0]["labels"] != -100 if role != "encoder" and "labels" in given[0] else None
            real = given[0]["attention_mask"] if real is None else real
            assert float(found[0, 3].detach()) == 32 * int(real.sum())
            found[:, 0].sum().backward()
            return found.detach(), [parameter.grad for parameter in lessons.parameters()]

    first, gradients = learnt(5)
    second, others = learnt(60)
    torch.testing.assert_close(first, second)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other)


def test_students_learn_as_if_alone():
    given = batches("bert")

    def learnt(*names):
        model = tiny("bert")
        candidates = Candidates(model, [(place, name) for place in places_of(model) for name in names])
        with candidates.lessons() as lessons:
            learn(lessons, list(candidates.students.values()), given, 4, 1e-2, silent)
        return {key: state(each.mixer) for key, each in candidates.students.items()}

    alone, together = learnt("gaussian"), learnt("average", "gaussian", "dense")
    assert len(together) == 6
    for key, tensors in alone.items():
        assert all(torch.equal(tensor, together[key][name]) for name, tensor in tensors.items())


def test_maps_can_be_matched():
    model, given = tiny("bert"), batches("bert")
    candidates = Candidates(model, [(Place("encoder", 0), "dense"), (Place("encoder", 0), "gaussian")], match_maps=1.0)
    with candidates.lessons() as lessons:
        found = lessons(**given[0]).detach()
    assert float(found[0, 1]) > 0 and float(found[1, 1]) == 0


def test_what_was_learnt_is_saved(tmp_path):
    model, given = tiny("bert"), batches("bert")
    distill(model, "gaussian", given, 1, steps=2, log=silent)
    model.save_pretrained(tmp_path)
    assert torch.equal(output(load(tmp_path), given[0]), output(model, given[0]))


def test_a_second_mixer_learns_from_the_first():
    model, given = tiny("bert"), batches("bert")
    distill(model, "gaussian", given, steps=2, log=silent)
    expected = output(model, given[0])
    distill(model, "gaussian", given, steps=2, log=silent)
    torch.testing.assert_close(output(model, given[0]), expected)


def test_seeds_decide_how_students_begin():
    def learnt(seed):
        model = tiny("bert")
        torch.manual_seed(seed + 5)
        distill(model, "random", batches("bert"), steps=2, seed=seed, log=silent)
        return state(model)

    first, again, other = learnt(0), learnt(0), learnt(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_mistakes_are_said():
    model = tiny("bert")
    before = state(model)
    with pytest.raises(InputError, match="batches is empty"):
        distill(model, "gaussian", [], log=silent)
    with pytest.raises(InputError, match="gaussian in encoder layer 0 is no number at step 2; write a smaller"):
        distill(model, "gaussian", batches("bert"), learning_rate=1e30, log=silent)
    with pytest.raises(InputError, match="alrr stands for the norm"):
        distill(model, "alrr", batches("bert"), log=silent)
    with pytest.raises(InputError, match="unknown mixer 'gausian'"):
        distill(model, "gausian", batches("bert"), log=silent)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_batches_that_end():
    model = tiny("bert")
    before = state(model)
    for given, settings in (((each for each in batches("bert")), {}), ([], {"steps": 5})):
        with pytest.raises(InputError, match="pass a list or a DataLoader"):
            distill(model, "gaussian", given, log=silent, **settings)
    with pytest.raises(InputError, match="pass a list or a DataLoader"):
        distill(model, "gaussian", iter(batches("bert")), steps=4, log=silent)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    distill(model, "gaussian", iter(batches("bert")), 0, steps=3, log=silent)

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(batches("bert"))

    said = []
    loader = torch.utils.data.DataLoader(Stream(), batch_size=None)
    distill(model, "gaussian", loader, 1, log=said.append)
    assert said[0].endswith("of what it should give, on the last batch that it learnt from")


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart"])
def test_no_state_is_kept_meanwhile(name):
    model, kept = tiny(name), []
    config = copy.deepcopy(model.config.to_dict())
    (place, *_) = [place for place in places_of(model) if place.role == "decoder"]
    candidates = Candidates(model, [(place, "gaussian")])
    with candidates.lessons() as lessons:
        model.base_model.register_forward_hook(lambda module, given, out: kept.append(out.past_key_values))
        lessons(**batches(name)[0])
    assert kept == [None] and model.config.to_dict() == config and model.config.use_cache
    with without_cache(model, tiny("vit")):  # which has no such key
        assert model(**batches(name)[0]).past_key_values is None
    given = {key: value for key, value in batches(name)[0].items() if key != "labels"}
    assert model.base_model(**given).past_key_values is not None


def test_classifiers_that_read_from_left_to_right():
    sizes = dict(n_embd=32, n_layer=2, n_head=4, n_positions=40, vocab_size=97, pad_token_id=0)
    model = hf.GPT2ForSequenceClassification(hf.GPT2Config(**sizes)).eval()
    given = [{**batch, "labels": torch.tensor([0, 1, 0])} for batch in batches("gpt2")]
    assert not model.can_generate() and model.config.use_cache
    distill(model, "gaussian", given, steps=2, log=silent)
    assert model.config.use_cache and len(model.config.bareformers["mixers"]) == 2


@pytest.mark.parametrize("name", ["marian", "bart"])
def test_heads_are_not_run(name):
    model = tiny(name)
    model.lm_head.register_forward_hook(lambda *given: pytest.fail("the head was run"))
    given = batches(name)
    distill(model, "gaussian", given, role="cross", steps=2, log=silent)
    bare = model.base_model
    labels = given[0].pop("labels")
    inputs = model.prepare_decoder_input_ids_from_labels(labels)
    found = []
    for net, more in ((model, {"labels": labels}), (bare, {"decoder_input_ids": inputs})):
        keep = labels != -100
        candidates = Candidates(net, [(Place("decoder", 0), "gaussian")])
        with candidates.lessons() as lessons:
            found.append(lessons(**given[0], **more, decoder_attention_mask=keep).detach())
    torch.testing.assert_close(*found)


def test_language_models_of_ours():
    model = ours(BareForCausalLM)
    said = []
    distill(model, "gaussian", batches("gpt2"), steps=2, log=said.append)
    assert model.config.mixer_spec("decoder", 0) == {"name": "gaussian"}
    assert len(said) == 2 and said[0].startswith("gaussian in decoder layer 0: misses ")
