"""Going through everything in a store, a part at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from vlibrary.domain.changes import Change
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Page

T = TypeVar("T")
R = TypeVar("R")

PAGE = 500
# Looking at an object is waiting for its store, most of the time.
ABREAST = 8


def pages(catalogue: Catalogue, which: Filter, cursor: str | None = None) -> Iterator[Page]:
    """All records that pass, newest first, from the cursor on."""
    page = Page((), cursor)
    while True:
        page = catalogue.vectors.page(which, limit=PAGE, cursor=page.next)
        yield page
        if page.next is None:
            return


def changes(catalogue: Catalogue, after: int, until: int) -> Iterator[Change]:
    """The entries of the change log with after < seq <= until, ended by the first gap that leads to the end."""
    while after < until:
        part = catalogue.change_log.read(after, PAGE)
        yield from (change for change in part if change.seq <= until)
        if not part:
            return
        after = part[-1].seq


def batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """The things, up to so many at a time."""
    left = iter(things)
    while batch := list(islice(left, size)):
        yield batch


def abreast(act: Callable[[T], R], things: Iterable[T]) -> Generator[tuple[T, R]]:
    """Each thing and what the function returns for it, in their order; it is called for several at a time.

    Whatever it raises ends the walk. The things are drawn in the caller's thread, a few ahead.
    """
    with ThreadPoolExecutor(ABREAST) as pool:
        under_way: deque[tuple[T, Future[R]]] = deque()
        try:
            for thing in things:
                under_way.append((thing, pool.submit(act, thing)))
                if len(under_way) == 2 * ABREAST:
                    first, found = under_way.popleft()
                    yield first, found.result()
            for first, found in under_way:
                yield first, found.result()
        finally:
            pool.shutdown(cancel_futures=True)
