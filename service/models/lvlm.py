"""A vision-language model with steering: loaded, identified, hooked and checked."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel, ProcessorMixin

from vlibrary.domain.errors import InvalidQuery, UnsupportedModel
from vlibrary.domain.vector import SITES
from vlibrary.domain.wire import Prompt
from vlibrary.models.processors import check_processor, load_processor
from vlibrary.models.prompt_encoder import Batch, PromptEncoder
from vlibrary.steering.find_sites import LayersSkipped, find_sites
from vlibrary.steering.fingerprint import model_spec
from vlibrary.steering.injector import Injector, LayerSites, all_take_gain
from vlibrary.steering.slot_table import EMPTY, SlotTable

_QUESTION = "What is this?"
_CANARY_ROWS = 16
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
    sites, injector, table: how vectors get into it.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, *, model_id: str, slots: int) -> None:
        """Raises UnsupportedModel when the model cannot be steered exactly."""
        check_processor(processor)
        self.model: Any = model.eval().requires_grad_(False)
        self.processor: Any = processor
        self.tokenizer: Any = self.processor.tokenizer
        text_config = model.config.get_text_config(decoder=True)
        self.context_length: int = text_config.max_position_embeddings
        self.spec = model_spec(model, model_id)
        self._use_own_decoding()
        ends = self.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
        self._encoder = PromptEncoder(processor, ends, self.context_length)
        self.sites = self._find_sites()
        self.injector = Injector(self.sites)
        self.table = SlotTable(self.spec, slots, self.device, model.dtype, takes_gain=self.takes_gain)
        self.self_check()

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
        processor = load_processor(folder_or_id)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder_or_id, dtype=getattr(torch, dtype))
        name = model_id or (Path(folder_or_id).absolute().name if Path(folder_or_id).is_dir() else str(folder_or_id))
        return cls(model.to(device), processor, model_id=name, slots=slots)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids of the tokens that end an answer."""
        return frozenset(self.model.generation_config.eos_token_id)

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None, max_new_tokens: int = 0) -> Batch:
        """A batch on the model's device; see PromptEncoder.encode for what it raises."""
        batch = self._encoder.encode(prompts, answers, max_new_tokens)
        targets = None if batch.targets is None else batch.targets.to(self.device)
        return Batch(self.to_device(batch.inputs), batch.prompt_tokens, targets)

    def encode_on_host(self, prompt: Prompt, max_new_tokens: int) -> Batch:
        """One prompt, not yet on the device; unlike everything else here, any thread may call it at any time."""
        return self._encoder.encode([prompt], max_new_tokens=max_new_tokens)

    def _find_sites(self) -> tuple[LayerSites, ...]:
        """By a text alone, or by a text with a picture where a text alone is not read through all layers."""
        try:
            return find_sites(self.model, self.encode([self._probe] * 2).inputs)
        except (LayersSkipped, InvalidQuery):
            self._encoder.requires_image = True
        try:
            return find_sites(self.model, self.encode([self._probe] * 2).inputs)
        except InvalidQuery as error:
            raise UnsupportedModel(error.detail, "Use a model whose processor reads a text and a picture.") from error

    @property
    def takes_gain(self) -> bool:
        """Whether every branch can be multiplied, not only added to."""
        return all_take_gain(self.sites)

    @property
    def requires_image(self) -> bool:
        """Whether it reads no prompt without a picture, or skips layers then, so that a vector would be left out."""
        return self._encoder.requires_image

    @property
    def image_probe(self) -> Prompt:
        """A question about a picture, for trying things out."""
        return Prompt(_QUESTION, (_picture(),))

    @property
    def _probe(self) -> Prompt:
        return self.image_probe if self.requires_image else Prompt(_QUESTION)

    def self_check(self) -> None:
        """Show that steering works here: slot 0 leaves every bit of the logits alone, each site alone changes them.

        Batches of equal prompts: the first is unsteered, each other one steered at one site of one layer.
        Raises UnsupportedModel otherwise.
        """
        sites = list(range(self.spec.layers * len(SITES)))
        deaf = 0
        for start in range(0, len(sites), _CANARY_ROWS):
            deaf += self._deaf(sites[start : start + _CANARY_ROWS])
        if deaf:
            raise UnsupportedModel(
                f"{self.spec.architecture} does not react to vectors at {deaf} of {len(sites)} sites.",
                "Load it uncompiled; if it still fails, this model's blocks bypass their hooks and cannot be steered.",
            )

    def _deaf(self, sites: Sequence[int]) -> int:
        """How many of these sites change nothing. Raises UnsupportedModel when the logits change without a vector."""
        batch = self.encode([self._probe] * (len(sites) + 1))
        plain = self._logits(batch)
        with self.injector.active(self.table.gather([EMPTY] * (len(sites) + 1))):
            zero = self._logits(batch)
        with self.injector.active(self._one_site_each(sites)):
            steered = self._logits(batch)
        if not (torch.isfinite(plain).all() and torch.equal(plain, zero) and torch.equal(plain[0], steered[0])):
            raise UnsupportedModel(
                f"{self.spec.architecture} answers differently (or with NaN) when nothing is applied.",
                "Load it in float32 or bfloat16, and uncompiled.",
            )
        return sum(torch.equal(before, after) for before, after in zip(plain[1:], steered[1:], strict=True))

    def _one_site_each(self, sites: Sequence[int]) -> Tensor:
        """Rows [L, 2, 1 + sites, 1, d]: row 1 + n is steered only at site k of layer l where sites[n] is 2l + k."""
        direction = torch.randn(self.spec.hidden_size, generator=torch.Generator().manual_seed(0))
        rows = torch.zeros(self.spec.layers * len(SITES), 1 + len(sites), 1, self.spec.hidden_size)
        for row, site in enumerate(sites, start=1):
            rows[site, row] = _CANARY_SIZE * direction
        return rows.view(self.spec.layers, len(SITES), 1 + len(sites), 1, -1).to(self.device)

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        """[B, V] at the last position."""
        logits: Tensor = self.model(**batch.inputs, use_cache=False).logits[:, -1]
        return logits

    def to_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def _picture() -> bytes:
    """A small PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 120, 40)).save(buffer, format="PNG")
    return buffer.getvalue()
