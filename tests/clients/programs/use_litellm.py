"""LiteLLM's Python library; its proxy sends the same requests."""

from __future__ import annotations

import litellm
from checks import (
    APPLIED,
    EMBEDDER,
    EXPECTED,
    LONG,
    MODEL,
    NAME,
    QUESTION,
    UNKNOWN,
    UNSTEERED,
    V1,
    VECTOR,
    check,
    expect,
    raised,
    run,
)
from checks import message as ask

litellm.telemetry = False


def answer(model: str = MODEL, **options):
    return litellm.completion(
        model=f"openai/{model}", api_base=V1, api_key="none", messages=ask(), temperature=0, num_retries=0, **options
    )


@check("text")
def text() -> None:
    question = [{"role": "user", "content": QUESTION}]
    given = litellm.completion(model=f"openai/{MODEL}", api_base=V1, api_key="none", messages=question, num_retries=0)
    assert given.usage.completion_tokens > 0


@check("image")
def image() -> None:
    expect(answer().choices[0].message.content)


@check("stream")
def stream() -> None:
    expect("".join(chunk.choices[0].delta.content or "" for chunk in answer(stream=True)))


@check("vector")
def vector() -> None:
    assert answer(UNSTEERED).choices[0].message.content != EXPECTED
    expect(answer(VECTOR).choices[0].message.content)


@check("audit")
def audit() -> None:
    assert answer(VECTOR).model_extra["vlibrary"]["applied"][0]["name"] == NAME


@check("stream audit")
def stream_audit() -> None:
    # Its chunks have OpenAI's fields only; the headers are kept.
    stream = answer(VECTOR, stream=True)
    assert NAME in stream._hidden_params["additional_headers"][f"llm_provider-{APPLIED}"]


@check("headers")
def headers() -> None:
    assert NAME in answer(VECTOR)._hidden_params["additional_headers"][f"llm_provider-{APPLIED}"]


@check("errors")
def errors() -> None:
    error = raised(litellm.NotFoundError, lambda: answer(UNKNOWN))
    assert UNKNOWN in str(error)


@check("context")
def context() -> None:
    question = [{"role": "user", "content": LONG}]
    raised(
        litellm.ContextWindowExceededError,
        lambda: litellm.completion(
            model=f"openai/{MODEL}", api_base=V1, api_key="none", messages=question, num_retries=0
        ),
    )


@check("completions")
def completions() -> None:
    given = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", api_base=V1, api_key="none", prompt=QUESTION, max_tokens=4
    )
    assert given.usage.completion_tokens > 0


@check("responses")
def responses() -> None:
    given = litellm.responses(model=f"openai/{VECTOR}", api_base=V1, api_key="none", input=QUESTION, temperature=0)
    assert given.output


@check("embeddings")
def embeddings() -> None:
    given = litellm.embedding(model=f"openai/{EMBEDDER}", api_base=V1, api_key="none", input=["Which hue?"])
    assert len(given.data[0]["embedding"]) > 0


run()
