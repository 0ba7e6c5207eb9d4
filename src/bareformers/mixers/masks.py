"""Which keys each query may use, and where both sit."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


def is_open(length: int) -> bool:
    """Whether a length is left open, as in a graph that is exported for all of them: no choice may depend on it."""
    return isinstance(length, torch.SymInt)


class Mask:
    """Visibility of `num_keys` keys (S) to `num_queries` queries (T), made once per forward pass for all layers.

    In the self roles the queries are the last T of the S positions. Positions count real tokens only, so a sequence
    means the same whatever its padding.

    Args:
        num_queries: T.
        num_keys: S, what decoding remembers included.
        causal: whether a query sees no later position.
        keep: [B, S] bool, true at real keys; None where all are real.
        query_positions: [B or 1, T] positions of the queries; None in the self roles, where the keys give them.
        query_keep: [B, T] bool, true at real queries; None where all are real, and in the self roles.
    """

    def __init__(
        self,
        num_queries: int,
        num_keys: int,
        *,
        causal: bool,
        device: torch.device,
        keep: Tensor | None = None,
        query_positions: Tensor | None = None,
        query_keep: Tensor | None = None,
    ) -> None:
        self.num_queries, self.num_keys, self.causal, self.device = num_queries, num_keys, causal, device
        self.keep = None if keep is None else keep.to(device=device, dtype=torch.bool)
        self._query_positions, self._query_keep = query_positions, query_keep

    def repeated(self, rows: int) -> Mask:
        """The mask of as many copies of the first row."""
        keep, query_keep = (
            None if each is None else each[:1].expand(rows, -1) for each in (self.keep, self._query_keep)
        )
        positions = None if self._query_positions is None else self._query_positions[:1]
        return Mask(
            self.num_queries,
            self.num_keys,
            causal=self.causal,
            device=self.device,
            keep=keep,
            query_positions=positions,
            query_keep=query_keep,
        )

    @property
    def offset(self) -> int:
        """How many positions come before the first query (self roles)."""
        return self.num_keys - self.num_queries

    @property
    def is_open(self) -> bool:
        """Whether one of the two lengths is left open."""
        return is_open(self.num_queries) or is_open(self.num_keys)

    @cached_property
    def regular(self) -> bool:
        """Whether every row is real tokens and then padding, so that a position is its index in all rows alike."""
        if self.keep is None:
            return True
        if torch.compiler.is_compiling():
            return False  # a graph may not depend on the data; the general form is right for every padding
        return not bool((self.keep[:, 1:] & ~self.keep[:, :-1]).any()) and bool(self.keep[:, 0].all())

    @property
    def triangular(self) -> bool:
        """Whether query i sees the keys up to its own, whatever else is there: what a fused kernel calls causal."""
        return self.causal and self.offset == 0 and self.num_queries > 1 and (self.keep is None or self.regular)

    @cached_property
    def key_positions(self) -> Tensor:
        """[B or 1, S] int64: the position of each key; 0 at padding before the first token."""
        if self.keep is None or self.regular:
            return torch.arange(self.num_keys, device=self.device)[None]
        return (self.keep.long().cumsum(1) - 1).clamp_min(0)

    @cached_property
    def query_positions(self) -> Tensor:
        """[B or 1, T] int64: the position of each query."""
        if self._query_positions is not None:
            return self._query_positions
        return self.key_positions[:, self.offset :]

    @property
    def query_keep(self) -> Tensor | None:
        """[B, T] bool: which queries are real; None where all are."""
        if self._query_positions is not None:
            return self._query_keep
        return None if self.keep is None else self.keep[:, self.offset :]

    @cached_property
    def allowed(self) -> Tensor | None:
        """[B or 1, 1, T, S] bool, or None where every query sees every key.

        Padding behind the last token needs no mask in the causal roles: only padding could see it.
        """
        visible = None
        if self.causal and self.num_queries > 1:
            ones = torch.ones(self.num_queries, self.num_keys, dtype=torch.bool, device=self.device)
            visible = ones.tril(self.offset)[None, None]
        if self.keep is None or (self.causal and self.regular):
            return visible
        keys = self.keep[:, None, None, :]
        return keys.expand(-1, 1, self.num_queries, -1) if visible is None else keys & visible

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """`allowed` as a term to add to logits: 0 or the lowest finite number; None where all is visible."""
        if self.allowed is None:
            return None
        return self.hide(torch.zeros(self.allowed.shape, dtype=dtype, device=self.device))

    def softmax(self, logits: Tensor) -> Tensor:
        """Softmax over the keys that each query may see, in float32; [.., T, S] -> the same.

        A query that may see nothing (padding before the first token) gets a uniform row, which nothing real reads.
        """
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        return self.hide(logits).softmax(-1)

    def hide(self, logits: Tensor) -> Tensor:
        """[.., T, S] with the lowest finite number where a query may not look, so that an all-pad row is no NaN."""
        return logits if self.allowed is None else logits.masked_fill(~self.allowed, torch.finfo(logits.dtype).min)

    def keep_values(self, values: Tensor) -> Tensor:
        """[B, H, S', d] with zeros at padding; S' counts the last keys of the mask (the new ones while decoding)."""
        if self.keep is None or (self.causal and self.regular):
            return values
        return values.masked_fill(~self.keep[:, None, self.num_keys - values.shape[2] :, None], 0.0)


class Near(Mask):
    """The mask of the last `num_keys` keys of another causal one, of which a query sees those less than `window` back.

    How far back is counted in real tokens, as positions are.
    """

    def __init__(self, whole: Mask, num_keys: int, window: int) -> None:
        keep = None if whole.keep is None else whole.keep[:, whole.num_keys - num_keys :]
        super().__init__(whole.num_queries, num_keys, causal=True, device=whole.device, keep=keep)
        self.whole, self.window = whole, window

    @property
    def cuts(self) -> bool:
        """Whether a key may lie too far back."""
        return is_open(self.num_keys) or self.num_keys > self.window

    @cached_property
    def regular(self) -> bool:
        return self.whole.regular

    @property
    def triangular(self) -> bool:
        return super().triangular and not self.cuts

    @cached_property
    def key_positions(self) -> Tensor:
        return self.whole.key_positions[:, self.whole.num_keys - self.num_keys :]

    @cached_property
    def query_positions(self) -> Tensor:
        return self.whole.query_positions

    @cached_property
    def allowed(self) -> Tensor | None:
        visible = super().allowed
        if not self.cuts:
            return visible
        near = (self.query_positions[:, None, :, None] - self.key_positions[:, None, None, :]) < self.window
        return near if visible is None else near & visible
