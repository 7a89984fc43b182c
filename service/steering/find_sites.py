"""Finding the sites of a decoder, where attention and MLP join the residual stream, from what its layers compute.

Decoder layer l computes y = x + a_l + m_l, where x and y are the stream before and after the layer, and a_l and m_l are
the contributions of its two branches; M²IV adds a steering vector to each of them. Contributions between two layers
(the gated cross-attention blocks of Idefics, the visual features of Qwen3-VL) belong to no site and are not edited.

Selecting modules by name is silently wrong for many families (the post-norms of Gemma and OLMo2, the residual
multiplier of Granite, GLM-4). Instead, one forward pass on a probe input records every layer. Its sites are:
- the outputs of the only pair of direct children whose outputs sum to y - x; or
- where there is no such pair, because a branch is scaled before it is added (gates, multipliers): the input of the only
  child that reads the stream between the branches, confirmed by trial edits, for a_l, and the layer's output for m_l.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.steering.injector import BranchOutput, LayerOutput, LayerSites, NormInput, first_tensor

RELATIVE_TOLERANCE = 1e-4
_CURE = (
    "Steering is exact only where each decoder layer computes y = x + attention + MLP; "
    "use such a model (Llama, Mistral, Qwen2/3, Gemma 1–3, Idefics 1–3, LLaVA, InternVL, Mllama ...)."
)


class LayersSkipped(UnsupportedModel):
    """The probe input did not run every decoder layer; some models skip layers when there is no image."""


def find_decoder(model: PreTrainedModel) -> nn.Module:
    """Return the text decoder, the module with a list `layers`. Raises UnsupportedModel if there is none."""
    decoder: Any = model
    while not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        inner = decoder.get_decoder() if hasattr(decoder, "get_decoder") else decoder
        if inner is decoder:
            raise UnsupportedModel(f"{_name(model)} has no decoder with a list of layers.", _CURE)
        decoder = inner
    found: nn.Module = decoder
    return found


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of the text decoder.

    Raises UnsupportedModel if there are none or their number differs from the configuration.
    """
    expected = model.config.get_text_config(decoder=True).num_hidden_layers
    layers: Any = find_decoder(model).layers
    if len(layers) != expected:
        raise UnsupportedModel(
            f"{_name(model)} has {len(layers)} decoder layers, but its configuration says {expected}.", _CURE
        )
    return cast("nn.ModuleList", layers)


