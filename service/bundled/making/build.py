"""The whole build from a seed: vision tower, decoder and embedder, with their weights and training curves.

Takes half an hour on one core with AMX; other processors were not timed. `Schedule` sets the lengths.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Final

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlibrary.bundled.making import decoder, embedder, lvlm, sources, vision
from vlibrary.bundled.making.decoder import Plan
from vlibrary.bundled.making.reading import Layout
from vlibrary.bundled.making.sources import Sources
from vlibrary.bundled.tasks import TASKS, task

STAGES: Final = ("lvlm", "embedder")


@dataclass
class Record:
    """Everything that a build measured.

    Args:
        seed: Seed of the build.
        stages: Per stage, one row of figures per reported step, with `step`.
        seconds: Duration per stage.
        shots: Per evaluation task, accuracy by number of demonstrations at the last checkpoint.
        history: Per checkpoint, the mean of that accuracy over the held-out tasks, with `step`.
        retrieval_top1: Share of unseen queries that are nearest to their own task.
    """

    seed: int
    stages: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    shots: dict[str, dict[int, float]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    retrieval_top1: float | None = None

    def checkpoint(self, step: int, found: Mapping[str, Mapping[int, float]]) -> None:
        """Record the tasks' curves at a checkpoint of the decoder."""
        self.shots = {name: dict(shots) for name, shots in found.items()}
        held_out = [shots for name, shots in found.items() if task(name).held_out]
        means = {str(count): fmean(shots[count] for shots in held_out) for count in held_out[0]}
        self.history.append({"step": step, **means})


@dataclass(frozen=True)
class Schedule:
    """Training steps and number of images per stage."""

    vision_steps: int = 3000
    vision_pool: int = 40_000
    scenes: int = 40_000
    digits: int = 12_000
    unseen: int = 4000
    embedder_steps: int = 800
    embedder_pictures: int = 800
    queries: int = 64
    decoder: Plan = field(default_factory=Plan)


class _Watch:
    """Shows a stage's progress, and records its figures and duration."""

    def __init__(self, record: Record, progress: Progress, every: int = 50) -> None:
        self.record = record
        self._progress = progress
        self._every = every

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[vision.Report]:
        """Time a stage, and yield its report callback, which takes (step, figures)."""
        bar = self._progress.add_task(name, total=steps, note="")
        started = time.monotonic()

        def report(step: int, figures: Mapping[str, float]) -> None:
            self._progress.update(bar, completed=step)
            if figures and (step % self._every == 0 or step == steps):
                rounded = {key: round(value, 4) for key, value in figures.items()}
                self.record.stages.setdefault(name, []).append({"step": step, **rounded})
                note = "  ".join(f"{key} {value:.2f}" for key, value in list(figures.items())[:4])
                self._progress.update(bar, note=note)

        yield report
        self.record.seconds[name] = round(time.monotonic() - started, 1)


def _build_lvlm(schedule: Schedule, seed: int, watch: _Watch, folder: Path) -> None:
    processor = lvlm.build_processor()
    model = lvlm.build_model(processor, seed)
    with watch.stage("vision", schedule.vision_steps) as report:
        heads = vision.train(model.model.vision_tower, schedule.vision_steps, seed, report, schedule.vision_pool)
    seen = vision.cache_states(
        model,
        [
            vision.scene_pictures(schedule.scenes, "train", seed + 1),
            vision.digit_pictures(schedule.digits, "train", seed + 1),
        ],
    )
    unseen = vision.cache_states(
        model,
        [
            vision.scene_pictures(schedule.unseen, "test", seed + 1),
            vision.digit_pictures(schedule.unseen // 2, "test", seed + 1),
        ],
    )
    vision.initialize_projector(model, heads, seen)

    def checkpoint(step: int, found: Mapping[str, Mapping[int, float]]) -> None:
        watch.record.checkpoint(step, found)
        lvlm.save(model, processor, folder)
        write_curves(watch.record, folder.parent)

    with watch.stage("decoder", schedule.decoder.steps) as report:
        decoder.train(model, Layout(processor), seen, unseen, schedule.decoder, seed, report, checkpoint)


def _build_embedder(schedule: Schedule, seed: int, watch: _Watch, folder: Path, made_of: Sources | None) -> None:
    with TemporaryDirectory() as downloads, watch.stage("embedder", schedule.embedder_steps) as report:
        pretrained = made_of or sources.fetch(Path(downloads), report=lambda *_: None)
        model, processor = embedder.build_model(
            pretrained, schedule.embedder_steps, schedule.embedder_pictures, seed, report
        )
    watch.record.retrieval_top1 = embedder.retrieval(model, processor, schedule.queries)
    torch.nn.Module.to(model, torch.float16)
    lvlm.save(model, processor, folder)


def build(
    out: Path,
    seed: int = 0,
    stages: Sequence[str] = STAGES,
    schedule: Schedule = Schedule(),
    console: Console | None = None,
    made_of: Sources | None = None,
) -> None:
    """Run the stages, and write `out/lvlm`, `out/embedder` and the curves.

    made_of: the pretrained models of the embedder; None downloads them. Raises ValueError for an unknown stage,
    ModelUnavailable if the download fails.
    """
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"Unknown stages {sorted(unknown)}; use {', '.join(STAGES)}.")
    out.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    record = Record(seed)
    with Progress(*columns, console=console) as progress:
        watch = _Watch(record, progress)
        if "lvlm" in stages:
            _build_lvlm(schedule, seed, watch, out / "lvlm")
        if "embedder" in stages:
            _build_embedder(schedule, seed, watch, out / "embedder", made_of)
    write_curves(record, out)


def write_curves(record: Record, out: Path) -> None:
    """Write `curves.json` and `curves.png` to the folder."""
    (out / "curves.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    _draw(record, out / "curves.png")


def _draw(record: Record, path: Path) -> None:
    figure = Figure(figsize=(13, 9))
    panels = figure.subplots(2, 2)
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
