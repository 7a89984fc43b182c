"""Static batching with transformers' generate(): all requests of a batch start together and the batch ends as one.

The reference for in-flight batching, and the engine for models that in-flight batching does not support.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt, ScoredToken, TextPiece
from vlibrary.engine.detokenizer import Detokenizer
from vlibrary.engine.grammar import Grammars, no_continuation
from vlibrary.engine.logprobs import score_prompt, score_tokens
from vlibrary.engine.queued_engine import QueuedEngine, catch, to_library_error
from vlibrary.engine.request import Request
from vlibrary.engine.sampling import Sampler, next_tokens
from vlibrary.engine.token_bytes import TokenBytes
from vlibrary.models.lvlm import Lvlm

Call = tuple[Prompt, SteeringVector | None]


class StaticGenerator:
    """Generates answers batch by batch. Thread-safe: concurrent calls wait for each other."""

    def __init__(self, lvlm: Lvlm) -> None:
        self._lvlm = lvlm
        self.grammars = Grammars(lvlm)
        self._token_bytes = TokenBytes(lvlm.tokenizer)
        self._lock = threading.Lock()

    def generate(self, calls: Sequence[Call], decoding: Decoding) -> list[Generation]:
        """Return one answer per call, in order, with text stripped of special tokens and outer white space.

        The answer to a verbatim prompt keeps its white space.

        An answer does not depend on the other rows, above temperature 0 neither. timings: prefill_s until the first
        token, decode_s after it, total_s, each for the whole batch. completion_tokens includes the end-of-turn token.
        Raises InvalidImage, InvalidInput, InvalidQuery, PromptTooLong, WrongModel, UnsupportedEdit, Unavailable.
        """
        if not calls:
            return []
        prompts, vectors = zip(*calls, strict=True)
        with self._lock, self._lvlm.table.pin_batch(vectors) as slots:
            batch = self._lvlm.encode(prompts, max_new_tokens=decoding.max_new_tokens)
            ids = batch.inputs["input_ids"]
            own = [row[-length:].tolist() for row, length in zip(ids, batch.prompt_tokens, strict=True)]
            chooser = _Chooser([self._sampler(decoding, prompt) for prompt in own], self._token_bytes)
            table, injector = self._lvlm.table, self._lvlm.injector
            clock = _Clock(after_prompt=lambda: injector.replace(table.decode_edits(slots)))
            with injector.active(table.prefill_edits(slots, ids.shape[1])):
                sequences = self._run(batch.inputs, decoding, chooser, clock)
            timings = clock.timings()
            answers = [
                self._generation(answer, own[row], decoding, chooser, row, verbatim=prompts[row].verbatim)
                for row, answer in enumerate(sequences[:, ids.shape[1] :].tolist())
            ]
            scores = [self._score_prompt(prompt, slot, decoding) for prompt, slot in zip(prompts, slots, strict=True)]
        return [
            replace(answer, timings=timings, prompt_logprobs=score)
            for answer, score in zip(answers, scores, strict=True)
        ]

    def _sampler(self, decoding: Decoding, prompt: Sequence[int]) -> Sampler:
        lvlm = self._lvlm
        return Sampler(
            decoding,
            end_tokens=lvlm.end_tokens,
            prompt=prompt,
            vocabulary=lvlm.vocabulary,
            constraint=self.grammars.start(decoding.json_schema),
        )

    def _run(self, inputs: Any, decoding: Decoding, chooser: _Chooser, clock: _Clock) -> Tensor:
        """Return the token ids [B, T + new]."""
        # generate() wants an end token; one beyond the vocabulary never comes.
        ends = sorted(chooser.end_tokens) or [self._lvlm.vocabulary]
        config = GenerationConfig(max_new_tokens=max(1, decoding.max_new_tokens), do_sample=False, eos_token_id=ends)
        plain = decoding == Decoding(decoding.max_new_tokens, stop=decoding.stop)
        processors: list[LogitsProcessor] = [] if plain else [chooser]
        sequences: Tensor = self._lvlm.model.generate(
            **inputs, generation_config=config, logits_processor=processors, streamer=clock
        )
        return sequences

    def _generation(
        self,
        answer: list[int],
        prompt: list[int],
        decoding: Decoding,
        chooser: _Chooser,
        row: int,
        *,
        verbatim: bool,
    ) -> Generation:
        detokenizer = Detokenizer(self._lvlm.tokenizer, decoding.stop, continues=prompt if verbatim else ())
        text, tokens, ended = "", 0, False
        for token in answer[: decoding.max_new_tokens]:
            tokens += 1
            ended = token in chooser.end_tokens
            text += "" if ended else detokenizer.push(token)
            if ended or detokenizer.stopped:
                break
        return Generation(
            text=text + detokenizer.finish(),
            prompt_tokens=len(prompt),
            completion_tokens=tokens,
            finish_reason="stop" if ended or detokenizer.stopped else "length",
            logprobs=None if decoding.logprobs is None else tuple(chooser.logprobs[row][: tokens - ended]),
        )

    def _score_prompt(self, prompt: Prompt, slot: int, decoding: Decoding) -> tuple[ScoredToken, ...] | None:
        """Return the log-probabilities of the prompt's tokens, from a forward pass without neighbours."""
        if decoding.prompt_logprobs is None:
            return None
        inputs = self._lvlm.encode([prompt]).inputs
        ids = inputs["input_ids"][0].tolist()
        with self._lvlm.injector.active(self._lvlm.table.prefill_edits([slot], len(ids))), torch.no_grad():
            logits = self._lvlm.model(**inputs, use_cache=False).logits[0]
        return score_prompt(logits, ids, decoding.prompt_logprobs, self._token_bytes)


