"""The KV cache of the running batch: one block per layer, which rows join and leave without moving the others.

transformers' DynamicCache copies all columns at each token and cannot add rows. Here all rows end at the same column
(left padding), so that

- a decode step writes one column for all rows;
- a new row's columns are copied into a free row, right-aligned;
- the last row moves into the place of one that leaves, and columns that no row needs any more are released by moving
  the start of the window.

The attention mask hides the columns before a row's own; they must be finite, because 0 · NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

KeysValues = tuple[Tensor, Tensor]  # one layer's, each [rows, heads, columns, head size]

_SPARE = 64  # columns allocated ahead, so that not every token moves the block


class _LayerView(CacheLayerMixin):
    """One layer's columns in use plus one for the next token, with the interface that transformers expects.

    It holds tensors only: a Python number that grows with every token would recompile a compiled model each time.
    """

    is_sliding = False  # the mask implements sliding windows; the block keeps every column

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Views [B, heads, width + 1, head size] of the layer's block."""
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the block is allocated."""

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> KeysValues:
        """Write the next token's column of every row; return all columns with it."""
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
    """The keys and values of B running rows, in rows [0, B) and columns [start, end) of each layer's blocks.

    lengths: the columns of each row, counted from the end.
    """

    def __init__(self, max_ahead: int) -> None:
        """max_ahead: limit of rows × columns allocated ahead of need; what is needed is always allocated."""
        self._max_ahead = max_ahead
        self._layers: list[KeysValues] = []
        self._start = self._end = 0
        self._rows_allocated = self._columns_allocated = 0
        self.lengths: list[int] = []

    @property
    def width(self) -> int:
        """The columns in use, those of the longest row."""
        return self._end - self._start

    def for_next_token(self) -> Cache:
        """Return the `past_key_values` of a forward pass over one new token per row."""
        self._make_room(0, 0)
        rows, columns = len(self.lengths), slice(self._start, self._end + 1)
        layers: list[Any] = [_LayerView(*(block[:rows, :, columns] for block in pair)) for pair in self._layers]
        return Cache(layers=layers)

    def join(self, prefilled: Sequence[KeysValues], lengths: Sequence[int]) -> None:
        """Append rows that were prefilled with left padding. lengths: the tokens of each."""
        if not self._layers:
            self._layers = [(_block(keys, 0, 0), _block(values, 0, 0)) for keys, values in prefilled]
        self._make_room(len(lengths), max(lengths))
        first, end = len(self.lengths), self._end
        for pair, source in zip(self._layers, prefilled, strict=True):
            for block, states in zip(pair, source, strict=True):
                for row, length in enumerate(lengths):
                    block[first + row, :, self._start : end - length] = 0
                    block[first + row, :, end - length : end] = states[row, :, states.shape[2] - length :]
        self.lengths += lengths

    def advance(self) -> None:
        """Keep the column that the last forward pass wrote for every row."""
        self._end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def leave(self, row: int, *, scrub: bool = False) -> None:
        """Remove a row; the last row takes its number. scrub: zero its columns, which may be non-finite."""
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
        """Return the attention mask [B, width + 1], on the host: 1 at a row's own columns and the next token's."""
        columns = torch.arange(self.width + 1)
        return (columns >= self.width - torch.tensor(self.lengths)[:, None]).long()

    def _make_room(self, rows: int, length: int) -> None:
        """Make room for `rows` more rows of `length` columns, and for one more column."""
        if not self.lengths:
            self._start = self._end = min(length, self._columns_allocated)
        needed, width = len(self.lengths) + rows, max(self.width, length)
        if needed > self._rows_allocated or self._end < length or self._end == self._columns_allocated:
            self._reallocate(needed, width)
        self._start = min(self._start, self._end - length)

    def _reallocate(self, rows: int, width: int) -> None:
        """Move the columns in use into new blocks for `rows` rows, so that they end at column `width`.

        Allocate all blocks before replacing any: running out of memory half-way must leave the rows intact.
        """
        rows, columns = self._allocation(rows, width)
        old, new = slice(self._start, self._end), slice(width - self.width, width)

        def move(block: Tensor) -> Tensor:
            target = _block(block, rows, columns)
            target[: len(self.lengths), :, new] = block[: len(self.lengths), :, old]
            return target

        self._layers = [(move(keys), move(values)) for keys, values in self._layers]
        self._rows_allocated, self._columns_allocated = rows, columns
        self._start, self._end = new.start, new.stop

    def _allocation(self, rows: int, width: int) -> tuple[int, int]:
        """Return the rows and columns to allocate: more than needed, so that blocks rarely move."""
        spare = max(_SPARE, width // 2)
        doubled = 1 << (rows - 1).bit_length()
        if doubled * (width + spare) <= self._max_ahead:
            return doubled, width + spare
        return rows, max(width + 1, min(width + spare, self._max_ahead // rows))


def _block(like: Tensor, rows: int, columns: int) -> Tensor:
    return like.new_zeros(rows, like.shape[1], columns, like.shape[3])
