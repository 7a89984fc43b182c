"""Model-based test: random operations on a library, compared with an oracle (tests/faults/model/machine.py).

`python -m tests.faults.operations --ops 200000 --seed 1` runs them in chunks of the seeds 1, 2, ..., each in a process
of its own, because hypothesis keeps every choice of a run in memory. The last line is {"operations", "violations"}.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import multiprocessing
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import structlog
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from rich.console import Console

from tests.faults.model.machine import LibraryMachine
from tests.faults.progress import ProgressLine

# Operations in one history; each starts with an empty library.
STEPS = 200
CHUNK = 5_000
# A chunk takes about 15 s, and hypothesis stops shrinking a failure after 5 minutes.
LIMIT_S = 600.0
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Outcome:
    """operations: how many were run. violation: the shortest history found for the first wrong result."""

    operations: int
    violation: str | None = None


def run(operations: int, number: int, machine: type[RuleBasedStateMachine] = LibraryMachine) -> Outcome:
    """Run about this many operations, seeded by the number, until one is wrong."""
    done = 0

    class Counted(machine):  # type: ignore[misc, valid-type]  # a class that is a value
        @invariant()
        def count(self) -> None:
            nonlocal done
            done += 1

    how: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    histories = settings(max_examples=max(1, operations // STEPS), stateful_step_count=STEPS, **how)
    try:
        run_state_machine_as_test(seed(number)(Counted), settings=histories)
    except Exception:  # noqa: BLE001  (any error that the oracle does not expect; reported with its history)
        return Outcome(done, traceback.format_exc())
    return Outcome(done)


def run_apart(operations: int, number: int, machine: type[RuleBasedStateMachine] = LibraryMachine) -> Outcome:
    """Like `run`, in a separate process; a crash or a timeout is a violation, too."""
    _CONTEXT.set_forkserver_preload([LibraryMachine.__module__])
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(theirs, operations, number, machine), daemon=True)
    process.start()
    theirs.close()
    try:
        outcome: Outcome = ours.recv()
    except EOFError:
        process.join()
        return Outcome(operations, f"its process ended with {process.exitcode}")
    else:
        return outcome
    finally:
        process.kill()
        process.join()
        ours.close()


def _send(pipe: Connection, operations: int, number: int, machine: type[RuleBasedStateMachine]) -> None:
    # Without the log entry of every ignored snapshot.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    pipe.send(run(operations, number, machine))


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.faults.operations", description=__doc__)
    options.add_argument("--ops", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    done = violations = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ProgressLine(Console(stderr=True), given.ops) as line:  # as in tests.faults
        for number in count(given.seed):
            if done >= given.ops:
                break
            outcome = run_apart(min(CHUNK, given.ops - done), number)
            done += outcome.operations
            if outcome.violation is not None:
                violations += 1
                print(f"chunk of seed {number}: {outcome.violation}", flush=True)
            line.step(outcome.operations, violations)
    print(json.dumps({"operations": done, "violations": violations}))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
