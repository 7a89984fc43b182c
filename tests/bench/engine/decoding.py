"""The cost of steering for a running batch: per step, and for rows without a vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.bench.engine.driving import answer, busy, open_engine, submit
from tests.bench.engine.subject import BenchRequest, Subject, questions, steered
from tests.bench.spread import Pair, Spread, balanced, in_turn, speedup
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.injector import Injector

Side = tuple[Lvlm, Sequence[BenchRequest]]

BATCH = 8
WIDE = 64


def cost_of_steering(subject: Subject) -> Mapping[str, Spread]:
    """Compare a steered batch with an unsteered one."""
    lvlm, size = subject.lvlm, subject.size
    plain = questions(BATCH, size.tokens)
    edited = steered(lvlm, plain, BATCH)
    runs = in_turn(
        lambda: answer(open_engine(lvlm, BATCH), lvlm, edited),
        lambda: answer(open_engine(lvlm, BATCH), lvlm, plain),
        size.runs,
    )
    return {
        "steered_ratio": speedup(_rounds((lvlm, edited), (lvlm, plain), size.rounds)),
        "steered_runs": speedup(runs),
    }


def cost_of_distinct_vectors(subject: Subject) -> Mapping[str, Spread]:
    """Compare a batch of 64 different vectors with one vector in all rows."""
    lvlm, size = subject.lvlm, subject.size
    plain = questions(WIDE, size.wide_tokens)
    many, one = steered(lvlm, plain, WIDE), steered(lvlm, plain, 1)
    return {f"distinct{WIDE}_ratio": speedup(_rounds((lvlm, many), (lvlm, one), size.wide_rounds))}


def cost_of_hooks(subject: Subject) -> Mapping[str, Spread | bool]:
    """Compare unsteered requests on a model with hooks and loaded vectors with the model without hooks."""
    both, size = (subject.lvlm, subject.bare), subject.size
    plain = questions(BATCH, size.tokens)
    steps: list[Pair] = []
    for hooked, bare in (both, both[::-1]):  # where the weights lie in memory must not matter
        _hook_one(hooked, bare)
        answer(open_engine(hooked, BATCH), hooked, steered(hooked, questions(BATCH, 1), BATCH))  # fills its table
        steps += _rounds((hooked, plain), (bare, plain), size.rounds // 2)
    _hook_one(*both)
    return {"unsteered_ratio": speedup(steps), "unsteered_bit_identical": unsteered_rows_are_identical(subject)}


def _hook_one(hooked: Lvlm, bare: Lvlm) -> None:
    for one in (hooked, bare):
        one.injector.close()
    hooked.injector = Injector(hooked.sites)


def unsteered_rows_are_identical(subject: Subject) -> bool:
    """Return whether all logits of unsteered rows equal those of the model without hooks.

    Checked in an unsteered batch and in a batch where every second row is steered.
    """
    lvlm, bare = subject.lvlm, subject.bare
    plain = questions(BATCH, min(subject.size.tokens, 16))
    edited = steered(lvlm, plain, BATCH)
    mixed = [edited[row] if row % 2 else plain[row] for row in range(BATCH)]
    wanted = _logits(bare, plain)
    return all(
        len(got) == len(wanted) and all(torch.equal(a[rows], b[rows]) for a, b in zip(got, wanted, strict=True))
        for got, rows in ((_logits(lvlm, plain), slice(None)), (_logits(lvlm, mixed), slice(0, None, 2)))
    )


def _rounds(one: Side, other: Side, count: int) -> list[Pair]:
    """Return the step times of both sides; which batch is built first alternates, as memory placement matters."""
    return [pair for number in range(count) for pair in step_by_step(one, other, swapped=bool(number % 2))]


def step_by_step(one: Side, other: Side, *, swapped: bool) -> list[Pair]:
    """Return the seconds of alternating decode steps of two batches, with all rows running and caches of equal length.

    swapped: the second batch is built first.
    """
    engines = [_running(*side) for side in ((other, one) if swapped else (one, other))]
    first, second = reversed(engines) if swapped else engines
    left = min(request.tokens for request in one[1]) - max(engine.steps for engine in engines) - 2
    pairs = in_turn(first.step, second.step, left)
    for engine in engines:
        if len(engine.running) != len(one[1]):
            raise RuntimeError("a row ended among the measured steps")
        while busy(engine):
            engine.step()
    return balanced(pairs)


def _running(lvlm: Lvlm, requests: Sequence[BenchRequest]) -> InFlightEngine:
    """Return an engine whose running batch contains all these requests."""
    engine = open_engine(lvlm, len(requests))
    submit(engine, lvlm, requests)
    while engine.load().waiting:  # a prefill pass takes what its budget allows
        engine.step()
    engine.step()  # the first one after the rows came gathers their vectors
    return engine


def _logits(lvlm: Lvlm, requests: Sequence[BenchRequest]) -> list[Tensor]:
    """Return the logits of the last position of every forward pass: [rows, V] each."""
    with _recorded(lvlm) as seen:
        answer(open_engine(lvlm, len(requests)), lvlm, requests)
    return seen


@contextmanager
def _recorded(lvlm: Lvlm) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []

    def record(_model: Any, _inputs: Any, output: Any) -> None:
        seen.append(output.logits[:, -1].clone())

    handle = lvlm.model.register_forward_hook(record)
    try:
        yield seen
    finally:
        handle.remove()
