"""`make test-faults CYCLES=n SEED=s`: n cycles, of the seeds s, s+1, ...; the last line is {"cycles", "violations"}."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress

from tests.faults.running import run_cycle
from tests.faults.servers import NoServers, Servers, running_servers


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    options.add_argument("--cycles", type=int, default=100)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--local", action="store_true", help="no servers: SQLite and a folder only")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    struck: Counter[str] = Counter()
    done = violations = 0
    with ExitStack() as ending, suppress(KeyboardInterrupt):  # whoever ends it early is told of what was done
        servers = None if given.local else _servers(ending)
        for seed in range(given.seed, given.seed + given.cycles):
            cycle = run_cycle(seed, servers)
            done += 1
            struck.update(cycle.struck)
            violations += len(cycle.ledger.violations)
            for violation in cycle.ledger.violations:
                print(f"seed {seed}, {cycle.scenario}: {violation}", flush=True)
    rate = done / (time.monotonic() - started)
    print(f"{rate:.2f} cycles a second; died at {len(struck)} different steps:", file=sys.stderr)
    for step, count in sorted(struck.items()):
        print(f"{count:6} {step}", file=sys.stderr)
    print(json.dumps({"cycles": done, "violations": violations}))
    return 1 if violations else 0


def _servers(ending: ExitStack) -> Servers | None:
    try:
        return ending.enter_context(running_servers())
    except NoServers as reason:
        print(f"Cycles on SQLite and a folder only: {reason}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
