"""Lessons: what students learn from a frozen teacher, each by itself, and how a stopped training goes on."""

import json
from functools import partial

import pytest
import torch

from bareformers import distillation, registry
from bareformers.distillation import Part, Teacher
from bareformers.recipe import LessonTraining
from bareformers.training.distill import Lesson, Lessons, examine
from bareformers.training.ledger import Spent
from bareformers.training.objectives import Imitated, Imitation
from bareformers.training.trainer import BareTrainer
from tests.training import tiny

ROLES = ("encoder", "decoder", "cross")


def parts(*given):
    """Parts from `(role, mixer)` or `(role, mixer, layer)`, in the first of two layers by default."""
    specs = (
        (role, layer or [0], {"name": mixer} if isinstance(mixer, str) else mixer) for role, mixer, *layer in given
    )
    return [Part(role, layer[0], json.dumps(spec, sort_keys=True)) for role, layer, spec in specs]


def teacher(data, **config):
    """A frozen model of two layers, as `load_teacher` makes it."""
    net = tiny.model(data, num_hidden_layers=2, **config).eval().requires_grad_(False)
    return Teacher(net, data, {}, Spent(), {})


def lessons(taught, chosen, match_maps=0.0, seed=0):
    """The module that is trained for parts of a teacher."""
    read = partial(distillation.read, taught.model, {part.role for part in chosen})
    return Lessons(distillation.lessons_of(taught.model, chosen, match_maps, seed), read)


def batch_of(data, count=6):
    return data.collate([data.validation[index] for index in range(count)])


def learn(taught, chosen, folder, steps=6, match_maps=0.0, callbacks=(), objective=None, **settings):
    """The trainer of some lessons, after it has trained."""
    net = lessons(taught, chosen, match_maps)
    folder.mkdir(parents=True, exist_ok=True)
    given = {"budget": {"steps": steps}, "batch_tokens": 256, "warmup_steps": 2, "evaluations": 2, "checkpoints": 2}
    trainer = BareTrainer(
        net,
        LessonTraining(**{**given, "precision": "fp32", **settings}),
        taught.data.train,
        taught.data.collate,
        False,
        lambda net: sum(grade.loss for grade in examine(net, [batch_of(taught.data)])),
        folder,
        0,
        label="lessons",
        callbacks=callbacks,
        objective=objective or Imitated(),
    )
    trainer.fit()
    return trainer


def same(first, second):
    assert set(first) == set(second)
    return all(torch.equal(first[name], second[name]) for name in first)


# Laws


@pytest.mark.parametrize("block", ["pre_ln", "post_ln", "resi_dual", "sas"])
def test_a_copy_has_nothing_to_learn(pairs, block):
    """And puts out what the teacher does, to the bit."""
    config = {"block": block} | ({"cross_mixer": "gaussian"} if block == "sas" else {})
    taught = teacher(pairs, **config)
    specs = [json.dumps(taught.model.config.mixer_spec(role, 1), sort_keys=True) for role in ROLES]
    chosen = [Part(role, layer, spec) for role, spec in zip(ROLES, specs, strict=True) for layer in (0, 1)]
    net, batch = lessons(taught, chosen, match_maps=1.0), batch_of(pairs)
    errors, maps, squares, counts = net(**batch).unbind(-1)
    assert (errors == 0).all() and (maps == 0).all() and (squares > 0).all()
    assert counts[0] == batch["attention_mask"].sum() * 16 and counts[-1] == (batch["labels"] != -100).sum() * 16
    learnt = {part: student.state_dict() for part, student in zip(chosen, net.students, strict=True)}
    student = distillation.assemble(taught.model, taught.model.config, learnt)
    assert torch.equal(student(**batch).logits, taught.model(**batch).logits)


MIXERS = ["gaussian", "random", "average", "delta", "linear", "alr", "aslr", "dense+dot_product"]


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_learns_in_every_role(pairs, tmp_path, mixer):
    roles = registry.mixers.get(mixer).roles
    chosen = parts(*((role, mixer) for role in ROLES if role in roles))
    trainer = learn(teacher(pairs), chosen, tmp_path, steps=20, learning_rate=0.01)
    before, after = (examine(net, [batch_of(pairs)]) for net in (lessons(teacher(pairs), chosen), trainer.model))
    assert all(0 < late.loss < early.loss and 0 < late.relative for early, late in zip(before, after, strict=True))


