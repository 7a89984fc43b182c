"""`make test-faults CYCLES=n SEED=s`: n cycles, of the seeds s, s+1, ...; the last line is {"cycles", "violations"}."""

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
from tests.faults.progress import Line
from tests.faults.running import Scenarios, run_cycle
from tests.faults.scenarios.crashes import LOCAL
from tests.faults.scenarios.operators import OPERATORS
from tests.faults.scenarios.servers import LONG, ON_SERVERS

BY_NAME: dict[str, Callable[[Cycle], None]] = {act.__name__: act for act in (*LOCAL, *ON_SERVERS, *LONG, *OPERATORS)}


@dataclass
class Tally:
    """What the cycles have come to so far."""

    cycles: int = 0
    violations: int = 0
    scenarios: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, seed: int, cycle: Cycle, seconds: float) -> None:
        """Count the cycle, which took so long, and tell what it found."""
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

    def tell(self, console: Console) -> None:
        """What was done and how long it took, and where processes died."""
        told = (
            ("cycles of", self.scenarios),
            ("seconds in", self.seconds),
            ("struck at", self.struck),
            ("left out", self.skipped),
        )
        for title, counts in told:
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
    tally = Tally()
    with ExitStack() as ending, suppress(KeyboardInterrupt):  # whoever ends it early is told of what was done
        servers = None if given.local else _servers(ending, console)
        line = ending.enter_context(Line(console, given.cycles))
        for seed in range(given.seed, given.seed + given.cycles):
            since = time.monotonic()
            cycle = run_cycle(seed, servers, _wanted(given.only))
            tally.add(seed, cycle, time.monotonic() - since)
            line.step(1, tally.violations)
    tally.tell(console)
    print(json.dumps({"cycles": tally.cycles, "violations": tally.violations}))
    return 1 if tally.violations else 0


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
