"""What the README and the deployment files say is all there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlibrary.config import Settings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_the_readme_names_every_setting(name: str) -> None:
    assert f"`VLIBRARY_{name.upper()}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["database_url", "artifacts", "s3_endpoint_url", "snapshots", "workers"])
def test_compose_hands_on_where_the_stores_are(name: str) -> None:
    variable = f"VLIBRARY_{name.upper()}"
    assert f"{variable}: ${{{variable}:-" in (ROOT / "docker-compose.yml").read_text()
