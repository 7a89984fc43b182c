"""A short run of the model-based test, and proof that it detects errors."""

from __future__ import annotations

import os
import signal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.faults.operations import run, run_apart


class Wrong(RuleBasedStateMachine):
    """A library that loses the third object."""

    kept = 0

    @rule(thing=st.integers(0, 9))
    def keep(self, thing: int) -> None:
        self.kept += thing == 7
        assert self.kept < 3, "a thing was lost"


class Dead(RuleBasedStateMachine):
    """A library that is killed."""

    @rule()
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_random_operations_agree_with_the_oracle() -> None:
    outcome = run(600, number=1)
    assert outcome.violation is None
    assert outcome.operations > 300


def test_a_wrong_result_is_reported_with_its_shortest_history() -> None:
    outcome = run_apart(1_000, 1, Wrong)
    assert outcome.violation is not None
    assert "a thing was lost" in outcome.violation
    assert outcome.violation.count("state.keep(thing=7)") == 3
    assert outcome.operations > 0


def test_operations_whose_process_dies_count_as_a_violation() -> None:
    outcome = run_apart(1_000, 1, Dead)
    assert outcome.violation == "its process ended with -9"
    assert outcome.operations == 1_000
