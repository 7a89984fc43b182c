"""In-flight batching: at every token, finished requests leave the running batch and waiting ones join it.

What differs between requests (slot, sampling options, position) is data, so one decode step serves any mixture of
vectors, images and options.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from vlibrary.domain.errors import PromptTooLong, Unavailable, UnsupportedModel, VLibraryError
from vlibrary.engine.decoder import BatchDecoder, Decoder, SingleDecoder
from vlibrary.engine.detokenizer import Detokenizer
from vlibrary.engine.grammar import Grammars
from vlibrary.engine.image_features import ImageFeatures
from vlibrary.engine.queued_engine import QueuedEngine, catch, emit_timeout, is_out_of_memory, to_library_error
from vlibrary.engine.request import Request
from vlibrary.engine.running_batch import Row, RunningBatch
from vlibrary.engine.sampling import Sampler
from vlibrary.engine.self_check import check_steering
from vlibrary.models.lvlm import Lvlm


@dataclass(frozen=True)
class Budget:
    """The limits of an engine.

    rows: requests that decode together.
    waiting: requests in the queue; further ones are refused.
    columns: cache columns, rows × the longest row's prompt and answer.
    prefill: prompt tokens of one prefill pass, padding included; a longer prompt is prefilled alone.
    feature_bytes: size of the image feature cache.
    """

    rows: int = 16
    waiting: int = 64
    columns: int = 65_536
    prefill: int = 4_096
    feature_bytes: int = 256 * 2**20


class InFlightEngine(QueuedEngine):
    """Implements vlibrary.engine.request.Engine; its thread owns the model."""

    def __init__(self, lvlm: Lvlm, budget: Budget = Budget(), *, compiled: bool = False) -> None:
        """compiled: compile the decode steps with torch. Raises UnsupportedModel when that is impossible."""
        super().__init__(budget.waiting, Grammars(lvlm))
        self._lvlm = lvlm
        self._budget = budget
        self.decoder = _open_decoder(lvlm, budget, compiled=compiled)
        self._max_rows = min(budget.rows, self.decoder.max_rows or budget.rows)
        self._batch = RunningBatch(lvlm, self.decoder)
        self._end_tokens = lvlm.end_tokens
        self.steps = 0

    @property
    def running(self) -> tuple[Request, ...]:
        return tuple(row.request for row in self._batch.rows)

    @property
    def capacity(self) -> int:
        return min(self._budget.columns, self._lvlm.context_length)

    def submit(self, request: Request) -> None:
        if request.max_tokens > self._budget.columns:
            raise PromptTooLong(
                f"This model's maximum context length is {self._budget.columns} tokens, the size of the KV cache. "
                f"However, you requested {request.max_tokens} tokens ({request.prompt.length} in the prompt, "
                f"{request.decoding.max_new_tokens} in the completion).",
                "Please reduce the length of the prompt, or start the worker with more VLIBRARY_KV_TOKENS.",
            )
        super().submit(request)

    @torch.inference_mode()
    def step(self) -> None:
        self._drop_abandoned()
        admitted = self._schedule()
        self._prefill([row for row in admitted if row.request.decoding.prompt_logprobs is None])
        for row in admitted:
            if row.request.decoding.prompt_logprobs is not None:
                self._prefill([row])  # alone: the logits after every token take much memory
        self._decode()

    def _drop_abandoned(self) -> None:
        """Remove cancelled and overdue requests from the queue and the batch."""
        self._drop_waiting()
        now = time.monotonic()
        for row in [row for row in self._batch.rows if row.request.cancelled or row.request.is_overdue(now)]:
            self._batch.drop(row)
            emit_timeout(row.request)

    def _schedule(self) -> list[Row]:
        """Take the requests from the front of the queue that fit: rows, cache columns, slots, one prefill pass."""
        admitted: list[Row] = []
        while self._waiting:  # only this thread removes requests
            request = self._waiting[0]
            if not self._fits(request, [row.request for row in admitted]):
                break
            try:
                continues = request.prompt.ids if request.prompt.prompt.verbatim else ()
                detokenizer = Detokenizer(self._lvlm.tokenizer, request.decoding.stop, continues=continues)
                sampler = self._sampler(request)
                slot = self._lvlm.table.pin(request.vector, key=request.vector_key)  # last, so that no error leaks it
                admitted.append(Row(request, slot, detokenizer, sampler, started=time.monotonic()))
            except Unavailable:
                break  # all slots are pinned: wait until a row leaves
            except (VLibraryError, RuntimeError) as error:
                request.emit(to_library_error(error))
            with self._changed:
                self._waiting.popleft()
        return admitted

    def _sampler(self, request: Request) -> Sampler:
        """Return the sampler of a request. Raises InvalidInput for token ids that the model does not have."""
        decoding = request.decoding
        prompt = request.prompt.ids if decoding.repetition_penalty != 1 else ()
        return Sampler(
            decoding,
            end_tokens=self._end_tokens,
            prompt=prompt,
            vocabulary=self._lvlm.vocabulary,
            constraint=self._grammars.start(decoding.json_schema),
        )

    def _fits(self, request: Request, admitted: Sequence[Request]) -> bool:
        requests = [*self.running, *admitted, request]
        columns = len(requests) * max(one.max_tokens for one in requests)
        if len(requests) > self._max_rows or columns > self._budget.columns:
            return False
        lengths = [one.prompt.length for one in (*admitted, request)]
        return not admitted or len(lengths) * max(lengths) <= self._budget.prefill

    def _prefill(self, rows: Sequence[Row]) -> None:
        """Add these rows to the batch. If the pass fails, try each row alone, so that only the faulty one ends."""
        error = catch(partial(self._batch.prefill, rows)) if rows else None
        if error is None:
            return
        if len(rows) > 1:
            del error  # its traceback keeps the memory of the failed pass
            for row in rows:
                self._prefill([row])
        else:
            self._lvlm.table.unpin([rows[0].slot])
            rows[0].request.emit(to_library_error(error))

    def _decode(self) -> None:
        """Generate one token for every row."""
        if not self._batch.rows:
            return
        error = catch(self._batch.decode)
        if error is None:
            self.steps += 1
            return
        # A failed step changed nothing. Out of memory: drop the latest row, then the others can go on. Any other error
        # would happen again.
        rows, reason = list(self._batch.rows), to_library_error(error)
        for row in [max(rows, key=lambda row: row.started)] if is_out_of_memory(error) else rows:
            self._batch.drop(row, scrub=True)
            row.request.emit(reason)

    @torch.inference_mode()
    def _stop(self) -> None:
        super()._stop()
        for row in list(self._batch.rows):
            self._batch.drop(row)


def _open_decoder(lvlm: Lvlm, budget: Budget, *, compiled: bool) -> Decoder:
    """Return a decoder for batches where the model allows it, else one for a single row.

    Models with gated cross-attention (Mllama, Idefics 1) carry more than keys and values from token to token, and
    compute a text differently next to a row with an image. Raises UnsupportedModel when `compiled` is impossible.
    """
    if not (lvlm.model._supports_mm_encoder_outputs() and hasattr(lvlm.model.base_model, "get_image_features")):
        if compiled:
            raise UnsupportedModel(
                f"{lvlm.spec.architecture} decodes one row at a time and cannot be compiled.",
                "Start the worker without VLIBRARY_COMPILE.",
            )
        return SingleDecoder(lvlm)
    features = ImageFeatures(lvlm.model, budget.feature_bytes)
    eager = BatchDecoder(lvlm, features, max_columns=budget.columns)
    if not compiled:
        return eager
    # One compilation serves all batch sizes, cache widths and vectors. A compiled model can lose its hooks silently, so
    # one of its steps is compared with an eager one.
    forward = torch.compile(lvlm.model.forward, dynamic=True)
    decoder = BatchDecoder(lvlm, features, max_columns=budget.columns, forward=forward)
    check_steering(lvlm, decoder, eager)
    return decoder
