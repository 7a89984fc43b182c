"""The whole build from a seed: vision tower, decoder, embedder, weights and curves.

Two hours on two cores at most; with AVX-512/AMX bfloat16 much less. ``Schedule`` sets the lengths.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from vlibrary.bundled.making import curves, decoder, embedder, lvlm, states, tokenizer, vision
from vlibrary.bundled.making.batches import Layout
from vlibrary.bundled.making.curves import Record
from vlibrary.bundled.making.decoder import Plan

STAGES: Final = ("lvlm", "embedder")


@dataclass(frozen=True)
class Schedule:
    """How long each stage trains and how many images it draws."""

    vision_steps: int = 3000
    vision_pool: int = 40_000
    scenes: int = 40_000
    digits: int = 12_000
    unseen: int = 4000
    embedder_steps: int = 1500
    embedder_pool: int = 12_000
    queries: int = 64
    decoder: Plan = field(default_factory=Plan)


class _Watch:
    """Shows a stage's progress, keeps its figures and its duration."""

    def __init__(self, record: Record, progress: Progress, every: int = 50) -> None:
        self.record = record
        self._progress = progress
        self._every = every

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[vision.Report]:
        """Time a stage; its report callback takes (step, figures)."""
        bar = self._progress.add_task(name, total=steps, note="")
        started = time.monotonic()

        def report(step: int, figures: Mapping[str, float]) -> None:
            self._progress.update(bar, completed=step)
            if figures and (step % self._every == 0 or step == steps):
                rounded = {key: round(value, 4) for key, value in figures.items()}
                self.record.add(name, step, rounded)
                note = "  ".join(f"{key} {value:.2f}" for key, value in list(figures.items())[:4])
                self._progress.update(bar, note=note)

        yield report
        self.record.seconds[name] = round(time.monotonic() - started, 1)


def _see(model: LlavaForConditionalGeneration, schedule: Schedule, seed: int, watch: _Watch) -> vision.Heads:
    with watch.stage("vision", schedule.vision_steps) as report:
        return vision.train(model.model.vision_tower, schedule.vision_steps, seed, report, schedule.vision_pool)


def _learn_in_context(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    heads: vision.Heads,
    schedule: Schedule,
    seed: int,
    watch: _Watch,
    folder: Path,
) -> None:
    seen = states.cache(
        model,
        [
            vision.scene_pictures(schedule.scenes, "train", seed + 1),
            vision.digit_pictures(schedule.digits, "train", seed + 1),
        ],
    )
    unseen = states.cache(
        model,
        [
            vision.scene_pictures(schedule.unseen, "test", seed + 1),
            vision.digit_pictures(schedule.unseen // 2, "test", seed + 1),
        ],
    )
    states.start_projector(model, heads, seen)

    def checkpoint(step: int, found: Mapping[str, Mapping[int, float]]) -> None:
        watch.record.checkpoint(step, found)
        lvlm.save(model, processor, folder)
        curves.write(watch.record, folder.parent)

    with watch.stage("decoder", schedule.decoder.steps) as report:
        decoder.train(model, Layout(processor), seen, unseen, schedule.decoder, seed, report, checkpoint)


def _embed(schedule: Schedule, seed: int, watch: _Watch, folder: Path) -> None:
    processor = embedder.build_processor()
    model = embedder.build_model(processor.tokenizer, seed)
    with watch.stage("embedder", schedule.embedder_steps) as report:
        embedder.train(model, processor, schedule.embedder_steps, seed, report, schedule.embedder_pool)
    watch.record.retrieval_top1 = embedder.retrieval(model, processor, schedule.queries)
    embedder.save(model, processor, folder)


def build(
    out: Path,
    seed: int = 0,
    stages: Sequence[str] = STAGES,
    schedule: Schedule = Schedule(),
    console: Console | None = None,
) -> None:
    """Train what ``stages`` names and write ``out/lvlm``, ``out/embedder`` and the curves."""
    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"unknown stages {sorted(unknown)}; there are {', '.join(STAGES)}")
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
            processor = tokenizer.build_processor()
            model = lvlm.build_model(processor, seed)
            heads = _see(model, schedule, seed, watch)
            _learn_in_context(model, processor, heads, schedule, seed, watch, out / "lvlm")
        if "embedder" in stages:
            _embed(schedule, seed, watch, out / "embedder")
    curves.write(record, out)
