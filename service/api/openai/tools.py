"""Forced tool calls: the answer is constrained to the JSON of a call, which clients get as `tool_calls`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from ulid import ULID

from vlibrary.domain.errors import InvalidInput
from vlibrary.schemas.fields import MAX_SCHEMA, MAX_TEXT, JsonSchema, StrictIn, contradiction

MAX_TOOLS = 128  # OpenAI's limit

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionIn(StrictIn):
    """A function that the answer may call."""

    name: FunctionName
    description: str | None = Field(
        default=None, max_length=MAX_TEXT, description="Accepted; changes nothing: the model does not see it"
    )
    parameters: JsonSchema | None = Field(
        default=None, description="JSON schema of the arguments, an object; by default one without properties"
    )
    strict: bool | None = Field(default=None, description="Accepted; the schema is always enforced")

    def to_schema(self) -> dict[str, Any]:
        """Return the schema of the arguments."""
        if self.parameters is None:
            return {"type": "object", "additionalProperties": False}
        return {"type": "object"} | self.parameters


class ToolIn(StrictIn):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionIn


class ChosenFunction(StrictIn):
    """The name of a function."""

    name: FunctionName


class ChosenTool(StrictIn):
    """The function to call."""

    type: Literal["function"]
    function: ChosenFunction


Tools = Annotated[list[ToolIn], Field(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | ChosenTool


def find_forced(tools: Sequence[ToolIn], choice: ToolChoice | None) -> list[FunctionIn]:
    """Return the functions of which the answer calls one; none if it is a text. Raises an error about either field."""
    functions = {tool.function.name: tool.function for tool in tools}
    if len(functions) < len(tools):
        raise contradiction("tools", "two tools have the same name; give each its own")
    if isinstance(choice, ChosenTool):
        if choice.function.name not in functions:
            raise contradiction("tool_choice", f"`tools` has no function {choice.function.name!r}")
        return [functions[choice.function.name]]
    if choice == "required":
        if not functions:
            raise contradiction("tool_choice", "a call is required, but there are no `tools`; send some")
        return list(functions.values())
    if functions and choice != "none":
        raise contradiction(
            "tools" if choice is None else "tool_choice",
            "the model cannot choose between a text and a call; set `tool_choice` to `required`, to `none`, or to a "
            "function",
        )
    return []


def to_call_schema(functions: Sequence[FunctionIn]) -> str:
    """Return the JSON schema of an answer that calls one of the functions: its arguments, with its name if needed.

    Raises an error about `tools` if it is too long.
    """
    if len(functions) == 1:
        return json.dumps(functions[0].to_schema())
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": one.name}, "arguments": {"$ref": f"#/$defs/{one.name}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in functions
    ]
    arguments = {one.name: _move(one.to_schema(), f"#/$defs/{one.name}") for one in functions}
    schema = json.dumps({"anyOf": calls, "$defs": arguments})
    if len(schema) > MAX_SCHEMA:
        raise contradiction("tools", f"the schemas of the tools have more than {MAX_SCHEMA} characters in all")
    return schema


def _move(schema: Any, root: str) -> Any:
    """Return the schema with its references to its own root changed to the place where it will be."""
    if isinstance(schema, list):
        return [_move(one, root) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: root + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _move(value, root)
        for name, value in schema.items()
    }


@contextmanager
def name_tools(functions: Sequence[FunctionIn]) -> Iterator[None]:
    """Let an error about the JSON schema of the answer name `tools` if the schema is that of a call."""
    try:
        yield
    except InvalidInput as error:
        if functions and error.field == "json_schema":
            error.field = "tools"
        raise


class CalledFunction(BaseModel):
    """The function and its arguments."""

    name: str
    arguments: str = Field(description="A JSON document; the beginning of one if the answer reached its limit")


class ToolCallOut(BaseModel):
    """A tool call."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class CallText:
    """Reads the text of one answer that is a call, piece by piece. functions: those that it may call."""

    # What `to_call_schema` puts before the arguments; a brace follows them.
    _BEFORE = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"arguments"\s*:\s*(?=\S)')

    def __init__(self, functions: Sequence[FunctionIn]) -> None:
        self._id = f"call_{ULID()}"
        self._wrapped = len(functions) > 1
        self._name = "" if self._wrapped else functions[0].name
        self._text = ""
        self._begin: int | None = None  # of the arguments
        self._sent = 0

    @property
    def is_call(self) -> bool:
        """Whether the text so far is that of a call."""
        return self._begin is not None

    def read(self, piece: str, *, last: bool = False) -> dict[str, Any]:
        """Return OpenAI's delta for the next piece of the text; empty if it says nothing about the call yet.

        An answer that reaches its limit before it names a function is a text.
        """
        self._text += piece
        first = not self.is_call
        if first:
            found = self._BEFORE.match(self._text) if self._wrapped else None
            if self._wrapped and found is None:
                return {"content": self._text} if last else {}
            self._name, self._begin = (found[1], found.end()) if found else (self._name, 0)
            self._sent = self._begin
        added = self._text[self._sent : self._end(last)]
        self._sent += len(added)
        if first:
            return self._delta(added, id=self._id, type="function")
        return self._delta(added) if added else {}

    def whole(self, text: str) -> dict[str, Any]:
        """Return the fields `content` and `tool_calls` of the message with this text."""
        calls = self.read(text, last=True).get("tool_calls")
        return {"content": text} if calls is None else {"content": None, "tool_calls": calls}

    def _end(self, last: bool) -> int:
        """Return where the arguments end, as far as the text shows: its last brace may be the one after them."""
        if not self._wrapped or (last and not _is_document(self._text)):
            return len(self._text)
        return max(self._sent, len(self._text.rstrip().removesuffix("}").rstrip()))

    def _delta(self, arguments: str, **more: str) -> dict[str, Any]:
        function = {"name": self._name, "arguments": arguments} if more else {"arguments": arguments}
        return {"tool_calls": [{"index": 0, "function": function} | more]}


def _is_document(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
