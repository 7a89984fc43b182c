"""Bodies of the health checks and of /models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vlibrary.domain.wire import WorkerInfo
from vlibrary.schemas.examples import examples

_MODEL = {
    "id": "vlibrary/bundled-llava",
    "fingerprint": "9c2e5d1f",
    "architecture": "LlavaForConditionalGeneration",
    "layers": 4,
    "hidden_size": 128,
    "context_length": 1024,
    "embedder": "vlibrary/bundled-encoder",
    "embedder_fingerprint": "77ab01c4",
}


class ModelOut(BaseModel):
    """A served base model and its query embedder."""

    id: str
    fingerprint: str
    architecture: str
    layers: int
    hidden_size: int
    context_length: int = Field(description="In tokens, answer included")
    embedder: str = Field(description="Id of the embedder that computes the task keys of this model's vectors")
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
    """The served base models."""

    model_config = examples({"items": [_MODEL]})

    items: list[ModelOut]


class CheckOut(BaseModel):
    """The check of one part."""

    name: str
    ok: bool
    detail: str


class ReadyOut(BaseModel):
    """Whether the service can take requests, with one check per part."""

    model_config = examples(
        {
            "ready": True,
            "status": "ready",
            "checks": [{"name": "catalogue", "ok": True, "detail": "at sequence number 1"}],
        }
    )

    ready: bool = Field(description="Whether answers are possible")
    status: Literal["ready", "degraded", "unready"] = Field(
        description="degraded: the artifact store is unavailable; answers work with the vectors that workers hold"
    )
    checks: list[CheckOut]


class VersionOut(BaseModel):
    """The version of the service."""

    model_config = examples({"version": "0.2.0"})

    version: str


class LiveOut(BaseModel):
    """The process is alive."""

    model_config = examples({"live": True})

    live: Literal[True] = True
