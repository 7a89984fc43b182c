"""What the README and the deployment files say is all there is."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["database_url", "artifacts", "s3_endpoint_url", "snapshots", "workers"])
def test_compose_hands_on_where_the_stores_are(name: str) -> None:
    variable = f"VLIBRARY_{name.upper()}"
    assert f"{variable}: ${{{variable}:-" in (ROOT / "docker-compose.yml").read_text()
