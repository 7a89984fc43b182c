"""Read request bodies strictly: JSON, or a multipart form, for one schema; large ones off the event loop.

FastAPI reads a body before it solves dependencies, and so before admission control; and its parsers silently drop
names that occur twice and the ends of forms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.forms import Part, parse_form
from vlibrary.domain.errors import InvalidInput, TooLarge
from vlibrary.formats import strict_json
from vlibrary.formats.messages import LARGE_BYTES

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)
Form = Mapping[str, list[Part]]
# Larger bodies are parsed in a thread: one of this size with nothing but unknown names takes about 20 ms.
_SMALL_BYTES = 16 * 2**10
# The only field that a form may repeat.
IMAGES = "images"


def json_docs(schema: type[BaseModel]) -> dict[str, Any]:
    """Return `openapi_extra` for a body that `read_json` reads."""
    return _request_body(_json_content(schema))


def json_or_form_docs(schema: type[BaseModel]) -> dict[str, Any]:
    """Return `openapi_extra` for a body that `read_json_or_form` reads."""
    document = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    properties = document["properties"] | {IMAGES: {"type": "array", "items": {"type": "string", "format": "binary"}}}
    fields = {"type": "object", "properties": properties, "additionalProperties": False}
    form = {"multipart/form-data": {"schema": fields | {"required": document.get("required", [])}}}
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
    form = await read_form(request, max_field_bytes, schema.model_fields)
    return _validate(schema, {name: _form_value(schema, name, parts) for name, parts in form.items()})


async def read_json(request: Request, schema: type[Body], *, alternative: str = "") -> Body:
    """Return the validated JSON body. alternative: what else the route takes, for the error.

    Raises RequestValidationError, InvalidInput.
    """
    kind = media_type(request)
    if kind not in ("application/json", ""):
        raise InvalidInput(f"Unsupported Content-Type {kind!r}.", f"Send application/json{alternative}.")
    body = await request.body()
    return await _parse_body(request, body, partial(_parse, schema, body))


def json_reader(schema: type[Body]) -> Callable[[Request], Coroutine[Any, Any, Body]]:
    """Return a dependency that is the JSON body, for routes that run in a thread."""

    async def read(request: Request) -> Body:
        return await read_json(request, schema)

    return read


def media_type(request: Request) -> str:
    """Return the media type of the body, without parameters; empty without Content-Type. Raises InvalidInput."""
    given = request.headers.getlist("content-type")
    if len(given) > 1:
        raise InvalidInput(f"The request has {len(given)} Content-Type headers.", "Send one.")
    return "".join(given).partition(";")[0].strip().lower()


async def read_form(request: Request, max_field_bytes: int, names: Collection[str]) -> Form:
    """Return the parts of a multipart form by name. names: those that it may have.

    Raises InvalidInput for a malformed form, RequestValidationError for an unknown name or one that occurs twice, and
    TooLarge when a part that is not a file is too long.
    """
    body = await request.body()
    form: dict[str, list[Part]] = {}
    for part in await _parse_body(request, body, partial(parse_form, body, request.headers["content-type"])):
        if not part.is_file and len(part.content) > max_field_bytes:
            raise TooLarge(f"The part {part.name!r:.80} exceeds {max_field_bytes:,} bytes.", "Send it as a file.")
        form.setdefault(part.name, []).append(part)
    wrong = [
        _invalid(name, "extra_forbidden", strict_json.PLAIN_MESSAGES["extra_forbidden"])
        for name in form
        if name not in names
    ]
    wrong += [
        _invalid(name, "occurs_twice", f"The form has {len(parts)} parts of this name; send one")
        for name, parts in form.items()
        if len(parts) > 1 and name in names and name != IMAGES
    ]
    if wrong:
        raise RequestValidationError(wrong, body=form)
    return form


async def _parse_body(request: Request, body: bytes, parse: Callable[[], T]) -> T:
    """Return the result of the call: in a thread unless the body is small, so that open streams keep flowing."""
    if len(body) <= _SMALL_BYTES:
        return parse()
    if len(body) <= LARGE_BYTES:
        return await run_in_threadpool(parse)
    control: AdmissionControl = request.app.state.admission
    return await control.parse(parse)


def _parse(schema: type[Body], body: bytes) -> Body:
    try:
        value = strict_json.parse(body, allow_nul=True, whole_numbers=True)
    except ValueError as error:
        raise InvalidInput(f"The body is not valid JSON: {error}.", "See /docs for an example.") from error
    if not isinstance(value, Mapping):
        raise InvalidInput("The body is not a JSON object.", "See /docs for an example.")
    return _validate(schema, value)


def _validate(schema: type[Body], fields: Any) -> Body:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        entries = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_url=False)]
        raise RequestValidationError(entries, body=fields) from error


def _form_value(schema: type[BaseModel], name: str, parts: list[Part]) -> Any:
    """Return the field's value: text, or what the text is in JSON if the field is of another type."""
    try:
        if name == IMAGES:
            return [part.content if part.is_file else part.text() for part in parts]
        text = parts[0].text()
        if schema.model_fields[name].annotation in (str, str | None):
            return text
        return strict_json.parse(text, allow_nul=True, whole_numbers=True)
    except strict_json.InvalidJson as error:
        if not text.lstrip().startswith(("{", "[")):
            return text  # the schema names the type that the field has
        raise RequestValidationError(
            [_invalid(name, "json_invalid", f"not valid JSON: {error}")], body={name: text}
        ) from error
    except ValueError as error:
        raise RequestValidationError([_invalid(name, "text_invalid", str(error))], body={name: parts}) from error


def _invalid(name: str, kind: str, message: str) -> dict[str, Any]:
    """Return an error of a form's part as pydantic describes one."""
    return {"type": kind, "loc": ("body", name), "msg": message}
