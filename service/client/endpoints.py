"""The service's endpoints as methods of both clients: vectors, aliases, retrieval, generation and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from vlibrary.client.call import Call, Page, endpoint, paged
from vlibrary.client.images import ImageSources, encode_images
from vlibrary.client.transport import GRACE_S
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.example import Example
from vlibrary.domain.labels import MetadataValue
from vlibrary.schemas.generate import ChosenVector, GenerateOut
from vlibrary.schemas.health import ModelOut, ModelsOut, ReadyOut
from vlibrary.schemas.registry import AliasesOut, AliasOut, AuditEntryOut, AuditOut, LineageOut
from vlibrary.schemas.vectors import MatchOut, RegisteredOut, RetrieveOut, VectorOut, VectorPage

M = TypeVar("M", bound=BaseModel)


class VectorFilter(TypedDict, total=False):
    """Conditions on listed or exported vectors; a vector must satisfy all of them.

    metadata: conditions such as "shots>=8" or "split=train". created_from, created_before: ISO 8601 with a time zone.
    """

    name: str
    model: str
    method: str
    tag: Sequence[str]
    metadata: Sequence[str]
    derived_from: str
    created_from: str
    created_before: str
    state: Literal["active", "deleted", "any"]


class RetrievalFilter(TypedDict, total=False):
    """Conditions on retrieved vectors; a vector must satisfy all of them. metadata: as in `VectorFilter`."""

    name: str
    method: str
    tags: Sequence[str]
    metadata: Sequence[str]
    derived_from: str


class DecodingOptions(TypedDict, total=False):
    """How tokens are chosen and reported.

    temperature: 0 (the default) is greedy. stop: texts before which the answer ends. logprobs, prompt_logprobs: report
    the log-probability of every token, and this many of the most likely tokens (0 to 20).
    """

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[str, float]
    logprobs: int
    prompt_logprobs: int


class GenerateOptions(TypedDict, total=False):
    """Options of `generate` and `stream`.

    images: one or a sequence, each a path, bytes, an open binary file, a Pillow image or a NumPy array of uint8.
    steering: "auto" (the default) applies the best match, "off" nothing; otherwise what to apply, one vector or
    several, as references or with a strength each. strength: of the vector that "auto" applies, and of references.
    demonstrations: solved examples to show in the prompt. model: a base model, or a vector by its reference.
    timeout: seconds for the whole answer.
    """

    images: ImageSources
    steering: str | ChosenVector | Sequence[str | ChosenVector]
    strength: float
    demonstrations: Sequence[Example]
    decoding: DecodingOptions
    model: str
    timeout: float


class Matches(list[MatchOut]):
    """The vectors found, best first.

    query_text: how much of the text was compared; None without a text. decision: the best and the second match, which
    need not be among the vectors found. reason: why `auto` applies no vector; None if it applies decision.best.
    """

    def __init__(self, found: RetrieveOut) -> None:
        super().__init__(found.matches)
        self.query_text = found.query_text
        self.decision = found.decision
        self.reason = found.reason


class Endpoints:
    """The methods of `Client` and `AsyncClient`.

    A reference names a vector: its id, name:3, name@alias, or a name for the newest version. Methods that change a
    vector take an id or name:3 only.
    """

    @endpoint
    def get_readiness(self) -> Call[ReadyOut]:
        """Return the state of each part of the service; does not raise when a part is unavailable."""
        return Call("GET", "/readyz", _read(ReadyOut), accept=frozenset({503}))

    @endpoint
    def list_models(self) -> Call[list[ModelOut]]:
        """Return the base models that are served."""
        return Call("GET", "/models", lambda response: _read(ModelsOut)(response).items)

    @endpoint
    def register(self, artifact: bytes, card: str, *, idempotency_key: str | None = None) -> Call[RegisteredOut]:
        """Register a vector and return its record. A repeat with the same idempotency_key returns the first record."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        files = {"artifact": ("vector.safetensors", artifact), "card": ("card.json", card.encode())}
        return Call("POST", "/vectors", _read(RegisteredOut), {"files": files, "headers": headers})

    @paged
    def list_vectors(self, **conditions: Unpack[VectorFilter]) -> Call[Page[VectorOut]]:
        """Iterate over the records that satisfy the conditions, newest first."""
        return _list_vectors(dict(conditions))

    @endpoint
    def get_vector(self, reference: str) -> Call[VectorOut]:
        """Return the vector's record."""
        return Call("GET", _vector_path(reference), _read(VectorOut))

    @endpoint
    def get_artifact(self, reference: str) -> Call[bytes]:
        """Return the vector's artifact: the bytes of a safetensors file."""
        return Call("GET", f"{_vector_path(reference)}/content", lambda response: response.content)

    @endpoint
    def get_lineage(self, reference: str) -> Call[LineageOut]:
        """Return the vectors that this one was derived from, and those derived from it."""
        return Call("GET", f"{_vector_path(reference)}/lineage", _read(LineageOut))

    @endpoint
    def update_vector(
        self,
        reference: str,
        revision: int,
        *,
        description: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
    ) -> Call[VectorOut]:
        """Change the fields that are not None, and return the record. Fails if the record is not at this revision."""
        body = {
            "description": description,
            "tags": None if tags is None else list(tags),
            "metadata": None if metadata is None else dict(metadata),
        }
        options = {"json": body, "headers": _if_match(revision)}
        return Call("PATCH", _vector_path(reference), _read(VectorOut), options)

    @endpoint
    def delete_vector(self, reference: str, *, revision: int | None = None) -> Call[None]:
        """Delete the vector; `restore_vector` undoes it. Fails if the record is not at the given revision."""
        return Call("DELETE", _vector_path(reference), _ignore, {"headers": _if_match(revision)})

    @endpoint
    def restore_vector(self, reference: str) -> Call[VectorOut]:
        """Undo the vector's deletion and return its record."""
        return Call("POST", f"{_vector_path(reference)}/restore", _read(VectorOut))

    @endpoint
    def purge_vector(self, reference: str) -> Call[None]:
        """Remove a deleted vector permanently."""
        return Call("DELETE", _vector_path(reference), _ignore, {"params": {"purge": "true"}})

    @endpoint
    def list_aliases(self, name: str | None = None) -> Call[list[AliasOut]]:
        """Return all aliases, or those of one name."""
        options = {"params": {} if name is None else {"name": name}}
        return Call("GET", "/aliases", lambda response: _read(AliasesOut)(response).items, options)

    @endpoint
    def get_alias(self, name: str, alias: str) -> Call[AliasOut]:
        """Return the alias: its vector and revision."""
        return Call("GET", _alias_path(name, alias), _read(AliasOut))

    @endpoint
    def set_alias(self, name: str, alias: str, vector: str, *, revision: int | None = None) -> Call[AliasOut]:
        """Create the alias, or move it if it is at the given revision."""
        headers = {"If-None-Match": "*"} if revision is None else _if_match(revision)
        options = {"json": {"vector": vector}, "headers": headers}
        return Call("PUT", _alias_path(name, alias), _read(AliasOut), options)

    @endpoint
    def delete_alias(self, name: str, alias: str, revision: int) -> Call[None]:
        """Delete the alias if it is at this revision."""
        return Call("DELETE", _alias_path(name, alias), _ignore, {"headers": _if_match(revision)})

    @endpoint
    def retrieve(
        self,
        text: str | None = None,
        *,
        images: ImageSources = (),
        k: int = 5,
        model: str | None = None,
        filter: RetrievalFilter | None = None,  # noqa: A002  the name of the HTTP field
        min_seq: int = 0,
    ) -> Call[Matches]:
        """Return the k best vectors for a text, images, or both, best first.

        images: as in `GenerateOptions`. model: the base model, by default the first one that is served.
        min_seq: the `X-Catalogue-Seq` of a write that the search must include.
        """
        body = {
            "text": text,
            "images": encode_images(images),
            "k": k,
            "model": model,
            "filter": filter or {},
            "min_seq": min_seq,
        }
        return Call("POST", "/retrieve", lambda response: Matches(_read(RetrieveOut)(response)), {"json": body})

    @endpoint
    def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> Call[GenerateOut]:
        """Return the model's answer and the vectors that were applied."""
        return Call("POST", "/generate", _read(GenerateOut), generate_request(prompt, options))

    @paged
    def read_audit_log(
        self, *, after: int = 0, subject: str | None = None, actor: str | None = None
    ) -> Call[Page[AuditEntryOut]]:
        """Iterate over the audit log, oldest first. after: the sequence number to start behind."""
        conditions = {"subject": subject, "actor": actor}
        return _read_audit({key: value for key, value in conditions.items() if value is not None}, after)


