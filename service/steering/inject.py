"""Adds vectors to the residual stream while the model runs.

Hooks are installed once and never change; what varies from batch to batch is one tensor that they read. So the cost
does not grow with the number of distinct vectors, and a compiled model never sees a hook that came too late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from service.domain.applicable import SITES
from service.steering.families import Edit, LayerSites


class Injector:
    """The hooks of one model, and the rows that they add.

    At layer l of row b, h_l = h_{l-1} + (a_l + rows[l, 0, b]) + (m_l + rows[l, 1, b]) at every token position (M²IV).
    One batch at a time: the owner of the model serialises its calls.
    """

    def __init__(self, sites: Sequence[LayerSites]) -> None:
        self._layers = len(sites)
        self._rows: Tensor | None = None
        self._handles = [
            point.install(self._edit(layer, kind))
            for layer, pair in enumerate(sites)
            for kind, point in enumerate(pair)
        ]

    @contextmanager
    def active(self, rows: Tensor) -> Iterator[None]:
        """While inside, forward passes of B prompts add rows [L, 2, B, 1, d], cast to the model's dtype.

        Gradients flow to `rows`. Beams and repeated samples are prompts of their own: the caller repeats their rows.
        A forward pass of any other batch size raises RuntimeError, since it would broadcast silently.
        Raises ValueError for another shape and RuntimeError when rows are active already; always cleared on leaving.
        """
        if rows.dim() != 5 or rows.shape[:2] != (self._layers, len(SITES)) or rows.shape[3] != 1:
            raise ValueError(f"rows have shape {list(rows.shape)}, not [{self._layers}, {len(SITES)}, B, 1, d]")
        if self._rows is not None:
            raise RuntimeError("rows are active already: one batch at a time")
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def close(self) -> None:
        """Remove every hook; the model is then as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _edit(self, layer: int, kind: int) -> Edit:
        def add(x: Tensor) -> Tensor | None:
            if self._rows is None:
                return None
            row = self._rows[layer, kind]
            if (len(x), x.shape[-1]) != (len(row), row.shape[-1]):
                raise RuntimeError(
                    f"rows for {len(row)} prompts of width {row.shape[-1]} are active on a batch {list(x.shape)}"
                )
            return x + row.to(x)

        return add
