"""Static batching with transformers' generate(): all requests of a batch start together and the batch ends as one.

The reference for in-flight batching, and the engine for models that in-flight batching does not support.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt, TextPiece
from vlibrary.engine.detokenizer import Detokenizer
from vlibrary.engine.queued_engine import QueuedEngine, catch, to_library_error
from vlibrary.engine.request import Request
from vlibrary.models.lvlm import Lvlm

Call = tuple[Prompt, SteeringVector | None]


class StaticGenerator:
    """Generates answers batch by batch. Thread-safe: concurrent calls wait for each other."""

    def __init__(self, lvlm: Lvlm) -> None:
        self._lvlm = lvlm
        self._lock = threading.Lock()

    def generate(self, calls: Sequence[Call], decoding: Decoding) -> list[Generation]:
        """Return one answer per call, in order, with text stripped of special tokens and outer white space.

        At temperature 0 an answer does not depend on the other rows; above 0 the same batch and seed give the same
        answers. timings: prefill_s until the first token, total_s for the whole batch. completion_tokens includes the
        end-of-turn token.
        Raises InvalidImage, InvalidQuery, PromptTooLong, WrongModel, UnsupportedEdit, Unavailable.
        """
        if not calls:
            return []
        prompts, vectors = zip(*calls, strict=True)
        with self._lock, self._lvlm.table.pin_batch(vectors) as slots:
            batch = self._lvlm.encode(prompts, max_new_tokens=decoding.max_new_tokens)
            table, injector = self._lvlm.table, self._lvlm.injector
            clock = _Clock(after_prompt=lambda: injector.replace(table.decode_edits(slots)))
            with injector.active(table.prefill_edits(slots, batch.inputs["input_ids"].shape[1])):
                sequences = self._run(batch.inputs, decoding, clock)
            answers = sequences[:, batch.inputs["input_ids"].shape[1] :].tolist()
            timings = clock.timings()
        return [
            self._generation(answer, tokens, decoding, timings)
            for answer, tokens in zip(answers, batch.prompt_tokens, strict=True)
        ]

    def _run(self, inputs: Any, decoding: Decoding, clock: _Clock) -> Tensor:
        """Return the token ids [B, T + new]."""
        device = self._lvlm.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(decoding.seed)
            sequences: Tensor = self._lvlm.model.generate(**inputs, generation_config=_config(decoding), streamer=clock)
        return sequences

    def _generation(
        self, answer: list[int], prompt_tokens: int, decoding: Decoding, timings: dict[str, float]
    ) -> Generation:
        end_tokens, detokenizer = self._lvlm.end_tokens, Detokenizer(self._lvlm.tokenizer, decoding.stop)
        text, tokens, ended = "", 0, False
        for token in answer[: decoding.max_new_tokens]:
            tokens += 1
            ended = token in end_tokens
            text += "" if ended else detokenizer.push(token)
            if ended or detokenizer.stopped:
                break
        return Generation(
            text=text + detokenizer.finish(),
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
            finish_reason="stop" if ended or detokenizer.stopped else "length",
            timings=timings,
        )


class StaticBatchEngine(QueuedEngine):
    """Implements vlibrary.engine.request.Engine. An answer is one piece; deadlines apply until the batch starts."""

    def __init__(self, lvlm: Lvlm, *, rows: int = 16, waiting: int = 64) -> None:
        super().__init__(waiting)
        self._engine = StaticGenerator(lvlm)
        self._max_rows = rows
        self._batch: list[Request] = []
        self.steps = 0

    @property
    def running(self) -> tuple[Request, ...]:
        return tuple(self._batch)

    def step(self) -> None:
        """Answer one batch of requests from the front of the queue that have the same decoding options."""
        self._drop_waiting()
        with self._changed:
            while self._waiting and len(self._batch) < self._max_rows:
                if self._batch and self._waiting[0].decoding != self._batch[0].decoding:
                    break
                self._batch.append(self._waiting.popleft())
        if self._batch and catch(partial(self._generate, self._batch)):
            for request in self._batch:  # one by one, so that only the faulty one ends with the error
                error = catch(partial(self._generate, [request]))
                if error:
                    request.emit(to_library_error(error))
        self._batch = []

    def _generate(self, requests: Sequence[Request]) -> None:
        calls = [(request.prompt.prompt, request.vector) for request in requests]
        generations = self._engine.generate(calls, requests[0].decoding)
        self.steps += max(one.completion_tokens for one in generations)
        for request, generation in zip(requests, generations, strict=True):
            if request.cancelled:
                continue
            if generation.text:
                request.emit(TextPiece(generation.text, generation.completion_tokens))
            request.emit(generation)


def _config(decoding: Decoding) -> GenerationConfig:
    settings: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens, "do_sample": decoding.temperature > 0}
    if decoding.temperature > 0:
        # The default top_k keeps only the 50 most likely tokens.
        settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    return GenerationConfig(**settings)


class _Clock(BaseStreamer):
    """Records when the prompt and the first token arrive; generate() streams the prompt first, then each token."""

    def __init__(self, after_prompt: Callable[[], None]) -> None:
        self._start = time.perf_counter()
        self._marks: list[float] = []
        self._after_prompt = after_prompt

    def put(self, value: Tensor) -> None:  # noqa: ARG002  # the interface of BaseStreamer
        if len(self._marks) < 2:
            self._marks.append(time.perf_counter())
            if len(self._marks) == 2:
                self._after_prompt()

    def end(self) -> None:
        """Do nothing; the interface of BaseStreamer."""

    def timings(self) -> dict[str, float]:
        return {"prefill_s": self._marks[1] - self._start, "total_s": time.perf_counter() - self._start}
