"""In-flight batching: newcomers are prefilled and join the running batch, rows that end leave it, at every token.

The loop is `step`: leave, join, decode. Everything that differs between requests is data (slot, options, position), so
one decode step serves any mixture of vectors, images and options.
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
from vlibrary.engine.failures import catch, is_out_of_memory, to_library_error
from vlibrary.engine.image_features import ImageFeatures
from vlibrary.engine.queued_engine import QueuedEngine, emit_timeout
from vlibrary.engine.request import Request
from vlibrary.engine.running_batch import Row, RunningBatch
from vlibrary.engine.sampling import Sampler
from vlibrary.engine.self_check import check_steering
from vlibrary.models.lvlm import Lvlm


@dataclass(frozen=True)
class Budget:
    """What the engine may use at a time.

    rows: requests that decode together. waiting: requests in the queue before others are refused. columns: cache
    columns, rows × the longest row's prompt and answer. prefill: prompt tokens of one prefill pass, padding included; a
    larger prompt goes alone. feature_bytes: image features kept.
    """

    rows: int = 16
    waiting: int = 64
    columns: int = 65_536
    prefill: int = 4_096
    feature_bytes: int = 256 * 2**20


class InFlightEngine(QueuedEngine):
    """Implements vlibrary.engine.request.Engine; the model belongs to its thread."""

    def __init__(self, lvlm: Lvlm, budget: Budget = Budget(), *, compiled: bool = False) -> None:
        """compiled: whether torch compiles the decode steps. Raises UnsupportedModel when it cannot."""
        super().__init__(budget.waiting)
        self._lvlm = lvlm
        self._budget = budget
        self.decoder = open_decoder(
            lvlm, max_columns=budget.columns, feature_bytes=budget.feature_bytes, compiled=compiled
        )
        self._max_rows = min(budget.rows, self.decoder.max_rows or budget.rows)
        self._batch = RunningBatch(lvlm, self.decoder)
        self.steps = 0

    @property
    def running(self) -> tuple[Request, ...]:
        return tuple(row.request for row in self._batch.rows)

    def submit(self, request: Request) -> None:
        if request.max_tokens > self._budget.columns:
            raise PromptTooLong(
                f"Prompt and answer need {request.max_tokens} tokens; the KV cache holds {self._budget.columns}.",
                "Shorten the prompt or lower max_new_tokens, or start the worker with more VLIBRARY_KV_TOKENS.",
            )
        super().submit(request)

    @torch.inference_mode()
    def step(self) -> None:
        """One turn of the loop: rows that nobody waits for leave, newcomers join, every row gets its next token."""
        self._leave()
        self._join()
        if self._batch.rows:
            self._decode()

    def _leave(self) -> None:
        self._drop_waiting()
        now = time.monotonic()
        for row in [row for row in self._batch.rows if row.request.cancelled or row.request.is_overdue(now)]:
            self._batch.drop(row)
            emit_timeout(row.request)

    def _join(self) -> None:
        """Prefill those in front of the queue that fit beside the running rows."""
        newcomers = self._admitted()
        if not newcomers:
            return
        error = catch(partial(self._prefill, newcomers))
        if error and len(newcomers) == 1:
            self._refuse(newcomers[0], error)
        elif error:
            del error  # it holds on to the memory of the pass that failed
            for row in newcomers:  # one of them is at fault; the others shall not pay for it
                self._join_alone(row)

    def _join_alone(self, row: Row) -> None:
        error = catch(partial(self._prefill, [row]))
        if error:
            self._refuse(row, error)

    def _refuse(self, row: Row, error: Exception) -> None:
        """End a row that is not in the batch."""
        self._lvlm.table.unpin([row.slot])
        row.request.emit(to_library_error(error))

    def _prefill(self, newcomers: Sequence[Row]) -> None:
        self._batch.join(newcomers)

    def _admitted(self) -> list[Row]:
        """Take from the front of the queue what fits: rows, cache columns, slots and one prefill pass."""
        admitted: list[Row] = []
        while (request := self._next(admitted)) is not None:
            try:
                admitted.append(self._row(request))
            except Unavailable:
                break  # every slot is held: it waits until a row leaves
            except (VLibraryError, RuntimeError) as error:
                request.emit(to_library_error(error))
            with self._changed:
                self._waiting.popleft()
        return admitted

    def _row(self, request: Request) -> Row:
        text, sampler = Detokenizer(self._lvlm.tokenizer, request.decoding.stop), Sampler(request.decoding)
        slot = self._lvlm.table.pin(request.vector, key=request.vector_key)  # last: nothing may fail with the slot held
        return Row(request, slot, text, sampler, started=time.monotonic())

    def _next(self, admitted: Sequence[Row]) -> Request | None:
        """The front of the queue, if it fits beside those; this thread alone takes it away."""
        with self._changed:
            front = self._waiting[0] if self._waiting else None
        return front if front is not None and self._fits(front, [row.request for row in admitted]) else None

    def _fits(self, request: Request, admitted: Sequence[Request]) -> bool:
        requests = [*(row.request for row in self._batch.rows), *admitted, request]
        columns = len(requests) * max(one.max_tokens for one in requests)
        if len(requests) > self._max_rows or columns > self._budget.columns:
            return False
        passing = [one.prompt.length for one in (*admitted, request)]
        return not admitted or len(passing) * max(passing) <= self._budget.prefill

    def _decode(self) -> None:
        error = catch(self._step)
        if error:
            # Out of memory: the row that came last goes and the others try again, since a step that failed left no
            # trace. Anything else would fail again and again.
            rows, reason = list(self._batch.rows), to_library_error(error)
            for row in [max(rows, key=lambda row: row.started)] if is_out_of_memory(error) else rows:
                self._batch.drop(row, scrub=True)
                row.request.emit(reason)

    @torch.inference_mode()
    def _stop(self) -> None:
        super()._stop()
        for row in list(self._batch.rows):
            self._batch.drop(row)

    def _step(self) -> None:
        self._batch.step()
        self.steps += 1


def open_decoder(lvlm: Lvlm, *, max_columns: int, feature_bytes: int, compiled: bool) -> Decoder:
    """BatchEdits together where they can be joined exactly, one at a time where not.

    Gated cross-attention (Mllama, Idefics1) needs more than keys and values at every token, and treats a text without
    a picture differently beside one with a picture. Raises UnsupportedModel when it shall be compiled and cannot.
    """
    if lvlm.model._supports_mm_encoder_outputs() and hasattr(lvlm.model.base_model, "get_image_features"):
        features = ImageFeatures(lvlm.model, feature_bytes)
        decoder = BatchDecoder(lvlm, features, max_columns=max_columns)
        return _compiled(lvlm, decoder, features, max_columns) if compiled else decoder
    if compiled:
        raise UnsupportedModel(
            f"{lvlm.spec.architecture} decodes one row at a time and cannot be compiled.",
            "Start the worker without VLIBRARY_COMPILE.",
        )
    return SingleDecoder(lvlm)


def _compiled(lvlm: Lvlm, eager: BatchDecoder, features: ImageFeatures, max_columns: int) -> BatchDecoder:
    """A decoder whose steps torch compiles, once for all batch sizes, cache widths and vectors.

    A compiled model ignores hooks that come later and may lose those that were there, silently: so one step is compared
    with an eager one.
    """
    forward = torch.compile(lvlm.model.forward, dynamic=True)
    decoder = BatchDecoder(lvlm, features, max_columns=max_columns, forward=forward)
    check_steering(lvlm, decoder, eager)
    return decoder
