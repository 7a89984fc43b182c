"""Whether an engine of this release can apply a vector exactly as it was trained."""

from __future__ import annotations

from service.domain.errors import UnsupportedEdit, WrongModel
from service.domain.vector import Array, ModelSpec, NormRule, Positions, Site, SteeringVector

SITES = (Site.ATTENTION, Site.MLP)


def check_applicable(vector: SteeringVector, model: ModelSpec) -> None:
    """Raises WrongModel for another base model, UnsupportedEdit for what would not be applied exactly.

    Applied are shifts of the attention and MLP outputs at all positions, without a norm rule: M²IV's own form.
    """
    _check_model(vector, model)
    if not vector.edits:
        return
    for unsupported, what, cure in (
        (any(site not in SITES for site in vector.edits), "edits layer outputs", "attention and mlp sites"),
        (any(_has_gain(edit.gain) for edit in vector.edits.values()), "has a gain", "gain 1 (leave it out)"),
        (vector.positions != Positions.ALL, f"edits positions {vector.positions}", f"positions {Positions.ALL}"),
        (vector.norm != NormRule.NONE, f"has norm rule {vector.norm}", f"norm rule {NormRule.NONE}"),
    ):
        if unsupported:
            raise UnsupportedEdit(
                f"The vector {what}, which this engine does not apply yet.", f"Use a vector with {cure}."
            )


def _check_model(vector: SteeringVector, model: ModelSpec) -> None:
    if vector.model.fingerprint != model.fingerprint:
        raise WrongModel(
            f"The vector was trained for {vector.model.model_id!r} ({vector.model.fingerprint[:12]}); "
            f"this worker serves {model.model_id!r} ({model.fingerprint[:12]}).",
            "Train it on this base model, or ask a worker that serves the vector's.",
        )
    for edit in vector.edits.values():
        if edit.vectors.shape != (model.layers, model.hidden_size):
            raise WrongModel(
                f"The vector has shape {list(edit.vectors.shape)}.",
                f"For this base model it must be [{model.layers}, {model.hidden_size}].",
            )


def _has_gain(gain: Array | None) -> bool:
    return gain is not None and bool((gain != 1).any())
