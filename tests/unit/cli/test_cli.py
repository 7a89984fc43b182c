"""Output of the command line: progress, tables, and causes of errors."""

from __future__ import annotations

import io
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from vlibrary.bootstrap import open_operator_stores
from vlibrary.cli import output
from vlibrary.cli.errors import cause_of, print_error
from vlibrary.cli.output import (
    LINE_INTERVAL_S,
    ProgressLines,
    escape,
    print_answer,
    print_rows,
    print_text,
    progress,
    run_steps,
)
from vlibrary.domain.errors import CatalogueUnavailable, InvalidInput, Unavailable

ID, WHEN = "01M83MXE3KNAV6W8M2Q5R7S9A1", "2026-11-23T07:58:28Z"


def test_quick_work_prints_no_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_steps(iter([1, 2, 3]), str) == 3
    assert capsys.readouterr().err == ""


def test_long_work_prints_a_progress_line_per_interval_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    written: list[str] = []
    report = ProgressLines(written.append, lambda: now)
    for now in (
        1.0,
        LINE_INTERVAL_S - 0.1,
        LINE_INTERVAL_S,
        LINE_INTERVAL_S + 1,
        2 * LINE_INTERVAL_S + 5,
        3 * LINE_INTERVAL_S,
        3 * LINE_INTERVAL_S + 5,
    ):
        report(f"at {now:g}")
    assert written == ["at 10", "at 25", "at 35"]
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0.0)
    key = "resume with --after " + "k" * 300
    run_steps(iter([key]), str)
    assert capsys.readouterr().err == f"{key}\n"


def test_progress_on_a_terminal_is_not_truncated_and_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "errors", Console(file=screen, force_terminal=True, width=80))
    with progress() as report:
        report("[b]halfway " + "k" * 100)
    assert "[b]halfway" in screen.getvalue()
    assert "…" not in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # erases the line


MARKUP = "[red]x[/red] [/y] :a: :smile: \\[b] 1.5"


def test_text_is_printed_without_markup_emoji_or_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=200)
    monkeypatch.setattr(output, "errors", terminal)
    monkeypatch.setattr("vlibrary.cli.errors.errors", terminal)
    print_text(MARKUP, on=terminal)
    print_rows(("name",), [(MARKUP,)], none="", on=terminal)
    print_error(InvalidInput(MARKUP, MARKUP))
    with progress() as report:
        report(MARKUP)
    # The table, both parts of the error, the text, and the line of progress, at least once.
    assert screen.getvalue().count(MARKUP) >= 5


def test_invisible_characters_are_escaped_and_joiners_are_not() -> None:
    text = "a\x1b[31m\x07\u202e\u2066\u2028\ufeff\x85\ud800\x7fb می\u200cخواهم 👩\u200d💻 é"
    assert escape(text) == r"a\x1b[31m\x07\u202e\u2066\u2028\ufeff\x85\ud800\x7fb" + " می\u200cخواهم 👩\u200d💻 é"
    assert escape("a\nb\tc") == r"a\nb\tc"
    assert escape("a\nb\tc", keep="\n\t") == "a\nb\tc"


@given(text=st.text())
def test_escaped_text_cannot_control_a_terminal(text: str) -> None:
    shown = escape(text)
    assert not any(category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    if text.isprintable():
        assert shown == text


def test_answers_are_unchanged_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer("a\tb\x1b[1m" + "word " * 5_000)
    assert capsys.readouterr().out == "a\tb\x1b[1m" + "word " * 5_000 + "\n"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_tables_are_never_truncated(width: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    print_rows(("name", "created", "id"), [("colour" * 10, WHEN, ID)], none="None.", on=console)
    assert [word for word in ("colour" * 10, WHEN, ID) if word not in screen.getvalue()] == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/catalogue.db", "unable to open database file"),
        ("postgresql+psycopg://ann:secret@127.0.0.1:1/db", "Connection refused"),
    ],
)
def test_the_cause_of_an_error_does_not_contain_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, said: str
) -> None:
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("VLIBRARY_DATABASE_URL", url)
    with pytest.raises(CatalogueUnavailable) as caught:
        open_operator_stores()
    cause = cause_of(caught.value)
    assert cause is not None
    assert said in cause
    assert [word for word in ("secret", "sec@", "ret", "\n") if word in cause] == []


def test_the_cause_is_the_first_line_of_the_store_s_error() -> None:
    def cause(error: InvalidInput | Unavailable, said: str) -> str | None:
        error.__cause__ = OSError(said)
        return cause_of(error)

    down = Unavailable("a", "b")
    assert cause_of(down) is None
    assert cause(down, 'No route to "http://key:pass@word@store/x".\n[SQL: ...]') == 'No route to "***@store/x".'
    assert cause(down, "") == "OSError"
    assert cause(InvalidInput("a", "b"), "no such file") is None