def test_what_a_plain_mixer_is_asked_for(pairs):
    """What its heads give, one behind the other, before the output projection; padding does not count."""
    taught, batch = teacher(pairs), batch_of(pairs)
    chosen = parts(*((role, "random", 1) for role in ROLES))
    net = lessons(taught, chosen)
    mixers, calls = distillation.mixers(taught.model), {}
    hooks = [
        mixers[part.path].register_forward_hook(
            lambda _, given, options, result, role=part.role: calls.update({role: (given, options)}), with_kwargs=True
        )
        for part in chosen
    ]
    rows = net(**batch)
    for hook in hooks:
        hook.remove()

    def heads(mixer, role):
        (x, mask, *_), options = calls[role]
        context = options["context"]
        read = mixer.value(x if context is None else context).unflatten(-1, (2, 8)).transpose(1, 2)
        weights = mixer(x, mask, context=context, want_weights=True)[1]
        return (weights @ read).transpose(1, 2).flatten(-2)

    source, target = batch["attention_mask"].bool(), batch["labels"] != -100
    assert not source.all() and not target.all(), "no padding"
    for row, part, student in zip(rows, chosen, net.students, strict=True):
        real = source if part.role == "encoder" else target
        difference = (heads(mixers[part.path], part.role) - heads(student, part.role))[real]
        loss = difference.square().sum() / (real.sum() * 16)
        assert loss > 0.01 and (row[0] / row[3]).item() == pytest.approx(loss.item(), rel=1e-4)
        squares = heads(mixers[part.path], part.role)[real].square().sum()
        assert row[2].item() == pytest.approx(squares.item(), rel=1e-4)


@pytest.mark.parametrize("block", ["pre_ln", "post_ln", {"name": "post_ln", "deep_norm": True}])
@pytest.mark.parametrize("mixer", ["alrr", "elr"])
def test_students_that_stand_for_more_than_a_mixer(pairs, monkeypatch, block, mixer):
    """With what their lessons ask of them, the assembled student says what the teacher says."""
    taught, chosen, batch = teacher(pairs, block=block), parts(("encoder", mixer, 1)), batch_of(pairs)
    asked = []
    errors = Lesson.errors
    monkeypatch.setattr(Lesson, "errors", lambda self, *given: (asked.append(given[2]), errors(self, *given))[1])
    net = lessons(taught, chosen)
    net(**batch)
    learnt = {chosen[0]: net.students[0].state_dict()}
    student = distillation.assemble(taught.model, distillation.with_parts(taught.model.config, chosen), learnt)
    student.encoder.blocks[1].mixer.forward = lambda *given, **options: (asked[0], None)
    assert torch.allclose(student(**batch).logits, taught.model(**batch).logits, atol=1e-5)


def test_what_is_not_learnt_stays(pairs, tmp_path):
    """Teacher and output projections to the bit; also where weights decay."""
    taught = teacher(pairs)
    before = {name: tensor.clone() for name, tensor in taught.model.state_dict().items()}
    chosen = parts(("encoder", "gaussian"), ("cross", "random", 1))
    trainer = learn(taught, chosen, tmp_path, weight_decay=0.5)
    assert same(taught.model.state_dict(), before)
    assert not any("output" in name for name in trainer.model.state_dict())
    learnt = {part: net.state_dict() for part, net in zip(chosen, trainer.model.students, strict=True)}
    student = distillation.assemble(taught.model, distillation.with_parts(taught.model.config, chosen), learnt)
    own = {f"{part.path}.{name}" for part, state in learnt.items() for name in state}
    after = student.state_dict()
    assert same(
        {name: after[name] for name in after if name not in own},
        {name: before[name] for name in before if name in after and name not in own},
    )
    assert "encoder.blocks.0.mixer.output.weight" in after and "encoder.blocks.0.mixer.value.weight" in own
    assert not any(torch.equal(after[name], before[name]) for name in own if name in before)


def test_a_student_learns_beside_others_what_it_learns_alone(pairs, tmp_path):
    """Also where some of them draw numbers: dropout of maps is off, and each begins by itself."""
    taught = teacher(pairs, attention_dropout=0.2)
    (alone,) = learn(taught, parts(("decoder", "random")), tmp_path / "alone").model.students
    others = parts(("encoder", "gaussian"), ("decoder", "delta"), ("decoder", "random"), ("cross", "dot_product"))
    beside = learn(taught, others, tmp_path / "beside").model.students[2]
    assert same(alone.state_dict(), beside.state_dict())


def test_steps_of_several_batches(pairs, tmp_path):
    """Of two halves, each told how many labels both have, the gradients add up to those of the whole."""
    taught, chosen = teacher(pairs), parts(("decoder", "gaussian"), ("cross", "random"))
    whole, found = batch_of(pairs, 6), []
    halves = [pairs.collate([pairs.validation[index] for index in indices]) for indices in (range(2), range(2, 6))]
    for batches, labels in (([whole], None), (halves, (whole["labels"] != -100).sum())):
        net = lessons(taught, chosen)
        for batch in batches:
            Imitated()(net, batch, labels).backward()
        found.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-6) for one, other in zip(*found, strict=True))
    assert any(gradient.abs().max() > 1e-3 for gradient in found[0])


def test_a_step_of_several_batches_knows_all_their_labels(pairs, tmp_path):
    seen = []

    class Counted(Imitated):
        def __call__(self, net, batch, num_labels=None):
            seen.append((int((batch["labels"] != -100).sum()), int(num_labels)))
            return super().__call__(net, batch, num_labels)

    chosen = parts(("encoder", "gaussian"))
    trainer = learn(teacher(pairs), chosen, tmp_path, steps=1, batch_tokens=128, accumulate=2, objective=Counted())
    (one, total), (other, again) = seen
    assert trainer.ledger.spent.steps == 1 and total == again == one + other


