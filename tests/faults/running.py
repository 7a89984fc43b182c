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
# Share of cycles on servers, if there are any; they take longer.
SHARE_ON_SERVERS = 0.25
# The longest cycles take about 20 s, those of LONG about 90 s.
LIMIT_S = 180.0
# Code that is interrupted by the time limit may wait again during cleanup, so it is interrupted repeatedly.
REMINDER_S = 10.0


class Hangs(BaseException):
    """The cycle timed out. A BaseException, so that no handler mistakes it for an error of the service."""


def run_cycle(
    seed: int, servers: Servers | None = None, scenarios: Scenarios | None = None, *, limit_s: float = LIMIT_S
) -> Cycle:
    """Run the cycle of this seed; its ledger contains the violations, including errors and timeouts of the cycle.

    servers: None to use local stores only. Must run in the main thread, which receives SIGALRM.
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
        with _record_thread_errors(cycle.ledger), _time_limit(limit_s):
            _run(scenario, cycle)
        if cycle.ledger.violations:
            cycle.logs = world.logs()
        return cycle


def _run(scenario: Callable[[Cycle], None], cycle: Cycle) -> None:
    try:
        scenario(cycle)
    except NotAvailable as reason:
        cycle.skipped = str(reason)
    except (ServiceError, Died) as error:  # of a request or start after the recovery
        cycle.ledger.expect(False, f"the service did not recover: {error!r}")
    except Hangs:
        cycle.ledger.expect(False, f"the cycle hangs:\n{traceback.format_exc()}")
    except Exception:  # noqa: BLE001  (whatever it is, this seed has found it, and the next ones shall have their turn)
        cycle.ledger.expect(False, f"the cycle failed:\n{traceback.format_exc()}")


@contextmanager
def _record_thread_errors(ledger: Ledger) -> Iterator[None]:
    """Record an error that ends one of the cycle's threads as a violation."""
    before = threading.excepthook

    def note(what: threading.ExceptHookArgs) -> None:
        output = "".join(traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback))
        ledger.expect(False, f"a thread of the cycle failed:\n{output}")

    threading.excepthook = note
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise Hangs when the time is over."""

    def hangs(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds, REMINDER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
