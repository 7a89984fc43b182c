"""Whether an engine of this release can apply a vector exactly as it was trained."""

from __future__ import annotations

from vlibrary.domain.errors import UnsupportedEdit, WrongModel
from vlibrary.domain.vector import Array, ModelSpec, NormRule, Site, SteeringVector

SITES = (Site.ATTENTION, Site.MLP)


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
