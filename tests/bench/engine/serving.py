"""The worker's overhead (preparing, queueing, streaming) over the bare model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial

from tests.bench.engine.driving import open_engine
from tests.bench.engine.subject import Subject, questions
from tests.bench.engine.vectors import stored
from tests.bench.spread import Spread, seconds
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.bundled import EMBEDDER_FOLDER
from vlibrary.domain.wire import ArtifactAtStrength, Decoding, GenerateCall, Generation, Prompt
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.worker.local import LocalWorker

ANSWER = 32


def cost_of_serving(subject: Subject) -> Mapping[str, Spread]:
    """Measure single requests through the worker, against the bare model and with against without vectors."""
    store = FolderArtifacts(subject.scratch / "own-size")
    references = stored(store, subject.lvlm.spec, subject.size.singles)
    with _opened(subject.lvlm, store) as worker:
        fetching = asyncio.run(_fetching(subject, worker, references))
        overhead = asyncio.run(_overhead(subject, worker))
    return {**fetching, "overhead": overhead}


@contextmanager
def _opened(lvlm: Lvlm, store: FolderArtifacts) -> Iterator[LocalWorker]:
    engine = open_engine(lvlm, rows=16).start()
    worker = LocalWorker(lvlm, Embedder.load(EMBEDDER_FOLDER), store, engine, max_requests=16)
    try:
        yield worker
    finally:
        worker.close()


async def _fetching(
    subject: Subject, worker: LocalWorker, references: list[ArtifactAtStrength]
) -> Mapping[str, Spread]:
    """Return the milliseconds that a vector adds to the first token: on its first request, and on the next one."""
    cold, warm = [], []
    for reference, request in zip(references, questions(len(references), 1, seed=7), strict=True):
        plain = await _timed(worker, subject.lvlm, request.prompt, 1)
        first = await _timed(worker, subject.lvlm, request.prompt, 1, reference)
        again = await _timed(worker, subject.lvlm, request.prompt, 1, reference)
        bare = await _timed(worker, subject.lvlm, request.prompt, 1)
        cold.append(1000 * (first - min(plain, bare)))
        warm.append(1000 * (again - bare))
    return {"cold_worker_ms": Spread.of(cold), "warm_worker_ms": Spread.of(warm)}


async def _overhead(subject: Subject, worker: LocalWorker) -> Spread:
    """Return the worker's time divided by the bare model's, minus 1; the order alternates."""
    lvlm, found = subject.lvlm, []
    for number, request in enumerate(questions(subject.size.singles, ANSWER, seed=8)):
        bare = seconds(partial(_bare, lvlm, request.prompt)) if number % 2 else None
        served = await _timed(worker, lvlm, request.prompt, ANSWER)
        bare = bare or seconds(partial(_bare, lvlm, request.prompt))
        found.append(served / bare - 1)
    return Spread.of(found)


async def _timed(worker: LocalWorker, lvlm: Lvlm, prompt: Prompt, tokens: int, *vectors: ArtifactAtStrength) -> float:
    """Return the seconds until the whole answer has arrived."""
    call = GenerateCall(prompt, lvlm.spec.model_id, vectors, Decoding(max_new_tokens=tokens))
    start = time.perf_counter()
    async with aclosing(worker.generate(call)) as events:
        *_, last = [event async for event in events]
    took = time.perf_counter() - start
    if not isinstance(last, Generation) or last.completion_tokens != tokens:
        raise RuntimeError(f"the worker ended with {last}")
    return took


def _bare(lvlm: Lvlm, prompt: Prompt) -> str:
    """Generate the same answer with transformers alone; the worker is idle, so the model is free."""
    batch = lvlm.encode([prompt], max_new_tokens=ANSWER)
    sequences = lvlm.model.generate(**batch.inputs, max_new_tokens=ANSWER, do_sample=False)
    text: str = lvlm.tokenizer.decode(sequences[0, batch.prompt_tokens[0] :], skip_special_tokens=True)
    return text
