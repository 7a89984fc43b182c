"""The service's own figures."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from vlibrary.api.http.metrics import Metrics

router = APIRouter(tags=["health"])

_EXAMPLE = 'vlibrary_api_requests_total{method="POST",route="/generate",status="200"} 3.0\n'


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "In Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string", "examples": [_EXAMPLE]}}},
        },
    },
)
async def metrics(request: Request) -> Response:
    """Requests by route and status, the seconds they took, and how many answers are being streamed."""
    kept: Metrics = request.app.state.metrics
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(kept.registry), headers={"Content-Type": kind})
