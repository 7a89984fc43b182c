"""Which of the served models a request means."""

from __future__ import annotations

from collections.abc import Sequence

from vlibrary.domain.errors import ModelNotFound
from vlibrary.domain.wire import WorkerInfo


def find_model(served: Sequence[WorkerInfo], model_id: str | None) -> WorkerInfo:
    """The one with this id, the first one for None. Raises ModelNotFound that names those there are."""
    for info in served:
        if model_id in (None, info.model.model_id):
            return info
    known = ", ".join(repr(info.model.model_id) for info in served)
    raise ModelNotFound(
        f"No worker serves the model {model_id!r}.", f"Served now: {known}. Leave it out for the first."
    )
