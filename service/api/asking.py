"""From a request for an answer to the plan of it: what every dialect does alike."""

from __future__ import annotations

from functools import partial

from service.api.deps import Limits, Ports
from service.api.gate import Place
from service.api.generate_schemas import SteeredIn
from service.domain.query import Query
from service.domain.wire import Decoding, Prompt
from service.library.steer import Plan, plan


async def planned(
    body: SteeredIn,
    prompt: Prompt,
    decoding: Decoding,
    *,
    model_id: str | None,
    query: Query | None = None,
    place: Place,
    ports: Ports,
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
        catalogue=ports.catalogue,
        index=ports.index,
        worker=ports.worker,
    )
    made = await place.asked(make, seconds)
    return made.within(place.left(seconds))
