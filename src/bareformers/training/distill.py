"""Students learn what parts of a frozen teacher do, all in the same forward pass of the teacher and each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bareformers.mixers.base import TokenMixer, at_least_float32


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one student learns, in one layer of the teacher.

    Attributes:
        student: a mixer; what it returns is compared with the target.
        block: the teacher's layer, whose first input is the stream: what the student is given where it stands for more
            than the mixer.
        mixer: the teacher's, in that layer; the student is called with its inputs else, and always with its mask.
        target: the module of the block that shows what is to be learnt, and whether as what goes in or as what comes
            out of it.
        match_maps: weight of the squared difference of the maps of mixer and student.
    """

    student: TokenMixer
    block: nn.Module
    mixer: nn.Module
    target: tuple[nn.Module, Literal["input", "output"]]
    match_maps: float = 0.0

    def listen(self, tell: Callable[[Tensor], None]) -> Iterable[Any]:
        """Hooks on the teacher; whenever its block has run, `tell` gets the student's `errors`."""
        seen: dict[str, Any] = {}
        learns = torch.is_grad_enabled()

        def see_target(module: nn.Module, given: tuple[Any, ...], result: Any = None) -> None:
            shown = given if self.target[1] == "input" else result
            seen["target"] = shown[0] if isinstance(shown, tuple) else shown

        def see_call(module: nn.Module, given: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
            seen["x"], seen["mask"] = given
            seen["context"], seen["map"] = options["context"], result[1]

        def learn(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            x = seen["x"] if self.student.part in ("mixer", "head") else given[0]
            with torch.set_grad_enabled(learns):
                y, weights = self.student(x, seen["mask"], context=seen["context"], want_weights=self.match_maps > 0)
                tell(self.errors(y, weights, seen["target"], seen["map"], seen["mask"].query_keep))
            seen.clear()

        module, side = self.target
        hook = module.register_forward_pre_hook if side == "input" else module.register_forward_hook
        yield hook(see_target)
        yield self.mixer.register_forward_hook(see_call, with_kwargs=True)
        if self.match_maps:
            ask = {"want_weights": True}
            yield self.mixer.register_forward_pre_hook(
                lambda module, given, options: (given, options | ask), with_kwargs=True
            )
        yield self.block.register_forward_hook(learn)

    def errors(
        self, y: Tensor, weights: Tensor | None, target: Tensor, taught: Tensor | None, keep: Tensor | None
    ) -> Tensor:
        """[4]: squared error, weighted difference of maps, squared target, and the count of the numbers summed over.

        The difference is squared, summed over the keys, meant over the heads, and counts for each number of a position.

        Args:
            keep: [B, T], which positions are real; None: all.
        """
        real = y.new_ones(y.shape[:2], dtype=torch.float32) if keep is None else keep.float()
        target = at_least_float32(target)
        error = (at_least_float32(y) - target).square().mean(-1)
        difference = torch.zeros_like(error)
        if self.match_maps:
            assert weights is not None and taught is not None
            apart = at_least_float32(weights) - at_least_float32(taught)
            difference = self.match_maps * apart.square().sum(-1).mean(1)
        sums = [(each * real).sum() for each in (error, difference, target.square().mean(-1), real)]
        return torch.stack(sums) * y.shape[-1]


def can_match(mixer: TokenMixer, student: TokenMixer) -> bool:
    """Whether both have maps, of as many heads, and that of the student is made of something that learns."""
    learning = (name.partition(".")[0] for name, parameter in student.named_parameters() if parameter.requires_grad)
    learns = any(part not in ("value", "output") for part in learning)
    return mixer.has_map and student.has_map and learns and mixer.slot.num_heads == student.slot.num_heads


class Lessons(nn.Module):
    """The students, and nothing of the teacher: what is trained and saved.

    Of the teacher's activations only what the students keep for their backward pass outlives a layer.

    Args:
        lessons: of layers that `read` runs.
        read: runs the teacher on a batch. It should be frozen, and in evaluation.
    """

    def __init__(self, lessons: Sequence[Lesson], read: Callable[[dict[str, Tensor]], Any]) -> None:
        super().__init__()
        self.students = nn.ModuleList(lesson.student for lesson in lessons)
        self._lessons, self._read = tuple(lessons), read

    def forward(self, **batch: Any) -> Tensor:
        """[N, 4]: `Lesson.errors` of every student."""
        found: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for number, lesson in enumerate(self._lessons):
                for hook in lesson.listen(partial(found.__setitem__, number)):
                    hooks.enter_context(hook)
            with torch.no_grad():
                self._read(batch)
        return torch.stack([found[number] for number in range(len(self._lessons))])


class Grade(NamedTuple):
    """How far a lesson was learnt.

    Attributes:
        loss: the mean squared error.
        relative: its share of the mean squared target.
        maps: what the maps add to what is minimised, weighted.
    """

    loss: float
    relative: float
    maps: float


@torch.no_grad()
def examine(lessons: Lessons, batches: Iterable[dict[str, Tensor]]) -> list[Grade]:
    """The grade of every student, over all batches."""
    training, device = lessons.training, next(lessons.parameters()).device
    lessons.eval()
    sums = sum(lessons(**{name: tensor.to(device) for name, tensor in batch.items()}).double() for batch in batches)
    lessons.train(training)
    assert isinstance(sums, Tensor)
    errors, maps, squares, counts = sums.unbind(-1)
    columns = [each.tolist() for each in (errors / counts, errors / squares, maps / counts)]
    return [Grade(*row) for row in zip(*columns, strict=True)]
