"""A vision-language model with steering hooks: loading, identity, encoding and self-check."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel, ProcessorMixin

from vlibrary.domain.errors import InvalidQuery, UnsupportedModel
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS
from vlibrary.domain.vector import SITES
from vlibrary.domain.wire import Prompt
from vlibrary.models.causal_vlm import CausalVlm
from vlibrary.models.processors import check_processor, load_processor
from vlibrary.models.prompt_encoder import Batch, PromptEncoder
from vlibrary.steering.find_sites import LayersSkipped, find_sites
from vlibrary.steering.fingerprint import model_spec
from vlibrary.steering.injector import Injector, LayerSites, all_take_gain
from vlibrary.steering.slot_table import EMPTY, SlotTable

_QUESTION = "What is this?"
_CHECKED_SITES = 16  # per batch of the self-check
# Standard deviation of the self-check's shift: large enough to survive bfloat16 rounding in a stream of thousands.
_CHECK_SIZE = 100.0


def fast_dtype() -> Literal["float32", "bfloat16"]:
    """Return bfloat16 where this processor multiplies matrices of it in hardware, several times as fast as float32."""
    return "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"


def flush_denormals() -> None:
    """Make the calling thread round floats below 1e-38 to 0; call it before torch computes anything.

    CPUs compute with such denormal numbers many times slower: one training took 330 s with them and 20 s without.
    The setting would leak into other tests, so only a composition root may call this function.
    """
    torch.set_flush_denormal(True)


def _make_contiguous(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    hidden, *others = inputs
    return hidden.contiguous(), *others


class Lvlm:
    """One LVLM on one device. Not thread-safe, except for `encode_on_host`.

    spec: the identity of the base model.
    context_length: the maximum number of tokens of prompt and answer together.
    model, processor, tokenizer: the transformers objects; the weights are frozen and the model is in eval mode.
    sites, injector, table: the edit points, the hooks on them, and the vectors on the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        model_id: str,
        slots: int,
        image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS,
    ) -> None:
        """Raise UnsupportedModel if the model cannot be steered exactly. slots, image_formats: as for `load`."""
        check_processor(processor)
        self.model = cast("CausalVlm", model.eval().requires_grad_(False))
        self.processor: Any = processor
        self.tokenizer: Any = self.processor.tokenizer
        text_config = model.config.get_text_config(decoder=True)
        self.context_length: int = text_config.max_position_embeddings
        self.spec = model_spec(model, model_id)
        self._replace_generation_config()
        ends = self.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
        self._encoder = PromptEncoder(processor, ends, self.context_length, image_formats)
        self.sites = self._find_sites()
        # torch copies the weights of the output layer for each row if its input is a slice, such as the last position.
        self.model.get_output_embeddings().register_forward_pre_hook(_make_contiguous)
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
        image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS,
    ) -> Lvlm:
        """Load a model from a folder or the Hugging Face hub.

        slots: the number of distinct vectors that the slot table holds.
        image_formats: those of IMAGE_FORMATS that prompts may contain.
        Raises UnsupportedModel if the model cannot be steered exactly, OSError if it cannot be read.
        """
        processor = load_processor(folder_or_id)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder_or_id, dtype=getattr(torch, dtype))
        name = model_id or (Path(folder_or_id).absolute().name if Path(folder_or_id).is_dir() else str(folder_or_id))
        return cls(model.to(device), processor, model_id=name, slots=slots, image_formats=image_formats)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids of the tokens that end an answer."""
        return frozenset(self.model.generation_config.eos_token_id)

    @property
    def vocabulary(self) -> int:
        """The number of token ids that the model can generate."""
        size: int = self.model.config.get_text_config(decoder=True).vocab_size
        return size

    def encode(self, prompts: Sequence[Prompt], answers: Sequence[str] | None = None, max_new_tokens: int = 0) -> Batch:
        """Encode a batch on the model's device. Raises as `PromptEncoder.encode`."""
        batch = self._encoder.encode(prompts, answers, max_new_tokens)
        targets = None if batch.targets is None else batch.targets.to(self.device)
        return Batch(self.to_device(batch.inputs), batch.prompt_tokens, targets)

    def encode_on_host(self, prompt: Prompt, max_new_tokens: int) -> Batch:
        """Encode one prompt in host memory. Thread-safe. Raises as `PromptEncoder.encode`."""
        return self._encoder.encode([prompt], max_new_tokens=max_new_tokens)

    def encode_answers_on_host(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Batch:
        """Encode prompts with their answers in host memory. Thread-safe. Raises as `PromptEncoder.encode`."""
        return self._encoder.encode(prompts, answers)

    def _find_sites(self) -> tuple[LayerSites, ...]:
        """Probe with a text; if that fails or does not run all layers, probe with a text and an image."""
        try:
            return find_sites(self.model, self.encode([self._probe] * 2).inputs)
        except (LayersSkipped, InvalidQuery):
            self._encoder.requires_image = True
        try:
            return find_sites(self.model, self.encode([self._probe] * 2).inputs)
        except InvalidQuery as error:
            raise UnsupportedModel(error.detail, "Use a model whose processor reads a text with an image.") from error

    @property
    def takes_gain(self) -> bool:
        """Whether every edit point accepts a gain, not only a shift."""
        return all_take_gain(self.sites)

    @property
    def requires_image(self) -> bool:
        """Whether the model refuses prompts without an image, or skips layers, and with them edits, on such prompts."""
        return self._encoder.requires_image

    @property
    def image_probe(self) -> Prompt:
        """A short prompt with a single-colour image, for self-checks."""
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (200, 120, 40)).save(buffer, format="PNG")
        return Prompt(_QUESTION, (buffer.getvalue(),))

    @property
    def _probe(self) -> Prompt:
        return self.image_probe if self.requires_image else Prompt(_QUESTION)

    def self_check(self) -> None:
        """Check that slot 0 changes no bit of the logits and that an edit at each single site changes them.

        Raises UnsupportedModel otherwise.
        """
        sites = list(range(self.spec.layers * len(SITES)))
        # Every batch has the same number of rows, so that the unedited logits are computed once.
        width = min(_CHECKED_SITES, len(sites))
        batch = self.encode([self._probe] * (width + 1))
        plain = self._compute_logits(batch)
        with self.injector.active(self.table.gather([EMPTY] * (width + 1))):
            zero = self._compute_logits(batch)
        self._check_unchanged(plain, zero)
        unsteered: set[int] = set()
        for start in range(0, len(sites), width):
            edited = sites[start : start + width] if start + width <= len(sites) else sites[-width:]
            with self.injector.active(self._edit_one_site_per_row(edited)):
                steered = self._compute_logits(batch)
            self._check_unchanged(plain[:1], steered[:1])
            unsteered |= {site for row, site in enumerate(edited, start=1) if torch.equal(plain[row], steered[row])}
        if unsteered:
            raise UnsupportedModel(
                f"{self.spec.architecture} does not react to vectors at {len(unsteered)} of {len(sites)} sites.",
                "Load it uncompiled; if it still fails, this model's blocks bypass their hooks and cannot be steered.",
            )

    def _check_unchanged(self, plain: Tensor, unedited: Tensor) -> None:
        """Raise UnsupportedModel if logits [B, V] change without a vector."""
        if not (torch.isfinite(plain).all() and torch.equal(plain, unedited)):
            raise UnsupportedModel(
                f"The logits of {self.spec.architecture} change, or are not finite, when no vector is applied.",
                "Load it in float32 or bfloat16, and uncompiled.",
            )

    def _edit_one_site_per_row(self, sites: Sequence[int]) -> Tensor:
        """Return shifts [L, 2, 1 + N, 1, d]: row 0 none; row 1 + n only at site k of layer l, sites[n] = 2l + k."""
        direction = torch.randn(self.spec.hidden_size, generator=torch.Generator().manual_seed(0))
        rows = torch.zeros(self.spec.layers * len(SITES), 1 + len(sites), 1, self.spec.hidden_size)
        for row, site in enumerate(sites, start=1):
            rows[site, row] = _CHECK_SIZE * direction
        return rows.view(self.spec.layers, len(SITES), 1 + len(sites), 1, -1).to(self.device)

    @torch.no_grad()
    def _compute_logits(self, batch: Batch) -> Tensor:
        """Return the logits [B, V] at the last position."""
        logits: Tensor = self.model(**batch.inputs, use_cache=False).logits[:, -1]
        return logits

    def to_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move inputs to the model's device, floating-point ones in its dtype."""
        return {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _replace_generation_config(self) -> None:
        """Keep only the end and pad tokens of the model's generation_config.json.

        Its penalties and temperature would otherwise apply to requests that do not set them.
        """
        configured = self.model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        ends = [end for end in [*ends, self.tokenizer.eos_token_id] if end is not None]
        if not ends:
            raise UnsupportedModel("The model has no end token.", "Set eos_token_id in generation_config.json.")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(ends[0])
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(dict.fromkeys(ends)), pad_token_id=self.tokenizer.pad_token_id
        )
