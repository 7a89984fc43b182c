"""Both clients and the registry commands against a live service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.api.app import create_app
from vlibrary.cli import app as command_line
from vlibrary.client import AsyncClient, Client, ServiceError
from vlibrary.client import archive as client_archive
from vlibrary.domain.errors import InvalidArchive, InvalidArtifact, InvalidInput
from vlibrary.formats.archive import Item, open_archive, pack

HUE = "Which hue has the shape?"


@pytest.fixture
def library() -> Iterator[Client]:
    with live(create_app(memory_library())) as url, Client(url, actor="ann") as client:
        yield client


@contextmanager
def serve_another() -> Iterator[Client]:
    with live(create_app(memory_library())) as url, Client(url) as client:
        yield client


def vlibrary(client: Client, *arguments: str, code: int = 0) -> Result:
    """Run the command against the client's service; VLibraryErrors propagate."""
    done = CliRunner().invoke(command_line, [*arguments, "--url", client.url], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def upload(client: Client, name: str = "colour", seed: int = 0) -> str:
    return client.register(artifact(MODEL, seed), card(name, HUE)).id


def test_the_client_covers_the_registry(library: Client) -> None:
    first, second = (upload(library, seed=seed) for seed in (1, 2))
    amended = library.update_vector("colour:1", 1, tags=["checked"], metadata={"shots": 16})
    assert library.get_vector(first) == amended
    with pytest.raises(ServiceError, match="revision 2") as stale:
        library.update_vector("colour:1", 1, tags=[])
    assert stale.value.status == 412
    assert [one.id for one in library.list_vectors(tag=["checked"], metadata=["shots>=8"])] == [first]
    assert [one.id for one in library.retrieve(HUE, filter={"tags": ["checked"]}, min_seq=2)] == [first]
    made = library.set_alias("colour", "production", "colour:1")
    moved = library.set_alias("colour", "production", second, revision=made.revision)
    assert library.list_aliases("colour") == [moved]
    assert library.get_artifact("colour@production") == artifact(MODEL, 2)
    library.delete_alias("colour", "production", moved.revision)
    library.delete_vector(second, revision=1)
    assert library.restore_vector(second).revision == 3
    library.delete_vector(second)
    library.purge_vector(second)
    assert [one.id for one in library.list_vectors(state="any")] == [first]
    assert library.get_lineage("colour").children == []
    assert {entry.actor for entry in library.read_audit_log()} == {"ann"}
    assert [entry.action for entry in library.read_audit_log(subject=first)] == ["vector.publish", "vector.update"]


def test_the_async_client_covers_the_registry(library: Client) -> None:
    ids = [upload(library, seed=seed) for seed in range(3)]

    async def use(url: str) -> None:
        async with AsyncClient(url) as client:
            vector = await client.update_vector(ids[0], 1, tags=["checked"])
            assert vector == await client.get_vector("colour:1")
            assert [one.id async for one in client.list_vectors()] == ids[::-1]
            assert [match.id for match in await client.retrieve(HUE, filter={"tags": ["checked"]})] == [ids[0]]
            async with client.export() as pieces:
                archive = open_archive(BytesIO(b"".join([piece async for piece in pieces])))
            results = [result async for result in client.import_archive(archive)]
            assert [(one.id, one.outcome) for one in results] == [(one, "present") for one in ids]
            with pytest.raises(ServiceError) as missing:
                await client.get_vector("none")
            assert missing.value.code == "vector-not-found"

    asyncio.run(use(library.url))


def test_a_record_prints_its_main_fields(library: Client) -> None:
    upload(library)
    record = library.get_vector("colour")
    assert repr(record).startswith(f"VectorOut(id='{record.id}', name='colour', version=1, ")
    assert len(repr(record)) < 400


def test_the_audit_log_is_read_page_by_page(library: Client) -> None:
    ids = [upload(library, seed=seed) for seed in range(3)]
    for _ in range(25):
        for one in ids:
            library.delete_vector(one)
            library.restore_vector(one)
    assert [entry.seq for entry in library.read_audit_log(after=3)] == list(range(4, 154))


def test_a_reference_stays_within_one_path_segment(library: Client) -> None:
    for reference in ("../livez", "a/content", "?x", "#", "%2e%2e"):
        with pytest.raises(ServiceError) as refused:
            library.get_vector(reference)
        assert refused.value.status == 404


def test_tag_command(library: Client) -> None:
    upload(library)
    vlibrary(library, "tag", "colour:1", "--add", "b", "--add", "a", "--set-json", "shots=16", "--set", "split=train")
    done = vlibrary(library, "tag", "colour:1", "--remove", "b", "--unset", "split", "--describe", "New words")
    assert done.stdout == "colour version 1: a; shots=16\n"
    record = library.get_vector("colour")
    assert (record.tags, record.metadata, record.description) == (["a"], {"shots": 16}, "New words")
    listed = vlibrary(library, "list", "--tag", "a", "--metadata", "shots>=16").stdout
    assert record.id in listed
    assert f"{record.created_at:%Y-%m-%dT%H:%M:%S}Z" in listed
    assert record.id in vlibrary(library, "retrieve", HUE).stdout
    assert "No vectors" in vlibrary(library, "list", "--tag", "b").stdout
    with pytest.raises(InvalidInput, match="KEY=VALUE"):
        vlibrary(library, "tag", "colour:1", "--set", "shots")


def test_tag_command_removes_a_tag_in_either_normal_form(library: Client) -> None:
    upload(library)
    for form in ("NFC", "NFD"):
        vlibrary(library, "tag", "colour:1", "--add", normalize("NFD", "café"))
        assert library.get_vector("colour").tags == ["café"]
        vlibrary(library, "tag", "colour:1", "--remove", normalize(form, "café"))
        assert library.get_vector("colour").tags == []


def test_import_vector_writes_a_vector_that_can_be_registered(library: Client, tmp_path: Path) -> None:
    rows = np.ones((2, MODEL.hidden_size), np.float32)
    np.save(tmp_path / "polite.npy", rows)
    options = ("--name", "polite", "--description", HUE, "--site", "mlp", "--layers", "0-1", "--out", str(tmp_path))
    output = vlibrary(library, "import-vector", str(tmp_path / "polite.npy"), *options).stdout
    assert f"edits 2 of {MODEL.layers} layers" in output
    vlibrary(library, "register", str(tmp_path / "polite.safetensors"))
    record = library.get_vector("polite")
    assert (record.method, record.model, record.training["imported"]["layers"]) == ("imported", MODEL.model_id, [0, 1])
    assert [match.name for match in library.retrieve(HUE)] == ["polite"]
    with pytest.raises(InvalidInput, match=f"Choose one with --model: {MODEL.model_id}"):
        vlibrary(library, "import-vector", str(tmp_path / "polite.npy"), *options, "--model", "other")
    with pytest.raises(InvalidArtifact, match=r"polite\.npy is a NumPy array of shape \[2, 4\]"):
        vlibrary(library, "register", str(tmp_path / "polite.npy"))


def test_alias_commands(library: Client) -> None:
    first, second = (upload(library, seed=seed) for seed in (1, 2))
    vlibrary(library, "alias", "set", "colour@production", "colour:1")
    assert library.get_vector("colour@production").id == first
    vlibrary(library, "alias", "set", "colour@production", "colour", "--actor", "bob")
    assert library.get_vector("colour@production").id == second
    assert [entry.actor for entry in library.read_audit_log(subject="colour@production")] == ["anonymous", "bob"]
    output = vlibrary(library, "alias", "list").stdout
    assert ("colour@production" in output, second in output) == (True, True)
    answer = json.loads(vlibrary(library, "generate", "a", "--vector", "colour@production=0.5", "--json").stdout)
    assert [(one["id"], one["strength"]) for one in answer["steering"]["applied"]] == [(second, 0.5)]
    vlibrary(library, "alias", "drop", "colour@production")
    assert library.list_aliases() == []
    with pytest.raises(InvalidInput, match="NAME@ALIAS"):
        vlibrary(library, "alias", "set", "colour", "colour")


def test_delete_undelete_and_purge_commands(library: Client) -> None:
    upload(library)
    vlibrary(library, "delete", "colour:1")
    assert list(library.list_vectors()) == []
    assert vlibrary(library, "undelete", "colour:1").stdout == "Restored colour version 1\n"
    vlibrary(library, "delete", "colour:1")
    vlibrary(library, "purge", "colour:1")
    assert list(library.list_vectors(state="any")) == []


def test_export_and_import_transfer_a_library(library: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_archive, "BATCH_ITEMS", 3)
    ids = [upload(library, seed=seed) for seed in range(8)]
    file = tmp_path / "vectors.tar"
    assert "Exported 8 vectors" in vlibrary(library, "export", str(file), "--name", "colour").stdout
    assert list(tmp_path.iterdir()) == [file]
    with serve_another() as other:
        assert "8 imported, 0 already present, 0 refused" in vlibrary(other, "import", str(file)).stdout
        assert [one.id for one in other.list_vectors()] == ids[::-1]
        assert "0 imported, 8 already present, 0 refused" in vlibrary(other, "import", str(file)).stdout
        results = json.loads(vlibrary(other, "import", str(file), "--json").stdout)
        vlibrary(other, "tag", "colour:3", "--add", "mine")
        output = vlibrary(other, "import", str(file)).stdout
        assert f"colour version 3 {ids[2]} has a different" in output
        assert "7 already present, 0 refused; 1 differ" in output
        assert other.get_vector("colour:3").tags == ["mine"]
        output = vlibrary(other, "import", str(file), "--update").stdout
        assert "7 already present, 0 refused, 1 updated" in output
        assert other.get_vector("colour:3").tags == []
    assert [result["version"] for result in results] == list(range(1, 9))


def test_a_folder_for_a_hub_can_be_imported(library: Client, tmp_path: Path) -> None:
    ids = [upload(library, seed=seed) for seed in range(2)]
    folder = tmp_path / "hub"
    output = vlibrary(library, "export", str(folder), "--hub", "--license", "apache-2.0").stdout
    assert output == f"Exported 2 vectors to {folder}\n"
    assert list(tmp_path.iterdir()) == [folder]
    assert 'license: "apache-2.0"' in (folder / "README.md").read_text()
    with pytest.raises(InvalidInput, match="exists already"):
        vlibrary(library, "export", str(folder), "--hub")
    with serve_another() as other:
        assert "2 imported, 0 already present, 0 refused" in vlibrary(other, "import", str(folder)).stdout
        assert [one.id for one in other.list_vectors()] == ids[::-1]


def test_a_folder_without_vectors_is_not_written(library: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no vector to export"):
        vlibrary(library, "export", str(tmp_path / "hub"), "--hub")
    assert list(tmp_path.iterdir()) == []


def test_quick_transfers_print_no_progress(library: Client, tmp_path: Path) -> None:
    upload(library)
    done = vlibrary(library, "export", str(tmp_path / "one.tar"))
    assert (done.stdout, done.stderr) == (f"Exported 1 vector to {tmp_path / 'one.tar'}\n", "")
    assert vlibrary(library, "import", str(tmp_path / "one.tar")).stderr == ""


def test_import_reports_damaged_vectors_and_imports_the_others(library: Client, tmp_path: Path) -> None:
    text = card("colour", HUE).encode()
    ids = [f"01K9Z4T0XJ4V6W8M2Q5R7S9A1{end}" for end in "BCD"]
    items = [Item.of(ids[at], "colour", at + 1, data, text) for at, data in enumerate([artifact(MODEL), b"none"])]
    damaged = Item.of(ids[2], "colour", 3, b"whole", text)
    file = tmp_path / "vectors.tar"
    file.write_bytes(b"".join(pack([*items, damaged])).replace(b"whole", b"holed"))
    done = vlibrary(library, "import", str(file), code=1)
    assert "1 imported, 0 already present, 2 refused" in done.stdout
    assert "The digest of" in done.stdout.replace("\n", " ")
    assert [one.id for one in library.list_vectors()] == ids[:1]


def test_an_interrupted_export_leaves_no_file(tmp_path: Path) -> None:
    library = memory_library()
    file = tmp_path / "vectors.tar"
    with live(create_app(library)) as url, Client(url) as client:
        ids = [upload(client, seed=seed) for seed in range(2)]
        library.artifacts.delete(library.catalogue.vectors.get(ids[0]).object_key)
        with pytest.raises(ServiceError):
            vlibrary(client, "export", str(file))
    assert list(tmp_path.iterdir()) == []


def test_unusable_files_are_reported(library: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Cannot read"):
        vlibrary(library, "import", str(tmp_path / "none"))
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(InvalidArchive):
        vlibrary(library, "import", str(tmp_path / "text"))
    with pytest.raises(InvalidInput, match="Cannot write"):
        vlibrary(library, "export", str(tmp_path / "none" / "vectors.tar"))


def test_client_and_commands_say_that_a_text_was_truncated(library: Client) -> None:
    upload(library)
    text = "word " * 90
    found = library.retrieve(text)
    assert found.query_text is not None
    assert (found.query_text.tokens, found.query_text.embedded, found.query_text.truncated) == (90, 64, True)
    for command in ("retrieve", "generate"):
        assert "has 90 tokens; searches compare only the first 64" in " ".join(
            vlibrary(library, command, text).stderr.split()
        )
        assert "tokens" not in vlibrary(library, command, HUE).stderr
