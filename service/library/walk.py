"""Going through everything in a store, a part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from service.domain.filters import Filter
from service.domain.ports import Catalogue, Change, Page

T = TypeVar("T")

PAGE = 500


def pages(catalogue: Catalogue, which: Filter, cursor: str | None = None) -> Iterator[Page]:
    """All records that pass, newest first, from the cursor on."""
    page = Page((), cursor)
    while True:
        page = catalogue.page(which, limit=PAGE, cursor=page.next)
        yield page
        if page.next is None:
            return


def changes(catalogue: Catalogue, after: int, until: int) -> Iterator[Change]:
    """The entries of the change log with after < seq <= until, ended by the first gap that leads to the end."""
    while after < until:
        part = catalogue.changes(after, PAGE)
        yield from (change for change in part if change.seq <= until)
        if not part:
            return
        after = part[-1].seq


def batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """The things, up to so many at a time."""
    left = iter(things)
    while batch := list(islice(left, size)):
        yield batch
