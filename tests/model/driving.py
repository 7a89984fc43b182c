"""An engine driven step by step, and a model that fails when a test says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from tests.model import samples
from tests.model.engine.test_inflight import Collected, run
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm


class Asked(NamedTuple):
    """A request by numbers: which prompt, which vector (0 for none), how its tokens are drawn."""

    prompt: int = 0
    vector: int = 0
    decoding: Decoding = Decoding(max_new_tokens=6)
    strength: float = 0.5

    def given(self, lvlm: Lvlm) -> tuple[Prompt, SteeringVector | None, Decoding]:
        vector = samples.vector(lvlm.spec, self.vector, self.strength) if self.vector else None
        return samples.prompts(lvlm)[self.prompt], vector, self.decoding


def collected(lvlm: Lvlm, *asked: Asked) -> list[Collected]:
    return [Collected(lvlm, *one.given(lvlm)) for one in asked]


@lru_cache(maxsize=1024)
def solo(lvlm: Lvlm, asked: Asked) -> Generation:
    """The answer of an engine that has nothing else to do."""
    (one,) = collected(lvlm, asked)
    run(InFlightEngine(lvlm), [one], steps_between=0)
    return one.generation


def finish(engine: InFlightEngine) -> None:
    """Go on until nothing is left to do."""
    run(engine, [], steps_between=0)


def started(engine: InFlightEngine, requests: Sequence[Collected], steps: int = 3) -> None:
    """All of them run and have drawn some tokens."""
    for one in requests:
        engine.submit(one.request)
    for _ in range(steps):
        engine.step()
    assert set(engine.running) == {one.request for one in requests}


Fault = Callable[[Tensor], Exception | None]


@contextmanager
def failing(lvlm: Lvlm, fault: Fault) -> Iterator[None]:
    """While inside, forward passes end with what `fault` makes of their tokens [B, T]."""

    def check(_model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        error = fault(kwargs["input_ids"])
        if error is not None:
            raise error

    handle = lvlm.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def decoding(tokens: Tensor) -> bool:
    """Whether this is a step of the running batch and no prefill."""
    return tokens.shape[1] == 1


@contextmanager
def breaking(lvlm: Lvlm, row: int) -> Iterator[None]:
    """While inside, this row's numbers are none, from the token on that it reads."""

    def put_nan(_module: Any, _args: Any, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[row] = math.nan
        return embedded

    handle = lvlm.model.get_input_embeddings().register_forward_hook(put_nan)
    try:
        yield
    finally:
        handle.remove()
