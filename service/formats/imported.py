"""Vectors of other programs as steering vectors. Site and layers are never guessed.

A direction is added to the output of a site: the imported edit is x' = x + scale · direction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlibrary.domain.errors import InvalidArtifact, InvalidInput
from vlibrary.domain.vector import Array, Edit, ModelSpec, Site, SteeringVector
from vlibrary.formats import gguf
from vlibrary.formats.foreign import IMPORT, recognise
from vlibrary.formats.gguf import InvalidGguf
from vlibrary.formats.plain_tensors import InvalidTensors, read_tensors

METHOD = "imported"
_READABLE = "Readable are a [d] or [layers, d] array in .npy, .npz or safetensors, and GGUF control vectors."


@dataclass(frozen=True)
class Placement:
    """Where an imported vector acts.

    site: None only for a GGUF control vector, which acts on layer outputs. layers: the decoder layers of the array's
    rows, counted from 0; None for all layers in order. first_layer: the number that a GGUF file gives the first decoder
    layer, 0 or 1. tensor: the array's name, if the file has several. scale: factor of the directions.
    """

    site: Site | None = None
    layers: str | None = None
    first_layer: int | None = None
    tensor: str | None = None
    scale: float = 1.0


def read_foreign_vector(data: bytes, model: ModelSpec, placement: Placement) -> SteeringVector:
    """Return the vector in a foreign file. Raises InvalidArtifact for the file, InvalidInput for the placement."""
    if data.startswith(gguf.MAGIC):
        directions, site = _from_gguf(data, model, placement), Site.LAYER
    else:
        directions, site = _from_array(data, model, placement), _given_site(placement)
    vectors = np.zeros((model.layers, model.hidden_size), np.float32)
    scale = np.zeros(model.layers, np.float32)
    for layer, direction in directions.items():
        vectors[layer], scale[layer] = direction, placement.scale
    _check(vectors, scale)
    source = {"sha256": hashlib.sha256(data).hexdigest(), "layers": sorted(directions), "scale": placement.scale}
    return SteeringVector(model, {site: Edit(vectors, scale)}, METHOD, training={"imported": source})


def _from_gguf(data: bytes, model: ModelSpec, placement: Placement) -> dict[int, Array]:
    """Return the directions by decoder layer."""
    if placement.site not in (None, Site.LAYER) or placement.layers is not None or placement.tensor is not None:
        raise InvalidInput(
            "A GGUF control vector says itself which layers it edits, at the site layer.",
            "Omit --site, --layers and --tensor.",
        )
    try:
        found = gguf.read_control_vector(data)
    except InvalidGguf as error:
        raise InvalidArtifact(f"The file is no readable GGUF control vector: {error}.", _READABLE) from error
    numbers = sorted(found)
    if placement.first_layer is None:
        named = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 3 else ", ".join(map(str, numbers)) or "none"
        raise InvalidInput(
            f"The file has directions for the layers {named}, and does not say how it counts them.",
            "Give --first-layer, the number of the first decoder layer in the file: 0 if repeng or saklas wrote it, or "
            "to apply it where llama.cpp does; 1 if llama-cvector-generator wrote it. See docs/guides/import.md.",
        )
    layers = [number - placement.first_layer for number in numbers]
    _check_layers(layers, model)
    for number, direction in found.items():
        _check_width(direction.shape, model, f"direction.{number}")
    return {layer: found[number] for layer, number in zip(layers, numbers, strict=True)}


def _from_array(data: bytes, model: ModelSpec, placement: Placement) -> dict[int, Array]:
    """Return the rows of the array by decoder layer."""
    if placement.first_layer is not None:
        raise InvalidInput("--first-layer is for GGUF files.", "Use --layers, counted from 0.")
    if not data:
        raise InvalidArtifact("The file is empty.", _READABLE)
    foreign = recognise(data)
    if foreign is not None and foreign.cure != IMPORT:
        raise InvalidArtifact(f"The file is {foreign.what}.", foreign.cure)
    try:
        name, array = _choose(read_tensors(data), placement.tensor)
    except InvalidTensors as error:
        raise InvalidArtifact(f"The file cannot be read: {error}.", _READABLE) from error
    rows = array.reshape(1, -1) if array.ndim == 1 else array
    if rows.ndim != 2:
        raise InvalidArtifact(f"{name} has shape {list(array.shape)}.", "Use an array of shape [d] or [layers, d].")
    _check_width(rows.shape, model, name)
    layers = range(model.layers) if placement.layers is None else parse_layers(placement.layers)
    _check_layers(layers, model)
    if len(rows) != len(layers) and (len(rows) != 1 or placement.layers is None):
        cure = "Give the decoder layer of each row with --layers, such as 3 or 10-14, counted from 0."
        if len(rows) == model.layers + 1:
            cure += " Hidden states have one more row, of the embeddings: remove it."
        raise InvalidInput(f"{name} has {len(rows)} row{'s' * (len(rows) != 1)}, for {len(layers)} layers.", cure)
    return {layer: rows[number if len(rows) > 1 else 0] for number, layer in enumerate(layers)}


def _choose(arrays: Mapping[str, Array | None], name: str | None) -> tuple[str, Array]:
    """Return the array of this name, or the only one, with a name for messages."""
    if name is None and len(arrays) == 1:
        name = next(iter(arrays))
    if name is None or name not in arrays:
        floats = [(one, array) for one, array in arrays.items() if array is not None]
        known = ", ".join(f"{one!r} {list(array.shape)}" for one, array in floats[:8]) or "none"
        problem = f"has no array {name!r:.80}" if name is not None else f"has {len(arrays)} arrays"
        raise InvalidInput(f"The file {problem}.", f"Choose one with --tensor: {known}.")
    shown, array = repr(name) if name else "The array", arrays[name]
    if array is None:
        raise InvalidArtifact(
            f"{shown} does not contain floating-point numbers.",
            "Use an array of 16, 32 or 64-bit floating-point numbers.",
        )
    return shown, array


def parse_layers(text: str) -> list[int]:
    """Return the layers of a text such as 3, 10-14 or 2,5,8-9. Raises InvalidInput."""
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", part)
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise InvalidInput(f"Invalid layers {text!r:.80}.", "Use numbers and ranges, such as 3, 10-14 or 2,5,8-9.")
        layers.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    return layers


def _given_site(placement: Placement) -> Site:
    if placement.site is None:
        raise InvalidInput(
            "The file does not say where its directions are added.",
            "Give --site: attention (the output of the attention), mlp (the output of the MLP) or layer (the output of "
            "the whole decoder layer).",
        )
    return placement.site


def _check_layers(layers: Sequence[int], model: ModelSpec) -> None:
    outside = [layer for layer in layers if not 0 <= layer < model.layers]
    if outside:
        raise InvalidInput(
            f"Layer {outside[0]} is outside the {model.layers} decoder layers of {model.model_id}.",
            f"Use layers from 0 to {model.layers - 1}; in a GGUF file, check --first-layer.",
        )
    if not layers or len(set(layers)) < len(layers):
        raise InvalidInput("The layers are empty or contain one twice.", "Name each layer once.")


def _check_width(shape: Sequence[int], model: ModelSpec, name: str) -> None:
    if shape[-1] != model.hidden_size:
        hint = " Transpose it." if shape[0] == model.hidden_size else ""
        raise InvalidArtifact(
            f"{name} has width {shape[-1]}; {model.model_id} has hidden size {model.hidden_size}.",
            f"Use a vector made for this model, or choose the model with --model.{hint}",
        )


def _check(vectors: Array, scale: Array) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        shift = scale[:, None] * vectors
    if not np.isfinite(shift).all():
        raise InvalidArtifact("The directions contain NaN, infinity or too large numbers.", "Make the vector again.")
    if not shift.any():
        raise InvalidArtifact("The directions are zero, so that the vector would change nothing.", "Make it again.")
