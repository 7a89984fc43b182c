"""Models as OpenAI's client sees them: names of base models, modes and vectors, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.library import memory_library, register
from tests.support.live_server import live
from tests.support.memory.worker import CONTEXT_LENGTH, EMBEDDER, MODEL
from vlibrary.api.app import create_app

QUESTION = "Which hue?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
BASE, EMBEDDER_ID = MODEL.model_id, EMBEDDER.embedder_id
LIBRARY = memory_library()
COLOUR = register(LIBRARY, "colour", QUESTION)
LIBRARY.catalogue.aliases.set("colour", "production", COLOUR.id, expected=0)
STEERED = f"{QUESTION} + 1·{COLOUR.id}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live(create_app(LIBRARY)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_the_list_has_base_models_aliased_vectors_and_the_embedder(client: OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == [BASE, f"{BASE}:auto", f"{BASE}:off", "colour@production", EMBEDDER_ID]
    assert {model.owned_by for model in listed} == {"vlibrary"}
    assert client.models.retrieve(EMBEDDER_ID) == listed[-1]
    extra = listed[-2].model_extra
    assert extra is not None
    assert (extra["root"], extra["parent"], extra["max_model_len"]) == (BASE, BASE, CONTEXT_LENGTH)
    assert (extra["vector"]["id"], extra["vector"]["sha256"]) == (COLOUR.id, COLOUR.sha256)


def test_the_list_is_read_in_pages(url: str) -> None:
    first = httpx.get(f"{url}/v1/models", params={"limit": 3}).json()
    assert (len(first["data"]), first["has_more"], first["last_id"]) == (3, True, f"{BASE}:off")
    rest = httpx.get(f"{url}/v1/models", params={"limit": 3, "after": first["last_id"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (["colour@production", EMBEDDER_ID], False)
    by_one = [BASE]
    while httpx.get(f"{url}/v1/models", params={"limit": 1, "after": by_one[-1]}).json()["data"]:
        page = httpx.get(f"{url}/v1/models", params={"limit": 1, "after": by_one[-1]}).json()
        by_one += [one["id"] for one in page["data"]]
    assert by_one == [BASE, f"{BASE}:auto", f"{BASE}:off", "colour@production", EMBEDDER_ID]
    refused = httpx.get(f"{url}/v1/models", params={"after": "nothing"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "name",
    [BASE, f"{BASE}:auto", f"{BASE}:off", "colour@production", "colour:1", "colour", pytest.param(COLOUR.id, id="id")],
)
def test_any_name_can_be_looked_up_and_answered_with(client: OpenAI, name: str) -> None:
    assert client.models.retrieve(name).id == name
    answer = client.chat.completions.create(model=name, messages=MESSAGES)
    assert answer.model == name
    assert answer.choices[0].message.content == (QUESTION if name.endswith(":off") else STEERED)


def test_names_are_found_with_every_character_escaped(url: str) -> None:
    for name in (BASE, "colour@production", "colour:1"):
        escaped = "".join(f"%{ord(character):02X}" for character in name)
        assert httpx.get(f"{url}/v1/models/{escaped}").json()["id"] == name


def test_an_unknown_model_is_not_found_in_openais_shape(client: OpenAI) -> None:
    calls = (lambda: client.models.retrieve("no/such"), lambda: _ask(client, "gpt-0"), lambda: _ask(client, "colour@x"))
    for call in calls:
        with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
            call()
        error = caught.value
        assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")


def test_a_name_that_contradicts_the_body_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="contradict each other"):
        _ask(client, "colour@production", {"steering": "off"})


def test_the_same_names_work_with_generate(url: str) -> None:
    answer = httpx.post(f"{url}/generate", json={"prompt": QUESTION, "model": "colour@production"}).json()
    assert (answer["text"], answer["model"]) == (STEERED, BASE)
    refused = httpx.post(f"{url}/generate", json={"prompt": QUESTION, "model": f"{BASE}:off", "steering": "auto"})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-input")


def _ask(client: OpenAI, model: str, vlibrary: dict[str, Any] | None = None) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, extra_body={"vlibrary": vlibrary or {}})
