"""The KV cache, compared with a naive model in which every row is a separate tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.scarce_memory import ScarceMemory
from vlibrary.engine.kv_cache import KeysValues, KvCache

LAYERS, HEADS, SIZE = 2, 2, 3
NAN = float("nan")
Row = list[tuple[Tensor, Tensor]]  # per layer the row's own keys and values [heads, length, size]


@dataclass(frozen=True)
class Join:
    lengths: tuple[int, ...]
    wider: int = 0  # columns of padding before the longest


@dataclass(frozen=True)
class Step:
    """Decode this many tokens for all rows."""

    count: int


@dataclass(frozen=True)
class Leave:
    place: int  # modulo the rows there are
    broken: bool = False


Operation = Join | Step | Leave
LENGTHS = st.integers(1, 90)
OPERATIONS = st.lists(
    st.one_of(
        st.builds(Join, st.lists(LENGTHS, min_size=1, max_size=3).map(tuple), st.integers(0, 5)),
        st.builds(Step, st.sampled_from((1, 1, 2, 30, 70))),
        st.builds(Leave, st.integers(0, 7), st.booleans()),
    ),
    max_size=14,
)


class Checked:
    """A cache and its expected contents, changed together."""

    def __init__(self, most: int = 4096) -> None:
        self.cache = KvCache(most)
        self._most = most  # of what was needed or may be allocated ahead, so far
        self.rows: list[Row] = []
        self._random = torch.Generator().manual_seed(0)

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)

    def prefilled(self, lengths: Sequence[int], wider: int = 0) -> tuple[KeysValues, ...]:
        """Return what a prefill leaves; columns of padding are NaN."""
        width = max(lengths) + wider
        filled = []
        for _ in range(LAYERS):
            pair = self.numbers(len(lengths), HEADS, width, SIZE), self.numbers(len(lengths), HEADS, width, SIZE)
            for one in pair:
                for row, length in enumerate(lengths):
                    one[row, :, : width - length] = NAN
            filled.append(pair)
        return tuple(filled)

    def join(self, lengths: Sequence[int], wider: int = 0) -> None:
        filled = self.prefilled(lengths, wider)
        self.cache.join(filled, lengths)
        for row, length in enumerate(lengths):
            self.rows.append([(keys[row, :, -length:], values[row, :, -length:]) for keys, values in filled])

    def step(self, broken: int | None = None) -> None:
        """Decode one token for every row, and check what attention sees."""
        cache: Any = self.cache.for_next_token()
        assert cache.get_seq_length() == self.cache.width
        for layer in range(LAYERS):
            keys, values = (self.numbers(len(self.rows), HEADS, 1, SIZE) for _ in range(2))
            if broken is not None:
                keys[broken], values[broken] = NAN, NAN
            for row, own in enumerate(self.rows):
                before = own[layer]
                own[layer] = torch.cat([before[0], keys[row]], dim=1), torch.cat([before[1], values[row]], dim=1)
            seen = cache.layers[layer].update(keys, values)
            self.compare(layer, seen, exempt=broken)
            self.check_memory(seen)
        self.check_mask()
        self.cache.advance()
        self.check_sizes()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def leave(self, place: int, *, scrub: bool = False) -> None:
        self.cache.leave(place, scrub=scrub)
        self.rows[place] = self.rows[-1]
        self.rows.pop()
        self.check_sizes()

    def compare(self, layer: int, seen: tuple[Tensor, Tensor], exempt: int | None) -> None:
        width = max(own[layer][0].shape[1] for own in self.rows)
        for part, block in enumerate(seen):
            assert block.shape == (len(self.rows), HEADS, width, SIZE)
            for row, own in enumerate(self.rows):
                expected = own[layer][part]
                if row != exempt:
                    assert torch.equal(block[row, :, width - expected.shape[1] :], expected)
                    assert torch.isfinite(block[row]).all()

    def check_memory(self, seen: tuple[Tensor, Tensor]) -> None:
        self._most = max(self._most, len(self.rows) * (self.cache.width + 1))
        for block in seen:
            assert block.untyped_storage().nbytes() <= self._most * HEADS * SIZE * block.element_size()

    def check_mask(self) -> None:
        width = self.cache.width + 1
        expected = [[0] * (width - own[0][0].shape[1]) + [1] * own[0][0].shape[1] for own in self.rows]
        assert self.cache.mask_with_next().tolist() == expected

    def check_sizes(self) -> None:
        lengths = [own[0][0].shape[1] for own in self.rows]
        assert self.cache.lengths == lengths
        assert self.cache.width == max(lengths, default=0)

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Join):
            self.join(operation.lengths, operation.wider)
        elif self.rows and isinstance(operation, Step):
            self.steps(operation.count)
        elif self.rows and isinstance(operation, Leave):
            place = operation.place % len(self.rows)
            if operation.broken:
                self.step(broken=place)
            self.leave(place, scrub=operation.broken)


@settings(max_examples=50)
@given(OPERATIONS, st.sampled_from((1, 150, 600, 4096)))
def test_every_row_keeps_its_columns_while_rows_join_and_leave(operations: list[Operation], most: int) -> None:
    checked = Checked(most)
    for operation in operations:
        checked.apply(operation)
        if checked.rows and not isinstance(operation, Step):
            checked.step()


def test_the_window_is_as_wide_as_the_longest_row() -> None:
    checked = Checked()
    checked.join([4])
    checked.steps(40)
    checked.join([60, 3])
    assert checked.cache.width == 60
    checked.step()
    checked.leave(1)
    assert checked.cache.width == 45
    checked.step()


def test_a_longer_row_that_joins_after_a_nan_row_sees_finite_values() -> None:
    checked = Checked()
    checked.join([30, 30, 30])
    checked.step(broken=1)
    checked.leave(1, scrub=True)
    checked.leave(0)
    checked.join([2])  # in the place of a row that left
    checked.join([40])  # reuses columns on the left that earlier rows wrote
    checked.step()


def test_columns_of_a_nan_row_are_clean_when_reused() -> None:
    """The column leaves the window with all rows of that time; then a long prompt makes it part of the window again."""
    checked = Checked()
    checked.join([40, 3, 3, 3])
    checked.leave(3)
    checked.step(broken=2)
    checked.leave(2, scrub=True)
    checked.leave(0)
    checked.steps(5)
    checked.join([2])
    checked.leave(0)  # no row is left from the time of the NaN
    checked.steps(3)
    checked.join([1])
    checked.join([1])  # in the NaN row's place
    checked.join([30])
    checked.step()


def test_a_row_that_leaves_after_a_failed_step_leaves_no_trace() -> None:
    checked = Checked()
    checked.join([9, 9])
    states = torch.full((2, HEADS, 1, SIZE), NAN)
    cache: Any = checked.cache.for_next_token()
    for layer in cache.layers:
        layer.update(states, states)  # as if the last layers failed
    checked.leave(1)
    checked.steps(3)
    checked.join([2])
    checked.step()


def test_a_step_that_was_not_advanced_leaves_no_trace() -> None:
    checked = Checked()
    checked.join([5, 2])
    states = torch.full((2, HEADS, 1, SIZE), NAN)
    cache: Any = checked.cache.for_next_token()
    cache.layers[0].update(states, states)  # as if the second layer failed
    checked.check_sizes()
    checked.step()


# Two layers have four blocks, which the first row makes empty and then large enough for itself.
@pytest.mark.parametrize("failing_allocation", range(1, 9))
def test_a_first_row_that_runs_out_of_memory_can_join_later(failing_allocation: int) -> None:
    checked = Checked()
    filled = checked.prefilled([5])
    with pytest.raises(torch.OutOfMemoryError), ScarceMemory(failing_allocation):
        checked.cache.join(filled, [5])
    assert checked.cache.lengths == []
    checked.join([7, 3])
    checked.step()


@pytest.mark.parametrize("failing_allocation", [1, 2, 3, 4])
def test_running_rows_survive_a_new_row_that_runs_out_of_memory(failing_allocation: int) -> None:
    checked = Checked()
    checked.join([5, 9])
    filled = checked.prefilled([300])
    with pytest.raises(torch.OutOfMemoryError), ScarceMemory(failing_allocation):
        checked.cache.join(filled, [300])
    checked.check_sizes()
    checked.step()
    checked.join([4])
    checked.step()


@pytest.mark.parametrize("failing_allocation", [1, 2, 3, 4])
def test_rows_that_ran_out_of_memory_can_continue_later(failing_allocation: int) -> None:
    checked = Checked()
    checked.join([5, 9])
    with pytest.raises(torch.OutOfMemoryError), ScarceMemory(failing_allocation):
        checked.steps(200)
    checked.leave(1)
    checked.steps(3)
