"""The HTTP reference names every route and every reason code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.library import memory_library
from vlibrary.api.app import create_app
from vlibrary.domain.steering import SteeringReason

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "http.md").read_text()


@pytest.mark.parametrize("path", sorted(create_app(memory_library()).openapi()["paths"]))
def test_the_reference_names_every_route(path: str) -> None:
    named = {re.sub(r"\{\w+\}", "{}", route) for route in re.findall(r"/[\w/{}]+", PAGE)}
    assert re.sub(r"\{\w+\}", "{}", path) in named


@pytest.mark.parametrize("code", SteeringReason)
def test_the_reference_explains_every_reason_code(code: SteeringReason) -> None:
    assert f"| `{code}` |" in PAGE
