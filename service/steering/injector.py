"""Edits the residual stream while the model runs.

Hooks are installed once and never change; what varies from batch to batch is one value that they read. So the cost
does not grow with the number of distinct vectors, and a compiled model never sees a hook that came too late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from vlibrary.domain.applicable import SITES
from vlibrary.steering.batch_edits import Rows
from vlibrary.steering.edit_points import Edit, LayerSites


class Injector:
    """The hooks of one model, and the rows that they read.

    At layer l of row b, h_l = h_{l-1} + (a_l + shift[l, 0, b]) + (m_l + shift[l, 1, b]) at every token position (M²IV);
    with a gain, a_l and m_l are multiplied by it first. One batch at a time: the model's owner serialises its calls.
    """

    def __init__(self, sites: Sequence[LayerSites]) -> None:
        self._layers = len(sites)
        self._rows: Rows | None = None
        self._handles = [
            point.install(self._edit(layer, kind))
            for layer, pair in enumerate(sites)
            for kind, point in enumerate(pair)
        ]

    @contextmanager
    def active(self, rows: Rows | Tensor | None) -> Iterator[None]:
        """While inside, forward passes of B prompts are edited by these rows; None leaves every activation alone.

        A tensor [L, 2, B, 1, d] is a shift. Gradients flow to the rows. Beams and repeated samples are prompts of their
        own: the caller repeats their rows. A forward pass of any other batch size raises RuntimeError.
        Raises ValueError for another shape and RuntimeError when rows are active already; always cleared on leaving.
        """
        if self._rows is not None:
            raise RuntimeError("rows are active already: one batch at a time")
        try:
            self.replace(rows)
            yield
        finally:
            self._rows = None

    def replace(self, rows: Rows | Tensor | None) -> None:
        """Inside `active`: go on with these rows. Raises ValueError for another shape."""
        if rows is not None:
            self._check(rows if isinstance(rows, Tensor) else rows.shift)
        self._rows = Rows(rows) if isinstance(rows, Tensor) else rows

    def close(self) -> None:
        """Remove every hook; the model is then as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _check(self, shift: Tensor) -> None:
        if shift.dim() != 5 or shift.shape[:2] != (self._layers, len(SITES)) or shift.shape[3] != 1:
            raise ValueError(f"rows have shape {list(shift.shape)}, not [{self._layers}, {len(SITES)}, B, 1, d]")

    def _edit(self, layer: int, kind: int) -> Edit:
        def edit(x: Tensor) -> Tensor | None:
            return None if self._rows is None else self._rows.at(layer, kind, x)

        return edit
