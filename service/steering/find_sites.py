"""Where attention and MLP join the residual stream of a decoder, found by looking at what it computes.

A steering vector is added to a_l and m_l of y = x + a_l + m_l (method M²IV), where x and y are the stream before and
after decoder layer l, and a_l and m_l are what its two branches add to it. What a model adds between two layers (the
gated cross-attention blocks of Idefics, the visual features of Qwen3-VL) belongs to neither and is left as it is.

A rule by names is silently wrong on many families (Gemma's and OLMo2's post-norms, Granite's residual multiplier,
GLM-4). Here one probe forward shows every layer at work, and two answers are acceptable:
- the unique pair of direct children whose outputs add up to what the layer adds;
- where a branch is scaled before it is added (gates, multipliers), the unique child that reads the stream between the
  branches, proved by trial edits; a_l then is edited there, and m_l at the layer's output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.steering.injector import BranchOutput, LayerOutput, LayerSites, NormInput, first_tensor

RELATIVE_TOLERANCE = 1e-4
_CURE = (
    "Steering is exact only where each decoder layer computes y = x + attention + MLP; "
    "use such a model (Llama, Mistral, Qwen2/3, Gemma 1–3, Idefics 1–3, LLaVA, InternVL, Mllama ...)."
)


class LayersSkipped(UnsupportedModel):
    """The probe did not run every decoder layer; some models skip layers when the prompt has no image."""


def find_decoder(model: PreTrainedModel) -> nn.Module:
    """Return the text decoder, the module with a list `layers`. Raises UnsupportedModel when there is none."""
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

    Raises UnsupportedModel when they cannot be found or are not as many as the configuration says.
    """
    expected = model.config.get_text_config(decoder=True).num_hidden_layers
    layers: Any = find_decoder(model).layers
    if len(layers) != expected:
        raise UnsupportedModel(
            f"{_name(model)} has {len(layers)} decoder layers; its configuration says {expected}.", _CURE
        )
    return cast("nn.ModuleList", layers)


