"""The figures of the retrieval protocol: as values, as JSON, as a table and as a plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

TRAINED, PARAPHRASE = "trained", "paraphrase"


@dataclass(frozen=True)
class KindShare:
    """The queries of one kind, asked of a library whose vectors had `examples` training examples each.

    right: share with the right vector; where no vector is right, with none. wrong: share with a wrong vector.
    of_library: whether a part of the query, its text or its image, is one of the library's.
    """

    kind: str
    examples: int
    queries: int
    right: float
    wrong: float
    of_library: bool


@dataclass(frozen=True)
class RetrievalReport:
    """All figures of one set of wordings.

    many_found: share of its own queries that the vector with many questions gets, among narrow vectors. many_wrong:
    share of other tasks' queries that it gets alone. calibration_error: expected error of the probabilities.
    """

    wordings: str
    kinds: tuple[KindShare, ...]
    many_found: float
    many_wrong: float
    calibration_error: float
    embed_text_ms: float
    embed_image_ms: float

    def right(self, kind: str, examples: int | None = None) -> float | None:
        """Return the lowest share of right vectors of a kind; None if it was not measured."""
        found = [one.right for one in self.kinds if one.kind == kind and examples in (None, one.examples)]
        return min(found, default=None)

    def summary(self) -> dict[str, Any]:
        """Return the headline figures; each is the worst over kinds of queries and sizes of libraries."""
        removed = [one.wrong for one in self.kinds if one.kind.endswith("task removed")]
        related = [one.wrong for one in self.kinds if one.of_library and not one.kind.endswith("task removed")]
        return {
            "trained_400": self.right(TRAINED, 400),
            "trained_50": self.right(TRAINED, 50),
            "trained_12": self.right(TRAINED, 12),
            "paraphrase": self.right(PARAPHRASE),
            "wrong_any": max(related),
            "removed": max(removed),
            "offlibrary_loss_points": self._loss_points(),
            "many_question_wrong": self.many_wrong,
            "many_question_found": self.many_found,
            "ece": self.calibration_error,
            "embed_text_ms": self.embed_text_ms,
            "embed_image_ms": self.embed_image_ms,
        }

    def _loss_points(self) -> float:
        """Return how many points of accuracy `auto` can lose on unrelated queries, at most.

        A query without a vector gets the base model's answer, so that only those with one can be answered worse.
        """
        totals: dict[int, list[float]] = {}
        for one in self.kinds:
            if not one.of_library:
                total = totals.setdefault(one.examples, [0.0, 0.0])
                total[0] += one.wrong * one.queries
                total[1] += one.queries
        return 100 * max(applied / queries for applied, queries in totals.values())

    def as_json(self) -> dict[str, Any]:
        """Return the headline figures and those of every kind, rounded."""
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in self.summary().items()
        }
        return rounded | {"wordings": self.wordings, "kinds": [_round(asdict(one)) for one in self.kinds]}

    def as_table(self) -> Table:
        """Return one row per kind of query, and per size of library the shares of right and wrong vectors."""
        sizes = list(dict.fromkeys(one.examples for one in self.kinds))
        columns = [f"{name}, {size} examples" for size in sizes for name in ("right", "wrong")]
        table = Table("queries", *columns, title=f"retrieval, {self.wordings} wordings")
        by_kind: dict[str, dict[int, KindShare]] = {}
        for one in self.kinds:
            by_kind.setdefault(one.kind, {})[one.examples] = one
        for kind, found in by_kind.items():
            cells = [f"{share:.3f}" for size in sizes for share in (found[size].right, found[size].wrong)]
            table.add_row(kind, *cells)
        return table

    def plot(self, path: Path) -> None:
        """Write the shares of right and wrong vectors as an image file, by the suffix of `path`."""
        kinds = list(dict.fromkeys(one.kind for one in self.kinds))
        sizes = list(dict.fromkeys(one.examples for one in self.kinds))
        figure = Figure(figsize=(11, 2 + 0.3 * len(kinds)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, name in zip(panels, ("right", "wrong"), strict=True):
            for offset, size in enumerate(sizes):
                places = [kinds.index(one.kind) + 0.25 * (offset - 1) for one in self.kinds if one.examples == size]
                shares = [getattr(one, name) for one in self.kinds if one.examples == size]
                panel.barh(places, shares, height=0.22, label=f"{size} examples")
            panel.set(title=f"share with the {name} vector" if name == "wrong" else "share decided right")
            panel.grid(alpha=0.3, axis="x")
        panels[0].set_yticks(range(len(kinds)), kinds)
        panels[0].invert_yaxis()
        panels[1].set_xlim(0, max(0.05, max(one.wrong for one in self.kinds)))
        panels[1].legend(fontsize=8)
        figure.savefig(path, dpi=130)


def _round(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}