def find_sites(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[LayerSites, ...]:
    """Return the sites of every decoder layer, from one forward pass.

    inputs: the processor's output for a short text, at least two rows, with an image if the model needs one.
    Raises UnsupportedModel if the sites of a layer are not unique or a layer runs twice, and its subclass LayersSkipped
    if the model did not run all layers on these inputs.
    """
    layers = decoder_layers(model)
    probe = _Probe(_name(model), [None] * len(layers))
    try:
        with torch.no_grad(), probe.watch(layers):
            model(**inputs, use_cache=False)
    except (TypeError, ValueError) as error:
        raise LayersSkipped(f"{_name(model)} cannot process the probe input: {error}.", _CURE) from error
    return probe.get_sites()


@dataclass
class _Trace:
    """One run of a layer: its input x [B, T, d] and the calls of its direct children, in the order they finished.

    calls: each child with its output. readers: the children whose input is hidden states other than x.
    """

    x: Tensor
    calls: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    readers: list[nn.Module] = field(default_factory=list)

    def record(self, child: nn.Module, args: Any, output: Any) -> None:
        result, states = first_tensor(output), first_tensor(args)
        if result is not None:
            self.calls.append((child, result.clone()))
        if states is not None and states.shape == self.x.shape and not torch.equal(states, self.x):
            self.readers.append(child)

    def find_pairs(self, y: Tensor) -> list[LayerSites]:
        """Return all pairs of children that run once and whose outputs, added to x, give the layer's output y.

        A child that several layers share has several hooks; it is recorded more than once, and so never returned.
        """
        runs = Counter(id(module) for module, _ in self.calls)
        return [
            LayerSites(BranchOutput(first), BranchOutput(second))
            for (first, a), (second, m) in combinations(self._candidates(), 2)
            if runs[id(first)] == runs[id(second)] == 1 and _adds_up(y, (self.x, a, m))
        ]

    def find_stream_readers(self, rerun: _Rerun) -> list[LayerSites]:
        """Return the sites given by each child that runs once and reads the stream between the branches."""
        runs = Counter(id(module) for module in self.readers)
        return [
            LayerSites(NormInput(child), LayerOutput(rerun.layer))
            for child in self.readers
            if runs[id(child)] == 1 and rerun.reads_stream(child, like=self.x)
        ]

    def _candidates(self) -> list[tuple[nn.Module, Tensor]]:
        """Return the children whose output has x's shape and is no copy of an earlier one (dropout in eval mode)."""
        found: list[tuple[nn.Module, Tensor]] = []
        for module, output in self.calls:
            if output.shape == self.x.shape and not any(torch.equal(output, seen) for _, seen in found):
                found.append((module, output))
        return found


@dataclass(frozen=True)
class _Rerun:
    """A layer and the arguments of its call, for trial edits on this layer alone."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def reads_stream(self, child: nn.Module, like: Tensor) -> bool:
        """Return whether the child's input r is the stream itself, which reaches the layer's output unscaled.

        The child reads r + v in two runs: the first edits r in place, the second passes r + v to the child only. The
        branch after the child computes the same in both, so the outputs differ by v if r is the stream.
        """
        v = like.std() * torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
        streams: list[Tensor] = []

        def pass_shifted(_child: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            streams.append(args[0])
            return (args[0] + v, *args[1:])

        unedited = self._run(child.register_forward_pre_hook(pass_shifted))
        edited = self._run(NormInput(child).install(lambda r: r + v))
        if edited is None or unedited is None:
            return False
        return _adds_up(edited, (unedited, v), rounded=streams)

    def _run(self, hook: RemovableHandle) -> Tensor | None:
        """Run the layer, remove the hook and return the hidden states."""
        try:
            return first_tensor(self.layer.forward(*self.args, **self.kwargs))
        finally:
            hook.remove()


def _adds_up(total: Tensor, parts: Sequence[Tensor], rounded: Sequence[Tensor] = ()) -> bool:
    """Return whether `total` is the sum of `parts`, up to RELATIVE_TOLERANCE of the mean change from the first part.

    The rounding errors of the dtype are also allowed, for the parts and for the intermediate results `rounded`.
    """
    rounding = (
        2 * torch.finfo(total.dtype).eps * torch.stack([part.float().abs() for part in (*parts, *rounded)]).sum(0)
    )
    start, *added = (part.float() for part in parts)
    allowed = RELATIVE_TOLERANCE * (total.float() - start).abs().mean() + rounding
    return bool(((total.float() - start - sum(added)).abs() <= allowed).all())


class _Probe:
    """Watches one forward pass and finds each layer's sites as it returns; only one layer's tensors are in memory."""

    def __init__(self, name: str, sites: list[LayerSites | None]) -> None:
        self._name = name
        self._sites = sites
        self._trace: _Trace | None = None

    @contextmanager
    def watch(self, layers: nn.ModuleList) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(self._start_layer, with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(partial(self._finish_layer, index), with_kwargs=True).remove)
                for child in layer.children():
                    hooks.callback(child.register_forward_hook(self._record).remove)
            yield

    def get_sites(self) -> tuple[LayerSites, ...]:
        found = [sites for sites in self._sites if sites is not None]
        if len(found) < len(self._sites):
            skipped = self._sites.index(None)
            raise LayersSkipped(f"{self._name} skips decoder layer {skipped} on the probe input.", _CURE)
        return tuple(found)

    def _start_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_tensor(args) if args else kwargs.get("hidden_states")
        if x is None:
            raise UnsupportedModel(f"{self._name}: {type(layer).__name__} takes no hidden states.", _CURE)
        self._trace = _Trace(x.clone())

    def _record(self, child: nn.Module, args: Any, output: Any) -> None:
        if self._trace is not None:
            self._trace.record(child, args, output)

    def _finish_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        y, trace = first_tensor(output), self._trace
        self._trace = None
        if y is None or trace is None or self._sites[index] is not None:
            raise UnsupportedModel(
                f"{self._name}: decoder layer {index} ({type(layer).__name__}) runs twice in one forward pass, or "
                "returns no hidden states.",
                _CURE,
            )
        found = trace.find_pairs(y) or trace.find_stream_readers(_Rerun(layer, args, kwargs))
        if len(found) != 1:
            raise UnsupportedModel(
                f"{self._name}: decoder layer {index} ({type(layer).__name__}) has {len(found)} possible pairs of edit "
                "points; steering needs exactly one.",
                _CURE,
            )
        self._sites[index] = found[0]


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
