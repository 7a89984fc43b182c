"""A folder of vectors with a README, as model hubs show them: the content of an archive, unpacked.

README.md                   YAML front matter (base_model, library_name, license, pipeline_tag, tags) and a table
manifest.ndjson, vectors/   as in vlibrary.formats.archive, so that the folder can be imported again
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlibrary.domain.card import VectorCard
from vlibrary.domain.errors import InvalidArchive
from vlibrary.domain.vector import SteeringVector
from vlibrary.formats.archive import MANIFEST, Archive, Entry, end_of_archive, member
from vlibrary.formats.artifact import decode
from vlibrary.formats.card import parse_card

README = "README.md"
UNKNOWN_LICENSE = "unknown"
_TAGS = ("vlibrary", "steering-vector", "in-context-vector")
_MAX_BYTES = 2**31
_USE = """\
## Use

With [VLibrary](https://pypi.org/project/vlibrary/), serve the base model, import this folder, and ask:

    vlibrary import PATH_OF_THIS_FOLDER
    vlibrary generate "..." --image picture.png

Or steer a Hugging Face model directly:

    vector = vlibrary.load_vector("{path}")
    with vlibrary.steer(model, vector):
        model.generate(**inputs)
"""


@dataclass(frozen=True)
class _Shown:
    """What the README shows of one vector."""

    entry: Entry
    card: VectorCard
    vector: SteeringVector


def write_folder(archive: Archive, folder: Path, licence: str = UNKNOWN_LICENSE) -> None:
    """Write the archive's vectors and a README to a folder that exists.

    licence: as the hub names it, such as apache-2.0. Raises InvalidArchive for altered bytes, OSError.
    """
    shown = []
    for entry in archive.entries:
        item = archive.item(entry, artifact_bytes=_MAX_BYTES, card_bytes=_MAX_BYTES)
        for path, data in ((entry.artifact_path, item.artifact), (entry.card_path, item.card)):
            target = folder / path  # named by the vector's id, which has only letters and digits
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        shown.append(_Shown(entry, parse_card(item.card), decode(item.artifact)))
    (folder / MANIFEST).write_bytes(archive.manifest())
    (folder / README).write_bytes(_readme(shown, licence).encode("utf-8"))


def pack_folder(folder: Path) -> Iterator[bytes]:
    """Yield the archive that the folder contains; `open_archive` checks it. Raises InvalidArchive, OSError."""
    if not (folder / MANIFEST).is_file():
        raise InvalidArchive(
            f"The folder {folder} has no {MANIFEST}.",
            "Give a folder that `vlibrary export --hub` wrote, or register its .safetensors files one by one.",
        )
    for path in sorted((folder / "vectors").glob("*")):
        if path.is_file():
            yield from member(f"vectors/{path.name}", path.read_bytes())
    yield from member(MANIFEST, (folder / MANIFEST).read_bytes())
    yield end_of_archive()


def _readme(shown: Sequence[_Shown], licence: str) -> str:
    methods, own_tags = [one.vector.method for one in shown], [tag for one in shown for tag in one.card.tags]
    path = shown[0].entry.artifact_path if shown else "vectors/ID.safetensors"
    lines = [
        "---",
        *_yaml_list("base_model", [one.vector.model.model_id for one in shown]),
        "library_name: vlibrary",
        f"license: {_quote(licence)}",
        "pipeline_tag: image-text-to-text",
        *_yaml_list("tags", [*_TAGS, *methods, *own_tags]),
        "---",
        "",
        "# Steering vectors",
        "",
        "| vector | what it does | base model | method | accuracy: zero-shot, n-shot, steered | file |",
        "|---|---|---|---|---|---|",
        *map(_row, shown),
        "",
        _USE.format(path=path),
    ]
    return "\n".join(lines)


def _row(one: _Shown) -> str:
    results = [one.card.results.get(name) for name in ("zero_shot", "n_shot", "steered")]
    accuracies = ", ".join(f"{value:.1%}" if isinstance(value, (int, float)) else "–" for value in results)
    model, method = one.vector.model.model_id, one.vector.method
    cells = [f"{one.card.name} version {one.entry.version}", one.card.description, model, method, accuracies]
    return "| " + " | ".join(map(_escape, cells)) + f" | `{one.entry.artifact_path}` |"


def _yaml_list(name: str, texts: Iterable[str]) -> list[str]:
    """Return the lines of a list with each text once."""
    lines = [f"- {_quote(text)}" for text in dict.fromkeys(texts)]
    return [f"{name}:", *lines] if lines else []


def _quote(text: str) -> str:
    """Return a YAML string: JSON, with the characters escaped that YAML does not allow."""
    refused = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
    return re.sub(refused, lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _escape(text: str) -> str:
    """Return Markdown that shows the text on one line of a table."""
    return (
        re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", text).replace("\r\n", "\n").replace("\n", "<br>").replace("\r", " ")
    )
