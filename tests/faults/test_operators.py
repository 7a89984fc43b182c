"""A few cycles of every kind with operator commands that are killed and rerun."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.cycle import Cycle
from tests.faults.processes.servers import Servers
from tests.faults.running import run_cycle
from tests.faults.scenarios.operators import OPERATORS

ON_SERVERS = 1  # a seed whose cycle runs on servers, if there are any


@pytest.mark.parametrize("scenario", OPERATORS)
def test_a_killed_and_rerun_command_loses_nothing(scenario: Callable[[Cycle], None]) -> None:
    assert run_cycle(3, scenarios={scenario: 1}).ledger.violations == []


@pytest.mark.real
@pytest.mark.parametrize("scenario", OPERATORS)
def test_a_killed_and_rerun_command_loses_nothing_on_servers(
    scenario: Callable[[Cycle], None], servers: Servers
) -> None:
    assert run_cycle(ON_SERVERS, servers, {scenario: 1}).ledger.violations == []
