"""Forward passes for the running batch: prompts and tokens in, next-token logits out, with every row's own vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from vlibrary.domain.errors import UnsupportedModel
from vlibrary.engine.image_features import ImageFeatures
from vlibrary.engine.kv_cache import KeysValues, KvCache
from vlibrary.engine.request import EncodedPrompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.injector import BatchEdits


@dataclass(frozen=True, eq=False)
class Prefilled:
    """The result of a prefill of N prompts.

    logits: [N, V], for the first tokens, or [N, T, V], after every token of the left-padded prompts, if requested.
    state: private to the decoder.
    """

    logits: Tensor
    lengths: tuple[int, ...]
    state: Any


class Decoder(Protocol):
    """The state of B rows of one model, and the forward passes over it. All methods run on the model's thread.

    `prefill` and `decode` change no row, so they may fail and be repeated; `join` and `advance` commit their results.
    max_rows: how many rows can decode together, None for any number.
    """

    max_rows: int | None

    def prefill(self, prompts: Sequence[EncodedPrompt], slots: Sequence[int], *, every: bool = False) -> Prefilled:
        """Run the prompts through the model in one forward pass, each with the vector in its slot.

        every: return the logits after every token, which take much more memory.
        """
        ...

    def join(self, prefilled: Prefilled) -> None:
        """Append prefilled rows."""
        ...

    def decode(self, tokens: Sequence[int], slots: Sequence[int]) -> Tensor:
        """Run each row's last token through the model; return the logits [B, V] of the next ones."""
        ...

    def advance(self) -> None:
        """Commit the last `decode`."""
        ...

    def leave(self, row: int, *, scrub: bool) -> None:
        """Remove a row; the last row takes its number. scrub: zero its cache, which may hold non-finite numbers."""
        ...


class BatchDecoder:
    """Implements Decoder with one left-padded KV cache for all rows."""

    max_rows: int | None = None

    def __init__(
        self,
        lvlm: Lvlm,
        features: ImageFeatures,
        *,
        max_columns: int = 65_536,
        forward: Callable[..., Any] | None = None,
    ) -> None:
        """max_columns: limit of rows × columns allocated ahead of need. forward: a compiled forward, for decoding."""
        self._lvlm = lvlm
        self._forward = forward or lvlm.model
        self.features = features
        self._cache = KvCache(max_columns)
        self._positions = torch.empty(0)  # of the next tokens: [B], or [P, B] with mRoPE
        self._edits: BatchEdits | None = None
        self._edits_valid = False

    @property
    def columns(self) -> int:
        """The cache columns in use, rows × width."""
        return len(self._cache.lengths) * self._cache.width

    def prefill(self, prompts: Sequence[EncodedPrompt], slots: Sequence[int], *, every: bool = False) -> Prefilled:
        width = max(prompt.length for prompt in prompts)
        positions = self._prompt_positions(prompts, width)
        cache: Any = DynamicCache()  # no config: sliding-window layers must keep every column too
        with self._lvlm.injector.active(self._lvlm.table.prefill_edits(slots, width)):
            output = self._lvlm.model(
                **self._collate(prompts, width),
                **self.features.encode(prompts),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if every else 1,  # 0 stands for all
            )
        state = _keys_values(cache, len(prompts), width), positions[..., -1] + 1
        logits = output.logits if every else output.logits[:, -1]
        return Prefilled(logits, tuple(prompt.length for prompt in prompts), state)

    def join(self, prefilled: Prefilled) -> None:
        keys_values, positions = prefilled.state
        running = [self._positions] if self._cache.lengths else []
        all_positions = torch.cat([*running, positions], dim=-1)  # may fail, so before the cache changes
        self._cache.join(keys_values, prefilled.lengths)
        self._positions = all_positions
        self._edits_valid = False

    def decode(self, tokens: Sequence[int], slots: Sequence[int]) -> Tensor:
        device = self._lvlm.device
        if not self._edits_valid:  # only joining and leaving rows change them
            self._edits, self._edits_valid = self._lvlm.table.decode_edits(slots), True
        with self._lvlm.injector.active(self._edits):
            output = self._forward(
                input_ids=torch.tensor(tokens)[:, None].to(device),
                attention_mask=self._cache.mask_with_next().to(device),
                position_ids=self._positions[..., None],
                past_key_values=self._cache.for_next_token(),
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]  # type: ignore[no-any-return]  # transformers' outputs are untyped

    def advance(self) -> None:
        self._cache.advance()
        self._positions = self._positions + 1

    def leave(self, row: int, *, scrub: bool) -> None:
        self._cache.leave(row, scrub=scrub)
        self._positions[..., row] = self._positions[..., -1]
        self._positions = self._positions[..., :-1]
        self._edits_valid = False

    def _collate(self, prompts: Sequence[EncodedPrompt], width: int) -> dict[str, Tensor]:
        """Return the inputs with one number per token, [B, T], padded on the left; images are passed as features."""
        fill = {"input_ids": self._lvlm.tokenizer.pad_token_id}
        names = {name for one in prompts for name, value in one.inputs.items() if value.shape == (1, one.length)}
        rows: dict[str, Tensor] = {}
        for name in sorted(names):
            given = [one.inputs.get(name, torch.zeros(1, one.length, dtype=torch.long)) for one in prompts]
            padded = [pad(one, (width - one.shape[1], 0), value=fill.get(name, 0)) for one in given]
            rows[name] = torch.cat(padded).to(self._lvlm.device)
        return rows

    def _prompt_positions(self, prompts: Sequence[EncodedPrompt], width: int) -> Tensor:
        """Return the positions [B, T] or [P, B, T] that generate() gives each prompt alone; 0 at padding."""
        rows = []
        for prompt in prompts:
            inputs = {name: value.to(self._lvlm.device) for name, value in prompt.inputs.items()}
            one = self._lvlm.model._prepare_position_ids_for_generation(inputs["input_ids"], inputs)
            rows.append(pad(one, (width - prompt.length, 0)))
        return torch.cat(rows, dim=-2)


