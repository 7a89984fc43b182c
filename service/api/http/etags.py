"""Conditional requests: ETags, If-Match and If-None-Match."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header

from vlibrary.domain.errors import InvalidInput, RevisionRequired

_REVISION = re.compile(r'"v([1-9][0-9]{0,14})"')

# Documented only: the validation below says what to send.
REVISION_PATTERN = {"pattern": r'^"v[1-9][0-9]{0,14}"$'}
IfMatch = Annotated[
    str | None,
    Header(description='ETag of the revision to change, such as "v3"', json_schema_extra=REVISION_PATTERN),
]


def revision_etag(revision: int) -> str:
    """Return the ETag of a record or an alias at this revision."""
    return f'"v{revision}"'


def content_etag(sha256: str) -> str:
    """Return the ETag of an artifact."""
    return f'"sha256:{sha256}"'


def matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether If-None-Match names this ETag (weak comparison, RFC 9110 section 13.1.2)."""
    if if_none_match is None:
        return False
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in given or given == ["*"]


def parse_revision(if_match: str | None) -> int | None:
    """Return the revision that If-Match names, or None without the header. Raises InvalidInput."""
    if if_match is None:
        return None
    found = _REVISION.fullmatch(if_match.strip())
    if found is None:
        raise InvalidInput(f"Invalid If-Match {if_match!r:.80}.", 'Send one ETag of the resource, such as "v3".')
    return int(found[1])


def require_revision(if_match: str | None) -> int:
    """Return the revision that If-Match names. Raises RevisionRequired without the header, InvalidInput."""
    revision = parse_revision(if_match)
    if revision is None:
        raise RevisionRequired(
            "The request has no If-Match header.",
            "Read the resource and send its ETag as If-Match, so that you overwrite no concurrent change.",
        )
    return revision


def require_alias_revision(if_match: str | None, if_none_match: str | None) -> int:
    """Return the revision of the alias to move, or 0 to create one (If-None-Match: *).

    Raises RevisionRequired without either header, InvalidInput for both or for another If-None-Match.
    """
    if if_none_match is None:
        if if_match is None:
            raise RevisionRequired(
                "The request has neither If-Match nor If-None-Match.",
                "Send `If-None-Match: *` to create the alias, or its ETag as If-Match to move it.",
            )
        return require_revision(if_match)
    if if_match is not None or if_none_match.strip() != "*":
        raise InvalidInput(
            f"Invalid combination of If-None-Match {if_none_match!r:.80} and If-Match {if_match!r:.80}.",
            "Send `If-None-Match: *` alone to create the alias, or If-Match alone to move it.",
        )
    return 0
