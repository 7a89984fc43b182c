"""Steering vectors: frozen values that can be scaled and added.

A vector edits a decoder's residual stream. At a site of layer l the branch output x becomes

    x' = gain[l] · x + scale[l] · vectors[l]

M²IV (COLM 2025) edits the attention and MLP sites of every layer at all positions, with gain 1:
h_l = h_{l-1} + (a_l + α_l^a v_l^a) + (m_l + α_l^m v_l^m).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from vlibrary.domain.errors import UnsupportedEdit, WrongModel

Array = npt.NDArray[np.float32]


class Site(StrEnum):
    """Where an edit joins the residual stream of a decoder layer."""

    ATTENTION = "attention"
    MLP = "mlp"
    LAYER = "layer"


# The sites that the engine edits; a shift of the layer output is the same as one of the MLP output.
SITES = (Site.ATTENTION, Site.MLP)


class Positions(StrEnum):
    """Which token positions an edit applies to: all, or only the last one of the prompt."""

    ALL = "all"
    LAST = "last"


class NormRule(StrEnum):
    """Whether an edited activation is rescaled to its norm before the edit."""

    NONE = "none"
    PRESERVE = "preserve"


@dataclass(frozen=True)
class ModelSpec:
    """Identity and shape of a base model.

    model_id: the name for people. fingerprint: digest of the architecture and of sampled weights, which decides whether
    a vector belongs to the model; fine-tuning changes it. layers: number of decoder layers L. hidden_size: width d of
    the residual stream.
    """

    model_id: str
    fingerprint: str
    architecture: str
    layers: int
    hidden_size: int


def _frozen(array: npt.ArrayLike) -> Array:
    copy = np.array(array, dtype=np.float32)
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True, eq=False)
class Edit:
    """The edit at one site of all layers: vectors [L, d], scale [L], gain [L] (all float32)."""

    vectors: Array
    scale: Array
    gain: Array | None = None

    def __post_init__(self) -> None:
        for name in ("vectors", "scale", "gain"):
            if (array := getattr(self, name)) is not None:
                object.__setattr__(self, name, _frozen(array))

    @property
    def shift(self) -> Array:
        """The shift of the branch output, scale[l] · vectors[l]; shape [L, d]."""
        return self.scale[:, None] * self.vectors

    @property
    def is_neutral(self) -> bool:
        """Whether the edit changes no activation."""
        return not self.shift.any() and bool((self._gain_or_one() == 1).all())

    def scale_by(self, strength: float) -> Edit:
        """Return the edit at a strength: 0 has no effect, 1 is the edit itself."""
        gain = None if self.gain is None else _frozen(strength * self.gain + (1 - strength))
        return Edit(self.vectors, _frozen(strength * self.scale), gain)

    def plus(self, other: Edit) -> Edit:
        """Return the sum of both edits: shifts add up, and so do the gains' distances from 1."""
        gains = [edit.gain.astype(np.float64) for edit in (self, other) if edit.gain is not None]
        gain = _frozen(sum(gains) - (len(gains) - 1)) if gains else None
        return Edit(_frozen(self.shift + other.shift), np.ones_like(self.scale), gain)

    def _gain_or_one(self) -> Array:
        return np.ones_like(self.scale) if self.gain is None else self.gain

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Edit):
            return NotImplemented
        return np.array_equal(self.shift, other.shift) and np.array_equal(self._gain_or_one(), other._gain_or_one())


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """The edits of one base model for one task. Vectors are equal if they have the same effect.

    training: how it was trained (shots, data digest, seed, losses ...); JSON values only.
    """

    model: ModelSpec
    edits: Mapping[Site, Edit]
    method: str
    positions: Positions = Positions.ALL
    norm: NormRule = NormRule.NONE
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", MappingProxyType(dict(self.edits)))
        object.__setattr__(self, "training", MappingProxyType(dict(self.training)))

    @classmethod
    def zero(cls, model: ModelSpec) -> SteeringVector:
        """Return the vector without effect, the neutral element of +."""
        return cls(model=model, edits={}, method="zero")

    def __mul__(self, strength: float) -> SteeringVector:
        edits = {site: edit.scale_by(strength) for site, edit in self.edits.items()}
        return replace(self, edits=edits)

    __rmul__ = __mul__

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """Return the sum of both vectors.

        Raises WrongModel for vectors of different models, UnsupportedEdit for different positions or norm rules.
        """
        self._require_same_frame(other)
        edits = dict(self.edits)
        for site, edit in other.edits.items():
            edits[site] = edits[site].plus(edit) if site in edits else edit
        shape = other if not self.edits else self
        return replace(shape, model=self.model, edits=edits, method="sum", training={})

    def _require_same_frame(self, other: SteeringVector) -> None:
        if self.model.fingerprint != other.model.fingerprint:
            raise WrongModel(
                f"A vector for {self.model.model_id} cannot be added to one for {other.model.model_id}.",
                "Combine only vectors of the same base model.",
            )
        both = bool(self.edits) and bool(other.edits)
        if both and (self.positions, self.norm) != (other.positions, other.norm):
            raise UnsupportedEdit(
                "The vectors have different positions or norm rules.",
                "Combine only vectors with the same positions and norm rule.",
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        mine, theirs = self._effective(), other._effective()
        frames_agree = not mine or (self.positions, self.norm) == (other.positions, other.norm)
        return self.model.fingerprint == other.model.fingerprint and mine == theirs and frames_agree

    def _effective(self) -> dict[Site, Edit]:
        """Return the edits that have an effect."""
        return {site: edit for site, edit in self.edits.items() if not edit.is_neutral}


def check_applicable(vector: SteeringVector, model: ModelSpec, *, takes_gain: bool = True) -> None:
    """Raise WrongModel for a vector of another base model, UnsupportedEdit for one that cannot be applied exactly.

    The engine applies shifts and gains of attention and MLP outputs and shifts of layer outputs, at all positions or
    the last one of the prompt, without a norm rule. takes_gain: False if its branches cannot be scaled.
    """
    _check_model(vector, model)
    gains = {site: edit.gain is not None and bool((edit.gain != 1).any()) for site, edit in vector.edits.items()}
    for unsupported, what, cure in (
        (gains.get(Site.LAYER, False), "multiplies layer outputs by a gain", "gains at the attention and mlp sites"),
        (any(gains.values()) and not takes_gain, f"has a gain, which {model.architecture} cannot take", "gain 1"),
        (bool(vector.edits) and vector.norm != NormRule.NONE, f"has norm rule {vector.norm}", "norm rule none"),
    ):
        if unsupported:
            raise UnsupportedEdit(f"The vector {what}.", f"Use a vector with {cure}.")


def _check_model(vector: SteeringVector, model: ModelSpec) -> None:
    if vector.model.fingerprint != model.fingerprint:
        raise WrongModel(
            f"The vector was trained for {vector.model.model_id!r} ({vector.model.fingerprint[:12]}); "
            f"this worker serves {model.model_id!r} ({model.fingerprint[:12]}).",
            "Train the vector on this base model, or use a worker that serves the vector's model.",
        )
    for edit in vector.edits.values():
        per_layer = [one.shape for one in (edit.scale, edit.gain) if one is not None]
        if edit.vectors.shape != (model.layers, model.hidden_size) or any(one != (model.layers,) for one in per_layer):
            raise WrongModel(
                f"The vector has shape {list(edit.vectors.shape)}, and scale or gain {list(map(list, per_layer))}.",
                f"Use shapes [{model.layers}, {model.hidden_size}] and [{model.layers}] for this base model.",
            )
