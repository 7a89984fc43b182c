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

from vlibrary.domain.errors import PromptTooLong, Unavailable, VLibraryError
from vlibrary.engine.detokenizer import TextStream
from vlibrary.engine.failures import failure, is_out_of_memory, reason_for
from vlibrary.engine.open_decoder import open_decoder
from vlibrary.engine.queued_engine import QueuedEngine, tell_overdue
from vlibrary.engine.request import Job
from vlibrary.engine.running_batch import Row, RunningBatch
from vlibrary.engine.sampling import Sampler
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
            lvlm, most_columns=budget.columns, feature_bytes=budget.feature_bytes, compiled=compiled
        )
        self._most_rows = min(budget.rows, self.decoder.most_rows or budget.rows)
        self._batch = RunningBatch(lvlm, self.decoder)
        self.steps = 0

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(row.job for row in self._batch.rows)

    def submit(self, job: Job) -> None:
        if job.most_tokens > self._budget.columns:
            raise PromptTooLong(
                f"Prompt and answer need {job.most_tokens} tokens; this worker's cache holds {self._budget.columns}.",
                "Shorten the prompt or lower max_new_tokens, or start the worker with more VLIBRARY_KV_TOKENS.",
            )
        super().submit(job)

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
        for row in [row for row in self._batch.rows if row.job.cancelled or row.job.overdue(now)]:
            self._batch.drop(row)
            tell_overdue(row.job)

    def _join(self) -> None:
        """Prefill those in front of the queue that fit beside the running rows."""
        newcomers = self._admitted()
        if not newcomers:
            return
        error = failure(partial(self._prefill, newcomers))
        if error and len(newcomers) == 1:
            self._refuse(newcomers[0], error)
        elif error:
            del error  # it holds on to the memory of the pass that failed
            for row in newcomers:  # one of them is at fault; the others shall not pay for it
                self._join_alone(row)

    def _join_alone(self, row: Row) -> None:
        error = failure(partial(self._prefill, [row]))
        if error:
            self._refuse(row, error)

    def _refuse(self, row: Row, error: Exception) -> None:
        """End a row that is not in the batch."""
        self._lvlm.table.unpin([row.slot])
        row.job.emit(reason_for(error))

    def _prefill(self, newcomers: Sequence[Row]) -> None:
        self._batch.join(newcomers)

    def _admitted(self) -> list[Row]:
        """Take from the front of the queue what fits: rows, cache columns, slots and one prefill pass."""
        admitted: list[Row] = []
        while (job := self._next(admitted)) is not None:
            try:
                admitted.append(self._row(job))
            except Unavailable:
                break  # every slot is held: it waits until a row leaves
            except (VLibraryError, RuntimeError) as error:
                job.emit(reason_for(error))
            with self._changed:
                self._waiting.popleft()
        return admitted

    def _row(self, job: Job) -> Row:
        text, sampler = TextStream(self._lvlm.tokenizer, job.decoding.stop), Sampler(job.decoding)
        slot = self._lvlm.table.pin(job.vector, key=job.vector_key)  # last: nothing may fail with the slot held
        return Row(job, slot, text, sampler, started=time.monotonic())

    def _next(self, admitted: Sequence[Row]) -> Job | None:
        """The front of the queue, if it fits beside those; this thread alone takes it away."""
        with self._changed:
            front = self._waiting[0] if self._waiting else None
        return front if front is not None and self._fits(front, [row.job for row in admitted]) else None

    def _fits(self, job: Job, admitted: Sequence[Job]) -> bool:
        jobs = [*(row.job for row in self._batch.rows), *admitted, job]
        if len(jobs) > self._most_rows or len(jobs) * max(one.most_tokens for one in jobs) > self._budget.columns:
            return False
        passing = [one.prompt.length for one in (*admitted, job)]
        return not admitted or len(passing) * max(passing) <= self._budget.prefill

    def _decode(self) -> None:
        error = failure(self._step)
        if error:
            # Out of memory: the row that came last goes and the others try again, since a step that failed left no
            # trace. Anything else would fail again and again.
            rows, reason = list(self._batch.rows), reason_for(error)
            for row in [max(rows, key=lambda row: row.started)] if is_out_of_memory(error) else rows:
                self._batch.drop(row, scrub=True)
                row.job.emit(reason)

    @torch.inference_mode()
    def _stop(self) -> None:
        super()._stop()
        for row in list(self._batch.rows):
            self._batch.drop(row)

    def _step(self) -> None:
        self._batch.step()
        self.steps += 1
