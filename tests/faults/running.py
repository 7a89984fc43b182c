"""Runs the cycle of a seed."""

from __future__ import annotations

import random
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.checks.ledger import Ledger
from tests.faults.cycle import Cycle
from tests.faults.processes.api_process import Died
from tests.faults.processes.servers import Servers
from tests.faults.processes.world import World
from tests.faults.scenarios.crashes import LOCAL
from tests.faults.scenarios.operators import OPERATORS
from tests.faults.scenarios.servers import LONG, ON_SERVERS
from tests.support.small_disk import NotAvailable
from vlibrary.client import ServiceError

Scenarios = Mapping[Callable[[Cycle], None], int]
NEED_SERVERS = {*ON_SERVERS, *LONG} - set(LOCAL)
# Of the cycles, if there are servers; they take longer.
SHARE_ON_SERVERS = 0.25
# The longest cycles take some 20 s, those of LONG some 90 s.
LIMIT_S = 180.0
# What gives way to the time limit may wait again while it ends: then it is told again.
REMINDER_S = 10.0


class Hangs(BaseException):
    """The cycle has not ended in time. Nobody on the way may take it for an error of the service's."""


def run_cycle(
    seed: int, servers: Servers | None = None, scenarios: Scenarios | None = None, *, limit_s: float = LIMIT_S
) -> Cycle:
    """The cycle of this seed, done; what it found is in its ledger, also that it broke off or took too long.

    servers: None to do without them. Only for the main thread, which gets the alarm of the time limit.
    """
    rng = random.Random(seed)
    share = rng.random() < SHARE_ON_SERVERS
    bound = scenarios is not None and NEED_SERVERS.issuperset(scenarios)
    on_servers = servers is not None and (share or bound)
    choice = scenarios or {**(ON_SERVERS if on_servers else LOCAL), **OPERATORS}
    with tempfile.TemporaryDirectory(prefix="vlibrary-faults-", ignore_cleanup_errors=True) as folder:
        data_dir = Path(folder)
        world = servers.world(data_dir) if servers is not None and on_servers else World(data_dir)
        (scenario,) = rng.choices(list(choice), list(choice.values()))
        cycle = Cycle(scenario.__name__, world, rng)
        if bound and servers is None:
            cycle.skipped = "it needs servers"
            return cycle
        with _watched(cycle.ledger), _limited(limit_s):
            _run(scenario, cycle)
        if cycle.ledger.violations:
            cycle.logs = world.logs()
        return cycle


def _run(scenario: Callable[[Cycle], None], cycle: Cycle) -> None:
    try:
        scenario(cycle)
    except NotAvailable as reason:
        cycle.skipped = str(reason)
    except (ServiceError, Died) as error:  # asked or started when all was well again
        cycle.ledger.expect(False, f"the service did not recover: {error!r}")
    except Hangs:
        cycle.ledger.expect(False, f"the cycle hangs:\n{traceback.format_exc()}")
    except Exception:  # noqa: BLE001  (whatever it is, this seed has found it, and the next ones shall have their turn)
        cycle.ledger.expect(False, f"the cycle broke off:\n{traceback.format_exc()}")


@contextmanager
def _watched(ledger: Ledger) -> Iterator[None]:
    """An error that ends one of the cycle's threads is a violation, too."""
    before = threading.excepthook

    def note(what: threading.ExceptHookArgs) -> None:
        told = "".join(traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback))
        ledger.expect(False, f"a thread of the cycle broke off:\n{told}")

    threading.excepthook = note
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises Hangs, wherever it is, when the time is over."""

    def hangs(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds, REMINDER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
