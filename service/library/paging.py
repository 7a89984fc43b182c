"""Iterate over whole stores, a page at a time, and in parallel where the work is waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from vlibrary.domain.changes import Change
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.change_log import ChangeLog
from vlibrary.domain.ports.vectors import Vectors
from vlibrary.domain.registration import Page

T = TypeVar("T")
R = TypeVar("R")

PAGE_SIZE = 500
# Requests to an object store spend most of their time waiting.
PARALLEL = 8


def iter_pages(vectors: Vectors, which: Filter, cursor: str | None = None) -> Iterator[Page]:
    """Yield all records that pass the filter, newest first, from the cursor on."""
    page = Page((), cursor)
    while True:
        page = vectors.page(which, limit=PAGE_SIZE, cursor=page.next)
        yield page
        if page.next is None:
            return


def iter_changes(change_log: ChangeLog, after: int, until: int) -> Iterator[Change]:
    """Yield the log's entries with after < seq <= until; stop early if the log ends before."""
    while after < until:
        part = change_log.read(after, PAGE_SIZE)
        yield from (change for change in part if change.seq <= until)
        if not part:
            return
        after = part[-1].seq


def iter_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most this size."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def map_in_parallel(function: Callable[[T], R], items: Iterable[T]) -> Generator[tuple[T, R]]:
    """Yield each item with the function's result, in order, while calling it for several items at a time.

    An exception of the function ends the iteration. Items are drawn in the caller's thread, a few in advance.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        pending: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                if len(pending) == 2 * PARALLEL:
                    first, result = pending.popleft()
                    yield first, result.result()
            for first, result in pending:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)
