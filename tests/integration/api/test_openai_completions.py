"""OpenAI's completions, requested by the official client over a real connection."""

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
from vlibrary.domain.wire import Decoding, GenerateCall, Prompt

BASE, OFF = MODEL.model_id, f"{MODEL.model_id}:off"


def worker_calls(**body: Any) -> list[GenerateCall]:
    """Return the calls that the worker receives for this request."""
    worker = ScriptedWorker(["a"])
    with client_of(memory_library(worker=worker)) as client:
        client.completions.create(**({"model": OFF} | body))
    return worker.calls


def test_a_completion_names_the_applied_vectors(client: OpenAI, vector_id: str) -> None:
    answer = client.completions.create(model=BASE, prompt="Which hue?")
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", BASE)
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, f"Which hue? + 1·{vector_id}", "stop")
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.model_extra is not None
    assert answer.model_extra["vlibrary"]["applied"][0]["id"] == vector_id


def test_a_vector_can_be_the_model_of_several_prompts(client: OpenAI, vector_id: str) -> None:
    answer = client.completions.create(model="colour:1", prompt=["one", "two"], n=2)
    texts = [choice.text for choice in answer.choices]
    assert texts == [f"one + 1·{vector_id}"] * 2 + [f"two + 1·{vector_id}"] * 2
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2
    assert answer.model_extra is not None
    assert answer.model_extra["vlibrary"] is None
    extras = [choice.model_extra for choice in answer.choices]
    assert all(extra is not None and extra["vlibrary"]["applied"][0]["id"] == vector_id for extra in extras)


def test_the_model_continues_the_text_as_it_is() -> None:
    (call,) = worker_calls(prompt=" USER: hue? ASSISTANT:", temperature=0.5, seed=3, stop="x", extra_body={"top_k": 4})
    assert call.prompt == Prompt(" USER: hue? ASSISTANT:", verbatim=True)
    assert call.decoding == Decoding(16, 0.5, 1.0, 3, ("x",), top_k=4)
    tokens = [call.prompt for call in worker_calls(prompt=[[1, 2], [3]])]
    assert tokens == [Prompt("", verbatim=True, tokens=(1, 2)), Prompt("", verbatim=True, tokens=(3,))]
    assert [call.prompt.tokens for call in worker_calls(prompt=[4, 5])] == [(4, 5)]


def test_samples_have_different_seeds_that_follow_from_the_requests_seed() -> None:
    seeds = [[call.decoding.seed for call in worker_calls(prompt=["a", "a"], n=3, seed=seed)] for seed in (7, 7, 8)]
    assert sorted(seeds[0]) == sorted(seeds[1])
    assert len(set(seeds[0])) == 6
    assert not set(seeds[0]) & set(seeds[2])


def test_a_harness_can_score_the_end_of_a_prompt(client: OpenAI) -> None:
    """lm-evaluation-harness scores a given answer so: it echoes the prompt, and generates one token that it drops."""
    for tokens in (0, 1):
        (choice,) = client.completions.create(
            model=OFF, prompt="one two three", max_tokens=tokens, echo=True, logprobs=1, temperature=0, seed=1234
        ).choices
        assert choice.text.startswith("one two three")
        found = choice.logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.token_logprobs is not None
        assert found.top_logprobs is not None
        assert found.tokens[:3] == ["one", " two", " three"]
        assert found.text_offset is not None
        assert found.text_offset[:4] == [0, 3, 7, 13]
        assert found.token_logprobs[:3] == [-0.5] * 3
        assert all(max(top.values()) == -0.5 for top in found.top_logprobs)
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)


def test_echoed_tokens_have_their_text(client: OpenAI) -> None:
    (choice,) = client.completions.create(model=OFF, prompt=[1, 2], echo=True, max_tokens=0).choices
    assert choice.text.startswith("<1> <2>")
    assert choice.logprobs is None


def test_auto_leaves_a_prompt_of_tokens_alone_and_says_why(client: OpenAI) -> None:
    answer = client.completions.create(model=BASE, prompt=[[1, 2]])
    assert answer.model_extra is not None
    assert answer.model_extra["vlibrary"]["applied"] == []
    assert answer.model_extra["vlibrary"]["reason"]["code"] == "no_text"


