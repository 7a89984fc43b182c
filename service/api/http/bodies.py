"""Reads a request body that may come as JSON or as a multipart form with uploads, into one schema."""

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

from vlibrary.api.http.deps import Limits
from vlibrary.domain.errors import InvalidInput, TooLarge
from vlibrary.formats.messages import LARGE_BYTES

Body = TypeVar("Body", bound=BaseModel)
# Form fields that hold JSON and not plain text.
_JSON_FIELDS = frozenset({"demonstrations", "decoding", "filter", "k", "min_seq", "strength", "stream", "timeout_s"})
_MAX_PARTS = 128


def body_docs(schema: type[BaseModel], *, name: str) -> dict[str, Any]:
    """OpenAPI text for a body that `read_body` takes: the schema as JSON, or as a form with `images` uploaded."""
    properties: dict[str, Any] = {
        field: {"type": "string", "description": info.description or f"As in the JSON body's {field}."}
        for field, info in schema.model_fields.items()
        if field != "images"
    }
    properties["images"] = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = {"multipart/form-data": {"schema": {"type": "object", "properties": properties}}}
    return _required(_json_docs(schema, name) | form)


def json_docs(schema: type[BaseModel], *, name: str) -> dict[str, Any]:
    """OpenAPI text for a body that `read_json` takes."""
    return _required(_json_docs(schema, name))


def _required(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _json_docs(schema: type[BaseModel], name: str) -> dict[str, Any]:
    examples = {f"example {at}": {"value": value} for at, value in enumerate(_examples(schema), start=1)}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": examples}}


def _examples(schema: type[BaseModel]) -> list[Any]:
    found: list[Any] = schema.model_json_schema()["examples"]
    return found


async def read_body(request: Request, schema: type[Body], limits: Limits) -> Body:
    """The validated body, JSON or a form. Raises RequestValidationError, InvalidInput or TooLarge."""
    if _kind(request) != "multipart/form-data":
        return await read_json(request, schema, others="or multipart/form-data")
    form = await read_form(request, limits.card_bytes)
    try:
        fields = {name: await _form_value(name, form) for name in form}
    finally:
        await form.close()
    return _validated(schema, fields)


async def read_json(request: Request, schema: type[Body], *, others: str = "") -> Body:
    """The validated body. others: what the route takes beside JSON, for the cure. Raises as `read_body`."""
    kind = _kind(request)
    if kind not in ("application/json", ""):
        raise InvalidInput(f"The body's type is {kind!r}.", f"Send application/json {others}".rstrip() + ".")
    body = await request.body()
    if len(body) > LARGE_BYTES:
        return await run_in_threadpool(_parsed, schema, body)
    return _parsed(schema, body)


def _parsed(schema: type[Body], body: bytes) -> Body:
    return _validated(schema, _json(body))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _validated(schema: type[Body], fields: Any) -> Body:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        entries = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_url=False)]
        raise RequestValidationError(entries) from error


async def read_form(request: Request, most_field_bytes: int) -> FormData:
    """The multipart form. Raises InvalidInput when it is damaged, TooLarge when a plain field is too long."""
    try:
        return await request.form(max_files=_MAX_PARTS, max_fields=_MAX_PARTS, max_part_size=most_field_bytes)
    except HTTPException as error:  # inside an app, Starlette reports a damaged form as one of these
        if "maximum size" in error.detail:
            raise TooLarge(f"A form field is too long: {error.detail}", "Send large fields as files.") from error
        raise InvalidInput(f"The form cannot be read: {error.detail}.", "See /docs for the form's fields.") from error


async def _form_value(name: str, form: FormData) -> Any:
    if name == "images":
        return [await _bytes_or_text(entry) for entry in form.getlist("images")]
    value = await _bytes_or_text(form[name])
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    looks_like_json = name in _JSON_FIELDS or (name == "steering" and value.lstrip().startswith("["))
    return _json(value) if looks_like_json else value


async def _bytes_or_text(entry: UploadFile | str) -> bytes | str:
    return entry if isinstance(entry, str) else await entry.read()


def _json(text: str | bytes) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The body is not valid JSON: {error}.", "See /docs for an example.") from error
    if isinstance(text, bytes) and not isinstance(value, Mapping):
        raise InvalidInput("The body is not a JSON object.", "See /docs for an example.")
    return value