def find_sites(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[LayerSites, ...]:
    """The sites of every decoder layer, by one probe forward.

    inputs: what the model's processor makes of a short text, at least two rows, with a picture where one is needed.
    Raises UnsupportedModel when a layer has no unique answer or runs twice, and LayersSkipped (which is one, too) when
    the model did not run them all: it may do so for other inputs.
    """
    layers = decoder_layers(model)
    probe = _Probe(_name(model), [None] * len(layers))
    try:
        with torch.no_grad(), probe.watching(layers):
            model(**inputs, use_cache=False)
    except (TypeError, ValueError) as error:
        raise LayersSkipped(f"{_name(model)} cannot read what it was shown: {error}.", _CURE) from error
    return probe.result()


@dataclass
class _Trace:
    """One layer's run: its input x [B, T, d] and, in the order they finished, its direct children.

    calls: each child and its output. readers: the children that read hidden states other than x.
    """

    x: Tensor
    calls: list[tuple[nn.Module, Tensor]] = field(default_factory=list)
    readers: list[nn.Module] = field(default_factory=list)

    def note(self, child: nn.Module, args: Any, output: Any) -> None:
        tensor, read = first_tensor(output), first_tensor(args)
        if tensor is not None:
            self.calls.append((child, tensor.clone()))
        if read is not None and read.shape == self.x.shape and not torch.equal(read, self.x):
            self.readers.append(child)

    def pairs(self, y: Tensor) -> list[LayerSites]:
        """All pairs of children that run once and whose outputs explain y, the layer's output.

        A block that several layers share is noted once for each of them, and so never runs once.
        """
        runs = Counter(id(module) for module, _ in self.calls)
        return [
            LayerSites(BranchOutput(first), BranchOutput(second))
            for (first, a), (second, m) in combinations(self._candidates(), 2)
            if runs[id(first)] == runs[id(second)] == 1 and _adds_up(y, (self.x, a, m))
        ]

    def streams(self, rerun: _Rerun) -> list[LayerSites]:
        """One answer for each child that runs once and reads the stream between the branches."""
        runs = Counter(id(module) for module in self.readers)
        return [
            LayerSites(NormInput(child), LayerOutput(rerun.layer))
            for child in self.readers
            if runs[id(child)] == 1 and rerun.reads_the_stream(child, like=self.x)
        ]

    def _candidates(self) -> list[tuple[nn.Module, Tensor]]:
        """Children that may be added to the stream; a copy of an earlier one (dropout at rest) is left out."""
        found: list[tuple[nn.Module, Tensor]] = []
        for module, output in self.calls:
            if output.shape == self.x.shape and not any(torch.equal(output, seen) for _, seen in found):
                found.append((module, output))
        return found


@dataclass(frozen=True)
class _Rerun:
    """A layer and the arguments it got, to try edits on it alone."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def reads_the_stream(self, child: nn.Module, like: Tensor) -> bool:
        """Whether what this child reads is the stream itself, which flows on to the layer's output unscaled.

        Two runs in which the child reads the same r + v: once r itself is edited, once the child alone is told so. The
        branch behind the child answers the same in both, so their difference is what the stream carried on: v.
        """
        v = like.std() * torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
        read: list[Tensor] = []

        def told(_child: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            read.append(args[0])
            return (args[0] + v, *args[1:])

        unedited = self._output(child.register_forward_pre_hook(told))
        edited = self._output(NormInput(child).install(lambda r: r + v))
        if edited is None or unedited is None:
            return False
        return _adds_up(edited, (unedited, v), rounded=read)

    def _output(self, hook: Any) -> Tensor | None:
        try:
            return first_tensor(self.layer.forward(*self.args, **self.kwargs))
        finally:
            hook.remove()


def _adds_up(total: Tensor, parts: Sequence[Tensor], rounded: Sequence[Tensor] = ()) -> bool:
    """Whether the total is the parts' sum, up to RELATIVE_TOLERANCE of what is added to the first of them.

    A number format has a rounding of its own: that of the parts, and of what else was rounded on the way, is allowed.
    """
    rounding = (
        2 * torch.finfo(total.dtype).eps * torch.stack([part.float().abs() for part in (*parts, *rounded)]).sum(0)
    )
    start, *added = (part.float() for part in parts)
    allowed = RELATIVE_TOLERANCE * (total.float() - start).abs().mean() + rounding
    return bool(((total.float() - start - sum(added)).abs() <= allowed).all())


class _Probe:
    """Watches one forward pass and judges each layer as it ends, so that only one layer's tensors are kept."""

    def __init__(self, name: str, sites: list[LayerSites | None]) -> None:
        self._name = name
        self._sites = sites
        self._trace: _Trace | None = None

    @contextmanager
    def watching(self, layers: nn.ModuleList) -> Iterator[None]:
        with ExitStack() as hooks:
            for index, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(self._leave(index), with_kwargs=True).remove)
                for child in layer.children():
                    hooks.callback(child.register_forward_hook(self._note).remove)
            yield

    def result(self) -> tuple[LayerSites, ...]:
        found = [sites for sites in self._sites if sites is not None]
        if len(found) < len(self._sites):
            skipped = self._sites.index(None)
            raise LayersSkipped(f"{self._name} skips decoder layer {skipped} on what it was shown.", _CURE)
        return tuple(found)

    def _enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_tensor(args) if args else kwargs.get("hidden_states")
        if x is None:
            raise UnsupportedModel(f"{self._name}: {type(layer).__name__} takes no hidden states.", _CURE)
        self._trace = _Trace(x.clone())

    def _note(self, child: nn.Module, args: Any, output: Any) -> None:
        if self._trace is not None:
            self._trace.note(child, args, output)

    def _leave(self, index: int) -> Any:
        def judge(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            y, trace = first_tensor(output), self._trace
            self._trace = None
            if y is None or trace is None or self._sites[index] is not None:
                raise UnsupportedModel(
                    f"{self._name}: decoder layer {index} ({type(layer).__name__}) runs twice in one forward pass, or "
                    "returns no hidden states.",
                    _CURE,
                )
            answers = trace.pairs(y) or trace.streams(_Rerun(layer, args, kwargs))
            if len(answers) != 1:
                raise UnsupportedModel(
                    f"{self._name}: in decoder layer {index} ({type(layer).__name__}) {len(answers)} pairs of points "
                    "give what the layer adds; exactly one must.",
                    _CURE,
                )
            self._sites[index] = answers[0]

        return judge


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
