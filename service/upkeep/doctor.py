"""The deep examination of a library, which ends the collector pause when nothing is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vlibrary.domain.errors import CollectorPaused, InvalidInput
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.upkeep.collector_guard import allow_collection, check_collection_allowed, list_markers
from vlibrary.upkeep.examine import examine
from vlibrary.upkeep.findings import Finding, Level, Progress
from vlibrary.upkeep.store_ownership import OTHER_LIBRARY, UNFINISHED


@dataclass(frozen=True)
class Scope:
    """What to examine. Raises InvalidInput for a partial examination that claims the store.

    sample: share of objects to read and hash; the others are only looked up. cursor: where to resume, from a Progress.
    take_over: allow collection although the store has markers of another library or of an unfinished restoration.
    """

    sample: float = 1.0
    cursor: str | None = None
    take_over: bool = False

    def __post_init__(self) -> None:
        if self.take_over and not self.complete:
            raise InvalidInput("Only a complete examination can take over a store.", "Omit --sample and --cursor.")

    @property
    def complete(self) -> bool:
        """Whether the examination leaves nothing out, so that it may end the collector pause."""
        return self.cursor is None and self.sample == 1.0


@dataclass(frozen=True)
class Diagnosis:
    """Result of an examination.

    sound: nothing is wrong. resumed: collection was paused, and is allowed now. allowed: collection is allowed.
    """

    findings: tuple[Finding, ...]
    sound: bool
    resumed: bool
    allowed: bool


def diagnose(
    catalogue: Catalogue,
    artifacts: Artifacts,
    scope: Scope,
    *,
    actor: str,
    check_index: Callable[[], Sequence[Finding]] = tuple,
) -> Iterator[Finding | Progress | Diagnosis]:
    """Examine the library and record the result in the audit log. Yield findings and progress, and last the Diagnosis.

    A complete examination that finds nothing wrong allows collection. check_index: examines the index snapshot; it runs
    first, since repairing one can renew the catalogue's epoch.
    """
    findings: list[Finding] = []
    for finding in check_index():
        findings.append(finding)
        yield finding
    # Read before the examination, so that a pause or marker that is added during it stays.
    position, markers = catalogue.change_log.position(), list_markers(artifacts)
    for step in examine(catalogue, artifacts, sample=scope.sample, cursor=scope.cursor):
        if isinstance(step, Finding):
            findings.append(step)
        yield step
    tolerated = (OTHER_LIBRARY, UNFINISHED) if scope.take_over else ()
    sound = all(finding.level is not Level.WRONG or finding.kind in tolerated for finding in findings)
    allowed, resumed = _is_collection_allowed(catalogue, artifacts), False
    if sound and scope.complete and not allowed:
        allow_collection(artifacts, position, instead_of=markers)
        # False if collection was paused again during the examination.
        allowed = resumed = _is_collection_allowed(catalogue, artifacts)
    counts = dict(Counter(finding.kind for finding in findings))
    subject = "all" if scope.cursor is None else f"from {scope.cursor}"
    detail = counts | {"cleared": resumed, "take_over": scope.take_over}
    catalogue.audit_log.append("library.examine", subject, detail, actor=actor)
    yield Diagnosis(tuple(findings), sound, resumed, allowed)


def _is_collection_allowed(catalogue: Catalogue, artifacts: Artifacts) -> bool:
    try:
        check_collection_allowed(catalogue, artifacts)
    except CollectorPaused:
        return False
    return True
