"""The request body of OpenAI's chat completions."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from vlibrary.api.openai.decoding import DEFAULT_TOKENS, SamplingIn
from vlibrary.api.openai.fields import (
    EmptyList,
    EmptyObject,
    Hint,
    Hints,
    Off,
    On,
    Only,
    Unsupported,
    find_ignored,
    unsupported_error,
)
from vlibrary.api.openai.messages import Message, count_images
from vlibrary.api.openai.tools import FunctionIn, ToolChoice, Tools, find_forced, to_call_schema
from vlibrary.domain.wire import Decoding
from vlibrary.schemas.examples import SAMPLE_IMAGE, examples
from vlibrary.schemas.fields import JsonSchema, Logprobs, StrictIn, check_images, contradiction, reject_other_ends
from vlibrary.schemas.generate import MAX_MODEL_NAME, MODEL_NAME, Steered, SteeredIn

MAX_MESSAGES = 2_048
MAX_ANSWERS = 128


def _check_modalities(value: list[str] | None) -> list[str] | None:
    if value is not None and set(value) != {"text"}:
        raise unsupported_error('only ["text"] is supported')
    return value


class JsonSchemaFormat(StrictIn):
    """The schema of a `json_schema` format."""

    name: str = Field(max_length=64, description="Accepted; changes nothing")
    json_schema: JsonSchema = Field(alias="schema", description="The answer is a JSON document of this schema")
    description: str | None = Field(default=None, description="Accepted; changes nothing")
    strict: bool | None = Field(default=None, description="Accepted; the schema is always enforced")


class ResponseFormat(StrictIn):
    """The format of the answer: text, any JSON object, or a JSON document of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise contradiction(
                "json_schema", "the type json_schema requires json_schema, and other types do not allow it"
            )
        return self

    def to_schema(self) -> str | None:
        """Return the JSON schema of the answer, None for text."""
        if self.json_schema is not None:
            return json.dumps(self.json_schema.json_schema)
        return '{"type": "object"}' if self.type == "json_object" else None


class StreamOptions(StrictIn):
    """Options of a stream."""

    include_usage: bool | None = Field(default=None, description="Send the token usage in a final chunk")
    continuous_usage_stats: bool | None = Field(
        default=None, description="Send the usage so far in every chunk too, as vLLM does; requires include_usage"
    )
    include_obfuscation: bool | None = Field(default=None, description="Accepted; the service pads no chunks")

    @property
    def counts_every_chunk(self) -> bool:
        """Whether every chunk with a text reports the usage so far, that of its own answer."""
        return bool(self.include_usage and self.continuous_usage_stats)


_SAMPLE_URL = f"data:image/webp;base64,{SAMPLE_IMAGE}"
_QUESTION: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "text", "text": "Which hue?"}, {"type": "image_url", "image_url": {"url": _SAMPLE_URL}}],
}


class ChatIn(SamplingIn, Hints):
    """A conversation; the last message is answered."""

    model_config = examples(
        {"messages": [_QUESTION], "max_tokens": 16, "temperature": 0},
        {
            "messages": [
                {"role": "system", "content": "Answer in one word."},
                _QUESTION,
                {"role": "assistant", "content": "lorp"},
                {"role": "user", "content": "And which shape?"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "vlibrary": {"steering": "off", "timeout_s": 30},
        },
    )

    model: str | None = Field(default=None, max_length=MAX_MODEL_NAME, description=MODEL_NAME)
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(
        default=None, ge=1, lt=2**63, description="Same as max_tokens; the lower one of the two counts"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(default=None, description="Changes nothing without `stream`")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        lt=2**63,
        description=f"Maximum length of the answer; defaults to {DEFAULT_TOKENS}, and is lowered to what the prompt "
        "leaves of the context",
    )
    n: int | None = Field(default=None, ge=1, le=MAX_ANSWERS, description="How many answers to sample; defaults to 1")
    logprobs: bool | None = Field(
        default=None,
        description="Return the log-probability of every token of the answer: of the steered model's distribution, "
        "before temperature, penalties and masks",
    )
    top_logprobs: Logprobs | None = Field(
        default=None, description="Also return this many of the most likely tokens at each place; needs `logprobs`"
    )
    vlibrary: Steered = Field(default_factory=SteeredIn, description="How to steer the answer")

    metadata: Hint = None
    moderation: Unsupported = None
    store: Hint = None
    verbosity: Hint = None
    reasoning_effort: Hint = None
    prediction: Hint = None

    response_format: ResponseFormat | None = None
    modalities: Annotated[list[str] | None, AfterValidator(_check_modalities)] = None
    tools: Tools | None = Field(default=None, description="Functions; with `tool_choice`, the answer calls one of them")
    tool_choice: ToolChoice | None = Field(
        default=None,
        description="`required`, or the function to call: the answer is a tool call. `none`: it is a text. The model "
        "cannot choose, so `auto` is refused together with tools",
    )
    function_call: Annotated[
        Any, AfterValidator(Only("none", "auto")), WithJsonSchema({"enum": [None, "none", "auto"]})
    ] = None
    functions: EmptyList = None
    audio: Unsupported = None
    web_search_options: Unsupported = None
    # vLLM's
    echo: Off = None
    add_generation_prompt: On = None
    continue_final_message: Off = None
    add_special_tokens: Off = None
    documents: EmptyList = None
    chat_template: Unsupported = None
    chat_template_kwargs: EmptyObject = None
    mm_processor_kwargs: EmptyObject = None
    prompt_logprobs: Unsupported = None

    @model_validator(mode="after")
    def _check(self) -> ChatIn:
        if self.forced and self.response_format is not None and self.response_format.to_schema() is not None:
            raise contradiction("response_format", "a tool call is JSON already; omit response_format")
        if self._schema is not None:
            reject_other_ends(
                ignore_eos=self.ignore_eos, min_tokens=self.min_tokens, stop_token_ids=self.stop_token_ids
            )
        if self.top_logprobs and not self.logprobs:
            raise contradiction("top_logprobs", "top_logprobs requires logprobs to be true")
        check_images(count_images(self.messages), "messages")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream reports the token usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def ignored(self) -> list[str]:
        """The names of the hints that the service ignores."""
        return [*find_ignored(self), *(["tools"] if self.tools and not self.forced else [])]

    @cached_property
    def forced(self) -> list[FunctionIn]:
        """The functions of which the answer calls one; empty if it is a text."""
        return find_forced(self.tools or (), self.tool_choice)

    def decoding(self) -> Decoding:
        """Return the decoding parameters."""
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        logprobs = self.top_logprobs or 0 if self.logprobs else None
        return self.to_decoding(min(limits, default=None), logprobs=logprobs, json_schema=self._schema)

    @property
    def _schema(self) -> str | None:
        """The JSON schema of the answer, None for text."""
        if self.forced:
            return to_call_schema(self.forced)
        return None if self.response_format is None else self.response_format.to_schema()
