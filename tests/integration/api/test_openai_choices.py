"""Several answers to one conversation (`n`), requested by the official OpenAI client."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.support.library import memory_library
from tests.support.memory.worker import MODEL
from tests.support.openai_client import client_of
from tests.support.scripted_worker import ScriptedWorker
from vlibrary.domain.errors import WorkerLost

HUE: list[Any] = [{"role": "user", "content": "Which hue?"}]


def test_each_answer_is_a_choice_and_the_prompt_counts_once() -> None:
    with client_of(memory_library()) as client:
        one = client.chat.completions.create(model=MODEL.model_id, messages=HUE)
        three = client.chat.completions.create(model=MODEL.model_id, messages=HUE, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert {choice.message.content for choice in three.choices} == {"Which hue?"}
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens
    assert three.model_extra is not None
    assert three.model_extra["vlibrary"]["reason"]["code"] == "no_match"


def test_the_answers_have_different_seeds_that_follow_from_the_requests_seed() -> None:
    seeds = []
    for seed in (7, 7, 8):
        worker = ScriptedWorker(["a"])
        with client_of(memory_library(worker=worker)) as client:
            client.chat.completions.create(model=MODEL.model_id, messages=HUE, n=4, seed=seed)
        seeds.append({call.decoding.seed for call in worker.calls})
    assert seeds[0] == seeds[1]
    assert len(seeds[0]) == len(seeds[2]) == 4
    assert not seeds[0] & seeds[2]


def test_a_stream_interleaves_the_answers_by_index() -> None:
    text: dict[int, str] = defaultdict(str)
    finished: dict[int, str] = {}
    usage = None
    with client_of(memory_library(worker=ScriptedWorker(["lo", "rp"]))) as client:
        for chunk in client.chat.completions.create(
            model=MODEL.model_id, messages=HUE, n=3, stream=True, stream_options={"include_usage": True}
        ):
            for choice in chunk.choices:
                text[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    finished[choice.index] = choice.finish_reason
                    assert chunk.model_extra is not None
                    assert chunk.model_extra["vlibrary"]["reason"]["code"] == "no_match"
            usage = chunk.usage
    assert text == {0: "lorp", 1: "lorp", 2: "lorp"}
    assert finished == {0: "length", 1: "length", 2: "length"}
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (1, 6)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_in_one_answer_is_the_error_of_the_request(stream: bool) -> None:
    def ask(client: OpenAI) -> None:
        list(client.chat.completions.create(model=MODEL.model_id, messages=HUE, n=2, stream=stream))

    worker = ScriptedWorker(["lo"], WorkerLost("It is gone.", "Retry."))
    with client_of(memory_library(worker=worker)) as client, pytest.raises(openai.APIError):
        ask(client)
