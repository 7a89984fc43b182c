"""The filter of list routes, as query parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from vlibrary.domain.filters import Filter
from vlibrary.schemas.filters import Conditions, Method, Moment, Name, Parent, State, Tags, filter_of


def _query_filter(
    name: Annotated[Name, Query()] = None,
    model: Annotated[str | None, Query(max_length=512, description="Only vectors for this base model")] = None,
    method: Annotated[Method, Query()] = None,
    tag: Annotated[Tags, Query()] = [],  # noqa: B006  FastAPI copies defaults
    metadata: Annotated[Conditions, Query()] = [],  # noqa: B006  FastAPI copies defaults
    derived_from: Annotated[Parent, Query()] = None,
    created_from: Annotated[Moment | None, Query(description="Not before this time")] = None,
    created_before: Annotated[Moment | None, Query(description="Before this time")] = None,
    state: Annotated[State, Query(description="Deleted vectors are listed, but not found or applied")] = "active",
) -> Filter:
    return filter_of(
        name=name,
        model=model,
        method=method,
        tags=tag,
        metadata=metadata,
        derived_from=derived_from,
        created_from=created_from,
        created_before=created_before,
        state=state,
    )


UseFilter = Annotated[Filter, Depends(_query_filter)]
