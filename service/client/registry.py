"""The library's vectors: registering, reading, amending, deleting, and their aliases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import quote

from vlibrary.client.transport import Json, Transport
from vlibrary.domain.labels import MetadataValue


class Which(TypedDict, total=False):
    """Which vectors are meant; all that is given holds together.

    metadata: conditions such as shots>=8 or split=train. created_from, created_before: ISO 8601 with a time zone.
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


class Registry(Transport):
    """Vectors and aliases. A vector is named by its id, name:3, name@alias, or its name for the newest version;
    what changes one takes an id or name:3 only.
    """

    def register(self, artifact: bytes, card: str, *, idempotency_key: str | None = None) -> Json:
        """The new vector's record."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        files = {"artifact": ("vector.safetensors", artifact), "card": ("card.json", card.encode())}
        return self._json("POST", "/vectors", files=files, headers=headers)

    def vectors(self, **which: Unpack[Which]) -> Iterator[Json]:
        """All records that are meant, newest first, page by page."""
        cursor: Json = {}
        while True:
            page = self._json("GET", "/vectors", params={**which, **cursor})
            yield from page["items"]
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def vector(self, reference: str) -> Json:
        """The vector's record."""
        return self._json("GET", _path(reference))

    def content(self, reference: str) -> bytes:
        """The artifact's bytes."""
        return self._send("GET", f"{_path(reference)}/content").content

    def lineage(self, reference: str) -> Json:
        """What the vector was made from, and what from it."""
        return self._json("GET", f"{_path(reference)}/lineage")

    def amend(
        self,
        reference: str,
        revision: int,
        *,
        description: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
    ) -> Json:
        """The record with these fields changed, if it still is at this revision; None leaves a field as it is."""
        given = {
            "description": description,
            "tags": None if tags is None else list(tags),
            "metadata": None if metadata is None else dict(metadata),
        }
        return self._json("PATCH", _path(reference), json=given, headers=_if_match(revision))

    def delete(self, reference: str, *, revision: int | None = None) -> None:
        """Delete the vector; `restore` undoes it. revision: delete it only if it still is at this one."""
        self._send("DELETE", _path(reference), headers=_if_match(revision))

    def restore(self, reference: str) -> Json:
        """The record of a vector whose deletion is undone."""
        return self._json("POST", f"{_path(reference)}/restore")

    def purge(self, reference: str) -> None:
        """Forget a deleted vector for good."""
        self._send("DELETE", _path(reference), params={"purge": "true"})

    def aliases(self, name: str | None = None) -> list[Json]:
        """All aliases, or those of a name."""
        items: list[Json] = self._json("GET", "/aliases", params={} if name is None else {"name": name})["items"]
        return items

    def alias(self, name: str, alias: str) -> Json:
        """Where the alias points, and its revision."""
        return self._json("GET", _alias_path(name, alias))

    def set_alias(self, name: str, alias: str, vector: str, *, revision: int | None = None) -> Json:
        """Make the alias, or move it if it still is at this revision."""
        headers = {"If-None-Match": "*"} if revision is None else _if_match(revision)
        return self._json("PUT", _alias_path(name, alias), json={"vector": vector}, headers=headers)

    def drop_alias(self, name: str, alias: str, revision: int) -> None:
        """Forget the alias if it still is at this revision."""
        self._send("DELETE", _alias_path(name, alias), headers=_if_match(revision))

    def audit(self, *, after: int = 0, subject: str | None = None, actor: str | None = None) -> Iterator[Json]:
        """Who did what, oldest first, beyond this seq, page by page."""
        sieve = {name: value for name, value in (("subject", subject), ("actor", actor)) if value is not None}
        position: int | None = after
        while position is not None:
            page = self._json("GET", "/audit", params={**sieve, "after": position})
            yield from page["items"]
            position = page["next"]


def _path(reference: str) -> str:
    """Whatever the reference holds, it stays one segment of the address."""
    return f"/vectors/{quote(reference, safe='@:')}"


def _alias_path(name: str, alias: str) -> str:
    return f"/aliases/{quote(name, safe='')}/{quote(alias, safe='')}"


def _if_match(revision: int | None) -> dict[str, Any]:
    return {} if revision is None else {"If-Match": f'"v{revision}"'}
