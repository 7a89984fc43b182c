"""Requests made up from the OpenAPI document, good ones and bad ones: no 5xx, and every answer as it was promised."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig as Config
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.library import memory_library, register
from vlibrary.api.app import create_app

_PORTS = memory_library()
register(_PORTS, "colour", "Which hue?")
# A deadline that no answer can meet fits the schema.
CONFIG = Config.from_dict({"checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 504]}}})
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(_PORTS), config=CONFIG)
# A body that fits the schema may still name an unknown id, hold text that is no image, or a file that is no vector.
CHECKED: list[Any] = [check for check in CHECKS.get_all() if check is not positive_data_acceptance]


@schemathesis.serializer("application/x-tar")
def archive_bytes(_context: Any, value: Any) -> Any:
    """Sent as it is; schemathesis knows no such type."""
    return getattr(value, "data", value)


@schema.parametrize()
@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_service_keeps_its_promises(case: Case[Any]) -> None:
    case.call_and_validate(checks=CHECKED)