class _Chooser(LogitsProcessor):
    """Chooses the tokens of a batch for generate(), by leaving one logit per row.

    logprobs: of each row's tokens, if requested; also of those after its end.
    """

    def __init__(self, samplers: Sequence[Sampler], token_bytes: TokenBytes) -> None:
        self._samplers = samplers
        self._token_bytes = token_bytes
        self.end_tokens = samplers[0].end_tokens
        self.logprobs: list[list[ScoredToken]] = [[] for _ in samplers]
        self._ended = [False] * len(samplers)

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        drawn = next_tokens(scores, self._samplers)
        if any(
            token is None and sampler.constraint is not None and not ended
            for token, sampler, ended in zip(drawn, self._samplers, self._ended, strict=True)
        ):
            raise no_continuation()
        # generate() goes on where logits are not finite, and so do the other rows.
        tokens = [token or 0 for token in drawn]
        self._ended = [ended or token in self.end_tokens for ended, token in zip(self._ended, tokens, strict=True)]
        count = self._samplers[0].decoding.logprobs
        if count is not None:
            for own, one in zip(
                self.logprobs, score_tokens(scores, tokens, [count] * len(tokens), self._token_bytes), strict=True
            ):
                own.append(one)
        for sampler, token in zip(self._samplers, tokens, strict=True):
            sampler.advance(token)
        return torch.full_like(scores, -math.inf).scatter(1, torch.tensor(tokens, device=scores.device)[:, None], 0.0)


class StaticBatchEngine(QueuedEngine):
    """Implements vlibrary.engine.request.Engine. An answer is one piece; deadlines apply until the batch starts."""

    def __init__(self, lvlm: Lvlm, *, rows: int = 16, waiting: int = 64) -> None:
        self._engine = StaticGenerator(lvlm)
        super().__init__(waiting, self._engine.grammars)
        self.capacity = lvlm.context_length
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
        started = time.monotonic()
        calls = [(request.prompt.prompt, request.vector) for request in requests]
        generations = self._engine.generate(calls, requests[0].decoding)
        self.steps += max(one.completion_tokens for one in generations)
        for request, generation in zip(requests, generations, strict=True):
            if request.cancelled:
                continue
            if generation.text:
                scored = generation.logprobs or ()
                request.emit(TextPiece(generation.text, generation.completion_tokens, scored, generation.prompt_tokens))
            waited = started - request.submitted
            total = waited + generation.timings["total_s"]
            request.emit(replace(generation, timings={"queue_s": waited, **generation.timings, "total_s": total}))


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
        end = time.perf_counter()
        return {
            "prefill_s": self._marks[1] - self._start,
            "decode_s": end - self._marks[1],
            "total_s": end - self._start,
        }
