"""Decoding in steps gives what one call gives."""

import pytest
import torch

from bareformers.mixers.base import MapMixer
from bareformers.mixers.state import MixerState
from tests.laws.cases import batch, cases, close, paddings

LENGTH = 17
CHUNKS = {
    "single": [1] * LENGTH,
    "odd": [1, 2, 3, 3, 3, 5],
    "prefill": [11] + [1] * 6,
    "late_chunk": [1, 1, 9, 1, 5],
}
chunkings = pytest.mark.parametrize("chunks", list(CHUNKS.values()), ids=list(CHUNKS))


@torch.no_grad()
def decode(mixer, given, chunks, want_weights=False, state=None):
    """Outputs and maps of the chunks, one call each; without gradients, as in `generate`."""
    state = MixerState() if state is None else state
    start = 0
    for size in chunks:
        stop = start + size
        yield mixer(
            given.x[:, start:stop],
            given.mask(start, stop),
            context=given.context,
            state=state,
            want_weights=want_weights,
        )
        state.length += size
        start = stop


@cases("decoder", "cross")
@paddings
@chunkings
def test_steps_equal_the_whole(case, padding, chunks):
    given = batch(case, LENGTH, 11, padding)
    mixer = case.build()
    whole, _ = given.run(mixer)
    steps = torch.cat([y for y, _ in decode(mixer, given, chunks)], 1)
    close(given.real(steps), given.real(whole), case.rounding(2e-6))


@cases("decoder", "cross")
@paddings
def test_a_long_prefill_and_steps_equal_the_whole(case, padding):
    given = batch(case, 131, 127, padding)
    mixer = case.build()
    whole, _ = given.run(mixer)
    steps = torch.cat([y for y, _ in decode(mixer, given, [129, 1, 1])], 1)
    close(given.real(steps), given.real(whole), case.rounding(2e-6))


@cases("decoder", "cross")
@paddings
@chunkings
def test_maps_of_steps_are_rows_of_the_whole_map(case, padding, chunks):
    given = batch(case, LENGTH, 11, padding)
    mixer = case.build()
    whole, whole_map = given.run(mixer, want_weights=True)
    start = 0
    for (y, weights), size in zip(decode(mixer, given, chunks, want_weights=True), chunks, strict=True):
        rows = slice(start, start + size)
        keep = None if given.keep is None else given.keep[:, rows]
        real = slice(None) if keep is None else keep
        close(y[real], whole[:, rows][real], case.rounding(2e-6))
        if isinstance(mixer, MapMixer):
            assert weights is not None, "a MapMixer returns the map that is asked for"
        if weights is not None:  # a mixer that remembers no keys cannot show what it gave them
            found, expected = (m.expand(3, -1, -1, -1).transpose(1, 2) for m in (weights, whole_map[:, :, rows]))
            close(found[real], expected[real][..., : found.shape[-1]], case.rounding(2e-6), "map")
        start += size


@cases("cross")
def test_the_context_is_projected_once(case):
    given = batch(case, LENGTH, 11, "left")
    mixer = case.build()
    whole, _ = given.run(mixer)
    outputs = []
    for y, _ in decode(mixer, given, [1] * LENGTH):
        outputs.append(y)
        given.context = torch.full_like(given.context, torch.nan)
    close(given.real(torch.cat(outputs, 1)), given.real(whole), case.rounding(2e-6))
