"""Contract of the TaskIndex port under random histories, on the in-memory index and on FAISS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.exact_search import exact
from tests.support.indexes import ALL, EXACT, Make
from tests.support.registrations import EMBEDDER, deleted, embedding, published
from vlibrary.domain.changes import Change, ChangeKind
from vlibrary.domain.ports.task_index import Hit, IndexGap


class IndexMachine(RuleBasedStateMachine):
    """After any sequence of publishing, deleting, resetting and replaying, results equal an exact search of the log."""

    make: Make
    exact: bool

    @initialize(seed=st.integers(0, 2**32 - 1))
    def start(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        # Few different keys: ties and repeated keys are the rule here, not the exception.
        self.pool = [
            embedding(self.rng, image=image, text=text)
            for image, text in [(True, True), (True, False), (False, True)]
            for _ in range(3)
        ]
        self.log: list[Change] = []
        self.applied = 0
        self.index = type(self).make(EMBEDDER)
        self.index.reset("0", replacing=self.index.position)

    @rule(
        keys=st.lists(st.integers(0, 8), max_size=6),
        model=st.sampled_from(["m", "n"]),
        copies=st.integers(1, 9),
        ours=st.booleans(),
    )
    def publish(self, keys: list[int], model: str, copies: int, ours: bool) -> None:
        embedder = EMBEDDER.fingerprint if ours else None if len(keys) % 2 else "f" * 64
        for _ in range(copies):
            number = len(self.log) + 1
            vector_id = f"v{int(self.rng.integers(10**6)):06}-{number}"
            parts = [self.pool[key] for key in keys]
            self.log.append(published(number, vector_id, *parts, model=model, embedder=embedder))

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.6, 1.0]))
    def delete(self, data: st.DataObject, share: float) -> None:
        alive = self.alive()
        chosen = data.draw(st.permutations(alive))[: max(1, int(share * len(alive)))]
        for vector_id in chosen:
            self.log.append(deleted(len(self.log) + 1, vector_id))

    @precondition(lambda self: self.gone())
    @rule(data=st.data(), keys=st.lists(st.integers(0, 8), max_size=3), kind=st.sampled_from(["restored", "rekeyed"]))
    def put_again(self, data: st.DataObject, keys: list[int], kind: str) -> None:
        """A deleted vector comes back, or a living one gets other keys."""
        vector_id = data.draw(st.sampled_from(self.gone() if kind == "restored" else self.alive() or self.gone()))
        again = published(len(self.log) + 1, vector_id, *[self.pool[key] for key in keys])
        self.log.append(replace(again, kind=ChangeKind(kind)))

    @rule(count=st.integers(0, 20), again=st.integers(0, 5))
    def apply_some(self, count: int, again: int) -> None:
        until = min(len(self.log), self.applied + count)
        self.index.apply(self.log[max(0, self.applied - again) : until])
        self.applied = max(self.applied, until)

    @rule()
    def apply_all(self) -> None:
        self.index.apply(self.log)
        self.applied = len(self.log)

    @rule(epoch=st.text(max_size=3))
    def reset(self, epoch: str) -> None:
        self.index.reset(epoch, replacing=self.index.position)
        self.applied = 0

    @precondition(lambda self: len(self.log) > self.applied + 1)
    @rule()
    def skip_one(self) -> None:
        with pytest.raises(IndexGap):
            self.index.apply(self.log[self.applied + 1 :])

    @invariant()
    def answers_are_right(self) -> None:
        seen = self.log[: self.applied]
        position = self.index.position
        assert position is not None
        assert position.seq == self.applied
        for query in (self.pool[0], self.pool[4], self.pool[8], embedding(self.rng)):
            for model in ("m", "n"):
                for k in (1, 3, 500):
                    self.check(self.index.search(query, model=model, k=k), exact(seen, query, model, 10**6), k)

    def check(self, hits: list[Hit], right: list[Hit], k: int) -> None:
        if type(self).exact:
            assert hits == right[:k]
            return
        # Of equal scores any may come from lists; but each score is its vector's own, and none better is missed.
        assert [hit.score for hit in hits] == [hit.score for hit in right[:k]]
        assert set(hits) <= set(right)
        assert len({hit.vector_id for hit in hits}) == len(hits)

    def alive(self) -> list[str]:
        return [vector_id for vector_id, last in self.last().items() if last.kind.findable]

    def gone(self) -> list[str]:
        return [vector_id for vector_id, last in self.last().items() if not last.kind.findable]

    def last(self) -> dict[str, Change]:
        return {change.vector_id: change for change in self.log}


def _machine(kind: str) -> Any:
    members = {"make": staticmethod(ALL[kind]), "exact": kind in EXACT}
    case: Any = type(f"{kind}Machine", (IndexMachine,), members)
    case.TestCase.settings = settings(max_examples=20, stateful_step_count=25)
    return case.TestCase


TestMemory = _machine("memory")
TestExact = _machine("exact")
TestExactRestarted = _machine("exact, restarted")
TestLists = _machine("lists")
TestListsRestarted = _machine("lists, restarted")
