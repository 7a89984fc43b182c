"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.processes.servers import NoServers, Servers, running_servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and S3; skips the test, with a reason, on machines that cannot run them."""
    try:
        with running_servers() as servers:
            yield servers
    except NoServers as reason:
        pytest.skip(str(reason))
