"""Training examples on disk: round trip, and errors that name file, line and cure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vlibrary.bundled.tasks import examples, task
from vlibrary.domain.example import Example
from vlibrary.evaluation.accuracy import is_correct
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.examples import digest, read_examples, read_questions, write_examples

GOOD = {"image": "images/00000.png", "question": "Which hue?", "answer": "wug"}
TEXT = st.text(min_size=1).filter(str.strip)


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
    with pytest.raises(InvalidExamples, match="line 4, column 2: invalid JSON"):
        read_examples(path, folder)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
        ("[]", "not a JSON object"),
        (GOOD | {"answer": []}, "'answer' is .., not a non-empty string"),
        (GOOD | {"answer": ["wug", ""]}, "'answer' is '', not a non-empty string"),
        (GOOD | {"answer": [["wug"]]}, "'answer' is .'wug'., not a non-empty string"),
        ({"image": "images/00000.png", "question": "Which hue?"}, "'answer' is missing"),
        (GOOD | {"answer": "  "}, "'answer' is '  ', not a non-empty string"),
        (GOOD | {"question": 3}, "'question' is 3"),
        (GOOD | {"image": "nowhere.png"}, "cannot open the image 'nowhere.png'"),
        (GOOD | {"image": "../outside.png"}, "is outside"),
        (GOOD | {"image": "/etc/hostname"}, "is outside"),
        (GOOD | {"image": "link.png"}, "is outside"),
        (GOOD | {"image": "text.png"}, "is a text file"),
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


def test_the_most_frequent_of_several_answers_comes_first(folder: Path) -> None:
    path = folder / "examples.jsonl"
    path.write_text(json.dumps(GOOD | {"answer": ["zaff", "wug", "wug", "dax"], "id": 7, "split": None}))
    (read,) = read_examples(path, folder)
    assert (read.answer, read.alternatives) == ("wug", ("zaff", "dax"))
    assert is_correct("DAX ", *read.answers)
    assert not is_correct("kiki", *read.answers)


def test_questions_are_read_without_their_answers(folder: Path, some: list[Example]) -> None:
    read = read_questions(folder / "examples.jsonl", folder)
    assert [(query.text, query.images) for query in read] == [(one.question, (one.image,)) for one in some]
    bare = [{"image": f"images/{number:05d}.png", "question": "Which hue?"} for number in range(2)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bare))
    assert [query.text for query in read_questions(folder / "questions.jsonl", folder)] == ["Which hue?"] * 2
    (folder / "questions.jsonl").write_text('{"image": "images/00000.png"}')
    with pytest.raises(InvalidExamples, match="line 1: 'question' is missing"):
        read_questions(folder / "questions.jsonl", folder)


def test_a_missing_file_and_too_few_examples_are_errors(folder: Path) -> None:
    with pytest.raises(InvalidExamples, match="Cannot read"):
        read_examples(folder / "missing.jsonl", folder)
    with pytest.raises(InvalidExamples, match="has 3 examples"):
        read_examples(folder / "examples.jsonl", folder, at_least=4)


@pytest.mark.parametrize(
    ("encoded", "problem"),
    [
        (json.dumps(GOOD).encode("utf-16"), "is not UTF-8: it is encoded in UTF-16"),
        (json.dumps(GOOD).encode("utf-16-le"), "is not UTF-8: it is encoded in UTF-16 or UTF-32"),
        (json.dumps(GOOD).encode("utf-32"), "is not UTF-8: it is encoded in UTF-32"),
        (b'\n{"image": "Gr\xf6\xdfe.png"', "line 2, column 14: byte 0xF6 at offset 14 is not UTF-8"),
        (b'{"image": "a.png", "answer": "b", "answer": "c"}', r"line 1, column 35: .*'answer' occurs twice"),
        (b'\n\xef\xbb\xbf{"image": "a.png"}', r"line 2, column 1: .*it begins with a byte order mark"),
        (b"\n\x0c\n", r"line 2, column 1: .*expecting value"),
        (b'{"question": "\\ud83d"}', r"line 1, column 14: .*half a surrogate pair"),
    ],
)
def test_other_encodings_and_ambiguous_json_are_refused_with_the_place(
    folder: Path, encoded: bytes, problem: str
) -> None:
    path = folder / "odd.jsonl"
    path.write_bytes(encoded)
    with pytest.raises(InvalidExamples, match=problem):
        read_examples(path, folder)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXT, answer=TEXT)
@example(question="a\u2028b\u2029\x85\x0b\x0c\x1c", answer=" c\r\n\0")
def test_any_text_is_written_and_read_unchanged(
    tmp_path: Path, some: list[Example], question: str, answer: str
) -> None:
    given = [replace(some[0], question=question, answer=answer), replace(some[1], alternatives=(question,))]
    assert read_examples(write_examples(given, tmp_path), tmp_path) == given


@pytest.mark.parametrize("text", ["", " \n", "\ud800"])
def test_text_that_could_not_be_read_is_not_written(tmp_path: Path, some: list[Example], text: str) -> None:
    with pytest.raises(InvalidExamples, match="xample 1"):
        write_examples([some[0], replace(some[1], answer=text)], tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_not_text(folder: Path, some: list[Example]) -> None:
    path = folder / "examples.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_examples(path, folder) == some


@pytest.mark.parametrize(("on_disk", "in_file"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_image_names_are_found_in_either_normal_form(
    tmp_path: Path, some: list[Example], on_disk: Any, in_file: Any
) -> None:
    _write_image(tmp_path / normalize(on_disk, "größe/é.png"), some[0])
    assert _read_one(tmp_path, normalize(in_file, "größe/é.png")) == some[0].image


def test_a_folder_in_place_of_an_image_is_refused_without_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InvalidExamples, match=r"'photos': Is a directory\. Place it in"):
        _read_one(tmp_path, "photos")


@pytest.mark.parametrize("written", ["Photos/one.png", "photos\\ONE.png", "photos/one.PNG"])
def test_a_similar_image_name_is_refused_with_the_right_one(tmp_path: Path, some: list[Example], written: str) -> None:
    _write_image(tmp_path / "photos" / "ONE.png", some[0])
    with pytest.raises(InvalidExamples, match=r"Write 'photos/ONE\.png'"):
        _read_one(tmp_path, written)


def test_two_equivalent_image_names_are_ambiguous_unless_one_is_exact(tmp_path: Path, some: list[Example]) -> None:
    names = [normalize("NFC", "ắ.png"), normalize("NFD", "ắ.png")]
    for name, one in zip(names, some, strict=False):
        _write_image(tmp_path / name, one)
    assert [_read_one(tmp_path, name) for name in names] == [some[0].image, some[1].image]
    with pytest.raises(InvalidExamples, match="cannot open the image"):
        _read_one(tmp_path, "ă\u0301.png")  # half composed


def test_a_normal_form_does_not_lead_out_of_the_folder(tmp_path: Path, some: list[Example]) -> None:
    _write_image(tmp_path / "outside.png", some[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / normalize("NFD", "é.png")).symlink_to(tmp_path / "outside.png")
    with pytest.raises(InvalidExamples, match="is outside"):
        _read_one(tmp_path / "data", normalize("NFC", "é.png"))


def _write_image(path: Path, example: Example) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(example.image)


def _read_one(folder: Path, image: str) -> bytes:
    path = folder / "one.jsonl"
    path.write_text(json.dumps({"image": image, "question": "q", "answer": "a"}), encoding="utf-8")
    return read_examples(path, folder)[0].image


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