def generate_request(prompt: str, options: GenerateOptions, *, stream: bool = False) -> dict[str, Any]:
    """Return httpx's arguments of POST /generate."""
    body: dict[str, Any] = {"prompt": prompt, "stream": stream, **options}
    body["images"] = encode_images(options.get("images", ()))
    body["demonstrations"] = [
        {"prompt": example.question, "images": encode_images(example.image), "answer": example.answer}
        for example in options.get("demonstrations", ())
    ]
    steering = options.get("steering", "auto")
    if steering not in ("auto", "off"):
        several = [steering] if isinstance(steering, str | ChosenVector) else steering
        if any(isinstance(one, str) for one in several):
            strength = body.pop("strength", 1.0)
            several = [ChosenVector(id=one, strength=strength) if isinstance(one, str) else one for one in several]
        body["steering"] = [one.model_dump() for one in several if isinstance(one, ChosenVector)]
    request: dict[str, Any] = {"json": body}
    if "timeout" in options:
        body["timeout_s"] = body.pop("timeout")
        request["timeout"] = options["timeout"] + GRACE_S
    return request


def _list_vectors(params: dict[str, Any]) -> Call[Page[VectorOut]]:
    def parse(response: httpx.Response) -> Page[VectorOut]:
        page = _read(VectorPage)(response)
        return Page(page.items, None if page.next is None else _list_vectors(params | {"cursor": page.next}))

    return Call("GET", "/vectors", parse, {"params": params})


def _read_audit(params: dict[str, Any], after: int) -> Call[Page[AuditEntryOut]]:
    def parse(response: httpx.Response) -> Page[AuditEntryOut]:
        page = _read(AuditOut)(response)
        return Page(page.items, None if page.next is None else _read_audit(params, page.next))

    return Call("GET", "/audit", parse, {"params": params | {"after": after}})


def _read(model: type[M]) -> Callable[[httpx.Response], M]:
    return lambda response: model.model_validate_json(response.content)


def _ignore(_response: httpx.Response) -> None:
    return None


def _vector_path(reference: str) -> str:
    return f"/vectors/{_segment(reference, safe='@:')}"


def _alias_path(name: str, alias: str) -> str:
    return f"/aliases/{_segment(name)}/{_segment(alias)}"


def _segment(text: str, safe: str = "") -> str:
    """Return the text as one path segment; dots alone would name another path. Raises InvalidInput for no text."""
    if not text:
        raise InvalidInput("The name of the vector or alias is empty.", "Name one, such as colour:1.")
    return "%2E" * len(text) if set(text) == {"."} else quote(text, safe=safe)


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": f'"v{revision}"'}
