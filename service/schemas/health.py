"""What the service says of itself: whether it lives, is ready, and what it serves."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from vlibrary.domain.wire import WorkerInfo
from vlibrary.schemas.vectors import example

_MODEL = {
    "id": "vlibrary/bundled-llava",
    "fingerprint": "9c2e5d1f",
    "architecture": "LlavaForConditionalGeneration",
    "layers": 4,
    "hidden_size": 128,
    "context_length": 1024,
    "embedder": "vlibrary/bundled-clip",
    "embedder_fingerprint": "77ab01c4",
}


class ModelOut(BaseModel):
    """A base model that is served, and the embedder whose keys its vectors carry."""

    id: str
    fingerprint: str
    architecture: str
    layers: int
    hidden_size: int
    context_length: int
    embedder: str
    embedder_fingerprint: str

    @classmethod
    def of(cls, info: WorkerInfo) -> ModelOut:
        return cls(
            id=info.model.model_id,
            fingerprint=info.model.fingerprint,
            architecture=info.model.architecture,
            layers=info.model.layers,
            hidden_size=info.model.hidden_size,
            context_length=info.context_length,
            embedder=info.embedder.embedder_id,
            embedder_fingerprint=info.embedder.fingerprint,
        )


class ModelsOut(BaseModel):
    """The base models that are served now."""

    model_config = example({"items": [_MODEL]})

    items: list[ModelOut]


class CheckOut(BaseModel):
    """One part of the service and whether it answers."""

    name: str
    ok: bool
    detail: str


class ReadyOut(BaseModel):
    """Whether the service can take requests, part by part."""

    model_config = example({"ready": True, "checks": [{"name": "catalogue", "ok": True, "detail": "at change 1"}]})

    ready: bool
    checks: list[CheckOut]


class LiveOut(BaseModel):
    """The process answers."""

    model_config = example({"live": True})

    live: Literal[True] = True
