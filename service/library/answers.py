"""The answers of one request: several samples of one prompt, the answers to several prompts, or just one answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from vlibrary.domain.errors import Overloaded
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.wire import TextPiece
from vlibrary.library.steer import Answer, Plan, stream

# Answers of one request that are generated at the same time; a request takes no more of the engine's queue.
AT_ONCE = 8
# Far apart, so that requests with neighbouring seeds share no answers.
_SEEDS = 2**63
_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Part:
    """A piece of the answer with this index, or the whole of it, which comes last."""

    index: int
    event: TextPiece | Answer


def vary_seeds(plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans with different seeds, so that several samples of one prompt differ.

    The first has its own seed and the others follow from it, so that a seed gives the same answers again.
    """
    first = plans[0].call.decoding.seed
    seeds = [first, *((first + number * _STRIDE) % _SEEDS for number in range(1, len(plans)))]
    return [
        replace(one, call=replace(one.call, decoding=replace(one.call.decoding, seed=seed)))
        for one, seed in zip(plans, seeds, strict=True)
    ]


async def stream_all(plans: Sequence[Plan], worker: Inference, time_left: Callable[[], float]) -> AsyncGenerator[Part]:
    """Yield the parts of all answers as they come, at most AT_ONCE answers at a time.

    time_left: returns the seconds until the request's deadline, or raises TimedOut. An error ends all answers. Closing
    the generator cancels them. Raises what Inference.generate raises, Overloaded only without room for one answer.
    """
    lanes = _Lanes(plans, worker, time_left)
    tasks = [asyncio.create_task(lanes.run()) for _ in range(min(AT_ONCE, len(plans)))]
    try:
        missing = len(plans)
        while missing:
            part = await lanes.parts.get()
            if isinstance(part, Exception):
                raise part
            missing -= isinstance(part.event, Answer)
            yield part
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer_all(plans: Sequence[Plan], worker: Inference, time_left: Callable[[], float]) -> list[Answer]:
    """Return all answers, in the order of the plans; otherwise like `stream_all`."""
    found: dict[int, Answer] = {}
    async with aclosing(stream_all(plans, worker, time_left)) as parts:
        async for part in parts:
            if isinstance(part.event, Answer):
                found[part.index] = part.event
    return [found[index] for index in range(len(plans))]


class _Lanes:
    """Tasks that take one plan after the other from a common queue and put the answers' parts into another."""

    def __init__(self, plans: Sequence[Plan], worker: Inference, time_left: Callable[[], float]) -> None:
        self.parts: asyncio.Queue[Part | Exception] = asyncio.Queue()
        self._plans = deque(enumerate(plans))
        self._worker = worker
        self._time_left = time_left
        self._running = 0

    async def run(self) -> None:
        """Answer until no plan is left. A lane that the worker has no room for ends, unless it is the only one."""
        self._running += 1
        try:
            while self._plans:
                index, plan = self._plans.popleft()
                try:
                    async with aclosing(stream(plan.with_timeout(self._time_left()), self._worker)) as events:
                        async for event in events:
                            self.parts.put_nowait(Part(index, event))
                except Overloaded:
                    if self._running == 1:
                        raise
                    self._plans.appendleft((index, plan))
                    return
        except Exception as error:  # noqa: BLE001  raised again by `stream_all`
            self.parts.put_nowait(error)
        finally:
            self._running -= 1
