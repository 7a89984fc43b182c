"""No argument of a command leads to a traceback, and no text of a user is taken for markup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.command_line import run
from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.api.app import create_app
from vlibrary.client import Client
from vlibrary.domain.filters import ValueKind
from vlibrary.formats.artifact import decode, encode

ODD = [
    *(
        "",
        " ",
        "-",
        "--",
        "-x",
        ".",
        "..",
        "/",
        "a/b",
        "a:b:c",
        ":a:",
        ":smile:",
        "[red]",
        "[/y]",
        "[b]x[/]",
        "\\[",
        "{}",
        "%s",
    ),
    *(
        "a@b",
        "@",
        "a@",
        "@b",
        ":",
        "a:",
        "a:0",
        "a:1",
        "=",
        "a=",
        "=1",
        "k=NaN",
        "k=1e999",
        "k=[",
        "colour:1",
        "colour@x",
    ),
    *(
        "nan",
        "inf",
        "-1",
        "0",
        "1e5",
        "9" * 30,
        "9" * 5_000,
        "x" * 100_000,
        "1.10",
        "true",
        "null",
        "?a#b",
        "a\nb",
        "a\tb",
    ),
    *("\x1b[31m", "\u202eevil", "\u2066", "\ufeff", "ü", "می\u200cخواهم", "👩\u200d💻", "\udcff", "a\udcf6b", "\ud800"),
    *(
        "http://::1:21006",
        "http://",
        "localhost",
        "http://[::1",
        "http://a..b",
        "http://x:99999",
        "ftp://x",
        "http://xn--",
    ),
    *("99999d", "1s", "/nonexistent/file", "/", "/dev/null", "/etc/hostname"),
]
TEXT = st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0"), max_size=20)
# Each with the number of its arguments and its options that take a value.
COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "register": (1, ("--card",)),
    "list": (0, ("--name", "--tag", "--metadata")),
    "retrieve": (1, ("--image", "--k")),
    "generate": (1, ("--image", "--vector", "--max-new-tokens", "--stop")),
    "tag": (1, ("--add", "--remove", "--set", "--set-json", "--unset", "--describe", "--actor")),
    "alias list": (1, ()),
    "alias set": (2, ("--actor",)),
    "alias drop": (1, ("--actor",)),
    "delete": (1, ("--actor",)),
    "undelete": (1, ("--actor",)),
    "purge": (1, ("--actor",)),
    "import": (1, ("--actor",)),
}
# Commands that write files: their arguments must not lead out of the working directory.
LOCAL_COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "export": (1, ("--name", "--tag", "--metadata")),
    "import-vector": (1, ("--name", "--description", "--site", "--layers", "--first-layer", "--scale", "--model")),
    "gc": (0, ("--grace", "--retention", "--after", "--rate", "--actor")),
    "backup": (1, ("--actor",)),
    "restore": (1, ("--actor",)),
    "migrate": (0, ("--actor",)),
    "doctor --deep --no-index": (0, ("--sample", "--cursor", "--actor")),
    "examples": (2, ("--split", "--count", "--seed")),
    "train": (
        1,
        (
            "--name",
            "--images",
            "--shots",
            "--steps",
            "--seed",
            "--state",
            "--out",
            "--test",
            "--unlabelled",
            "--loss",
            "--set",
        ),
    ),
}
METHOD = "x[/y] :a: \x1b[31m\u202e\n" + "long" * 4_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live(create_app(memory_library())) as address, Client(address) as client:
        client.register(artifact(MODEL), card("colour", "Which hue?"))
        odd = encode(replace(decode(artifact(MODEL)), method=METHOD))
        client.register(odd, card("odd", "Which hue?"))
        yield address


@st.composite
def command_lines(
    draw: st.DrawFn, commands: dict[str, tuple[int, tuple[str, ...]]], texts: st.SearchStrategy[str] = TEXT
) -> list[str]:
    command = draw(st.sampled_from(sorted(commands)))
    count, options = commands[command]
    line = [*command.split(), *(draw(texts) for _ in range(count))]
    chosen = draw(st.lists(st.sampled_from(options), max_size=3)) if options else []
    line.extend(f"{option}={draw(texts)}" for option in chosen)
    if draw(st.booleans()):
        line.append("--json")
    return line


ODDLY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ODDLY
@given(line=command_lines(COMMANDS))
@example(line=["generate", "x", "--vector=a=nan"])
@example(line=["generate", "x", "--vector==1"])
@example(line=["delete", ".."])
@example(line=["delete", ""])
@example(line=["delete", "x" * 100_000])
@example(line=["tag", "colour:1", "--actor=ü"])
@example(line=["tag", "colour:1", "--set=k=NaN"])
@example(line=["list", "--metadata=k=1e999"])
@example(line=["retrieve", "x", "--k=99999999999999999999999"])
def test_odd_arguments_are_used_or_refused(url: str, line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(*line, f"--url={url}")
    said = capsys.readouterr()
    assert code in (0, 1, 2)
    assert code == 0 or said.err or said.out


@ODDLY
@given(line=command_lines(LOCAL_COMMANDS, TEXT.filter(lambda text: "/" not in text and text.strip(".") != "")))
@example(line=["gc", "--grace=99999d"])
@example(line=["gc", "--rate=nan"])
@example(line=["doctor", "--deep", "--no-index", "--sample=nan"])
@example(line=["examples", "colour-code", "x", "--count=1", "--seed=99999999999999999999"])
def test_odd_arguments_of_local_commands_are_used_or_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VLIBRARY_URL", url)
    code = run(*line)
    said = capsys.readouterr()
    assert code in (0, 1, 2)
    assert code == 0 or said.err or said.out


@ODDLY
@given(address=TEXT)
def test_an_odd_address_is_refused_with_a_message(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", f"--url={address}") in (1, 2)
    assert capsys.readouterr().err


def test_one_odd_vector_does_not_break_the_list(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--url", url) == 0
    said = capsys.readouterr().out
    _, _, odd, colour = said.splitlines()
    assert r"x[/y] :a: \x1b[31m\u202e\nlong" in odd
    assert len(odd) < 300
    assert colour.startswith("colour")
    assert [character for character in said if not (character.isprintable() or character == "\n")] == []


@pytest.mark.parametrize("tag", ["a:b:c", ":a:", "[red]x[/red]", "[/y]", "می\u200cخواهم"])
def test_tags_are_printed_as_they_are(url: str, tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tag", "colour:1", "--add", tag, "--url", url) == 0
    assert tag in capsys.readouterr().out
    assert run("tag", "colour:1", "--remove", tag, "--url", url) == 0
    assert run("list", "--tag", tag, "--url", url) == 0


@pytest.mark.parametrize("text", ["1.10", "1e5", "16", "true", "NaN", "007", '"x"', "a=b", ""])
def test_set_keeps_the_text(url: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tag", "colour:1", f"--set=kept={text}", "--url", url) == 0
    with Client(url) as client:
        assert client.get_vector("colour").metadata["kept"] == text
        assert [one.name for one in client.list_vectors(metadata=[f"kept=[{json.dumps(text)}]"])] == ["colour"]
    assert run("list", f"--metadata=kept={text}", "--url", url) == 0
    if text != '"x"':  # in a filter, quotation marks are not part of the text
        assert "colour" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("text", "value"), [("16", 16), ("1.5", 1.5), ("1e5", 1e5), ("true", True), ('"16"', "16")])
def test_set_json_sets_a_typed_value(url: str, text: str, value: Any) -> None:
    assert run("tag", "colour:1", f"--set-json=typed={text}", "--url", url) == 0
    with Client(url) as client:
        found = client.get_vector("colour").metadata["typed"]
        assert (ValueKind.of(found), found) == (ValueKind.of(value), value)


@pytest.mark.parametrize("text", ["x", "x=", "x=NaN", "x=null", "x=[1]", "x=1.2.3", "x=99999999999999999999"])
def test_set_json_refuses_what_is_no_value(url: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tag", "colour:1", f"--set-json={text}", "--url", url) == 1
    assert "Use --set" in capsys.readouterr().err


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_export_to_a_folder_is_refused(url: str, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", folder, "--url", url) == 1
    assert f"{folder} is a folder" in capsys.readouterr().err


def test_bytes_that_are_not_utf_8_are_refused_with_their_place(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = b"Gr\xf6\xdfe".decode("utf-8", "surrogateescape")
    for arguments, name in ((("generate", text), "PROMPT"), (("tag", "colour:1", "--set", f"a={text}"), "--set")):
        assert run(*arguments, "--url", url) == 1
        said = capsys.readouterr().err
        assert f" {name} '" in said
        assert "byte 0xF6, is not UTF-8" in said
    file = tmp_path / "colour.safetensors"
    file.write_bytes(artifact(MODEL))
    (tmp_path / "colour.card.json").write_bytes('{"name": "größe"}'.encode("cp1252"))
    assert run("register", str(file), "--url", url) == 1
    assert "line 1, column 13: byte 0xF6 at offset 12 is not UTF-8" in capsys.readouterr().err
