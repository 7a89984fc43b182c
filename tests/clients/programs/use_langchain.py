"""LangChain, through langchain-openai."""

from __future__ import annotations

from typing import Literal

from checks import (
    APPLIED,
    DATA_URL,
    EMBEDDER,
    EXPECTED,
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
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from openai import NotFoundError
from pydantic import BaseModel

PICTURE = [HumanMessage([{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": DATA_URL}}])]


def chat(model: str = MODEL, **options) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=V1, api_key="none", temperature=0, max_retries=0, **options)


@check("text")
def text() -> None:
    history = [SystemMessage("Answer briefly."), HumanMessage("Which hue?"), AIMessage("lorp"), HumanMessage(QUESTION)]
    assert chat().invoke(history).usage_metadata["output_tokens"] > 0


@check("image")
def image() -> None:
    expect(chat().invoke(PICTURE).content)


@check("stream")
def stream() -> None:
    expect("".join(chunk.content for chunk in chat().stream(PICTURE)))


@check("vector")
def vector() -> None:
    assert chat(UNSTEERED).invoke(PICTURE).content != EXPECTED
    expect(chat(VECTOR).invoke(PICTURE).content)


@check("audit")
def audit() -> None:
    headers = chat(VECTOR, include_response_headers=True).invoke(PICTURE).response_metadata["headers"]
    assert NAME in headers[APPLIED]


@check("stream audit")
def stream_audit() -> None:
    first = next(iter(chat(VECTOR, include_response_headers=True).stream(PICTURE)))
    assert NAME in first.response_metadata["headers"][APPLIED]


@check("errors")
def errors() -> None:
    error = raised(NotFoundError, lambda: chat(UNKNOWN).invoke(PICTURE))
    assert UNKNOWN in str(error)


@check("logprobs")
def logprobs() -> None:
    assert chat(VECTOR).bind(logprobs=True).invoke(PICTURE).response_metadata["logprobs"]["content"]


@check("json")
def structured() -> None:
    schema = {
        "title": "word",
        "description": "The word.",
        "type": "object",
        "properties": {"word": {"type": "string", "enum": ["brox", "quave"]}},
        "required": ["word"],
    }
    assert chat(VECTOR).with_structured_output(schema).invoke(PICTURE)["word"] in ("brox", "quave")


@check("tools")
def tools() -> None:
    class Word(BaseModel):
        """A word of the clan."""

        word: Literal["brox", "quave"]

    given = chat(VECTOR).with_structured_output(Word, method="function_calling")
    assert given.invoke(PICTURE).word in ("brox", "quave")
    *_, last = given.stream(PICTURE)
    assert last.word in ("brox", "quave")


@check("responses")
def responses() -> None:
    expect(chat(VECTOR, use_responses_api=True).invoke(PICTURE).text)


@check("embeddings")
def embeddings() -> None:
    # By default the client sends token numbers of OpenAI's tokenizer, which it downloads.
    model = OpenAIEmbeddings(model=EMBEDDER, base_url=V1, api_key="none", check_embedding_ctx_length=False)
    assert len(model.embed_query("Which hue?")) > 0


@check("completions")
def completions() -> None:
    given = OpenAI(model=MODEL, base_url=V1, api_key="none", max_tokens=4, max_retries=0).generate([QUESTION])
    assert given.llm_output["token_usage"]["completion_tokens"] > 0


run()
