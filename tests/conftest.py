"""Settings of all tests: no deadline for generated examples, since test processes share cores; plain tracebacks.

structlog's default traceback shows all local variables and takes seconds for a large call stack.
"""

from __future__ import annotations

import gc

import structlog
from hypothesis import settings

from tests.support import torchvision_shim

torchvision_shim.activate()

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection: scanning them takes seconds."""
    gc.freeze()
