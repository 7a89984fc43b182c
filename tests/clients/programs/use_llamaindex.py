"""LlamaIndex, through llama-index-llms-openai-like."""

from __future__ import annotations

from typing import Literal

from checks import EXPECTED, MODEL, NAME, PICTURE, QUESTION, UNKNOWN, UNSTEERED, V1, VECTOR, check, expect, raised, run
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike
from openai import NotFoundError
from pydantic import BaseModel

ASK = [ChatMessage(role="user", blocks=[TextBlock(text=QUESTION), ImageBlock(path=PICTURE)])]


def model(name: str = MODEL, **options) -> OpenAILike:
    limits = {"temperature": 0, "max_tokens": 64, "max_retries": 0}
    return OpenAILike(model=name, api_base=V1, api_key="none", is_chat_model=True, **limits, **options)


@check("text")
def text() -> None:
    assert model().complete(QUESTION).text


@check("image")
def image() -> None:
    expect(model().chat(ASK).message.content)


@check("stream")
def stream() -> None:
    *_, last = model().stream_chat(ASK)
    expect(last.message.content)


@check("vector")
def vector() -> None:
    assert model(UNSTEERED).chat(ASK).message.content != EXPECTED
    expect(model(VECTOR).chat(ASK).message.content)


@check("audit")
def audit() -> None:
    assert model(VECTOR).chat(ASK).raw.model_extra["vlibrary"]["applied"][0]["name"] == NAME


@check("stream audit")
def stream_audit() -> None:
    reports = [
        part.raw.model_extra["vlibrary"]
        for part in model(VECTOR).stream_chat(ASK)
        if "vlibrary" in (part.raw.model_extra or {})
    ]
    assert reports[-1]["applied"][0]["name"] == NAME


@check("errors")
def errors() -> None:
    error = raised(NotFoundError, lambda: model(UNKNOWN).chat(ASK))
    assert UNKNOWN in str(error)


@check("tools")
def tools() -> None:
    class Word(BaseModel):
        """A word of the clan."""

        word: Literal["brox", "quave"]

    given = model(VECTOR, is_function_calling_model=True).as_structured_llm(Word).chat(ASK)
    assert given.raw.word in ("brox", "quave")


@check("completions")
def completions() -> None:
    plain = OpenAILike(model=MODEL, api_base=V1, api_key="none", is_chat_model=False, max_tokens=4, max_retries=0)
    assert plain.complete(QUESTION).raw.usage.completion_tokens > 0


run()
