"""A steering vector: a frozen value with an algebra.

It holds what is added to a decoder's residual stream. At a site of layer l the branch output x becomes

    x' = gain[l] · x + scale[l] · vectors[l]

M²IV (COLM 2025) uses the attention and the MLP site of every layer, gain 1 and all positions:
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
    """Which token positions an edit touches: every one, or only the last of the prompt."""

    ALL = "all"
    LAST = "last"


class NormRule(StrEnum):
    """Whether the edited activation is rescaled to the norm that it had before."""

    NONE = "none"
    PRESERVE = "preserve"


@dataclass(frozen=True)
class ModelSpec:
    """Which base model a vector belongs to.

    fingerprint: hash of the architecture and of samples of the weights, so that a fine-tuned sibling differs.
    layers: number of decoder layers L; hidden_size: width d of the residual stream.
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
        object.__setattr__(self, "vectors", _frozen(self.vectors))
        object.__setattr__(self, "scale", _frozen(self.scale))
        if self.gain is not None:
            object.__setattr__(self, "gain", _frozen(self.gain))

    @property
    def delta(self) -> Array:
        """What is added to the branch output, scale[l] · vectors[l], shape [L, d]."""
        return self.scale[:, None] * self.vectors

    @property
    def is_neutral(self) -> bool:
        """Whether it leaves every activation as it is."""
        return not self.delta.any() and bool((self._gain_or_one() == 1).all())

    def scaled(self, strength: float) -> Edit:
        """The edit taken `strength` times: 0 leaves the model alone, 1 is the edit itself."""
        gain = None if self.gain is None else _frozen(strength * self.gain + (1 - strength))
        return Edit(self.vectors, _frozen(strength * self.scale), gain)

    def plus(self, other: Edit) -> Edit:
        """Both edits side by side: shifts add up, and so do the gains' distances from 1."""
        gains = [edit.gain.astype(np.float64) for edit in (self, other) if edit.gain is not None]
        gain = _frozen(sum(gains) - (len(gains) - 1)) if gains else None
        return Edit(_frozen(self.delta + other.delta), np.ones_like(self.scale), gain)

    def _gain_or_one(self) -> Array:
        return np.ones_like(self.scale) if self.gain is None else self.gain

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Edit):
            return NotImplemented
        return np.array_equal(self.delta, other.delta) and np.array_equal(self._gain_or_one(), other._gain_or_one())

    __hash__ = None  # type: ignore[assignment]  # equality is by effect, which has no cheap hash


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """One task's edit of one base model; equality is by what the model would do, not by how it was made.

    training: how it was made (shots, data digest, seed, losses ...), JSON values only.
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
        """The edit that changes nothing: the neutral element of +."""
        return cls(model=model, edits={}, method="zero")

    def __mul__(self, strength: float) -> SteeringVector:
        edits = {site: edit.scaled(strength) for site, edit in self.edits.items()}
        return replace(self, edits=edits)

    __rmul__ = __mul__

    def __add__(self, other: SteeringVector) -> SteeringVector:
        """Both vectors at once.

        Raises WrongModel when they belong to different models, UnsupportedEdit when positions or norm rules differ.
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
                "Combine only vectors that were trained on the same base model.",
            )
        both = bool(self.edits) and bool(other.edits)
        if both and (self.positions, self.norm) != (other.positions, other.norm):
            raise UnsupportedEdit(
                "The two vectors touch different positions or follow different norm rules.",
                "Combine only vectors with the same positions and norm rule.",
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        mine, theirs = self._effective(), other._effective()
        frames_agree = not mine or (self.positions, self.norm) == (other.positions, other.norm)
        return self.model.fingerprint == other.model.fingerprint and mine == theirs and frames_agree

    def _effective(self) -> dict[Site, Edit]:
        """The edits that change anything."""
        return {site: edit for site, edit in self.edits.items() if not edit.is_neutral}

    __hash__ = None  # type: ignore[assignment]  # see Edit


def check_applicable(vector: SteeringVector, model: ModelSpec, *, takes_gain: bool = True) -> None:
    """Raises WrongModel for another base model, UnsupportedEdit for what would not be applied exactly.

    Applied are shifts and gains of the attention and MLP outputs and shifts of the layer output, at all positions or at
    the last one of the prompt, without a norm rule. takes_gain: False for a model whose branches can only be added to.
    """
    _check_model(vector, model)
    gains = {site: _has_gain(edit.gain) for site, edit in vector.edits.items()}
    for unsupported, what, cure in (
        (gains.get(Site.LAYER, False), "multiplies layer outputs by a gain", "gains at the attention and mlp sites"),
        (
            any(gains.values()) and not takes_gain,
            f"has a gain, which {model.architecture} cannot take",
            "gain 1",
        ),
        (bool(vector.edits) and vector.norm != NormRule.NONE, f"has norm rule {vector.norm}", "norm rule none"),
    ):
        if unsupported:
            raise UnsupportedEdit(f"The vector {what}.", f"This engine does not apply that; use a vector with {cure}.")


def _check_model(vector: SteeringVector, model: ModelSpec) -> None:
    if vector.model.fingerprint != model.fingerprint:
        raise WrongModel(
            f"The vector was trained for {vector.model.model_id!r} ({vector.model.fingerprint[:12]}); "
            f"this worker serves {model.model_id!r} ({model.fingerprint[:12]}).",
            "Train it on this base model, or ask a worker that serves the vector's.",
        )
    for edit in vector.edits.values():
        per_layer = [one.shape for one in (edit.scale, edit.gain) if one is not None]
        if edit.vectors.shape != (model.layers, model.hidden_size) or any(one != (model.layers,) for one in per_layer):
            raise WrongModel(
                f"The vector has shape {list(edit.vectors.shape)}, and scale or gain {list(map(list, per_layer))}.",
                f"For this base model it must be [{model.layers}, {model.hidden_size}] and [{model.layers}].",
            )


def _has_gain(gain: Array | None) -> bool:
    return gain is not None and bool((gain != 1).any())
