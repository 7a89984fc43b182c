"""The places in a decoder layer where a vector can join the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Edit = Callable[[Tensor], Tensor | None]


class Point(Protocol):
    """A place in one decoder layer where a branch joins the residual stream and can be edited.

    takes_gain: whether the edit sees the branch's own output x, so that gain · x + shift is possible. Where it sees
    the stream after the branch has joined, a shift is exact and a gain is not.
    """

    takes_gain: ClassVar[bool]

    def install(self, edit: Edit) -> RemovableHandle:
        """Run `edit` on the hidden states [B, T, d] at every forward pass; None leaves them alone."""
        ...


@dataclass(frozen=True)
class Output:
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
class StreamInto:
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
class StreamAfter(Output):
    """The stream as it leaves a layer: module is the layer itself."""

    takes_gain: ClassVar[bool] = False


class LayerSites(NamedTuple):
    """The two points of one decoder layer, in the order in which their branches run."""

    attention: Point
    mlp: Point


def first_tensor(output: Any) -> Tensor | None:
    """The hidden states in a module's output: attention returns a tuple that starts with them, an MLP the tensor."""
    head = output[0] if isinstance(output, (tuple, list)) and output else output
    return head if isinstance(head, Tensor) else None
