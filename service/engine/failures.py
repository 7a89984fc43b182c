"""A request that fails, for whatever reason, must not end the thread that serves all others."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch

from vlibrary.domain.errors import OutOfMemory, Unavailable, VLibraryError

log = structlog.get_logger(__name__)


def catch(action: Callable[[], None]) -> Exception | None:
    """What the action raised, None when it went well."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  this is the border behind which one request's failure stays
        return error
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the host had no memory left."""
    said_so = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or said_so


def to_library_error(error: Exception) -> VLibraryError:
    """What the client is told; the log has the rest."""
    if isinstance(error, VLibraryError):
        return error
    log.error("engine.failed", exc_info=error)
    if is_out_of_memory(error):
        return OutOfMemory(
            "The model's device has no memory left for this request.",
            "Send a shorter prompt or fewer images, or try again later.",
        )
    return Unavailable(f"The model failed on this request ({type(error).__name__}).", "See the worker's log.")
