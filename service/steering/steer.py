"""Steering a Hugging Face model in place, without an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.domain.vector import SteeringVector
from vlibrary.steering.find_sites import LayersSkipped, find_decoder, find_sites
from vlibrary.steering.fingerprint import model_spec
from vlibrary.steering.injector import Injector, LayerSites, all_take_gain
from vlibrary.steering.slot_table import SlotTable

# The sites of the models inside a `steer` block: a nested block must not probe a model that is already edited.
_steered: WeakKeyDictionary[nn.Module, Sequence[LayerSites]] = WeakKeyDictionary()


@contextmanager
def steer(
    model: PreTrainedModel, vector: SteeringVector, strength: float = 1.0, *, probe: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Apply a vector to every forward pass of a Hugging Face model inside the block.

    Example::

        with steer(model, vector, strength=0.8):
            tokens = model.generate(**processor(text=prompt, images=image, return_tensors="pt"))

    Args:
        model: A vision-language model in eval mode, not compiled. Batches, beams and samples are all steered.
        vector: A vector trained on this model. If it acts on the last prompt position only, pad prompts on the left and
            keep `use_cache=True`, the default of `generate`.
        strength: The factor on the vector; 1 is the vector as trained, and 0 changes no bit of the output.
        probe: Inputs on which the model runs all its decoder layers: the processor's output for a text with an
            image, at least two rows. Only models that skip layers without an image (Mllama, Idefics 1) need it.

    The model is restored when the block ends, also after an exception. Blocks on one model can be nested; their
    edits are applied one after the other. Not thread-safe: one thread at a time may use the model.

    Raises:
        WrongModel: The vector belongs to another base model.
        UnsupportedModel: The edit points of the model cannot be found.
        UnsupportedEdit: The vector cannot be applied to this model exactly.
    """
    sites = _steered.get(model) or _probe_sites(model, probe)
    spec = model_spec(model, vector.model.model_id)
    table = SlotTable(spec, 1, model.device, model.dtype, takes_gain=all_take_gain(sites))
    slot = table.load(vector * strength)
    with ExitStack() as stack:
        if model not in _steered:
            _steered[model] = sites
            stack.callback(_steered.pop, model)
        injector = Injector(sites)
        stack.callback(injector.close)

        def select_edits(_decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            candidates = (*args, kwargs.get("inputs_embeds"), kwargs.get("input_ids"))
            rows, length = next(value for value in candidates if isinstance(value, Tensor)).shape[:2]
            cache = kwargs.get("past_key_values")
            decoding = cache is not None and cache.get_seq_length() > 0
            slots = [slot] * rows
            injector.replace(table.decode_edits(slots) if decoding else table.prefill_edits(slots, length))

        stack.callback(find_decoder(model).register_forward_pre_hook(select_edits, with_kwargs=True).remove)
        yield


def _probe_sites(model: PreTrainedModel, probe: Mapping[str, Tensor] | None) -> tuple[LayerSites, ...]:
    """Find the sites with `probe`, or with 16 ordinary tokens."""
    if probe is not None:
        return find_sites(model, probe)
    special = [value for name, value in model.config.to_dict().items() if name.endswith(("_token_id", "_token_index"))]
    size = model.config.get_text_config(decoder=True).vocab_size
    words = [token for token in range(size // 4, size) if token not in special][:16]
    ids = torch.tensor(words, device=model.device).reshape(2, -1)
    try:
        return find_sites(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    except LayersSkipped as error:
        raise UnsupportedModel(
            error.detail, "Pass probe=processor(...): two rows of text with an image, on the model's device."
        ) from error
