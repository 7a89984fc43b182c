"""The type of the vision-language models of transformers, with what this package uses of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel


class CausalVlm(PreTrainedModel):
    """A model that `AutoModelForImageTextToText` returns: a PreTrainedModel that is a GenerationMixin, too.

    For annotations only. The members are typed here because the annotations of transformers do not accept their usual
    calls. An update of transformers can change the private ones without notice.
    """

    base_model: Any
    get_output_embeddings: Callable[..., Any]
    get_decoder: Callable[..., Any]
    generate: Callable[..., Any]
    prepare_inputs_for_generation: Callable[..., Any]
    _prepare_position_ids_for_generation: Callable[..., Any]
    _update_model_kwargs_for_generation: Callable[..., dict[str, Any]]
    _supports_mm_encoder_outputs: Callable[[], bool]
