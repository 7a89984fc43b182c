"""A cache of image features by image digest. Edits act after the vision tower, so all vectors share the features."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

from vlibrary.engine.request import EncodedPrompt
from vlibrary.models.causal_vlm import CausalVlm

Pixels = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Features:
    """The vision tower's output for one image, or for all images of one prompt.

    pooled: rows of the decoder's input. deep: features for the first decoder layers, one tensor per level (the
    deepstack of Qwen3-VL).
    """

    pooled: Tensor
    deep: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        return sum(one.nbytes for one in (self.pooled, *self.deep))


class ImageFeatures:
    """The vision tower of one model with an LRU cache of at most `max_bytes`.

    For models whose forward takes `mm_encoder_outputs`. Not thread-safe: used on the model's thread.
    """

    def __init__(self, model: CausalVlm, max_bytes: int) -> None:
        self._tower: Any = model.base_model.get_image_features
        self.argument_names = frozenset(inspect.signature(self._tower).parameters) - {"kwargs"}
        self._device, self._dtype = model.device, model.dtype
        self._cache: LRUCache[str, _Features] = LRUCache(max_bytes, getsizeof=lambda features: features.bytes)
        self._output_type: Any = None
        self._output_is_tensor = False
        self.hits = self.misses = 0

    @property
    def bytes(self) -> int:
        """The size of the cached features."""
        return int(self._cache.currsize)

    def encode(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """Return the keyword arguments that pass the prompts' images to the model's forward; none without images."""
        found = [features for prompt in prompts if prompt.images for features in self._encode_prompt(prompt)]
        if not found:
            return {}
        return {"mm_encoder_outputs": {"image": self._output(found)}}

    def _encode_prompt(self, prompt: EncodedPrompt) -> list[_Features]:
        """Return one entry per image, or one for all where the processor's output cannot be split by image."""
        pixels = {name: value for name, value in prompt.inputs.items() if name in self.argument_names}
        parts = _split_by_image(pixels, len(prompt.images))
        names = list(prompt.images) if parts else ["+".join(prompt.images)]
        missing = [place for place, name in enumerate(names) if name not in self._cache]
        self.hits += len(names) - len(missing)
        self.misses += len(missing)
        computed = self._run(pixels, parts, missing) if missing else []
        new = {names[place]: features for place, features in zip(missing, computed, strict=True)}
        found = [new.get(name) or self._cache[name] for name in names]
        self._cache.update({name: one for name, one in new.items() if one.bytes <= self._cache.maxsize})
        return found

    def _run(self, pixels: Pixels, parts: list[Pixels] | None, missing: Sequence[int]) -> list[_Features]:
        """Run the tower on the missing images, in one call if its output can be split by image."""
        if parts is None:
            return [self._whole(self._call(pixels))]
        if len(missing) == len(parts) > 1:
            output = self._call(pixels)
            pooled, levels = output.pooler_output, _levels(output)
            if len(pooled) == len(parts):
                # Copies, because a view would keep the features of all images in memory.
                single = [one.clone()[None] if self._output_is_tensor else one.clone() for one in pooled]
                deep = [tuple(level[place].clone() for level in levels) for place in range(len(parts))]
                return [_Features(*both) for both in zip(single, deep, strict=True)]
        return [self._whole(self._call(parts[place])) for place in missing]

    def _call(self, pixels: Pixels) -> Any:
        moved = {
            name: value.to(self._device, self._dtype if value.is_floating_point() else None)
            for name, value in pixels.items()
        }
        output = self._tower(**moved, return_dict=True)
        self._output_type, self._output_is_tensor = type(output), isinstance(output.pooler_output, Tensor)
        return output

    def _whole(self, output: Any) -> _Features:
        return _Features(_concatenate(output.pooler_output), tuple(_concatenate(level) for level in _levels(output)))

    def _output(self, found: Sequence[_Features]) -> Any:
        """Return the tower's output as if it had run on all these images at once."""
        pooled = [one.pooled for one in found]
        deep = [list(level) for level in zip(*(one.deep for one in found), strict=True)]
        more = {"deepstack_features": deep} if deep else {}
        return self._output_type(pooler_output=torch.cat(pooled) if self._output_is_tensor else pooled, **more)


def _concatenate(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else torch.cat(tuple(features))


def _levels(output: Any) -> Sequence[Any]:
    return getattr(output, "deepstack_features", None) or ()


def _split_by_image(pixels: Pixels, count: int) -> list[Pixels] | None:
    """Split the processor's output for one prompt by image; None where that is impossible."""
    if count == 1:
        return [pixels]
    if "image_grid_thw" in pixels:  # Qwen-VL: the patches of all images in one list
        grids = pixels["image_grid_thw"]
        patches = pixels["pixel_values"].split(grids.prod(dim=-1).tolist())
        return [{"pixel_values": patches[at], "image_grid_thw": grids[at : at + 1]} for at in range(count)]
    if all(len(value) == count for value in pixels.values()):
        return [{name: value[at : at + 1] for name, value in pixels.items()} for at in range(count)]
    if all(value.dim() > 1 and value.shape[:2] == (1, count) for value in pixels.values()):
        return [{name: value[:, at : at + 1] for name, value in pixels.items()} for at in range(count)]
    return None
