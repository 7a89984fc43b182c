"""`make test-faults CYCLES=n SEED=s` runs n cycles with the seeds s, s+1, ...; prints {"cycles", "violations"} last."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from rich.console import Console

from tests.faults.cycle import Cycle
from tests.faults.processes.servers import NoServers, Servers, running_servers
from tests.faults.progress import ProgressLine
from tests.faults.running import Scenarios, run_cycle
from tests.faults.scenarios.crashes import LOCAL
from tests.faults.scenarios.operators import OPERATORS
from tests.faults.scenarios.servers import LONG, ON_SERVERS

BY_NAME: dict[str, Callable[[Cycle], None]] = {act.__name__: act for act in (*LOCAL, *ON_SERVERS, *LONG, *OPERATORS)}


@dataclass
class Totals:
    """Totals of the cycles so far."""

    cycles: int = 0
    violations: int = 0
    scenarios: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, seed: int, cycle: Cycle, seconds: float) -> None:
        """Count the cycle, and print its violations."""
        if cycle.skipped:
            self.skipped[f"{cycle.scenario}: {cycle.skipped}"] += 1
            return
        self.cycles += 1
        self.scenarios[cycle.scenario] += 1
        self.seconds[cycle.scenario] += round(seconds)
        self.struck.update(cycle.struck)
        self.violations += len(cycle.ledger.violations)
        for violation in cycle.ledger.violations:
            print(f"seed {seed}, {cycle.scenario}: {violation}", flush=True)
        if cycle.logs:
            print(cycle.logs, flush=True)

    def print(self, console: Console) -> None:
        """Print the totals by scenario, their time, and the steps at which processes died."""
        groups = (
            ("cycles of", self.scenarios),
            ("seconds in", self.seconds),
            ("struck at", self.struck),
            ("skipped", self.skipped),
        )
        for title, counts in groups:
            for what, count in sorted(counts.items()):
                console.print(f"{count:6} {title} {what}", markup=False, highlight=False, soft_wrap=True)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    options.add_argument("--cycles", type=int, default=100)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--local", action="store_true", help="no servers: SQLite and a folder only")
    options.add_argument("--only", choices=sorted(BY_NAME), help="cycles of one scenario, on servers if it needs them")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    totals = Totals()
    with ExitStack() as ending, suppress(KeyboardInterrupt):  # after Ctrl+C, the totals are still printed
        servers = None if given.local else _servers(ending, console)
        line = ending.enter_context(ProgressLine(console, given.cycles))
        for seed in range(given.seed, given.seed + given.cycles):
            since = time.monotonic()
            cycle = run_cycle(seed, servers, _wanted(given.only))
            totals.add(seed, cycle, time.monotonic() - since)
            line.step(1, totals.violations)
    totals.print(console)
    print(json.dumps({"cycles": totals.cycles, "violations": totals.violations}))
    return 1 if totals.violations else 0


def _wanted(only: str | None) -> Scenarios | None:
    return None if only is None else {BY_NAME[only]: 1}


def _servers(ending: ExitStack, console: Console) -> Servers | None:
    try:
        return ending.enter_context(running_servers())
    except NoServers as reason:
        console.print(f"Cycles on SQLite and a folder only: {reason}", markup=False)
        return None


if __name__ == "__main__":
    sys.exit(main())
