"""Steering vectors on the device, each in a numbered slot, so that a batch's vectors are one gather.

Slot 0 leaves the model alone: a row without a vector is a row with slot 0, and costs nothing extra.
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
    """What the table did so far, for metrics. hits: a wanted vector was in its slot already."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


class SlotTable:
    """Shifts V [L, 2, S + 1, d] and gains G [L, 2, S + 1] in the model's dtype, filled on demand.

    The least recently used slot that nobody holds is given up. Not thread-safe: the engine that owns it serialises its
    calls.
    """

    def __init__(
        self, spec: ModelSpec, slots: int, device: torch.device, dtype: torch.dtype, *, takes_gain: bool = True
    ) -> None:
        """takes_gain: whether the model's points can multiply a branch, not only add to it."""
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
        """How many vectors are in their slots."""
        return len(self._slots)

    @property
    def pinned_slots(self) -> int:
        """How many slots are held by running requests; any thread may ask."""
        return sum(count > 0 for slot, count in list(self._pins.items()) if slot != EMPTY)

    def check(self, vector: SteeringVector) -> None:
        """Raises WrongModel for another base model, UnsupportedEdit for what would not be applied exactly."""
        check_applicable(vector, self._spec, takes_gain=self._takes_gain)
        self._rounded(self._shift(vector))
        self._rounded(self._gain(vector))

    def load(self, vector: SteeringVector, *, key: str | None = None) -> int:
        """The slot that holds this vector, filled when it is not there yet.

        key: what identifies the content (artifact digests and strengths); computed from the numbers when None.
        Raises WrongModel, UnsupportedEdit, and Unavailable when every slot is held.
        """
        check_applicable(vector, self._spec, takes_gain=self._takes_gain)
        key = key or self._content_key(vector)
        if key in self._slots:
            self.counts.hits += 1
        else:
            self.counts.misses += 1
            self._fill(key, vector)
        self._slots.move_to_end(key)
        return self._slots[key]

    def pin(self, vector: SteeringVector | None, *, key: str | None = None) -> int:
        """As `load`, and the slot stays until it is unpinned as often; EMPTY for None."""
        slot = EMPTY if vector is None else self.load(vector, key=key)
        self._pins[slot] += 1
        return slot

    def unpin(self, slots: Iterable[int]) -> None:
        """Let go of these slots."""
        self._pins.subtract(slots)

    @contextmanager
    def pin_batch(self, vectors: Sequence[SteeringVector | None]) -> Iterator[list[int]]:
        """The slots of a batch, one per row (EMPTY for None), held while inside. Raises as `load`."""
        slots: list[int] = []
        try:
            slots.extend(self.pin(vector) for vector in vectors)  # one that fails leaves those before it in the list
            yield slots
        finally:
            self.unpin(slots)

    def gather(self, slots: Sequence[int]) -> Tensor:
        """The shifts of a batch of these slots: [L, 2, B, 1, d], a copy."""
        return self._shifts.index_select(2, self._index(slots)).unsqueeze(3)

    def prefill_edits(self, slots: Sequence[int], length: int) -> BatchEdits | None:
        """What the injector reads while prompts of these slots, left-padded to `length`, are prefilled."""
        where = None
        if self._last_only.intersection(slots):
            where = torch.ones(len(slots), length, 1, dtype=torch.bool)
            where[[slot in self._last_only for slot in slots], :-1] = False
            where = where.to(self._shifts.device)
        return self._rows(slots, where)

    def decode_edits(self, slots: Sequence[int]) -> BatchEdits | None:
        """What it reads afterwards: an edit of the prompt's last position is over then."""
        return self._rows([EMPTY if slot in self._last_only else slot for slot in slots], None)

    def _rows(self, slots: Sequence[int], where: Tensor | None) -> BatchEdits | None:
        """None when no row is steered: the hooks then touch nothing."""
        if not any(slots):
            return None
        gain = None
        if self._with_gain.intersection(slots):
            gain = self._gains.index_select(2, self._index(slots))[..., None, None]
        return BatchEdits(self.gather(slots), gain, where)

    def _index(self, slots: Sequence[int]) -> Tensor:
        return torch.tensor(slots, device=self._shifts.device, dtype=torch.long)

    def _fill(self, key: str, vector: SteeringVector) -> None:
        shift, gain = self._rounded(self._shift(vector)), self._rounded(self._gain(vector))
        slot = self._free.pop() if self._free else self._evict()
        self._shifts[:, :, slot], self._gains[:, :, slot] = shift, gain
        self._mark(self._with_gain, slot, bool((gain != 1).any()))
        self._mark(self._last_only, slot, vector.positions == Positions.LAST)
        self._slots[key] = slot

    def _mark(self, group: set[int], slot: int, member: bool) -> None:
        group.add(slot) if member else group.discard(slot)

    def _content_key(self, vector: SteeringVector) -> str:
        digest = hashlib.sha256(vector.positions.encode())
        digest.update(self._shift(vector).tobytes())
        digest.update(self._gain(vector).tobytes())
        return digest.hexdigest()

    def _shift(self, vector: SteeringVector) -> Array:
        """α_l v_l of both sites, [L, 2, d], zeros where the vector has no edit.

        The layer's output is the stream right after the MLP has joined, so a shift there is a shift of the MLP's.
        """
        shift = np.zeros((self._spec.layers, len(SITES), self._spec.hidden_size), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused by _rounded, with a reason
            for site, edit in vector.edits.items():
                shift[:, _kind(site)] += edit.delta
        return shift

    def _gain(self, vector: SteeringVector) -> Array:
        """The gains of both sites, [L, 2], 1 where the vector has none."""
        gain = np.ones((self._spec.layers, len(SITES)), np.float32)
        for site, edit in vector.edits.items():
            if site in SITES and edit.gain is not None:
                gain[:, _kind(site)] = edit.gain
        return gain

    def _rounded(self, numbers: Array) -> Tensor:
        """The numbers in the table's dtype. Raises UnsupportedEdit when one of them becomes infinite."""
        values = torch.from_numpy(numbers).to(self._shifts)
        if not torch.isfinite(values).all():
            raise UnsupportedEdit(
                f"A number in the vector is too large for {self._shifts.dtype}.",
                "Lower its strength, or load the model in bfloat16 or float32.",
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
            "Send fewer different vectors at a time, or start the worker with more slots.",
        )


def _kind(site: Site) -> int:
    return SITES.index(Site.MLP if site is Site.LAYER else site)
