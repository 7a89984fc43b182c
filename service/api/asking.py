"""From a request for an answer to the plan of it: what every dialect does alike."""

from __future__ import annotations

from fastapi.concurrency import run_in_threadpool

from service.api.deps import Limits, Ports
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
    ports: Ports,
    limits: Limits,
) -> Plan:
    """The plan, made in a thread since stores are asked.

    query: what auto looks for, if it is not the whole prompt. Raises what library.steer.plan raises.
    """
    return await run_in_threadpool(
        plan,
        prompt,
        body.chosen(query),
        decoding,
        model_id=model_id,
        timeout_s=body.timeout_s or limits.timeout_s,
        catalogue=ports.catalogue,
        index=ports.index,
        worker=ports.worker,
    )