# Padding, maps, predictions


def test_padding_teaches_nothing(pairs):
    taught, chosen = teacher(pairs), parts(("encoder", "gaussian"), ("decoder", "gaussian"), ("cross", "gaussian"))
    net = lessons(taught, chosen)
    each = [batch_of(pairs, count) for count in (1, 6)]
    wide = {
        name: torch.nn.functional.pad(tensor, (0, 3), value=-100 if name == "labels" else 0)
        for name, tensor in each[1].items()
    }
    assert torch.allclose(net(**wide), net(**each[1]), rtol=1e-4)


def test_maps_are_matched(text, tmp_path):
    """Where both have one with as many heads, and that of the student learns; apart from the error."""
    taught = teacher(text)
    others = ({"name": "dot_product", "num_heads": 4}, "delta", "gaussian", "average", "fixed_random")
    chosen = parts(("decoder", "random"), *(("decoder", mixer) for mixer in others))
    plain, matched = (lessons(taught, chosen, weight)(**batch_of(text, 2)) for weight in (0.0, 2.0))
    assert matched[0, 1] > 0 == plain[0, 1] and torch.equal(matched[1:], plain[1:])
    assert torch.equal(matched[:, [0, 2, 3]], plain[:, [0, 2, 3]])
    seen = {}
    hook = taught.model.decoder.blocks[0].mixer.register_forward_hook(lambda _, given, result: seen.update(x=given))
    taught.model(**batch_of(text, 2))
    hook.remove()
    nets = (distillation.beginner(taught.model, "decoder", chosen[0].spec, 0), taught.model)
    maps = [net.decoder.blocks[0].mixer(*seen["x"], want_weights=True)[1] for net in nets]
    difference = (maps[0] - maps[1]).square().sum(-1).mean(1).sum() * 16
    assert matched[0, 1].item() == pytest.approx(2 * difference.item(), rel=1e-3)
    net = lessons(taught, chosen, 2.0)
    (grade, *_) = examine(net, [batch_of(text, 2)])
    assert grade.maps == pytest.approx((matched[0, 1] / matched[0, 3]).item())
    assert grade.loss == pytest.approx((plain[0, 0] / plain[0, 3]).item())
    total = (matched[:, :2].sum(-1) / matched[:, 3]).sum()
    assert Imitated()(net, batch_of(text, 2)).item() == pytest.approx(total.item())


def test_predictions_of_a_teacher(text, pairs):
    """Of itself a model learns nothing; and all share is cross-entropy's where the teacher has none."""
    for data, causal in ((text, True), (pairs, False)):
        batch, net, other = batch_of(data, 3), tiny.model(data).eval(), tiny.model(data, seed=1).eval()
        loss = net(**batch).loss
        assert torch.allclose(Imitation(other, causal, 0.0, 1.0, 0.0)(net, batch), loss)
        assert Imitation(net, causal, 1.0, 2.0, 0.0)(net, batch).abs() < 1e-6
        labels = batch["labels"][:, 1:] if causal else batch["labels"]
        logits = [
            (model(**batch).logits[:, :-1] if causal else model(**batch).logits)[labels != -100] / 2
            for model in (net, other)
        ]
        taught = logits[1].softmax(-1)
        divergence = 4 * (taught * (taught.log() - logits[0].log_softmax(-1))).sum(-1).mean()
        mixed = Imitation(other, causal, 0.25, 2.0, 0.0)
        assert torch.allclose(mixed(net, batch), 0.75 * loss + 0.25 * divergence, rtol=1e-4)
        count = (labels != -100).sum()
        assert torch.allclose(mixed(net, batch, 2 * count), mixed(net, batch) / 2, rtol=1e-4)


# Stopping and going on


def test_a_stopped_training_goes_on_to_the_same_numbers(pairs, tmp_path):
    taught, chosen = teacher(pairs), parts(("encoder", "gaussian"), ("cross", "random", 1))
    whole = learn(taught, chosen, tmp_path / "whole", steps=12)
    with pytest.raises(tiny.Fall.Killed):
        learn(taught, chosen, tmp_path / "fallen", steps=12, callbacks=[tiny.Fall(8)])
    resumed = learn(taught, chosen, tmp_path / "fallen", steps=12)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    assert tiny.metrics(tmp_path / "fallen") == tiny.metrics(tmp_path / "whole")
    rows = [row["validation_loss"] for row in tiny.metrics(tmp_path / "whole") if "validation_loss" in row]
    assert len(rows) == 2 and rows[1] < rows[0]


def test_nothing_is_left_on_the_teacher(pairs):
    """No hook, no activation, and no map that somebody asked for."""
    taught = teacher(pairs)
    lessons(taught, parts(("encoder", "gaussian")), match_maps=1.0)(**batch_of(pairs))
    for module in taught.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_the_decoder_rests_where_the_encoder_teaches(pairs):
    taught = teacher(pairs)
    taught.model.decoder.forward = None
    assert lessons(taught, parts(("encoder", "gaussian")))(**batch_of(pairs)).shape == (1, 4)
