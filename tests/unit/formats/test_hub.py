"""A folder for a model hub: its README has valid front matter, and the folder is an archive again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.repocard import metadata_load
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.memory.worker import MODEL
from tests.support.samples import artifact
from vlibrary.domain.card import VectorCard
from vlibrary.domain.errors import InvalidArchive
from vlibrary.formats.archive import Archive, Item, open_archive, pack
from vlibrary.formats.artifact import decode, encode
from vlibrary.formats.card import dump_card
from vlibrary.formats.hub import pack_folder, write_folder

IDS = [f"01K9Z4T0XJ4V6W8M2Q5R7S9A1{end}" for end in "BCD"]
RESULTS = {"zero_shot": 0.03, "n_shot": 0.5, "steered": 0.97}
STORABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


def item(number: int = 0, *, method: str = "m2iv", **fields: Any) -> Item:
    card = VectorCard("colour", **fields)
    data = encode(replace(decode(artifact(MODEL, number)), method=method))
    return Item.of(IDS[number], "colour", number + 1, data, dump_card(card).encode())


def packed(*items: Item) -> Archive:
    return open_archive(io.BytesIO(b"".join(pack(items))))


def front_matter(folder: Path) -> Any:
    return metadata_load(folder / "README.md")  # as the Hugging Face Hub reads it


def test_the_front_matter_has_what_hubs_show(tmp_path: Path) -> None:
    write_folder(packed(item(0, tags=("colour", "ü")), item(1, method="other")), tmp_path, "apache-2.0")
    assert front_matter(tmp_path) == {
        "base_model": [MODEL.model_id],
        "library_name": "vlibrary",
        "license": "apache-2.0",
        "pipeline_tag": "image-text-to-text",
        "tags": ["vlibrary", "steering-vector", "in-context-vector", "m2iv", "other", "colour", "ü"],
    }


def test_the_table_has_a_row_for_each_vector(tmp_path: Path) -> None:
    write_folder(packed(item(0, description="a|b\n<b>", results=RESULTS), item(1)), tmp_path)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert rf"| colour version 1 | a\|b<br>\<b\> | {MODEL.model_id} | m2iv | 3.0%, 50.0%, 97.0% |" in readme
    assert f"`vectors/{IDS[1]}.safetensors`" in readme
    assert f'load_vector("vectors/{IDS[0]}.safetensors")' in readme


def test_the_folder_is_the_same_archive_again(tmp_path: Path) -> None:
    archive = packed(item(0, tags=("a",)), item(1, metadata={"n": 1}))
    write_folder(archive, tmp_path)
    (tmp_path / "vectors" / ".cache").mkdir()  # a download tool's
    again = open_archive(io.BytesIO(b"".join(pack_folder(tmp_path))))
    assert again.entries == archive.entries
    for entry in archive.entries:
        limits = {"artifact_bytes": 10_000, "card_bytes": 10_000}
        assert again.item(entry, **limits) == archive.item(entry, **limits)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=STORABLE.filter(bool), description=STORABLE, licence=STORABLE)
@example(method="a\u2028 b", description="", licence="a\u2029 b")
@example(method="\x7f\x85\u2028\ufeff: #-", description="---\n\r|", licence="no: [x]")
def test_any_text_gives_valid_front_matter(tmp_path: Path, method: str, description: str, licence: str) -> None:
    write_folder(packed(item(0, method=method, description=description)), tmp_path, licence)
    found = front_matter(tmp_path)
    assert (found["license"], found["tags"][3]) == (licence, method)


def test_altered_files_are_refused(tmp_path: Path) -> None:
    write_folder(packed(item(0)), tmp_path)
    path = tmp_path / "vectors" / f"{IDS[0]}.safetensors"
    for data, problem in ((b"other", "digest"), (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer")):
        path.write_bytes(data)
        archive = open_archive(io.BytesIO(b"".join(pack_folder(tmp_path))))
        with pytest.raises(InvalidArchive, match=problem):
            archive.item(archive.entries[0], artifact_bytes=10_000, card_bytes=10_000)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match="has no manifest"):
        list(pack_folder(tmp_path))
