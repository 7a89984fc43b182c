"""The injection of steering vectors into a decoder's residual stream.

M²IV (COLM 2025) adds two vectors to every decoder layer l, at every token position:

    h_l = h_{l-1} + (a_l + α_l^a v_l^a) + (m_l + α_l^m v_l^m)

a_l and m_l [B, T, d] are the outputs of the attention and the MLP branch; v_l^a and v_l^m [d] are the vector's
directions and α_l^a and α_l^m its weights. `BatchEdits.apply` adds α·v; hooks call it while the model runs.

Hooks are installed once. What changes from batch to batch is one value that they read, so the cost does not grow with
the number of distinct vectors, and a compiled model never meets a hook that was installed after its compilation.
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

EditFunction = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class BatchEdits:
    """The edits of a batch of B rows at both sites (attention, MLP) of L layers.

    shift: [L, 2, B, 1, d], α·v of each row, added to the branch output.
    gain: [L, 2, B, 1, 1], multiplies the branch output first; None means 1 everywhere.
    where: [B, T, 1] bool, the positions to edit in a forward pass over T tokens; None means all.
    """

    shift: Tensor
    gain: Tensor | None = None
    where: Tensor | None = None
    _shifts: tuple[tuple[Tensor, ...], ...] = field(init=False)  # unbound once, because every hook call indexes them

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shifts", tuple(layer.unbind() for layer in self.shift.unbind()))

    def apply(self, layer: int, site: int, x: Tensor) -> Tensor:
        """Return gain · x + shift for the branch output x [B, T, d], at the positions in `where`.

        A row with shift 0 and gain 1 is returned bit for bit. Raises RuntimeError for another batch size or width,
        which torch would broadcast silently.
        """
        shift = self._shifts[layer][site]
        if (len(x), x.shape[-1]) != (len(shift), shift.shape[-1]):
            raise RuntimeError(
                f"Edits for {len(shift)} rows of width {shift.shape[-1]} are active on a batch of shape {list(x.shape)}"
            )
        scaled = x if self.gain is None else x * self.gain[layer, site].to(x)
        edited = scaled + shift.to(x)
        return edited if self.where is None else torch.where(self.where, edited, x)


class EditPoint(Protocol):
    """A place in a decoder layer where a branch joins the residual stream.

    takes_gain: whether the hook sees the branch output x itself, so that gain · x + shift is possible. A hook that sees
    the stream after the branch has joined can only add a shift.
    """

    takes_gain: ClassVar[bool]

    def install(self, edit: EditFunction) -> RemovableHandle:
        """Call `edit` with the hidden states [B, T, d] of every forward pass; None leaves them unchanged."""
        ...


@dataclass(frozen=True)
class BranchOutput:
    """The output of a branch before it is added to the stream."""

    module: nn.Module
    takes_gain: ClassVar[bool] = True

    def install(self, edit: EditFunction) -> RemovableHandle:
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
    """The stream between the two branches of a layer: the input of the module that reads it there, usually a norm.

    The edit is written into the input tensor in place, so that the second branch reads it and the stream keeps it.
    """

    module: nn.Module
    takes_gain: ClassVar[bool] = False

    def install(self, edit: EditFunction) -> RemovableHandle:
        def hook(_module: nn.Module, args: Any) -> None:
            edited = edit(args[0])
            if edited is not None:
                args[0].copy_(edited)

        return self.module.register_forward_pre_hook(hook)


@dataclass(frozen=True)
class LayerOutput(BranchOutput):
    """The stream after both branches; `module` is the decoder layer."""

    takes_gain: ClassVar[bool] = False


class LayerSites(NamedTuple):
    """The edit points of one decoder layer, in the order of `SITES`."""

    attention: EditPoint
    mlp: EditPoint


def all_take_gain(sites: Sequence[LayerSites]) -> bool:
    """Return whether every branch can be multiplied by a gain."""
    return all(point.takes_gain for pair in sites for point in pair)


class Injector:
    """The hooks of one model and the edits that they apply.

    One batch at a time: the owner of the model serialises its calls.
    """

    def __init__(self, sites: Sequence[LayerSites]) -> None:
        self._layers = len(sites)
        self._edits: BatchEdits | None = None
        self._handles = [
            point.install(self._edit_function(layer, site))
            for layer, pair in enumerate(sites)
            for site, point in enumerate(pair)
        ]

    @contextmanager
    def active(self, edits: BatchEdits | Tensor | None) -> Iterator[None]:
        """Apply these edits to every forward pass of B rows inside the block; None applies none.

        A tensor [L, 2, B, 1, d] stands for shifts alone. Gradients flow to the edits. Beams and repeated samples are
        rows, so the caller repeats their edits. A forward pass with another batch size raises RuntimeError.
        Raises ValueError for another shape and RuntimeError inside another such block.
        """
        if self._edits is not None:
            raise RuntimeError("Edits are active already; run one batch at a time")
        try:
            self.replace(edits)
            yield
        finally:
            self._edits = None

    def replace(self, edits: BatchEdits | Tensor | None) -> None:
        """Replace the edits inside an `active` block. Raises ValueError for another shape."""
        if isinstance(edits, Tensor):
            edits = BatchEdits(edits)
        if edits is not None:
            shape = edits.shift.shape
            if len(shape) != 5 or shape[:2] != (self._layers, len(SITES)) or shape[3] != 1:
                raise ValueError(f"Edits have shape {list(shape)}, not [{self._layers}, {len(SITES)}, B, 1, d]")
        self._edits = edits

    def close(self) -> None:
        """Remove every hook, which restores the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _edit_function(self, layer: int, site: int) -> EditFunction:
        def edit(x: Tensor) -> Tensor | None:
            return None if self._edits is None else self._edits.apply(layer, site, x)

        return edit


def first_tensor(output: Any) -> Tensor | None:
    """Return the hidden states in a module's output: attention returns a tuple that starts with them, an MLP a tensor.

    None when there are none.
    """
    head = output[0] if isinstance(output, (tuple, list)) and output else output
    return head if isinstance(head, Tensor) else None
