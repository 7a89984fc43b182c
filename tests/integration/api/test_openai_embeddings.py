"""OpenAI's embeddings, requested by the official client over a real connection."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from tests.support.memory.worker import EMBEDDER, TEXT_LIMIT
from tests.support.samples import png
from vlibrary.domain.query import Query
from vlibrary.library.library import Library

TEXTS = ["Which hue?", "How many?", "Which hue?"]


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_embeddings_are_those_of_the_query_embedder(client: OpenAI, library: Library, encoding: Any) -> None:
    """Without a format, the official client requests base64 and decodes it."""
    more = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model=EMBEDDER.embedder_id, input=TEXTS, **more)
    assert (answer.object, answer.model) == ("list", EMBEDDER.embedder_id)
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text.split()) for text in TEXTS)
    for text, one in zip(TEXTS, answer.data, strict=True):
        wanted = library.worker.embed(Query(text)).text
        assert wanted is not None
        raw: Any = one.embedding
        found = np.frombuffer(base64.b64decode(raw), np.float32) if encoding == "base64" else np.array(raw, np.float32)
        assert np.array_equal(found, wanted)


def test_one_text_is_a_list_of_one(client: OpenAI) -> None:
    alone = client.embeddings.create(model=EMBEDDER.embedder_id, input=TEXTS[0], dimensions=EMBEDDER.text_size)
    among = client.embeddings.create(model=EMBEDDER.embedder_id, input=TEXTS)
    assert [one.embedding for one in alone.data] == [among.data[0].embedding]


def test_many_texts_keep_their_order(client: OpenAI) -> None:
    texts = [f"Question {number}?" for number in range(50)]
    together = client.embeddings.create(model=EMBEDDER.embedder_id, input=texts)
    assert [one.index for one in together.data] == list(range(50))
    for number in (0, 7, 8, 49):
        alone = client.embeddings.create(model=EMBEDDER.embedder_id, input=texts[number])
        assert together.data[number].embedding == alone.data[0].embedding


def _message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def _image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}


def test_images_are_embedded_in_the_form_that_vllm_takes(client: OpenAI, library: Library) -> None:
    images = (png((200, 0, 0)), png((0, 0, 200)))
    answer = httpx.post(f"{client.base_url}embeddings", json=_message(*map(_image, images))).json()
    wanted = library.worker.embed(Query(images=images)).image
    assert wanted is not None
    assert np.array_equal(np.array(answer["data"][0]["embedding"], np.float32), wanted)
    assert answer["usage"]["prompt_tokens"] == 0


def test_a_text_that_is_too_long_is_cut_only_on_request(client: OpenAI) -> None:
    texts = ["short", "word " * (TEXT_LIMIT + 1)]
    with pytest.raises(openai.APIStatusError, match=f"Text 1 has {TEXT_LIMIT + 1} tokens") as caught:
        client.embeddings.create(model=EMBEDDER.embedder_id, input=texts)
    assert 400 <= caught.value.status_code < 500
    answer = client.embeddings.create(
        model=EMBEDDER.embedder_id, input=texts, extra_body={"truncate_prompt_tokens": -1}
    )
    assert answer.usage.prompt_tokens == 1 + TEXT_LIMIT


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another dimension": ({"input": "a", "dimensions": 3}, "dimensions"),
    "a list of tokens": ({"input": [1, 2]}, "tokens are not supported"),
    "lists of tokens": ({"input": [[1, 2], [3]]}, "tokens are not supported"),
    "an empty text": ({"input": ["a", " "]}, "empty"),
    "no text": ({"input": []}, "at least 1"),
    "too many texts": ({"input": ["a"] * 2_049}, "at most 2048"),
    "neither input nor messages": ({}, "either `input` or `messages`"),
    "input and messages": ({"input": "a"} | _message({"type": "text", "text": "a"}), "either `input` or `messages`"),
    "a text with an image": (_message({"type": "text", "text": "a"}, _image(png())), "two requests"),
    "an empty message": (_message({"type": "text", "text": " "}), "empty"),
    "an invalid image": (_message(_image(b"no image")), "image"),
    "another format": ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    "another model": ({"input": "a", "model": "text-embedding-3-small"}, "is not an embedder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_embedded_is_refused_with_a_reason(client: OpenAI, case: str) -> None:
    body, words = REFUSED[case]
    answer = httpx.post(f"{client.base_url}embeddings", json=body)
    assert 400 <= answer.status_code < 500
    error = answer.json()["error"]
    assert words in error["message"]
    assert (error["param"] is None) == (not body)
