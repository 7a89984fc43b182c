"""Where attention and MLP join the residual stream of a decoder, found by looking at what it computes.

A steering vector is added to a_l and m_l of y = x + a_l + m_l (method M²IV), so the engine must know which modules give
a_l and m_l. A rule by names is silently wrong on many families (Gemma's and OLMo2's post-norms, Granite's residual
multiplier, GLM-4). Here one probe forward records every layer, and the only acceptable answer is the unique pair of
direct children whose outputs add up to what the layer adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from service.domain.errors import UnsupportedModel

RELATIVE_TOLERANCE = 1e-4
_CURE = (
    "Steering is exact only where each decoder layer computes y = x + attention + MLP; "
    "use such a model (Llama, Mistral, Qwen2/3, Gemma 1–3, Idefics2/3, LLaVA, InternVL ...)."
)


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


class LayerSites(NamedTuple):
    """The two points of one decoder layer, in the order in which their branches run."""

    attention: Point
    mlp: Point


def first_tensor(output: Any) -> Tensor | None:
    """The hidden states in a module's output: attention returns a tuple that starts with them, an MLP the tensor."""
    head = output[0] if isinstance(output, (tuple, list)) and output else output
    return head if isinstance(head, Tensor) else None


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The text decoder's layers.

    Raises UnsupportedModel when they cannot be found or are not the L that the configuration names.
    """
    expected = model.config.get_text_config(decoder=True).num_hidden_layers
    decoder: Any = model
    while not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        inner = decoder.get_decoder() if hasattr(decoder, "get_decoder") else decoder
        if inner is decoder:
            raise UnsupportedModel(f"{_name(model)} has no decoder with a list of layers.", _CURE)
        decoder = inner
    layers: nn.ModuleList = decoder.layers
    if len(layers) != expected:
        raise UnsupportedModel(
            f"{_name(model)} has {len(layers)} decoder layers where its configuration names {expected}.", _CURE
        )
    return layers


def find_sites(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[LayerSites, ...]:
    """The sites of every decoder layer, by one probe forward.

    inputs: what the model's processor makes of a short text, at least two rows; a picture is not needed.
    Raises UnsupportedModel when any layer has no unique pair, is skipped or runs twice.
    """
    layers = decoder_layers(model)
    probe = _Probe(_name(model), [None] * len(layers))
    try:
        with torch.no_grad(), probe.watching(layers):
            model(**inputs, use_cache=False)
    except (TypeError, ValueError) as error:
        raise UnsupportedModel(f"{_name(model)} cannot read a text without an image: {error}.", _CURE) from error
    return probe.result()


@dataclass
class _Trace:
    """One layer's run: its input x [B, T, d] and its direct children's outputs, in the order they finished."""

    x: Tensor
    calls: list[tuple[nn.Module, Tensor]] = field(default_factory=list)

    def candidates(self) -> list[tuple[nn.Module, Tensor]]:
        """Children that may be added to the stream; a copy of an earlier one (dropout at rest) is left out."""
        found: list[tuple[nn.Module, Tensor]] = []
        for module, output in self.calls:
            if output.shape == self.x.shape and not any(torch.equal(output, seen) for _, seen in found):
                found.append((module, output))
        return found

    def pairs(self, y: Tensor) -> list[LayerSites]:
        """All pairs of children that run once and whose outputs explain y, the layer's output.

        A block that several layers share is noted once for each of them, and so never runs once.
        """
        runs = Counter(id(module) for module, _ in self.calls)
        return [
            LayerSites(Output(first), Output(second))
            for (first, a), (second, m) in combinations(self.candidates(), 2)
            if runs[id(first)] == runs[id(second)] == 1 and _adds_up(self.x, a, m, y)
        ]


def _adds_up(x: Tensor, a: Tensor, m: Tensor, y: Tensor) -> bool:
    """Whether y = x + a + m up to RELATIVE_TOLERANCE of what is added, or to the rounding of y's own number format."""
    rounding = 2 * torch.finfo(y.dtype).eps
    x, a, m, y = (tensor.float() for tensor in (x, a, m, y))
    allowed = RELATIVE_TOLERANCE * (y - x).abs().mean() + rounding * (x.abs() + a.abs() + m.abs())
    return bool(((y - x - a - m).abs() <= allowed).all())


class _Probe:
    """Watches one forward pass and judges each layer as it ends, so that only one layer's tensors are kept."""

    def __init__(self, name: str, sites: list[LayerSites | None]) -> None:
        self._name = name
        self._sites = sites
        self._trace: _Trace | None = None
        self._last_output: Tensor | None = None

    @contextmanager
    def watching(self, layers: nn.ModuleList) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(self._leave(index)).remove)
                for child in layer.children():
                    hooks.callback(child.register_forward_hook(self._note).remove)
            yield

    def result(self) -> tuple[LayerSites, ...]:
        found = [sites for sites in self._sites if sites is not None]
        if len(found) < len(self._sites):
            skipped = self._sites.index(None)
            raise UnsupportedModel(f"{self._name} skips decoder layer {skipped} when there is no image.", _CURE)
        return tuple(found)

    def _enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_tensor(args) if args else kwargs.get("hidden_states")
        if x is None:
            raise UnsupportedModel(f"{self._name}: {type(layer).__name__} takes no hidden states.", _CURE)
        if self._last_output is not None and not torch.equal(x, self._last_output):
            raise UnsupportedModel(f"{self._name} has further blocks between its decoder layers.", _CURE)
        self._trace = _Trace(x.clone())

    def _note(self, child: nn.Module, _args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if self._trace is not None and tensor is not None:
            self._trace.calls.append((child, tensor.clone()))

    def _leave(self, index: int) -> Any:
        def judge(layer: nn.Module, _args: Any, output: Any) -> None:
            y, trace = first_tensor(output), self._trace
            pairs = [] if y is None or trace is None else trace.pairs(y)
            if len(pairs) != 1 or self._sites[index] is not None:
                raise UnsupportedModel(
                    f"{self._name}: in decoder layer {index} ({type(layer).__name__}) {len(pairs)} pairs of blocks "
                    "add up to what the layer adds; exactly one must.",
                    _CURE,
                )
            self._sites[index], self._last_output, self._trace = pairs[0], y, None

        return judge


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
