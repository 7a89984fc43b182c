"""/retrieve and /generate explain what `auto` decided."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.memory.worker import EMBEDDER, MODEL, MemoryWorker
from tests.support.samples import artifact, card, png
from vlibrary.api.app import create_app
from vlibrary.domain.query import Query
from vlibrary.domain.registration import Amendment
from vlibrary.library.library import Library

QUESTION = "Which colour is the shape?"
IMAGE = base64.b64encode(png()).decode()
OTHER_IMAGE = base64.b64encode(png((20, 20, 250))).decode()
THRESHOLDS = {"image": 0.9, "text": 0.9, "image_text": 0.5}


@pytest.fixture
def library() -> Library:
    return memory_library()


@pytest.fixture
def api(library: Library) -> Iterator[TestClient]:
    with TestClient(create_app(library)) as client:
        yield client


def register(api: TestClient, library: Library, name: str, question: str = QUESTION, **more: Any) -> None:
    """Register a vector whose training query is the question with IMAGE."""
    assert isinstance(library.worker, MemoryWorker)
    key = library.worker.embed(Query(question, (png(),)))
    assert key.image is not None
    assert key.text is not None
    keys = [{"kind": "centroid", "image": key.image.tolist(), "text": key.text.tolist()}]
    text = card(name, keys=keys, thresholds=THRESHOLDS, embedder=EMBEDDER.fingerprint, **more)
    files = {"artifact": ("v.safetensors", artifact(MODEL))}
    assert api.post("/vectors", files=files, data={"card": text}).status_code == 201


def ask(api: TestClient, text: str, *images: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return the decision in both answers, which is the same, the steering, and the headers."""
    found = api.post("/retrieve", json={"text": text, "images": images}).json()
    answer = api.post("/generate", json={"prompt": text, "images": images})
    steering = answer.json()["steering"]
    assert steering["decision"] == found["decision"]
    assert steering["reason"] == found["reason"]
    return found["decision"], steering, answer.headers


def test_an_applied_match_is_explained(api: TestClient, library: Library) -> None:
    register(api, library, "colour")
    register(api, library, "words", "How many words are there?")
    decision, steering, headers = ask(api, QUESTION, IMAGE)
    assert (decision["best"]["name"], decision["best"]["accepted"]) == ("colour", True)
    assert decision["best"]["parts"] == pytest.approx({"image": 1.0, "text": 1.0}, abs=1e-6)
    assert (decision["second"]["name"], decision["second"]["reason"]) == ("words", "below_threshold")
    assert decision["margin"] == pytest.approx(decision["best"]["score"] - decision["second"]["score"])
    assert [one["name"] for one in steering["applied"]] == ["colour"]
    assert f'margin="{decision["margin"]:.4f}"' in headers["x-vlibrary-vectors"]


@pytest.mark.parametrize(
    ("text", "image", "code"),
    [
        ("", IMAGE, "missing_part"),
        (QUESTION, OTHER_IMAGE, "below_threshold"),
        ("How many words are there?", IMAGE, "below_threshold"),
    ],
)
def test_a_part_that_is_missing_or_foreign_is_a_reason(
    api: TestClient, library: Library, text: str, image: str, code: str
) -> None:
    register(api, library, "colour")
    decision, steering, headers = ask(api, text, image)
    assert (decision["best"]["name"], decision["best"]["reason"]) == ("colour", code)
    assert (steering["applied"], headers["x-vlibrary-reason"]) == ([], code)


def test_two_names_with_the_same_keys_are_ambiguous(api: TestClient, library: Library) -> None:
    register(api, library, "colour")
    register(api, library, "colour")
    assert ask(api, QUESTION, IMAGE)[0]["best"]["version"] == 2
    register(api, library, "hue")
    decision, steering, _ = ask(api, QUESTION, IMAGE)
    assert (decision["best"]["reason"], steering["applied"]) == ("ambiguous", [])
    assert "hue version 1 and colour version" in steering["reason"]["detail"]
    named = api.post("/generate", json={"prompt": QUESTION, "steering": [{"id": "hue"}]}).json()
    assert [one["name"] for one in named["steering"]["applied"]] == ["hue"]


def test_a_vector_without_lift_is_applied_by_name_only(api: TestClient, library: Library) -> None:
    register(api, library, "colour", results={"zero_shot": 0.7, "steered": 0.7})
    decision, steering, _ = ask(api, QUESTION, IMAGE)
    assert (decision["best"]["reason"], steering["reason"]["code"]) == ("no_lift", "no_lift")
    named = api.post("/generate", json={"prompt": QUESTION, "model": "colour"}).json()
    assert [one["name"] for one in named["steering"]["applied"]] == ["colour"]


def test_a_query_by_text_is_explained_too(api: TestClient, library: Library) -> None:
    register(api, library, "colour")
    found = api.get("/retrieve", params={"query": QUESTION}).json()
    assert (found["reason"], found["decision"]["best"]["name"]) == (None, "colour")
    assert found["matches"][0]["parts"]["image"] is None


def test_vectors_of_another_embedder_are_a_reason_of_their_own(api: TestClient, library: Library) -> None:
    assert ask(api, QUESTION, IMAGE)[1]["reason"]["code"] == "no_match"
    register(api, library, "colour")
    record = library.catalogue.vectors.page(limit=1).records[0]
    found_by = replace(record.card, embedder="e" * 64)
    library.catalogue.vectors.update(record.id, Amendment(found_by=found_by))
    decision, steering, _ = ask(api, QUESTION, IMAGE)
    assert (decision["best"], steering["reason"]["code"]) == (None, "other_embedder")
    assert "`vlibrary reindex` recomputes them" in steering["reason"]["detail"]


def test_without_a_comparison_there_is_no_decision(api: TestClient, library: Library) -> None:
    register(api, library, "colour")
    answer = api.post("/generate", json={"prompt": QUESTION, "steering": "off"}).json()
    assert answer["steering"]["decision"] is None


def test_many_versions_of_one_name_do_not_hide_another(api: TestClient, library: Library) -> None:
    register(api, library, "other", "Which colour is the shape, please?")
    for _ in range(40):
        register(api, library, "colour")
    decision, *_ = ask(api, QUESTION, IMAGE)
    assert decision["second"] is not None
    assert decision["second"]["name"] == "other"
