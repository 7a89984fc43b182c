"""What a batch's rows are steered with: the tensors that the hooks read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """The edits of B rows at both sites of L layers.

    shift: [L, 2, B, 1, d], added to the branch output.
    gain: [L, 2, B, 1, 1], what multiplies the branch output first, None for 1 everywhere.
    where: [B, T, 1], 1 where a row is edited in a forward pass of T positions and 0 elsewhere, None for everywhere.
    """

    shift: Tensor
    gain: Tensor | None = None
    where: Tensor | None = None

    @property
    def size(self) -> int:
        """B."""
        return self.shift.shape[2]

    def at(self, layer: int, kind: int, x: Tensor) -> Tensor:
        """The edited x [B, T, d] of one site: gain · x + shift where `where` is 1.

        A row with shift 0 and gain 1 keeps every bit. Raises RuntimeError for another batch size or width, which would
        broadcast silently.
        """
        shift = self.shift[layer, kind]
        if (len(x), x.shape[-1]) != (len(shift), shift.shape[-1]):
            raise RuntimeError(
                f"rows for {len(shift)} prompts of width {shift.shape[-1]} are active on a batch {list(x.shape)}"
            )
        shift = shift.to(x) if self.where is None else shift.to(x) * self.where.to(x)
        if self.gain is None:
            return x + shift
        gain = self.gain[layer, kind].to(x)
        return x * (gain if self.where is None else 1 + (gain - 1) * self.where.to(x)) + shift
