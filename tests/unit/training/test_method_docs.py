"""docs/reference/method.md names the defaults that the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from vlibrary.methods.m2iv.config import LR_PER_STREAM, M2ivConfig
from vlibrary.methods.m2iv.losses.objective import DEFAULT_WEIGHTS, LOSSES
from vlibrary.methods.m2iv.losses.synergistic import READINGS
from vlibrary.methods.m2iv.method import MIN_TO_SPLIT, TRUSTED
from vlibrary.methods.m2iv.theta import INITIAL_SCALE, VECTOR_STD

PAGE = (Path(__file__).parents[3] / "docs/reference/method.md").read_text(encoding="utf-8")


def test_the_settings_table_equals_the_config() -> None:
    expected = {each.name: str(getattr(M2ivConfig(), each.name)) for each in fields(M2ivConfig)}
    documented = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, flags=re.MULTILINE))
    assert documented == expected
    assert f"None: {LR_PER_STREAM} · the stream's" in PAGE
    assert f"from {TRUSTED} the defaults" in PAGE
    assert f"fewer than {MIN_TO_SPLIT} examples" in PAGE


def test_the_loss_table_equals_the_implemented_losses() -> None:
    documented = re.findall(r"^\| (\w+) \| λ_\w+ = ([\d.]+) \| (on|off) \|", PAGE, flags=re.MULTILINE)
    assert {name: float(weight) for name, weight, _ in documented} == dict(DEFAULT_WEIGHTS)
    assert {name: state == "on" for name, _, state in documented} == {
        name: weight > 0 for name, weight in DEFAULT_WEIGHTS.items()
    }
    assert set(DEFAULT_WEIGHTS) == set(LOSSES)
    assert all(f"`{reading}`" in PAGE for reading in READINGS)


def test_the_initial_values_equal_the_code() -> None:
    assert f"v ~ N(0, {VECTOR_STD}²), α = {INITIAL_SCALE} at the start" in PAGE
