"""Steering vectors on the device, each in a numbered slot, so that one gather collects the vectors of a batch.

Slot 0 is the identity: a row without a vector uses slot 0 and needs no special case.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlibrary.domain.errors import Unavailable, UnsupportedEdit
from vlibrary.domain.vector import SITES, Array, ModelSpec, Positions, Site, SteeringVector, check_applicable
from vlibrary.steering.injector import BatchEdits

EMPTY = 0


@dataclass
class SlotCounts:
    """Counters for metrics: lookups that found their vector in a slot, that had to load it, and vectors evicted."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class SlotTable:
    """Shifts [L, 2, S + 1, d] and gains [L, 2, S + 1] of up to S vectors, in the model's dtype.

    Vectors are loaded on demand; a full table evicts the least recently used vector that is not pinned.
    Not thread-safe: the engine that owns the table serialises its calls.
    """

    def __init__(
        self, spec: ModelSpec, slots: int, device: torch.device, dtype: torch.dtype, *, takes_gain: bool = True
    ) -> None:
        """slots: S, the number of distinct vectors. takes_gain: whether the model's edit points accept a gain."""
        self._spec = spec
        self._takes_gain = takes_gain
        self._shifts = torch.zeros(spec.layers, len(SITES), slots + 1, spec.hidden_size, device=device, dtype=dtype)
        self._gains = torch.ones(spec.layers, len(SITES), slots + 1, device=device, dtype=dtype)
        self._free = list(range(slots, EMPTY, -1))
        self._slots: OrderedDict[str, int] = OrderedDict()  # key -> slot, least recently used first
        self._with_gain: set[int] = set()
        self._last_only: set[int] = set()
        self._pins: Counter[int] = Counter()
        self.counts = SlotCounts()

    @property
    def resident(self) -> int:
        """The number of vectors in the table."""
        return len(self._slots)

    @property
    def pinned_slots(self) -> int:
        """The number of slots that running requests hold; safe to read from any thread."""
        return sum(count > 0 for slot, count in list(self._pins.items()) if slot != EMPTY)

    def check(self, vector: SteeringVector) -> None:
        """Raise WrongModel for another base model's vector, UnsupportedEdit for one that cannot be applied exactly."""
        check_applicable(vector, self._spec, takes_gain=self._takes_gain)
        self._cast(self._shift(vector))
        self._cast(self._gain(vector))

    def load(self, vector: SteeringVector, *, key: str | None = None) -> int:
        """Return the slot of this vector; load the vector if no slot holds it.

        key: identifies the content (artifact digests and strengths); None computes it from the numbers.
        Raises WrongModel, UnsupportedEdit, and Unavailable when every slot is pinned.
        """
        check_applicable(vector, self._spec, takes_gain=self._takes_gain)
        if key is None:
            numbers = vector.positions.encode() + self._shift(vector).tobytes() + self._gain(vector).tobytes()
            key = hashlib.sha256(numbers).hexdigest()
        if key in self._slots:
            self.counts.hits += 1
        else:
            self.counts.misses += 1
            self._fill(key, vector)
        self._slots.move_to_end(key)
        return self._slots[key]

    def pin(self, vector: SteeringVector | None, *, key: str | None = None) -> int:
        """Load the vector and keep its slot until `unpin` was called as often as `pin`; None returns EMPTY."""
        slot = EMPTY if vector is None else self.load(vector, key=key)
        self._pins[slot] += 1
        return slot

    def unpin(self, slots: Iterable[int]) -> None:
        """Release one pin of each of these slots."""
        self._pins.subtract(slots)

    @contextmanager
    def pin_batch(self, vectors: Sequence[SteeringVector | None]) -> Iterator[list[int]]:
        """Yield the slots of a batch, one per row (EMPTY for None), pinned inside the block. Raises as `load`."""
        slots: list[int] = []
        try:
            slots.extend(self.pin(vector) for vector in vectors)  # on an error the list holds what is pinned so far
            yield slots
        finally:
            self.unpin(slots)

    def gather(self, slots: Sequence[int]) -> Tensor:
        """Return a copy of the shifts of these slots, [L, 2, B, 1, d]."""
        return self._shifts.index_select(2, self._index(slots)).unsqueeze(3)

    def prefill_edits(self, slots: Sequence[int], length: int) -> BatchEdits | None:
        """Return the edits for the prefill of B prompts that are left-padded to `length`; None if none is steered."""
        where = None
        if self._last_only.intersection(slots):
            where = torch.ones(len(slots), length, 1, dtype=torch.bool)
            where[[slot in self._last_only for slot in slots], :-1] = False
            where = where.to(self._shifts.device)
        return self._edits(slots, where)

    def decode_edits(self, slots: Sequence[int]) -> BatchEdits | None:
        """Return the edits for decoding; vectors that act on the last prompt position only have no effect any more."""
        return self._edits([EMPTY if slot in self._last_only else slot for slot in slots], None)

    def _edits(self, slots: Sequence[int], where: Tensor | None) -> BatchEdits | None:
        if not any(slots):
            return None
        gain = None
        if self._with_gain.intersection(slots):
            gain = self._gains.index_select(2, self._index(slots))[..., None, None]
        return BatchEdits(self.gather(slots), gain, where)

    def _index(self, slots: Sequence[int]) -> Tensor:
        return torch.tensor(slots, device=self._shifts.device, dtype=torch.long)

    def _fill(self, key: str, vector: SteeringVector) -> None:
        shift, gain = self._cast(self._shift(vector)), self._cast(self._gain(vector))
        slot = self._free.pop() if self._free else self._evict()
        self._shifts[:, :, slot], self._gains[:, :, slot] = shift, gain
        for group, member in (
            (self._with_gain, bool((gain != 1).any())),
            (self._last_only, vector.positions == Positions.LAST),
        ):
            group.add(slot) if member else group.discard(slot)
        self._slots[key] = slot

    def _shift(self, vector: SteeringVector) -> Array:
        """Return α_l v_l of both sites, [L, 2, d], zero where the vector has no edit.

        The stream leaves a layer right after the MLP branch joins it, so a shift of the layer is a shift of the MLP.
        """
        shift = np.zeros((self._spec.layers, len(SITES), self._spec.hidden_size), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # _cast reports an overflow
            for site, edit in vector.edits.items():
                shift[:, _kind(site)] += edit.shift
        return shift

    def _gain(self, vector: SteeringVector) -> Array:
        """Return the gains of both sites, [L, 2], 1 where the vector has none."""
        gain = np.ones((self._spec.layers, len(SITES)), np.float32)
        for site, edit in vector.edits.items():
            if site in SITES and edit.gain is not None:
                gain[:, _kind(site)] = edit.gain
        return gain

    def _cast(self, numbers: Array) -> Tensor:
        """Convert to the table's dtype and device. Raises UnsupportedEdit when a number becomes infinite."""
        values = torch.from_numpy(numbers).to(self._shifts)
        if not torch.isfinite(values).all():
            raise UnsupportedEdit(
                f"The vector contains a number too large for {self._shifts.dtype}.",
                "Lower the strength, or load the model in bfloat16 or float32.",
            )
        return values

    def _evict(self) -> int:
        for key, slot in self._slots.items():
            if not self._pins[slot]:
                del self._slots[key]
                self.counts.evictions += 1
                return slot
        raise Unavailable(
            f"All {len(self._slots)} vector slots are in use.",
            "Use fewer distinct vectors at a time, or start the worker with more VLIBRARY_SLOTS.",
        )


def _kind(site: Site) -> int:
    return SITES.index(Site.MLP if site is Site.LAYER else site)