def test_without_echo_only_the_answer_has_logprobs(client: OpenAI) -> None:
    (choice,) = client.completions.create(model=OFF, prompt="one two", logprobs=0).choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["one", " two"]
    assert choice.logprobs.top_logprobs == [{"one": -0.5}, {" two": -0.5}]


def test_best_of_returns_the_most_likely_answers() -> None:
    calls = worker_calls(prompt="a", n=1, best_of=3)
    assert len(calls) == 3
    assert {call.decoding.logprobs for call in calls} == {0}
    with client_of(memory_library(worker=ScriptedWorker(["lo", "rp"]))) as client:
        answer = client.completions.create(model=OFF, prompt="a", n=2, best_of=3)
    assert [choice.text for choice in answer.choices] == ["lorp", "lorp"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_a_stream_returns_the_same_texts_in_chunks(client: OpenAI) -> None:
    text: dict[int, str] = defaultdict(str)
    logprobs: dict[int, list[str]] = defaultdict(list)
    finished: dict[int, Any] = {}
    chunk = None
    for chunk in client.completions.create(
        model=OFF, prompt=["a b", "c"], stream=True, logprobs=1, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            text[choice.index] += choice.text
            if choice.logprobs is not None:
                logprobs[choice.index] += choice.logprobs.tokens or []
            if choice.finish_reason:
                finished[choice.index] = choice.model_extra
    assert text == {0: "a b", 1: "c"}
    assert logprobs == {0: ["a", " b"], 1: ["c"]}
    assert {index: extra["vlibrary"]["reason"]["code"] for index, extra in finished.items()} == {0: "off", 1: "off"}
    assert chunk is not None
    assert chunk.usage is not None
    assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (3, 3)


def test_an_empty_suffix_changes_nothing(client: OpenAI) -> None:
    assert client.completions.create(model=OFF, prompt="a b", suffix="").choices[0].text == "a b"


def test_a_stream_echoes_texts(client: OpenAI) -> None:
    chunks = client.completions.create(model=OFF, prompt=["a b", "c"], stream=True, echo=True)
    text: dict[int, str] = defaultdict(str)
    for chunk in chunks:
        text[chunk.choices[0].index] += chunk.choices[0].text
    assert text == {0: "a ba b", 1: "cc"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a suffix": ({"suffix": "b"}, "suffix"),
    "a blank prompt": ({"prompt": ["a", " "]}, "prompt/1: the text is empty"),
    "no prompt": ({"prompt": []}, "at least 1"),
    "an empty list of tokens": ({"prompt": [[]]}, "at least 1"),
    "texts among tokens": ({"prompt": [[1], "a", ["b"]]}, "integer"),
    "a negative token": ({"prompt": [-1]}, "greater than or equal to 0"),
    "fewer samples than answers": ({"n": 3, "best_of": 2}, "best_of is 2, less than n"),
    "a stream of the best": ({"n": 1, "best_of": 2, "stream": True}, "best_of cannot be streamed"),
    "a stream of scored prompts": ({"echo": True, "logprobs": 1, "stream": True}, "echo can be streamed only"),
    "too many answers": ({"prompt": ["a"] * 65, "n": 2}, "at most 128"),
    "too many logprobs": ({"logprobs": 21}, "less than or equal to 20"),
    "negative length": ({"max_tokens": -1}, "greater than or equal to 0"),
    "an unknown vector": ({"model": "shape:1"}, "does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_service_does_not_do_is_refused_with_a_reason(client: OpenAI, case: str) -> None:
    more, words = REFUSED[case]
    body: Any = {"model": OFF, "prompt": "a"} | more
    with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=words):
        client.completions.create(**body)


def test_an_error_in_the_middle_of_a_stream_raises_in_the_client() -> None:
    worker = ScriptedWorker(["lo"], WorkerLost("The worker exited.", "Retry the request."))
    seen: list[str] = []
    with client_of(memory_library(worker=worker)) as client:
        stream = client.completions.create(model=OFF, prompt="a", stream=True)
        with pytest.raises(openai.APIError, match="Retry the request"):
            seen.extend(chunk.choices[0].text for chunk in stream)
    assert seen == ["lo"]
