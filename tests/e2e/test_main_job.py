"""The main job through HTTP and the command line: train, register, retrieve, apply, restart, delete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Literal

import httpx
import pytest

from vlibrary.bundled.tasks import examples, task
from vlibrary.cli.demo.service_process import running_service
from vlibrary.client import Client, ServiceError
from vlibrary.training.examples import write_examples

TASK = task("colour-code")
NAME = "colour-code"


def vlibrary(*arguments: str, url: str = "", fails: bool = False) -> str:
    """Run the command as a user would; return its output, or its error."""
    environment = os.environ | ({"VLIBRARY_URL": url} if url else {})
    command = [sys.executable, "-m", "vlibrary.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert (done.returncode != 0) == fails, done.stderr + done.stdout
    return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vector trained by the command line from files on disk."""
    folder = tmp_path_factory.mktemp("trained")
    jsonl = write_examples(examples(TASK, "train", 300, seed=5), folder)
    vlibrary("train", str(jsonl), "--name", NAME, "--description", "Colours in code words", "--out", str(folder))
    return folder / f"{NAME}.safetensors"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def service(data_dir: Path) -> Iterator[Client]:
    with running_service(data_dir) as client:
        yield client


def accuracy(service: Client, steering: Literal["auto", "off"]) -> float:
    queries = examples(TASK, "test", 40, seed=6)
    answers = [
        service.generate(one.question, images=[one.image], steering=steering, decoding={"max_new_tokens": 4})
        for one in queries
    ]
    return fmean(answer.text == one.answer for answer, one in zip(answers, queries, strict=True))


def test_main_job(service: Client, trained: Path, tmp_path: Path) -> None:
    assert "yes" in vlibrary("doctor", url=service.url)
    picture = tmp_path / "picture.png"
    query = examples(TASK, "test", 1, seed=7)[0]
    picture.write_bytes(query.image)
    before = accuracy(service, "auto")  # nothing is registered yet

    record = json.loads(vlibrary("register", str(trained), "--json", url=service.url))
    assert service.get_artifact(record["id"]) == trained.read_bytes()
    assert [one["id"] for one in json.loads(vlibrary("list", "--json", url=service.url))] == [record["id"]]

    found = json.loads(vlibrary("retrieve", query.question, "--image", str(picture), "--json", url=service.url))
    assert (found[0]["id"], found[0]["accepted"]) == (record["id"], True)
    answer = json.loads(vlibrary("generate", query.question, "--image", str(picture), "--json", url=service.url))
    assert answer["steering"]["applied"][0]["sha256"] == record["sha256"]
    figures = httpx.get(f"{service.url}/metrics").text
    assert 'vlibrary_worker_slots_total{outcome="miss"} 1.0' in figures
    assert "vlibrary_api_requests_total" in figures
    chosen = vlibrary("generate", query.question, "--image", str(picture), "--vector", record["id"], url=service.url)
    assert answer["text"] in chosen

    after = accuracy(service, "auto")
    assert before <= 0.4
    assert after >= 0.8
    assert accuracy(service, "off") == before


def test_unrelated_questions_are_not_steered(service: Client, trained: Path) -> None:
    service.register(trained.read_bytes(), trained.with_suffix(".card.json").read_text())
    other = examples(task("digit-english"), "test", 1, seed=1)[0]
    off = service.generate(other.question, images=[other.image], steering="off")
    auto = service.generate(other.question, images=[other.image])
    assert auto.steering.applied == []
    assert auto.steering.reason is not None
    assert auto.steering.reason.code == "below_threshold"
    assert auto.text == off.text


def test_registered_vectors_survive_a_restart(trained: Path, tmp_path: Path) -> None:
    card = trained.with_suffix(".card.json").read_text()
    with running_service(tmp_path) as first:
        kept = first.register(trained.read_bytes(), card)
        gone = first.register(trained.read_bytes(), card)
        first.delete_vector(gone.id)
    with running_service(tmp_path) as second:
        assert [one.id for one in second.list_vectors()] == [kept.id]
        assert [match.id for match in second.retrieve(TASK.wordings[0])] == [kept.id]
        assert second.get_artifact(kept.id) == trained.read_bytes()
        with pytest.raises(ServiceError) as caught:
            second.get_artifact(gone.id)
        assert caught.value.status == 404


def test_errors_of_the_command_line_include_a_cure(service: Client, tmp_path: Path) -> None:
    assert "What to do:" in vlibrary("register", str(tmp_path / "none.safetensors"), url=service.url, fails=True)
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04\x95" + bytes(20))
    (tmp_path / "bad.card.json").write_text('{"name": "bad", "description": "x"}')
    assert "pickle" in vlibrary("register", str(tmp_path / "bad.safetensors"), url=service.url, fails=True)
    assert "vlibrary serve" in vlibrary("list", url="http://127.0.0.1:9", fails=True)
    assert "VLIBRARY_PORT" in vlibrary("serve", "--port", "70000", fails=True)
