"""Prometheus metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from vlibrary.api.http.metrics import Metrics

router = APIRouter(tags=["health"])

_EXAMPLE = 'vlibrary_api_requests_total{method="POST",route="/generate",status="200"} 3.0\n'


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Get Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in Prometheus text format",
            "content": {"text/plain": {"schema": {"type": "string", "examples": [_EXAMPLE]}}},
        },
    },
)
async def get_metrics(request: Request) -> Response:
    """Returns request counts and durations by route, the number of open streams, and the worker's metrics if local."""
    metrics: Metrics = request.app.state.metrics
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), headers={"Content-Type": content_type})
