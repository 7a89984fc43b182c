"""Headers beside a request's body: which revision it means, whether the client has the bytes already, who sends it."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Path

from vlibrary.domain.errors import InvalidInput, RevisionRequired
from vlibrary.domain.labels import ACTOR_PATTERN
from vlibrary.domain.ports import ANONYMOUS
from vlibrary.library.references import MAX_REFERENCE

SEQ_HEADER = "X-Catalogue-Seq"
_REVISION = re.compile(r'"v([1-9][0-9]{0,14})"')


def revision_etag(revision: int) -> str:
    """The entity tag of a record or an alias at this revision."""
    return f'"v{revision}"'


def content_etag(sha256: str) -> str:
    """The entity tag of an artifact."""
    return f'"sha256:{sha256}"'


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether the client says that it has what the tag stands for (weak comparison, RFC 9110 section 13.1.2)."""
    if if_none_match is None:
        return False
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in given or given == ["*"]


def asked_revision(if_match: str | None) -> int | None:
    """The revision that If-Match names; None without one. Raises InvalidInput for anything but one ETag of ours."""
    if if_match is None:
        return None
    found = _REVISION.fullmatch(if_match.strip())
    if found is None:
        raise InvalidInput(f"If-Match is {if_match!r:.80}.", 'Send the one ETag that you read, such as "v3".')
    return int(found[1])


def required_revision(if_match: str | None) -> int:
    """As `asked_revision`. Raises RevisionRequired without If-Match."""
    revision = asked_revision(if_match)
    if revision is None:
        raise RevisionRequired(
            "The request has no If-Match.",
            "Read it first, and send its ETag as If-Match, so that nobody's change is overwritten unseen.",
        )
    return revision


def expected_alias(if_match: str | None, if_none_match: str | None) -> int:
    """The revision of the alias that shall be moved; 0 (If-None-Match: *) when there shall be none yet.

    Raises RevisionRequired without either header, InvalidInput for both, or for another If-None-Match.
    """
    if if_none_match is None:
        if if_match is None:
            raise RevisionRequired(
                "The request has neither If-Match nor If-None-Match.",
                "Send If-None-Match: * to make the alias, or the ETag that you read as If-Match to move it.",
            )
        return required_revision(if_match)
    if if_match is not None or if_none_match.strip() != "*":
        raise InvalidInput(
            f"If-None-Match is {if_none_match!r:.80}, and If-Match is {if_match!r:.80}.",
            "Send If-None-Match: * alone to make the alias, or If-Match alone to move it.",
        )
    return 0


def _actor(
    x_actor: Annotated[
        str | None,
        Header(
            max_length=128,
            pattern=ACTOR_PATTERN,
            description="Who does it, for the audit log: up to 128 printable ASCII characters",
        ),
    ] = None,
) -> str:
    return x_actor or ANONYMOUS


UseActor = Annotated[str, Depends(_actor)]
IfMatch = Annotated[str | None, Header(max_length=64, description='The ETag that you read, such as "v3"')]
Reference = Annotated[
    str,
    Path(
        max_length=MAX_REFERENCE,
        description="Id, name (its newest version), name:3 or name@alias",
        examples=["colour:1"],
    ),
]
FixedReference = Annotated[
    str, Path(max_length=MAX_REFERENCE, description="Id or name:3, which never mean another", examples=["colour:1"])
]
