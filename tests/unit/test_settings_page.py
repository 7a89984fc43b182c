"""docs/reference/settings.md is generated from the settings class."""

from __future__ import annotations

from pathlib import Path

from vlibrary.config import GROUPS, Settings, settings_page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "run `make docs`"


def test_every_setting_is_in_one_group_and_described() -> None:
    grouped = [name for group in GROUPS for name in group.model_fields]
    assert sorted(grouped) == sorted(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())
