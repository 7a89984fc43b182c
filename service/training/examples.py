"""Examples on disk: a JSONL file of {"image": relative path, "question", "answer"}, and the images.

Every error names the file and the line, and is raised before any model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.example import Example
from vlibrary.formats.images import decode_image
from vlibrary.training.errors import InvalidExamples

FIELDS = ("image", "question", "answer")
FILE_NAME = "examples.jsonl"
IMAGES_NAME = "images"
_CURE = 'Write one JSON object per line: {"image": "images/1.png", "question": "Which colour?", "answer": "red"}.'
_SUFFIXES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"))


def read_examples(jsonl: Path, images: Path, at_least: int = 1) -> list[Example]:
    """Return the examples of a file, in order; blank lines are skipped.

    Raises InvalidExamples, naming file and line, for any invalid line, and if there are too few examples.

    Args:
        jsonl: The file, in UTF-8.
        images: The folder to which the image paths are relative. Paths that lead out of it are refused.
        at_least: The number of examples required.
    """
    try:
        lines = jsonl.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidExamples(f"Cannot read {jsonl}: {error}.", "Provide a JSONL file in UTF-8.") from error
    root = images.resolve()
    examples = [
        _parse(line, root, f"{jsonl}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if len(examples) < at_least:
        raise InvalidExamples(f"{jsonl} has {len(examples)} examples.", f"Training needs at least {at_least}.")
    return examples


def write_examples(examples: Sequence[Example], folder: Path) -> Path:
    """Write folder/examples.jsonl and folder/images/; return the path of the JSONL file."""
    (folder / IMAGES_NAME).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, example in enumerate(examples):
        suffix = next((suffix for magic, suffix in _SUFFIXES if example.image.startswith(magic)), "img")
        name = f"{IMAGES_NAME}/{number:05d}.{suffix}"
        (folder / name).write_bytes(example.image)
        record = {"image": name, "question": example.question, "answer": example.answer}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path = folder / FILE_NAME
    path.write_text("".join(lines), encoding="utf-8")
    return path


def digest(examples: Sequence[Example]) -> str:
    """Return the SHA-256 digest of the examples in their order.

    Each field is hashed with its length, so that different lists never produce the same bytes.
    """
    total = hashlib.sha256()
    for example in examples:
        for part in (example.image, example.question.encode(), example.answer.encode()):
            total.update(len(part).to_bytes(8, "little"))
            total.update(part)
    return total.hexdigest()


def _parse(line: str, root: Path, where: str) -> Example:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidExamples(f"{where}: invalid JSON ({error}).", _CURE) from error
    if not isinstance(record, dict):
        raise InvalidExamples(f"{where}: not a JSON object.", _CURE)
    if unknown := sorted(set(record) - set(FIELDS)):
        raise InvalidExamples(f"{where}: unknown fields {unknown[:3]}.", _CURE)
    for name in FIELDS:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            problem = "missing" if value is None else f"{value!r}, not a non-empty string"
            raise InvalidExamples(f"{where}: {name!r} is {problem}.", _CURE)
    image, question, answer = (record[name].strip() for name in FIELDS)
    return Example(_read_image(image, root, where), question, answer)


def _read_image(relative: str, root: Path, where: str) -> bytes:
    try:
        # Resolved before the check, so that "..", absolute paths and symbolic links cannot lead out of the folder.
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            raise InvalidExamples(f"{where}: the image {relative!r} is outside {root}.", "Use a path inside it.")
        data = path.read_bytes()
        decode_image(data)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InvalidExamples(
            f"{where}: cannot open the image {relative!r}: {error}.", f"Place it in {root}."
        ) from error
    except InvalidImage as error:
        raise InvalidExamples(f"{where}: the image {relative!r}: {error.detail}", error.cure) from error
    return data
