"""docs/reference/method.md names the defaults that the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.losses import DEFAULT_WEIGHTS, LOSSES
from vlibrary.methods.m2iv.theta import INITIAL_SCALE, VECTOR_STD

PAGE = (Path(__file__).parents[3] / "docs/reference/method.md").read_text(encoding="utf-8")


def test_the_settings_table_equals_the_config() -> None:
    config = M2ivConfig()
    expected = {each.name: getattr(config, each.name) for each in fields(config)} | {"weights": dict(config.weights)}
    documented = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, flags=re.MULTILINE))
    assert documented == {name: str(value) for name, value in expected.items()}


def test_the_loss_table_equals_the_implemented_losses() -> None:
    documented = re.findall(r"^\| (\w+) \| λ_\w+ = ([\d.]+) \| on \|", PAGE, flags=re.MULTILINE)
    assert {name: float(weight) for name, weight in documented} == dict(DEFAULT_WEIGHTS)
    assert set(DEFAULT_WEIGHTS) == set(LOSSES)
    assert "synergistic, L_syn | | **not implemented**" in PAGE


def test_the_initial_values_equal_the_code() -> None:
    assert f"v ~ N(0, {VECTOR_STD}²), α = {INITIAL_SCALE} at the start" in PAGE
