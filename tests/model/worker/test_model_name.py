"""The name of the served model, which vectors do not depend on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.model import tiny
from tests.support.samples import card, vector
from vlibrary.api.bootstrap import open_app
from vlibrary.config import Settings
from vlibrary.formats.artifact import encode
from vlibrary.models.lvlm import Lvlm
from vlibrary.worker.bootstrap import open_worker

TASK = "Which colour is it?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings for a model and an embedder in folders."""
    lvlm = tiny.save(*tiny.llava(), tmp_path_factory.mktemp("weights") / "tiny-llava-7")
    embedder = tiny.save_embedder(*tiny.clip(), tmp_path_factory.mktemp("clip"))
    return {"lvlm": str(lvlm), "embedder": str(embedder)}


def open_api(data_dir: Path, **settings: Any) -> TestClient:
    opened = Settings(data_dir=data_dir, **settings)
    return TestClient(open_app(opened, partial(open_worker, opened)))


def register(api: TestClient, folder: str) -> None:
    """Register a vector trained from the weights in this folder under another name."""
    spec = replace(Lvlm.load(folder).spec, model_id="trained/elsewhere")
    files = {"artifact": ("v.safetensors", encode(vector(spec, 1)))}
    assert api.post("/vectors", files=files, data={"card": card("colour", TASK)}).status_code == 201


def test_vectors_are_applied_whatever_name_the_model_has(folders: dict[str, str], tmp_path: Path) -> None:
    for name in (None, "acme/other"):
        with open_api(tmp_path, **folders, model_name=name) as api:
            if name is None:
                register(api, folders["lvlm"])
            for model in (None, name or "tiny-llava-7"):
                answer = api.post("/generate", json={"prompt": TASK, "model": model}).json()
                assert [applied["name"] for applied in answer["steering"]["applied"]] == ["colour"]
                assert answer["model"] == (name or "tiny-llava-7")
                found = api.post("/retrieve", json={"text": TASK, "model": model}).json()
                assert [match["name"] for match in found["matches"] if match["accepted"]] == ["colour"]
            for model in (name or "tiny-llava-7", "trained/elsewhere"):
                listed = api.get("/vectors", params={"model": model}).json()["items"]
                assert [one["name"] for one in listed] == ["colour"]


def test_no_answer_contains_the_path_of_the_model(folders: dict[str, str], tmp_path: Path) -> None:
    with open_api(tmp_path, **folders) as api:
        register(api, folders["lvlm"])
        paths = ("/models", "/v1/models", "/v1/models/none", "/vectors", "/readyz", "/retrieve?text=a&model=none")
        answers = [api.get(path) for path in paths]
        answers += [api.post(path, json={"model": "none", "prompt": "a"}) for path in ("/generate", "/v1/completions")]
        assert [model["id"] for model in answers[0].json()["items"]] == ["tiny-llava-7"]
        assert "'tiny-llava-7'" in answers[2].json()["detail"] + answers[2].json()["cure"]
        for answer in answers:
            assert Path(folders["lvlm"]).parent.name not in answer.text
