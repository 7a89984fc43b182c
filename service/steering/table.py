"""Steering vectors on the device, each in a numbered slot, so that a batch's vectors are one gather.

Slot 0 holds zeros: a row without a vector is a row with slot 0, and costs nothing extra.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from service.domain.applicable import SITES, check_applicable
from service.domain.errors import Unavailable, UnsupportedEdit
from service.domain.vector import Array, ModelSpec, SteeringVector

EMPTY = 0


class SlotTable:
    """V [L, 2, S + 1, d] in the model's dtype. Slots are filled on demand; the least recently used one is given up.

    Not thread-safe: the engine that owns it serialises its calls.
    """

    def __init__(self, spec: ModelSpec, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self._spec = spec
        self._values = torch.zeros(spec.layers, len(SITES), slots + 1, spec.hidden_size, device=device, dtype=dtype)
        self._free = list(range(slots, EMPTY, -1))
        self._slots: OrderedDict[str, int] = OrderedDict()  # key -> slot, least recently used first
        self._pins: Counter[int] = Counter()

    def check(self, vector: SteeringVector) -> None:
        """Raises WrongModel for another base model, UnsupportedEdit for what would not be applied exactly."""
        check_applicable(vector, self._spec)
        self._rounded(self._deltas(vector))

    def put(self, vector: SteeringVector, *, key: str | None = None) -> int:
        """The slot that holds this vector, filled when it is not there yet.

        key: what identifies the content (artifact sha256 and strength); computed from the numbers when None.
        Raises WrongModel, UnsupportedEdit, and Unavailable when every slot is pinned.
        """
        check_applicable(vector, self._spec)
        key = key or hashlib.sha256(self._deltas(vector).tobytes()).hexdigest()
        if key not in self._slots:
            values = self._rounded(self._deltas(vector))
            slot = self._free.pop() if self._free else self._evict()
            self._values[:, :, slot] = values
            self._slots[key] = slot
        self._slots.move_to_end(key)
        return self._slots[key]

    @contextmanager
    def pinned(self, vectors: Sequence[SteeringVector | None]) -> Iterator[list[int]]:
        """The slots of a batch, one per row (EMPTY for None), safe from eviction while inside. Raises as `put`."""
        slots: list[int] = []
        try:
            for vector in vectors:
                slots.append(EMPTY if vector is None else self.put(vector))
                self._pins[slots[-1]] += 1
            yield slots
        finally:
            self._pins.subtract(slots)

    def gather(self, slots: Sequence[int]) -> Tensor:
        """What the injector reads for a batch of these slots: [L, 2, B, 1, d], a copy."""
        chosen = torch.tensor(slots, device=self._values.device, dtype=torch.long)
        return self._values.index_select(2, chosen).unsqueeze(3)

    def _deltas(self, vector: SteeringVector) -> Array:
        """α_l v_l of both sites, [L, 2, d], zeros where the vector has no edit."""
        deltas = np.zeros((self._spec.layers, len(SITES), self._spec.hidden_size), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused below, with a reason
            for kind, site in enumerate(SITES):
                if site in vector.edits:
                    deltas[:, kind] = vector.edits[site].delta
        return deltas

    def _rounded(self, deltas: Array) -> Tensor:
        """The deltas in the table's dtype. Raises UnsupportedEdit when one of them becomes infinite."""
        values = torch.from_numpy(deltas).to(self._values)
        if not torch.isfinite(values).all():
            raise UnsupportedEdit(
                f"A number in the vector is too large for {self._values.dtype}.",
                "Lower its strength, or load the model in bfloat16 or float32.",
            )
        return values

    def _evict(self) -> int:
        for key, slot in self._slots.items():
            if not self._pins[slot]:
                del self._slots[key]
                return slot
        raise Unavailable(
            f"All {len(self._slots)} vector slots are in use.",
            "Send fewer different vectors at a time, or start the worker with more slots.",
        )
