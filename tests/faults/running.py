"""Runs the cycle of a seed."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from service.client import ServiceError
from tests.faults.cycle import Cycle
from tests.faults.processes import Died
from tests.faults.scenarios import LOCAL
from tests.faults.server_scenarios import ON_SERVERS
from tests.faults.servers import Servers
from tests.faults.world import World

Scenarios = Mapping[Callable[[Cycle], None], int]
# Of the cycles, if there are servers; they take longer.
SHARE_ON_SERVERS = 0.25


def run_cycle(seed: int, servers: Servers | None = None, scenarios: Scenarios | None = None) -> Cycle:
    """The cycle of this seed, done; what it found is in its ledger. servers: None to do without them."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="vlibrary-faults-", ignore_cleanup_errors=True) as folder:
        on_servers = rng.random() < SHARE_ON_SERVERS and servers is not None
        world = servers.world(Path(folder)) if servers is not None and on_servers else World(Path(folder))
        choice = scenarios or (ON_SERVERS if on_servers else LOCAL)
        (scenario,) = rng.choices(list(choice), list(choice.values()))
        cycle = Cycle(scenario.__name__, world, rng)
        try:
            scenario(cycle)
        except (ServiceError, Died) as error:  # asked or started when all was well again
            cycle.ledger.expect(False, f"the service did not recover: {error!r}")
        return cycle
