"""Examples on disk: a JSONL file of {"image": relative path, "question", "answer"}, and the images.

"answer" is a text or a list of texts. Of a list, the most frequent text (the first of several) is the answer to train
on, and all others count as correct too. Other fields are not read.

Every error names the file and the line, and is raised before any model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from unicodedata import normalize

from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.example import Example
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS, IMAGE_FORMATS, Query
from vlibrary.formats import strict_json
from vlibrary.formats.images import decode_image
from vlibrary.formats.images.recognise import recognise
from vlibrary.formats.text import NotUtf8, encode_utf8
from vlibrary.training.errors import InvalidExamples

FILE_NAME = "examples.jsonl"
IMAGES_NAME = "images"
_CURE = 'Write one JSON object per line: {"image": "images/1.png", "question": "Which colour?", "answer": "red"}.'
_UNLABELLED_CURE = 'Write one JSON object per line: {"image": "images/1.png", "question": "Which colour?"}.'
_Key = Callable[[str], str]
_Item = TypeVar("_Item")


def read_examples(
    jsonl: Path, images: Path, at_least: int = 1, image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS
) -> list[Example]:
    """Return the examples of a file, in order and with their texts unchanged; blank lines are skipped.

    Raises InvalidExamples, naming file and line, for any invalid line, and if there are too few examples.

    Args:
        jsonl: The file, in UTF-8. Only a line feed ends a line.
        images: The folder to which the image paths are relative. Paths that lead out of it are refused. A name is found
            in either of Unicode's normal forms, because archives from a Mac contain the decomposed one.
        at_least: The number of examples required.
        image_formats: Those of IMAGE_FORMATS that are accepted.
    """
    examples = _read_lines(jsonl, images, image_formats, _read_example, _CURE)
    if len(examples) < at_least:
        raise InvalidExamples(f"{jsonl} has {len(examples)} examples.", f"Training needs at least {at_least}.")
    return examples


def read_questions(jsonl: Path, images: Path, image_formats: Sequence[str] = DEFAULT_IMAGE_FORMATS) -> list[Query]:
    """Return the questions of a file without answers, each with its image; answers are not read.

    The arguments and errors are those of `read_examples`.
    """
    return _read_lines(jsonl, images, image_formats, _read_question, _UNLABELLED_CURE)


def _read_lines(
    jsonl: Path,
    images: Path,
    image_formats: Sequence[str],
    read: Callable[[Mapping[str, Any], _ImageFolder, str, str], _Item],
    cure: str,
) -> list[_Item]:
    folder = _ImageFolder(images, image_formats)
    try:
        records = list(strict_json.parse_lines(jsonl.read_bytes(), allow_nul=True))
    except OSError as error:
        raise InvalidExamples(f"Cannot read {jsonl}: {error.strerror}.", "Provide a JSONL file in UTF-8.") from error
    except NotUtf8 as error:
        raise InvalidExamples(f"{jsonl} is not UTF-8: {error}.", "Save the file as UTF-8 text.") from error
    except strict_json.InvalidJson as error:
        where = f"{jsonl}, line {error.line}, column {error.column}"
        raise InvalidExamples(f"{where}: invalid JSON ({error.reason}).", cure) from error
    items = []
    for number, record in records:
        where = f"{jsonl}, line {number}"
        if not isinstance(record, dict):
            raise InvalidExamples(f"{where}: not a JSON object.", cure)
        items.append(read(record, folder, where, cure))
    return items


def write_examples(examples: Sequence[Example], folder: Path) -> Path:
    """Write folder/examples.jsonl and folder/images/; return the path of the JSONL file.

    Raises InvalidExamples for a text that `read_examples` would refuse.
    """
    (folder / IMAGES_NAME).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, example in enumerate(examples):
        kind = recognise(example.image)
        suffix = kind.lower() if kind in IMAGE_FORMATS else "img"
        name = f"{IMAGES_NAME}/{number:05d}.{suffix}"
        (folder / name).write_bytes(example.image)
        answers = list(example.answers)
        record = {
            "image": name,
            "question": example.question,
            "answer": answers if example.alternatives else answers[0],
        }
        for text in (example.question, *answers):
            _text({"text": text}, "text", f"example {number}", _CURE)
        try:
            lines.append(encode_utf8(json.dumps(record, ensure_ascii=False)) + b"\n")
        except NotUtf8 as error:
            raise InvalidExamples(
                f"Example {number} has text that is not Unicode.", "Remove unpaired surrogates."
            ) from error
    path = folder / FILE_NAME
    path.write_bytes(b"".join(lines))
    return path


def digest(examples: Sequence[Example]) -> str:
    """Return the SHA-256 digest of the examples in their order.

    Each field is hashed with its length, so that different lists never produce the same bytes.
    """
    total = hashlib.sha256()
    for example in examples:
        total.update(len(example.answers).to_bytes(8, "little"))
        for part in (example.image, example.question.encode(), *(answer.encode() for answer in example.answers)):
            total.update(len(part).to_bytes(8, "little"))
            total.update(part)
    return total.hexdigest()


def _read_example(record: Mapping[str, Any], folder: _ImageFolder, where: str, cure: str) -> Example:
    question = _text(record, "question", where, cure)
    given = record.get("answer")
    if isinstance(given, list) and given:
        answers = [_text({"answer": one}, "answer", where, cure) for one in given]
    else:
        answers = [_text(record, "answer", where, cure)]
    first, *others = dict(Counter(answers).most_common())
    return Example(folder.read(_text(record, "image", where, cure), where), question, first, tuple(others))


def _read_question(record: Mapping[str, Any], folder: _ImageFolder, where: str, cure: str) -> Query:
    question = _text(record, "question", where, cure)
    return Query(question, (folder.read(_text(record, "image", where, cure), where),))


def _text(record: Mapping[str, Any], name: str, where: str, cure: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        problem = "missing" if value is None else f"{value!r:.80}, not a non-empty string"
        raise InvalidExamples(f"{where}: {name!r} is {problem}.", cure)
    return value


class _ImageFolder:
    """The images below a folder, by their paths in the JSONL file."""

    def __init__(self, root: Path, formats: Sequence[str]) -> None:
        self._root = root.resolve()
        self._formats = formats
        self._names: dict[tuple[Path, _Key], dict[str, list[str]]] = {}

    def read(self, relative: str, where: str) -> bytes:
        """Return the bytes of a valid image. Raises InvalidExamples."""
        try:
            data = self._locate(relative, where).read_bytes()
            decode_image(data, self._formats)
        except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path, or a loop of symbolic links
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidExamples(
                f"{where}: cannot open the image {relative!r}: {reason}.", self._suggest(relative)
            ) from error
        except InvalidImage as error:
            raise InvalidExamples(f"{where}: the image {relative!r}: {error.detail}", error.cure) from error
        return data

    def _locate(self, relative: str, where: str) -> Path:
        path = self._root / relative
        if not path.exists() and (equivalent := self._search(relative, _compose)) is not None:
            path = equivalent
        # Resolved before the check, so that "..", absolute paths and symbolic links cannot lead out of the folder.
        path = path.resolve()
        if not path.is_relative_to(self._root):
            raise InvalidExamples(f"{where}: the image {relative!r} is outside {self._root}.", "Use a path inside it.")
        return path

    def _search(self, relative: str, key: _Key) -> Path | None:
        """Return the only path whose parts have the same keys."""
        path = self._root
        for part in PurePosixPath(relative).parts:
            found = self._list(path, key).get(key(part), [])
            if len(found) != 1:
                return None
            path /= found[0]
        return path

    def _list(self, folder: Path, key: _Key) -> dict[str, list[str]]:
        if (folder, key) not in self._names:
            names = self._names[folder, key] = defaultdict(list)
            with suppress(OSError):
                for entry in folder.iterdir():
                    names[key(entry.name)].append(entry.name)
        return self._names[folder, key]

    def _suggest(self, relative: str) -> str:
        """Return what to write or do instead."""
        slashes = relative.replace("\\", "/")
        similar = self._search(slashes, _fold)
        if similar is None or similar == self._root / relative:
            return f"Place it in {self._root}."
        name = str(similar.relative_to(self._root))
        return f"Write {name!r}: upper case, lower case and slashes must be those of the file."


def _compose(name: str) -> str:
    return normalize("NFC", name)


def _fold(name: str) -> str:
    return normalize("NFC", name).casefold()
