"""Training examples on disk: a JSONL file of {"image": relative path, "question", "answer"} beside a folder of images.

Every fault is an error that names the file, the line and the cure, before any model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.example import Example
from vlibrary.formats.images import decode_image
from vlibrary.training.errors import InvalidExamples

FIELDS = frozenset({"image", "question", "answer"})
FILE_NAME = "examples.jsonl"
IMAGES_NAME = "images"
_LINE = 'Write one JSON object a line: {"image": "images/1.png", "question": "Which colour?", "answer": "red"}.'
_SUFFIXES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"))


def read_examples(jsonl: Path, images: Path, at_least: int = 1) -> list[Example]:
    """The file's examples in its order; image paths are relative to the folder `images`. Blank lines are skipped.

    Raises InvalidExamples, naming file and line, for whatever cannot be used, and for fewer examples than at_least.
    """
    try:
        lines = jsonl.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidExamples(f"{jsonl} cannot be read: {error}.", "Give a JSONL file in UTF-8.") from error
    root = images.resolve()
    examples = [
        _example(line, root, f"{jsonl}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if len(examples) < at_least:
        raise InvalidExamples(
            f"{jsonl} has {len(examples)} examples.", f"Add more: at least {at_least} are needed for this training."
        )
    return examples


def write_examples(examples: Sequence[Example], folder: Path) -> Path:
    """Write folder/examples.jsonl and folder/images/; returns the JSONL path, for read_examples(path, folder)."""
    (folder / IMAGES_NAME).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, example in enumerate(examples):
        name = f"{IMAGES_NAME}/{number:05d}.{_suffix(example.image)}"
        (folder / name).write_bytes(example.image)
        record = {"image": name, "question": example.question, "answer": example.answer}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path = folder / FILE_NAME
    path.write_text("".join(lines), encoding="utf-8")
    return path


def digest(examples: Sequence[Example]) -> str:
    """sha256 over the examples in their order, for the training record. Each field goes with its length, so that no
    two different lists share their bytes."""
    total = hashlib.sha256()
    for part in _parts(examples):
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def _parts(examples: Sequence[Example]) -> Iterator[bytes]:
    for example in examples:
        yield example.image
        yield example.question.encode()
        yield example.answer.encode()


def _suffix(image: bytes) -> str:
    return next((suffix for magic, suffix in _SUFFIXES if image.startswith(magic)), "img")


def _example(line: str, root: Path, where: str) -> Example:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidExamples(f"{where}: not valid JSON ({error}).", _LINE) from error
    if not isinstance(record, dict):
        raise InvalidExamples(f"{where}: not a JSON object.", _LINE)
    if set(record) - FIELDS:
        raise InvalidExamples(f"{where}: unknown fields {sorted(set(record) - FIELDS)[:3]}.", _LINE)
    image, question, answer = (_text(record, name, where) for name in ("image", "question", "answer"))
    return Example(_image(image, root, where), question, answer)


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidExamples(f"{where}: {name!r} is {'missing' if value is None else repr(value)}.", _LINE)
    return value.strip()


def _image(relative: str, root: Path, where: str) -> bytes:
    # Resolved first, so that neither "..", an absolute path nor a symbolic link leads out of the folder.
    try:
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            raise InvalidExamples(
                f"{where}: the image {relative!r} lies outside {root}.", "Use a path inside that folder."
            )
        data = path.read_bytes()
        decode_image(data)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InvalidExamples(
            f"{where}: the image {relative!r} cannot be opened ({error}).", f"Put it into {root}."
        ) from error
    except InvalidImage as error:
        raise InvalidExamples(f"{where}: the image {relative!r}: {error.detail}", error.cure) from error
    return data
