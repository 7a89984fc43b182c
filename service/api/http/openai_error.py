"""A problem in the words of OpenAI's API, whose clients look for the member `error`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "/v1/"
_TYPES = {429: "rate_limit_error", 404: "not_found_error"}


def error_object(problem: Mapping[str, Any]) -> dict[str, Any]:
    """`error` for this problem document: message, type, code and param (the first field that is wrong, or null)."""
    status: int = problem["status"]
    usual = "server_error" if status >= 500 else "invalid_request_error"
    wrong: list[dict[str, str]] = problem.get("errors") or [{"pointer": ""}]
    return {
        "message": f"{problem['detail']} {problem['cure']}",
        "type": _TYPES.get(status, usual),
        "code": problem["type"].rpartition("/")[2].replace("-", "_"),
        "param": wrong[0]["pointer"].removeprefix("/body").strip("/").replace("/", ".") or None,
    }
