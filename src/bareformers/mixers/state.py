"""What decoding remembers, in the form that `transformers` passes around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class MixerState:
    """What one mixer remembers of the positions it has seen: named tensors, batch first, and their number."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.length = 0

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.tensors[name] = tensor

    def append(self, name: str, new: Tensor, dim: int) -> Tensor:
        """Everything remembered under `name`, with `new` behind it along `dim`."""
        if name in self.tensors:
            new = torch.cat([self.tensors[name], new], dim)
        self.tensors[name] = new
        return new

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        self.tensors = {name: function(tensor) for name, tensor in self.tensors.items()}

    def num_numbers(self) -> int:
        """How many numbers are remembered, over the whole batch."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class LayerState(CacheLayerMixin):
    """The states of one layer's mixers by role, as one layer of a `transformers` cache."""

    is_compileable = False
    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.mixers = {"self": MixerState(), "cross": MixerState()}

    def __getitem__(self, role: str) -> MixerState:
        return self.mixers["cross" if role == "cross" else "self"]

    def advance(self, num_positions: int) -> None:
        """Count positions that every mixer of this layer has now seen."""
        for state in self.mixers.values():
            state.length += num_positions

    def num_bytes(self) -> int:
        return sum(state.num_bytes() for state in self.mixers.values())

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare: mixers write what they remember."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise TypeError("a mixer writes its own state; keys and values are not handed in")

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.get_seq_length() + new, 0

    def get_seq_length(self, *args: Any) -> int:
        return self.mixers["self"].length

    # transformers renamed this one within version 5; -1 says that there is no limit.
    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    def crop(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("a mixer's state cannot be rolled back")

    def reset(self) -> None:
        self.mixers = {"self": MixerState(), "cross": MixerState()}

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        for state in self.mixers.values():
            state.map(function)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._map(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._map(lambda tensor: tensor[indices])


def new_state(num_layers: int) -> Cache:
    """An empty decoding state for a stack, to be passed as `past_key_values`."""
    return Cache(layers=[LayerState() for _ in range(num_layers)])
