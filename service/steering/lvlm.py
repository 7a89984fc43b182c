"""A vision-language model with steering: loaded, identified, hooked and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig, PreTrainedModel, ProcessorMixin

from service.domain.applicable import SITES
from service.domain.errors import UnsupportedModel
from service.domain.vector import ModelSpec
from service.domain.wire import Prompt
from service.fingerprint import fingerprint
from service.steering.families import find_sites
from service.steering.inject import Injector
from service.steering.prompts import Batch, PromptEncoder
from service.steering.table import EMPTY, SlotTable

_PROBE = Prompt("What is this?")
# Per coordinate: large enough to survive bfloat16 rounding in a stream of thousands.
_CANARY_SIZE = 100.0


def flush_denormals() -> None:
    """Let this process round numbers below 1e-38 to 0; call it before torch computes anything.

    A CPU handles such denormal numbers many times slower: one training took 330 s with them and 20 s without. It is a
    setting of the process's calling thread that tests must not meet, so only a composition root may make it.
    """
    torch.set_flush_denormal(True)


class Lvlm:
    """One LVLM on one device; one thread at a time may use it.

    spec, context_length (tokens, answer included), device: facts about it.
    model, processor, tokenizer: the transformers objects; weights are frozen, the model is in eval mode.
    injector, table: how vectors get into it.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, *, model_id: str, slots: int) -> None:
        """Raises UnsupportedModel when the model cannot be steered exactly."""
        _check_processor(processor)
        self.model: Any = model.eval().requires_grad_(False)
        self.processor: Any = processor
        self.tokenizer: Any = self.processor.tokenizer
        text_config = model.config.get_text_config(decoder=True)
        self.context_length: int = text_config.max_position_embeddings
        self.spec = _spec(model, model_id)
        self._use_own_decoding()
        ends = self.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
        self._encoder = PromptEncoder(processor, ends, self.context_length)
        self.injector = Injector(find_sites(model, self.encode([_PROBE, _PROBE]).inputs))
        self.table = SlotTable(self.spec, slots, self.device, model.dtype)
        self.canary()

    @classmethod
    def load(
        cls,
        folder_or_id: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        model_id: str | None = None,
        slots: int = 64,
    ) -> Lvlm:
        """The model in a folder or on the hub. slots: how many distinct vectors its table holds.

        Raises UnsupportedModel when it cannot be steered exactly, OSError when it cannot be read.
        """
        # The two image back ends differ by a grey level: one of them is pinned, so that pixels are reproducible.
        processor = AutoProcessor.from_pretrained(folder_or_id, backend="pil")
        model: Any = AutoModelForImageTextToText.from_pretrained(folder_or_id, dtype=getattr(torch, dtype))
        name = model_id or (Path(folder_or_id).name if Path(folder_or_id).is_dir() else str(folder_or_id))
        return cls(model.to(device), processor, model_id=name, slots=slots)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None, max_new_tokens: int = 0) -> Batch:
        """A batch on the model's device; see PromptEncoder.encode for what it raises."""
        batch = self._encoder.encode(prompts, answers, max_new_tokens)
        targets = None if batch.targets is None else batch.targets.to(self.device)
        return Batch(self._moved(batch.inputs), batch.prompt_tokens, targets)

    def canary(self) -> None:
        """Show that steering works here: slot 0 leaves every bit of the logits alone, each site alone changes them.

        One batch of 2L + 1 equal prompts: the first unsteered, each other one steered at one site of one layer.
        Raises UnsupportedModel otherwise.
        """
        count = self.spec.layers * len(SITES) + 1
        batch = self.encode([_PROBE] * count)
        plain = self._logits(batch)
        with self.injector.active(self.table.gather([EMPTY] * count)):
            zero = self._logits(batch)
        with self.injector.active(self._one_site_each(count)):
            steered = self._logits(batch)
        if not (torch.isfinite(plain).all() and torch.equal(plain, zero) and torch.equal(plain[0], steered[0])):
            raise UnsupportedModel(
                f"{self.spec.architecture} answers differently (or with NaN) when nothing is applied.",
                "Load it in float32 or bfloat16, and uncompiled.",
            )
        deaf = [number for number in range(1, count) if torch.equal(plain[number], steered[number])]
        if deaf:
            raise UnsupportedModel(
                f"{self.spec.architecture} does not react to vectors at {len(deaf)} of {count - 1} sites.",
                "Load it uncompiled; if it still fails, this model's blocks bypass their hooks and cannot be steered.",
            )

    def _one_site_each(self, count: int) -> Tensor:
        """Rows [L, 2, 2L + 1, 1, d]: row 1 + 2l + k is steered at site k of layer l only, always in one direction."""
        direction = torch.randn(self.spec.hidden_size, generator=torch.Generator().manual_seed(0))
        rows = torch.zeros(self.spec.layers * len(SITES), count, 1, self.spec.hidden_size)
        for site in range(count - 1):
            rows[site, site + 1] = _CANARY_SIZE * direction
        return rows.view(self.spec.layers, len(SITES), count, 1, -1).to(self.device)

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        """[B, V] at the last position."""
        logits: Tensor = self.model(**batch.inputs, use_cache=False).logits[:, -1]
        return logits

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the model's device; pixels in its dtype."""
        return {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _use_own_decoding(self) -> None:
        """Keep only the end and pad tokens of the makers' generation settings.

        Penalties and temperatures that ship with a model would otherwise reach requests that did not ask for them.
        """
        shipped = self.model.generation_config.eos_token_id
        ends = shipped if isinstance(shipped, list) else [shipped]
        ends = [end for end in [*ends, self.tokenizer.eos_token_id] if end is not None]
        if not ends:
            raise UnsupportedModel("The model has no end-of-turn token.", "Set eos_token_id in generation_config.json.")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(ends[0])
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(dict.fromkeys(ends)), pad_token_id=self.tokenizer.pad_token_id
        )


def _check_processor(processor: Any) -> None:
    for part in ("tokenizer", "image_processor", "chat_template"):
        if getattr(processor, part, None) is None:
            raise UnsupportedModel(
                f"The model's processor has no {part}.",
                "Use an instruction-tuned image-text-to-text model, or add chat_template.jinja to its folder.",
            )


def _spec(model: PreTrainedModel, model_id: str) -> ModelSpec:
    text_config = model.config.get_text_config(decoder=True)
    architecture = type(model).__name__
    layers, width = text_config.num_hidden_layers, text_config.hidden_size
    return ModelSpec(
        model_id=model_id,
        fingerprint=fingerprint(model, [architecture, layers, width, text_config.vocab_size]),
        architecture=architecture,
        layers=layers,
        hidden_size=width,
    )