_EMPTY: tuple[Tensor, dict[str, Any]] = (torch.empty(1, 0, dtype=torch.long), {})


class SingleDecoder:
    """Implements Decoder for one row, with all the state that generate() carries from token to token."""

    max_rows: int | None = 1

    def __init__(self, lvlm: Lvlm) -> None:
        self._lvlm = lvlm
        self._tokens, self._carried = _EMPTY  # all tokens so far, [1, T]; arguments of the next forward
        self._next = _EMPTY

    def prefill(self, prompts: Sequence[EncodedPrompt], slots: Sequence[int], *, every: bool = False) -> Prefilled:
        (prompt,) = prompts
        inputs = self._lvlm.to_device(prompt.inputs)
        tokens = inputs.pop("input_ids")
        positions = self._lvlm.model._prepare_position_ids_for_generation(tokens, dict(inputs))
        carried = {**inputs, "position_ids": positions, "past_key_values": DynamicCache(), "use_cache": True}
        with self._lvlm.injector.active(self._lvlm.table.prefill_edits(slots, prompt.length)):
            logits, carried = self._forward(tokens, carried, is_first_iteration=True)
        return Prefilled(logits if every else logits[:, -1], (prompt.length,), (tokens, carried))

    def join(self, prefilled: Prefilled) -> None:
        self._tokens, self._carried = prefilled.state

    def decode(self, tokens: Sequence[int], slots: Sequence[int]) -> Tensor:
        following = torch.cat([self._tokens, torch.tensor([tokens], device=self._tokens.device)], dim=-1)
        with self._lvlm.injector.active(self._lvlm.table.decode_edits(slots)):
            logits, carried = self._forward(following, self._carried, next_sequence_length=1)
        self._next = following, carried
        return logits[:, -1]

    def advance(self) -> None:
        self._tokens, self._carried = self._next

    def leave(self, row: int, *, scrub: bool) -> None:  # noqa: ARG002  # the cache is dropped as a whole
        self._tokens, self._carried = self._next = _EMPTY

    def _forward(self, tokens: Tensor, carried: dict[str, Any], **options: Any) -> tuple[Tensor, dict[str, Any]]:
        model = self._lvlm.model
        output = model(**model.prepare_inputs_for_generation(tokens, **options, **carried))
        carried = model._update_model_kwargs_for_generation(output, carried, is_encoder_decoder=False)
        return output.logits, carried


def _keys_values(cache: Any, rows: int, width: int) -> tuple[KeysValues, ...]:
    """Return each layer's keys and values. Raises UnsupportedModel when a layer does not cache every position."""
    pairs = tuple((layer.keys, layer.values) for layer in cache.layers)
    for keys, values in pairs:
        if keys is None or {keys.shape[:1] + keys.shape[2:3], values.shape[:1] + values.shape[2:3]} != {(rows, width)}:
            raise UnsupportedModel(
                "The model's cache does not consist of keys and values for every position.",
                "Serve it with VLIBRARY_ENGINE=static.",
            )
    return pairs
