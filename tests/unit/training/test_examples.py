"""Training examples on disk: what is written is read back; every bad line says where it is and how to mend it."""

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


def test_what_is_written_is_read_back(folder: Path, some: list[Example]) -> None:
    assert read_examples(folder / "examples.jsonl", folder) == some


def test_letters_beyond_ascii_stay_readable(tmp_path: Path, some: list[Example]) -> None:
    path = write_examples([replace(some[0], answer="grün")], tmp_path)
    assert "grün" in path.read_text(encoding="utf-8")
    assert read_examples(path, tmp_path)[0].answer == "grün"


def test_blank_lines_count_as_lines_but_not_as_examples(folder: Path) -> None:
    path = folder / "examples.jsonl"
    path.write_text("\n" + json.dumps(GOOD) + "\n\n{", encoding="utf-8")
    with pytest.raises(InvalidExamples, match="line 4: not valid JSON"):
        read_examples(path, folder)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        (GOOD | {"label": 1}, "unknown fields .'label'."),
        ({"image": "images/00000.png", "question": "Which hue?"}, "'answer' is missing"),
        (GOOD | {"answer": "  "}, "'answer' is '  '"),
        (GOOD | {"question": 3}, "'question' is 3"),
        (GOOD | {"image": "nowhere.png"}, "'nowhere.png' cannot be opened"),
        (GOOD | {"image": "../outside.png"}, "lies outside"),
        (GOOD | {"image": "/etc/hostname"}, "lies outside"),
        (GOOD | {"image": "link.png"}, "lies outside"),
        (GOOD | {"image": "text.png"}, "cannot be read"),
        (GOOD | {"image": "images"}, "cannot be opened"),
        (GOOD | {"image": "a\0b"}, "cannot be opened"),
    ],
)
def test_a_bad_line_is_named_with_its_cure(folder: Path, line: Any, says: str) -> None:
    (folder.parent / "outside.png").write_bytes((folder / "images/00000.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "text.png").write_text("not a picture")
    path = folder / "examples.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + (line if isinstance(line, str) else json.dumps(line)), encoding="utf-8")
    with pytest.raises(InvalidExamples, match=says) as caught:
        read_examples(path, folder)
    assert "examples.jsonl, line 2" in caught.value.detail
    assert caught.value.cure


def test_a_missing_file_and_too_few_examples_are_errors(folder: Path) -> None:
    with pytest.raises(InvalidExamples, match="cannot be read"):
        read_examples(folder / "missing.jsonl", folder)
    (folder / "latin.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidExamples, match="cannot be read"):
        read_examples(folder / "latin.jsonl", folder)
    with pytest.raises(InvalidExamples, match="has 3 examples"):
        read_examples(folder / "examples.jsonl", folder, at_least=4)


def test_the_digest_sees_every_field_the_order_and_the_borders(some: list[Example]) -> None:
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
