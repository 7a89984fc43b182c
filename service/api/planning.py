"""From a request for an answer to the plan of it: what every dialect does alike."""

from __future__ import annotations

from functools import partial

from vlibrary.api.http.admission import Place
from vlibrary.api.http.deps import Limits
from vlibrary.domain.query import Query
from vlibrary.domain.wire import Decoding, Prompt
from vlibrary.library.library import Library
from vlibrary.library.steer import Plan, plan
from vlibrary.schemas.generate import SteeredIn


async def planned(
    body: SteeredIn,
    prompt: Prompt,
    decoding: Decoding,
    *,
    model_id: str | None,
    query: Query | None = None,
    place: Place,
    library: Library,
    limits: Limits,
) -> Plan:
    """The plan, with what is left of the request's time.

    query: what auto looks for, if it is not the whole prompt. Raises what library.steer.plan and Place.asked raise.
    """
    seconds = limits.seconds(body.timeout_s)
    make = partial(
        plan,
        prompt,
        body.chosen(query),
        decoding,
        model_id=model_id,
        library=library,
    )
    made = await place.asked(make, seconds)
    return made.within(place.left(seconds))
