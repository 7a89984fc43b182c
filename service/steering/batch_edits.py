"""What a batch's rows are steered with: the tensors that the hooks read."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """The edits of B rows at both sites of L layers.

    shift: [L, 2, B, 1, d], added to the branch output.
    gain: [L, 2, B, 1, 1], what multiplies the branch output first, None for 1 everywhere.
    where: [B, T, 1], whether a row is edited at a position of a forward pass of T of them, None for everywhere.
    """

    shift: Tensor
    gain: Tensor | None = None
    where: Tensor | None = None
    _shifts: tuple[tuple[Tensor, ...], ...] = field(init=False)  # by layer and site: looked up at every hook's call

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shifts", tuple(layer.unbind() for layer in self.shift.unbind()))

    def at(self, layer: int, kind: int, x: Tensor) -> Tensor:
        """The edited x [B, T, d] of one site: gain · x + shift where `where` says so.

        A row with shift 0 and gain 1 keeps every bit. Raises RuntimeError for another batch size or width, which would
        broadcast silently.
        """
        shift = self._shifts[layer][kind]
        if (len(x), x.shape[-1]) != (len(shift), shift.shape[-1]):
            raise RuntimeError(
                f"rows for {len(shift)} prompts of width {shift.shape[-1]} are active on a batch {list(x.shape)}"
            )
        edited = x + shift.to(x) if self.gain is None else x * self.gain[layer, kind].to(x) + shift.to(x)
        return edited if self.where is None else torch.where(self.where, edited, x)
