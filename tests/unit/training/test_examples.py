"""Training examples on disk: round trip, and errors that name file, line and cure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlibrary.bundled.tasks import examples, task
from vlibrary.domain.example import Example
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.examples import digest, read_examples, write_examples

GOOD = {"image": "images/00000.png", "question": "Which hue?", "answer": "wug"}


@pytest.fixture
def some() -> list[Example]:
    return examples(task("colour-code"), "train", 3, seed=0)


@pytest.fixture
def folder(tmp_path: Path, some: list[Example]) -> Path:
    write_examples(some, tmp_path)
    return tmp_path


def test_written_examples_read_back_equal(folder: Path, some: list[Example]) -> None:
    assert read_examples(folder / "examples.jsonl", folder) == some


def test_non_ascii_text_is_stored_unescaped(tmp_path: Path, some: list[Example]) -> None:
    path = write_examples([replace(some[0], answer="grün")], tmp_path)
    assert "grün" in path.read_text(encoding="utf-8")
    assert read_examples(path, tmp_path)[0].answer == "grün"


def test_blank_lines_are_skipped_but_counted_in_line_numbers(folder: Path) -> None:
    path = folder / "examples.jsonl"
    path.write_text("\n" + json.dumps(GOOD) + "\n\n{", encoding="utf-8")
    with pytest.raises(InvalidExamples, match="line 4: invalid JSON"):
        read_examples(path, folder)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
        ("[]", "not a JSON object"),
        (GOOD | {"label": 1}, "unknown fields .'label'."),
        ({"image": "images/00000.png", "question": "Which hue?"}, "'answer' is missing"),
        (GOOD | {"answer": "  "}, "'answer' is '  ', not a non-empty string"),
        (GOOD | {"question": 3}, "'question' is 3"),
        (GOOD | {"image": "nowhere.png"}, "cannot open the image 'nowhere.png'"),
        (GOOD | {"image": "../outside.png"}, "is outside"),
        (GOOD | {"image": "/etc/hostname"}, "is outside"),
        (GOOD | {"image": "link.png"}, "is outside"),
        (GOOD | {"image": "text.png"}, "cannot be read"),
        (GOOD | {"image": "images"}, "cannot open the image"),
        (GOOD | {"image": "a\0b"}, "cannot open the image"),
    ],
)
def test_an_error_names_the_line_and_a_cure(folder: Path, line: Any, problem: str) -> None:
    (folder.parent / "outside.png").write_bytes((folder / "images/00000.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "text.png").write_text("not a picture")
    path = folder / "examples.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + (line if isinstance(line, str) else json.dumps(line)), encoding="utf-8")
    with pytest.raises(InvalidExamples, match=problem) as caught:
        read_examples(path, folder)
    assert "examples.jsonl, line 2" in caught.value.detail
    assert caught.value.cure


def test_a_missing_file_and_too_few_examples_are_errors(folder: Path) -> None:
    with pytest.raises(InvalidExamples, match="Cannot read"):
        read_examples(folder / "missing.jsonl", folder)
    (folder / "latin.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidExamples, match="Cannot read"):
        read_examples(folder / "latin.jsonl", folder)
    with pytest.raises(InvalidExamples, match="has 3 examples"):
        read_examples(folder / "examples.jsonl", folder, at_least=4)


def test_the_digest_depends_on_every_field_boundary_and_the_order(some: list[Example]) -> None:
    first = some[0]
    lists = [
        some,
        some[::-1],
        some[:2],
        [replace(first, answer="another"), *some[1:]],
        [replace(first, question="Which guild?"), *some[1:]],
        [replace(first, image=some[1].image), *some[1:]],
        [replace(first, question=first.question + first.answer[:1], answer=first.answer[1:]), *some[1:]],
    ]
    assert len({digest(each) for each in lists}) == len(lists)
    assert digest(some) == digest(list(some))
