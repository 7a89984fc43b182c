"""How every catalogue answers about reservations, in the same words."""

from __future__ import annotations

from service.domain.errors import InProgress, KeyReused, UploadExpired, VectorNotFound
from service.domain.ports import Upload


def check_used_key(upload: Upload, *, request_sha256: str, published: bool) -> None:
    """Raises KeyReused or InProgress unless the key's reservation is this request's, and published."""
    if request_sha256 != upload.request_sha256:
        raise KeyReused(
            f"The idempotency key {upload.idempotency_key!r} came with another request before.",
            "Use a new key for every new request, and the same key only to repeat one.",
        )
    if not published:
        raise InProgress(
            f"The request with the idempotency key {upload.idempotency_key!r} is still at work.",
            "Ask again in a few seconds.",
        )


def upload_expired(upload: Upload) -> UploadExpired:
    return UploadExpired(
        f"The registration of vector {upload.vector_id} was not finished before {upload.deadline.isoformat()}.",
        "Send it again; nothing of it is visible.",
    )


def vector_not_found(vector_id: str) -> VectorNotFound:
    return VectorNotFound(f"There is no vector with the id {vector_id!r}.", "List the vectors with GET /vectors.")
