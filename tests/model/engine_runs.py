"""Run an engine step by step, and inject faults into its model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from tests.model import samples
from tests.model.engine.test_inflight import RecordedRequest, run
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm


class RequestSpec(NamedTuple):
    """A request by numbers. prompt: index into `samples.prompts`; vector: its seed, 0 for none."""

    prompt: int = 0
    vector: int = 0
    decoding: Decoding = Decoding(max_new_tokens=6)
    strength: float = 0.5

    def resolve(self, lvlm: Lvlm) -> tuple[Prompt, SteeringVector | None, Decoding]:
        vector = samples.vector(lvlm.spec, self.vector, self.strength) if self.vector else None
        return samples.prompts(lvlm)[self.prompt], vector, self.decoding


def make_requests(lvlm: Lvlm, *specs: RequestSpec) -> list[RecordedRequest]:
    return [RecordedRequest(lvlm, *one.resolve(lvlm)) for one in specs]


@lru_cache(maxsize=1024)
def answer_alone(lvlm: Lvlm, spec: RequestSpec) -> Generation:
    """Return the answer of an engine that has no other request."""
    (one,) = make_requests(lvlm, spec)
    run(InFlightEngine(lvlm), [one], steps_between=0)
    return one.generation


def run_to_end(engine: InFlightEngine) -> None:
    """Run steps until no request is left."""
    run(engine, [], steps_between=0)


def start_all(engine: InFlightEngine, requests: Sequence[RecordedRequest], steps: int = 3) -> None:
    """Submit the requests and run some steps; every request then has tokens and is still running."""
    for one in requests:
        engine.submit(one.request)
    for _ in range(steps):
        engine.step()
    assert set(engine.running) == {one.request for one in requests}


Fault = Callable[[Tensor], Exception | None]


@contextmanager
def inject_errors(lvlm: Lvlm, fault: Fault) -> Iterator[None]:
    """Within the block, forward passes raise what `fault` returns for their tokens [B, T]."""

    def check(_model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        error = fault(kwargs["input_ids"])
        if error is not None:
            raise error

    handle = lvlm.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def is_decode_step(tokens: Tensor) -> bool:
    """Return whether this is a step of the running batch, not a prefill."""
    return tokens.shape[1] == 1


@contextmanager
def inject_nan(lvlm: Lvlm, row: int) -> Iterator[None]:
    """Within the block, the embeddings of this row are NaN in every forward pass."""

    def put_nan(_module: Any, _args: Any, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[row] = math.nan
        return embedded

    handle = lvlm.model.get_input_embeddings().register_forward_hook(put_nan)
    try:
        yield
    finally:
        handle.remove()
