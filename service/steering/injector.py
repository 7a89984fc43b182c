"""Edits the residual stream while the model runs.

Hooks are installed once and never change; what varies from batch to batch is one value that they read. So the cost
does not grow with the number of distinct vectors, and a compiled model never sees a hook that came too late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vlibrary.domain.vector import SITES

Edit = Callable[[Tensor], Tensor | None]


class EditPoint(Protocol):
    """A place in one decoder layer where a branch joins the residual stream and can be edited.

    takes_gain: whether the edit sees the branch's own output x, so that gain · x + shift is possible. Where it sees
    the stream after the branch has joined, a shift is exact and a gain is not.
    """

    takes_gain: ClassVar[bool]

    def install(self, edit: Edit) -> RemovableHandle:
        """Run `edit` on the hidden states [B, T, d] at every forward pass; None leaves them alone."""
        ...


@dataclass(frozen=True)
class BranchOutput:
    """The branch's own output, before it is added."""

    module: nn.Module
    takes_gain: ClassVar[bool] = True

    def install(self, edit: Edit) -> RemovableHandle:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            x = first_tensor(output)
            if x is None:
                raise RuntimeError(f"{type(self.module).__name__} returned no hidden states")
            edited = edit(x)
            if edited is None:
                return None
            return edited if isinstance(output, Tensor) else (edited, *output[1:])

        return self.module.register_forward_hook(hook)


@dataclass(frozen=True)
class NormInput:
    """The stream between a layer's branches, seen where the second one reads it: the input of its norm.

    The edit is written into that very tensor, so that the branch reads it and the stream carries it on.
    """

    module: nn.Module
    takes_gain: ClassVar[bool] = False

    def install(self, edit: Edit) -> RemovableHandle:
        def hook(_module: nn.Module, args: Any) -> None:
            edited = edit(args[0])
            if edited is not None:
                args[0].copy_(edited)

        return self.module.register_forward_pre_hook(hook)


@dataclass(frozen=True)
class LayerOutput(BranchOutput):
    """The stream as it leaves a layer: module is the layer itself."""

    takes_gain: ClassVar[bool] = False


class LayerSites(NamedTuple):
    """The two points of one decoder layer, in the order in which their branches run."""

    attention: EditPoint
    mlp: EditPoint


def first_tensor(output: Any) -> Tensor | None:
    """The hidden states in a module's output: attention returns a tuple that starts with them, an MLP the tensor."""
    head = output[0] if isinstance(output, (tuple, list)) and output else output
    return head if isinstance(head, Tensor) else None


@dataclass(frozen=True, eq=False)
class BatchEdits:
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


class Injector:
    """The hooks of one model, and the rows that they read.

    At layer l of row b, h_l = h_{l-1} + (a_l + shift[l, 0, b]) + (m_l + shift[l, 1, b]) at every token position (M²IV);
    with a gain, a_l and m_l are multiplied by it first. One batch at a time: the model's owner serialises its calls.
    """

    def __init__(self, sites: Sequence[LayerSites]) -> None:
        self._layers = len(sites)
        self._rows: BatchEdits | None = None
        self._handles = [
            point.install(self._edit(layer, kind))
            for layer, pair in enumerate(sites)
            for kind, point in enumerate(pair)
        ]

    @contextmanager
    def active(self, rows: BatchEdits | Tensor | None) -> Iterator[None]:
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

    def replace(self, rows: BatchEdits | Tensor | None) -> None:
        """Inside `active`: go on with these rows. Raises ValueError for another shape."""
        if rows is not None:
            self._check(rows if isinstance(rows, Tensor) else rows.shift)
        self._rows = BatchEdits(rows) if isinstance(rows, Tensor) else rows

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
