"""Static batches behind the engine's protocol: nobody joins before everybody is done.

The reference that in-flight batching is compared with, and an executor for models that the running batch refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vlibrary.domain.wire import Generation, TextPiece
from vlibrary.engine.failures import failure, reason_for
from vlibrary.engine.queued_engine import QueuedEngine
from vlibrary.engine.request import Job
from vlibrary.engine.static import StaticEngine
from vlibrary.models.lvlm import Lvlm


class StaticBatches(QueuedEngine):
    """Implements vlibrary.engine.request.Engine. An answer is one piece; a deadline counts until the batch starts."""

    def __init__(self, lvlm: Lvlm, *, rows: int = 16, waiting: int = 64) -> None:
        super().__init__(waiting)
        self._engine = StaticEngine(lvlm)
        self._most_rows = rows
        self._batch: list[Job] = []
        self.steps = 0

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._batch)

    def step(self) -> None:
        """Answer one batch: jobs from the front of the queue with the same decoding options."""
        self._drop_waiting()
        self._take()
        if self._batch:
            self._answer()
            self._batch = []

    def _take(self) -> None:
        with self._changed:
            while self._waiting and len(self._batch) < self._most_rows:
                if self._batch and self._waiting[0].decoding != self._batch[0].decoding:
                    break
                self._batch.append(self._waiting.popleft())

    def _answer(self) -> None:
        if not failure(partial(self._generate, self._batch)):
            return
        for job in self._batch:  # one of them is at fault; the others shall not pay for it
            error = failure(partial(self._generate, [job]))
            if error:
                job.emit(reason_for(error))

    def _generate(self, jobs: Sequence[Job]) -> None:
        calls = [(job.prompt.prompt, job.vector) for job in jobs]
        generations = self._engine.generate(calls, jobs[0].decoding)
        self.steps += max(one.completion_tokens for one in generations)
        for job, generation in zip(jobs, generations, strict=True):
            _tell(job, generation)


def _tell(job: Job, generation: Generation) -> None:
    if job.cancelled:
        return
    if generation.text:
        job.emit(TextPiece(generation.text, generation.completion_tokens))
    job.emit(generation)
