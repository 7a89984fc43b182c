"""The compose file passes on the settings that locate the stores."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["database_url", "artifacts", "s3_endpoint_url", "snapshots", "workers"])
def test_compose_passes_on_the_locations_of_the_stores(name: str) -> None:
    variable = f"VLIBRARY_{name.upper()}"
    assert f"{variable}: ${{{variable}:-" in (ROOT / "docker-compose.yml").read_text()
