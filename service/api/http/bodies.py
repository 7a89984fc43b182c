"""Read request bodies that FastAPI cannot: JSON or a multipart form for one schema, and large JSON off the event loop.

FastAPI reads a body before it solves dependencies, and so before admission control.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from vlibrary.domain.errors import InvalidInput, TooLarge
from vlibrary.formats.messages import LARGE_BYTES

Body = TypeVar("Body", bound=BaseModel)
# Form fields that hold JSON instead of plain text.
_JSON_FIELDS = frozenset(
    {"demonstrations", "decoding", "filter", "k", "min_seq", "strength", "stream", "timeout_s", "with_demonstrations"}
)
_MAX_PARTS = 128


def json_docs(schema: type[BaseModel]) -> dict[str, Any]:
    """Return `openapi_extra` for a body that `read_json` reads."""
    return _request_body(_json_content(schema))


def json_or_form_docs(schema: type[BaseModel]) -> dict[str, Any]:
    """Return `openapi_extra` for a body that `read_json_or_form` reads."""
    properties: dict[str, Any] = {
        field: {"type": "string", "description": info.description or f"Same as `{field}` of the JSON body"}
        for field, info in schema.model_fields.items()
    }
    properties["images"] = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = {"multipart/form-data": {"schema": {"type": "object", "properties": properties}}}
    return _request_body(_json_content(schema) | form)


def _request_body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _json_content(schema: type[BaseModel]) -> dict[str, Any]:
    values = schema.model_json_schema()["examples"]
    examples = {f"example {number}": {"value": value} for number, value in enumerate(values, start=1)}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}, "examples": examples}}


async def read_json_or_form(request: Request, schema: type[Body], max_field_bytes: int) -> Body:
    """Return the validated JSON or multipart body. Raises RequestValidationError, InvalidInput, TooLarge."""
    if media_type(request) != "multipart/form-data":
        return await read_json(request, schema, alternative=" or multipart/form-data")
    form = await read_form(request, max_field_bytes)
    try:
        fields = {name: await _form_value(name, form) for name in form}
    finally:
        await form.close()
    return _validate(schema, fields)


async def read_json(request: Request, schema: type[Body], *, alternative: str = "") -> Body:
    """Return the validated JSON body; a large one is parsed in a thread, so that open streams keep flowing.

    alternative: what else the route takes, for the error. Raises RequestValidationError, InvalidInput.
    """
    kind = media_type(request)
    if kind not in ("application/json", ""):
        raise InvalidInput(f"Unsupported Content-Type {kind!r}.", f"Send application/json{alternative}.")
    body = await request.body()
    if len(body) > LARGE_BYTES:
        return await run_in_threadpool(_parse, schema, body)
    return _parse(schema, body)


def media_type(request: Request) -> str:
    """Return the media type of the body, without parameters; empty without Content-Type."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(request: Request, max_field_bytes: int) -> FormData:
    """Return the multipart form. Raises InvalidInput when it is malformed, TooLarge when a plain field is too long."""
    try:
        return await request.form(max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=max_field_bytes)
    except HTTPException as error:  # Starlette's form of a parser error inside an app
        if "maximum size" in error.detail:
            raise TooLarge(f"A form field is too long: {error.detail}", "Send large fields as files.") from error
        raise InvalidInput(f"Malformed form: {error.detail}.", "See /docs for the form's fields.") from error


def _parse(schema: type[Body], body: bytes) -> Body:
    value = _load(body)
    if not isinstance(value, Mapping):
        raise InvalidInput("The body is not a JSON object.", "See /docs for an example.")
    return _validate(schema, value)


def _validate(schema: type[Body], fields: Any) -> Body:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        entries = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_url=False)]
        raise RequestValidationError(entries) from error


async def _form_value(name: str, form: FormData) -> Any:
    if name == "images":
        return [await _bytes_or_text(entry) for entry in form.getlist("images")]
    value = await _bytes_or_text(form[name])
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    is_json = name in _JSON_FIELDS or (name == "steering" and value.lstrip().startswith("["))
    return _load(value) if is_json else value


async def _bytes_or_text(entry: UploadFile | str) -> bytes | str:
    return entry if isinstance(entry, str) else await entry.read()


def _load(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The body is not valid JSON: {error}.", "See /docs for an example.") from error
