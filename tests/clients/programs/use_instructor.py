"""Instructor: only structured answers, so it depends on the service's structured output."""

from __future__ import annotations

from typing import Literal

import instructor
from checks import NAME, UNKNOWN, V1, VECTOR, check, raised, run
from checks import message as ask
from instructor.core import InstructorRetryException
from openai import NotFoundError, OpenAI
from pydantic import BaseModel


class Word(BaseModel):
    word: Literal["brox", "quave"]


client = instructor.from_openai(OpenAI(base_url=V1, api_key="none", max_retries=0), mode=instructor.Mode.JSON_SCHEMA)


@check("json")
def structured() -> None:
    given = client.chat.completions.create(
        model=VECTOR, messages=ask(), response_model=Word, temperature=0, max_retries=0
    )
    assert given.word in ("brox", "quave")


@check("tools")
def tools() -> None:
    calling = instructor.from_openai(OpenAI(base_url=V1, api_key="none", max_retries=0), mode=instructor.Mode.TOOLS)
    given = calling.chat.completions.create(
        model=VECTOR, messages=ask(), response_model=Word, temperature=0, max_retries=0
    )
    assert given.word in ("brox", "quave")


@check("audit")
def audit() -> None:
    _, raw = client.chat.completions.create_with_completion(
        model=VECTOR, messages=ask(), response_model=Word, temperature=0, max_retries=0
    )
    assert raw.model_extra["vlibrary"]["applied"][0]["name"] == NAME


@check("errors")
def errors() -> None:
    error = raised(
        (NotFoundError, InstructorRetryException),
        lambda: client.chat.completions.create(
            model=UNKNOWN, messages=ask(), response_model=Word, temperature=0, max_retries=0
        ),
    )
    assert UNKNOWN in str(error)


run()
