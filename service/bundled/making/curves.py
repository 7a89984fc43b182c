"""The record of a build: what each stage measured, as JSON, and the same as one picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vlibrary.bundled.tasks import TASKS, task

Shots = Mapping[int, float]


@dataclass
class Record:
    """Everything a build measured.

    stages: per stage, one row of named figures per reported step, with ``step``.
    shots: per evaluation task, accuracy by number of demonstrations, after the last step.
    history: the mean over held-out tasks of that accuracy, per checkpoint step.
    """

    seed: int
    stages: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    shots: dict[str, dict[int, float]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    retrieval_top1: float | None = None

    def add(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Keep one row of a stage."""
        self.stages.setdefault(stage, []).append({"step": step, **figures})

    def checkpoint(self, step: int, found: Mapping[str, Shots]) -> None:
        """Keep the tasks' curves at a checkpoint of the decoder."""
        self.shots = {name: dict(shots) for name, shots in found.items()}
        self.history.append({"step": step, **mean_held_out(found)})


def mean_held_out(found: Mapping[str, Shots]) -> dict[str, float]:
    """Mean accuracy over the held-out tasks by shot count (as text, for JSON)."""
    rows = [shots for name, shots in found.items() if task(name).held_out]
    return {str(count): sum(row[count] for row in rows) / len(rows) for count in rows[0]}


def write(record: Record, out: Path) -> None:
    """Write ``curves.json`` and ``curves.png`` into a folder."""
    (out / "curves.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    _draw(record, out / "curves.png")


def _draw(record: Record, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(13, 9))
    for panel, held_out in ((panels[0][0], True), (panels[0][1], False)):
        for each in TASKS:
            if each.held_out is held_out and each.name in record.shots:
                shots = record.shots[each.name]
                panel.plot(range(len(shots)), list(shots.values()), marker="o", label=each.name)
                panel.set_xticks(range(len(shots)), [str(count) for count in shots])
        panel.set(title="held-out tasks" if held_out else "known tasks", ylim=(-0.02, 1.02))
        panel.set(xlabel="demonstrations", ylabel="accuracy on unseen images")
        panel.legend(fontsize=7)
    rows = record.history
    for count in (key for key in (rows[0] if rows else {}) if key != "step"):
        label = f"{count} shots"
        panels[1][0].plot([row["step"] for row in rows], [row[count] for row in rows], label=label)
    panels[1][0].set(title="held-out mean during training", xlabel="step", ylim=(-0.02, 1.02))
    if rows:
        panels[1][0].legend(fontsize=7)
    for stage, measured in record.stages.items():
        lossy = [(row["step"], row["loss"]) for row in measured if "loss" in row]
        if lossy:
            panels[1][1].plot(*zip(*lossy, strict=True), label=stage)
    panels[1][1].set(title="training loss", xlabel="step", yscale="log")
    panels[1][1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
