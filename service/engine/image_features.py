"""Image features, kept by the picture's digest: the vision tower comes before every edit, so all vectors share them."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlibrary.engine.request import EncodedPrompt

Pixels = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Features:
    """What the tower made of one picture (or of all pictures of one prompt): rows of the decoder's input.

    deep: further features for the first decoder layers (Qwen3-VL's deepstack), one tensor a level.
    """

    pooled: Tensor
    deep: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        return sum(one.nbytes for one in (self.pooled, *self.deep))


class ImageFeatures:
    """The vision tower of one model with a memory of `max_bytes`, least recently used pictures forgotten first.

    Only for models whose forward takes `mm_encoder_outputs`. Not thread-safe: used on the model's thread.
    """

    def __init__(self, model: Any, max_bytes: int) -> None:
        self._encode: Any = model.base_model.get_image_features
        self.argument_names = frozenset(inspect.signature(self._encode).parameters) - {"kwargs"}
        self._device, self._dtype = model.device, model.dtype
        self._max_bytes = max_bytes
        self._known: OrderedDict[str, _Features] = OrderedDict()
        self._output_type: Any = None
        self._output_is_tensor = False
        self.hits = self.misses = self.bytes = 0

    def of(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """The keyword arguments that hand the prompts' pictures to the model's forward, none for texts alone."""
        found = [features for prompt in prompts if prompt.images for features in self._of_one(prompt)]
        if not found:
            return {}
        return {"mm_encoder_outputs": {"image": self._output(found)}}

    def _of_one(self, prompt: EncodedPrompt) -> list[_Features]:
        """One entry a picture, or one for all where the processor's output cannot be told apart by picture."""
        pixels = {name: value for name, value in prompt.inputs.items() if name in self.argument_names}
        parts = _by_picture(pixels, len(prompt.images))
        names = list(prompt.images) if parts else ["+".join(prompt.images)]
        missing = [place for place, name in enumerate(names) if name not in self._known]
        self.hits += len(names) - len(missing)
        self.misses += len(missing)
        made = self._run(pixels, parts, missing) if missing else []
        fresh = {names[place]: features for place, features in zip(missing, made, strict=True)}
        found = [fresh.get(name) or self._recall(name) for name in names]
        for name, features in fresh.items():
            self._remember(name, features)
        return found

    def _run(self, pixels: Pixels, parts: list[Pixels] | None, missing: Sequence[int]) -> list[_Features]:
        """The tower on the missing pictures, all in one call where its output can be told apart again."""
        if parts is None:
            return [self._whole(self._call(pixels))]
        if len(missing) == len(parts) > 1:
            output = self._call(pixels)
            if len(output.pooler_output) == len(parts):
                return [self._part(output, place) for place in range(len(parts))]
        return [self._whole(self._call(parts[place])) for place in missing]

    def _call(self, pixels: Pixels) -> Any:
        moved = {
            name: value.to(self._device, self._dtype if value.is_floating_point() else None)
            for name, value in pixels.items()
        }
        output = self._encode(**moved, return_dict=True)
        self._output_type, self._output_is_tensor = type(output), isinstance(output.pooler_output, Tensor)
        return output

    def _whole(self, output: Any) -> _Features:
        return _Features(_joined(output.pooler_output), tuple(_joined(level) for level in _levels(output)))

    def _part(self, output: Any, place: int) -> _Features:
        """One picture's share, copied: a view would keep all the others alive with it."""
        pooled = output.pooler_output[place].clone()
        deep = tuple(level[place].clone() for level in _levels(output))
        return _Features(pooled[None] if self._output_is_tensor else pooled, deep)

    def _output(self, found: Sequence[_Features]) -> Any:
        """The tower's output as if it had seen all these pictures at once."""
        pooled = [one.pooled for one in found]
        deep = [list(level) for level in zip(*(one.deep for one in found), strict=True)]
        more = {"deepstack_features": deep} if deep else {}
        return self._output_type(pooler_output=torch.cat(pooled) if self._output_is_tensor else pooled, **more)

    def _recall(self, name: str) -> _Features:
        self._known.move_to_end(name)
        return self._known[name]

    def _remember(self, name: str, features: _Features) -> None:
        self._known[name] = features
        self.bytes += features.bytes
        while self.bytes > self._max_bytes and self._known:
            _, forgotten = self._known.popitem(last=False)
            self.bytes -= forgotten.bytes


def _joined(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else torch.cat(tuple(features))


def _levels(output: Any) -> Sequence[Any]:
    return getattr(output, "deepstack_features", None) or ()


def _by_picture(pixels: Pixels, count: int) -> list[Pixels] | None:
    """The processor's output for one prompt, cut into its pictures; None where it cannot be told apart."""
    if count == 1:
        return [pixels]
    if "image_grid_thw" in pixels:  # Qwen-VL: patches of all pictures in one list
        grids = pixels["image_grid_thw"]
        patches = pixels["pixel_values"].split(grids.prod(dim=-1).tolist())
        return [{"pixel_values": patches[at], "image_grid_thw": grids[at : at + 1]} for at in range(count)]
    if all(len(value) == count for value in pixels.values()):
        return [{name: value[at : at + 1] for name, value in pixels.items()} for at in range(count)]
    if all(value.dim() > 1 and value.shape[:2] == (1, count) for value in pixels.values()):
        return [{name: value[:, at : at + 1] for name, value in pixels.items()} for at in range(count)]
    return None
