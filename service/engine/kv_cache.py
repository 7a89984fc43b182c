"""The running batch's keys and values: one block per layer that rows join and leave without moving the others.

transformers' dynamic cache copies everything at each token and has no way to let a row in. Here row b's columns end
where all rows end (left padding), so that

- a token is one column written for all rows;
- a newcomer's columns are copied into a free row, right-aligned;
- the last row moves into the place of one that leaves, and columns that no row needs any more are dropped by moving
  the window's start.

Columns before a row's own are masked by the caller; what stands there must be finite, or attention's 0 · NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

KeysValues = tuple[Tensor, Tensor]  # one layer's, each [rows, heads, columns, head size]

_SPARE = 64  # columns allocated ahead, so that the block is not moved at every token


class _Open(CacheLayerMixin):
    """One layer's columns in use and one more for the next token, as transformers' attention sees them.

    It holds tensors only: a number that grows with every token would make a compiled model compile anew each time.
    """

    is_sliding = False  # a sliding window is the mask's affair: the block keeps every column

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Views [B, heads, width + 1, head size] of the layer's block."""
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the block is there."""

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> KeysValues:
        """Write the new column of every row; all columns, the new one included."""
        self.keys[:, :, -1] = key_states[:, :, 0]
        self.values[:, :, -1] = value_states[:, :, 0]
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.keys.shape[2] - 1

    def get_max_length(self) -> int:
        return -1


class KvCache:
    """The cache of B running rows, in rows [0, B) and columns [start, end) of each block.

    lengths: how many of the columns, counted from the end, are each row's own.
    """

    def __init__(self, most: int) -> None:
        """most: rows × columns that are allocated ahead of need; what is needed is allocated in any case."""
        self._most = most
        self._layers: list[KeysValues] = []
        self._start = self._end = 0
        self._rows_allocated = self._columns_allocated = 0
        self.lengths: list[int] = []

    @property
    def width(self) -> int:
        """Columns in use, those of the longest row."""
        return self._end - self._start

    def open(self) -> Cache:
        """What the model's forward takes as past_key_values, for one new token in each row."""
        self._make_room(0, 0)
        rows, columns = len(self.lengths), slice(self._start, self._end + 1)
        layers: list[Any] = [_Open(*(block[:rows, :, columns] for block in pair)) for pair in self._layers]
        return Cache(layers=layers)

    def join(self, filled: Sequence[KeysValues], lengths: Sequence[int]) -> None:
        """Take in rows that were prefilled with left padding; lengths: the tokens of each."""
        if not self._layers:
            self._layers = [(_block(keys, 0, 0), _block(values, 0, 0)) for keys, values in filled]
        self._make_room(len(lengths), max(lengths))
        first, end = len(self.lengths), self._end
        for pair, source in zip(self._layers, filled, strict=True):
            for block, states in zip(pair, source, strict=True):
                for row, length in enumerate(lengths):
                    block[first + row, :, self._start : end - length] = 0
                    block[first + row, :, end - length : end] = states[row, :, states.shape[2] - length :]
        self.lengths += lengths

    def advance(self) -> None:
        """A forward pass has written one column for every row: it is theirs now."""
        self._end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def leave(self, row: int, *, scrub: bool = False) -> None:
        """Free the row; the last row takes its number. scrub: its numbers are not finite and must not stay behind."""
        last, used = len(self.lengths) - 1, slice(self._start, self._end)
        for pair in self._layers:
            for block in pair:
                if scrub:
                    block[row] = 0
                if row != last:
                    block[row, :, used] = block[last, :, used]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._start = self._end - max(self.lengths, default=0)

    def mask_with_next(self) -> Tensor:
        """[B, width + 1], 1 where a column is the row's own or the next token's, on the host."""
        columns = torch.arange(self.width + 1)
        return (columns >= self.width - torch.tensor(self.lengths)[:, None]).long()

    def _make_room(self, rows: int, length: int) -> None:
        """Place the columns so that `rows` more rows of `length` columns fit, and one more column after them."""
        if not self.lengths:
            self._start = self._end = min(length, self._columns_allocated)
        needed, width = len(self.lengths) + rows, max(self.width, length)
        if needed > self._rows_allocated or self._end < length or self._end == self._columns_allocated:
            self._reallocate(needed, width)
        self._start = min(self._start, self._end - length)

    def _reallocate(self, rows: int, width: int) -> None:
        """Move what is in use into new blocks for `rows` rows, so that it ends at column `width`.

        All are made before any is replaced: memory may end in the middle, and the rows must not fall apart.
        """
        rows, columns = self._size(rows, width)
        old, new = slice(self._start, self._end), slice(width - self.width, width)

        def moved(block: Tensor) -> Tensor:
            target = _block(block, rows, columns)
            target[: len(self.lengths), :, new] = block[: len(self.lengths), :, old]
            return target

        self._layers = [(moved(keys), moved(values)) for keys, values in self._layers]
        self._rows_allocated, self._columns_allocated = rows, columns
        self._start, self._end = new.start, new.stop

    def _size(self, rows: int, width: int) -> tuple[int, int]:
        """Rows and columns to allocate: some to spare, so that blocks are not moved at each arrival and token."""
        spare = max(_SPARE, width // 2)
        doubled = 1 << (rows - 1).bit_length()
        if doubled * (width + spare) <= self._most:
            return doubled, width + spare
        return rows, max(width + 1, min(width + spare, self._most // rows))


def _block(like: Tensor, rows: int, columns: int) -> Tensor:
    return like.new_zeros(rows, like.shape[1], columns, like.shape[3])
