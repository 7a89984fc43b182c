"""The whole training from a seed: vision tower and projector, then LoRA and projector; checkpoints, weights and curves.

Takes about two hours on one core with AMX (an estimate from the parts that were timed). An interrupted build resumes
from its last checkpoint when it is started again with the same folder and seed.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from vlibrary.smol_llava.decoder import IMAGE
from vlibrary.smol_llava.making import pictures, stage_two, vision
from vlibrary.smol_llava.making.checkpoints import Checkpoints
from vlibrary.smol_llava.making.decoder import Decoder, matrix_dtype
from vlibrary.smol_llava.making.episodes import Layout, Writer
from vlibrary.smol_llava.making.folder import build_config, build_processor, write_weights
from vlibrary.smol_llava.making.pictures import Pictures
from vlibrary.training.progress import Progress, Report, ignore


@dataclass(frozen=True)
class Schedule:
    """Lengths of the stages, and numbers of pictures.

    vision_steps: steps of stage 1. scenes, shapes, digits, others: pictures drawn for it; others are photographs, and
    again as many pictures of nothing. shares: pictures per step, of scenes, digits, easy-vqa, shapes, nothing and
    photographs. tests: pictures of each kind that the accuracy is measured on. stage_two_scenes: scenes drawn
    for stage 2; of the other kinds, a quarter as many. decoder: settings of stage 2.
    """

    vision_steps: int = 3400
    scenes: int = 24_000
    shapes: int = 24_000
    digits: int = 6_000
    others: int = 1_200
    shares: tuple[int, ...] = (80, 24, 64, 96, 8, 4)
    tests: int = 500
    stage_two_scenes: int = 16_000
    decoder: stage_two.Plan = field(default_factory=stage_two.Plan)


@dataclass(frozen=True)
class Parts:
    """What a build starts from: the pretrained decoder, its tokenizer, and the wheel of easy-vqa."""

    decoder: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    easy_vqa: Path


class Record:
    """The figures of all stages; written to `curves.json` and `curves.png` in the folder."""

    def __init__(self, folder: Path, seed: int, schedule: Schedule) -> None:
        self._path = folder / "curves.json"
        self.content: dict[str, object] = {"seed": seed, "schedule": asdict(schedule)}
        self.stages: dict[str, list[dict[str, float]]] = {}
        if self._path.exists():
            self.stages = json.loads(self._path.read_text())["stages"]

    @contextmanager
    def stage(self, name: str, steps: int, report: Report) -> Iterator[vision.Report]:
        """Yield a callback for (step, figures) that shows every step, and records one in ten and all with scores."""
        rows = self.stages.setdefault(name, [])

        def note(step: int, figures: Mapping[str, float]) -> None:
            report(Progress(name, step, steps, {"loss": figures["loss"]}))
            if step % 10 == 0 or step == steps:
                rows[:] = [row for row in rows if row["step"] < step]  # of steps that an interrupted build ran twice
                rows.append({"step": step, **{key: round(value, 4) for key, value in figures.items()}})

        yield note
        self.write()

    def write(self) -> None:
        self._path.write_text(json.dumps({**self.content, "stages": self.stages}, indent=1) + "\n")
        figure = Figure(figsize=(13, 4.5 * max(1, len(self.stages))), layout="constrained")
        panels = figure.subplots(max(1, len(self.stages)), 2, squeeze=False)
        for (left, right), (name, rows) in zip(panels, self.stages.items(), strict=False):
            left.plot([row["step"] for row in rows], [row["loss"] for row in rows])
            left.set(title=f"{name}: loss", xlabel="step", yscale="log")
            for key in sorted({key for row in rows for key in row} - {"step", "loss", "distance"}):
                known = [(row["step"], row[key]) for row in rows if key in row]
                right.plot(*zip(*known, strict=True), label=key, linewidth=0.8)
            right.set(title=f"{name}: share of right words or answer tokens", xlabel="step", ylim=(0, 1.02))
            if right.lines:
                right.legend(fontsize=6)
        figure.savefig(self._path.with_suffix(".png"), dpi=100)


def build(
    out: Path, work: Path, parts: Parts, seed: int = 0, schedule: Schedule = Schedule(), report: Report = ignore
) -> None:
    """Train both stages, and write `out/weights` and `out/curves.json` and `.png`.

    work: folder of the checkpoints; a build that was interrupted goes on from there. Raises InvalidInput if they
    belong to a build with another seed or schedule.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = Record(out, seed, schedule)
    image_token = parts.tokenizer.get_vocab()[IMAGE]
    config = build_config(parts.decoder.config, image_token)
    torch.manual_seed(seed)
    vision_model = vision.VisionModel(config)
    _train_vision(vision_model, parts, seed, schedule, record, work, report)
    vision_model.vision_tower.requires_grad_(False)
    decoder = Decoder(parts.decoder, matrix_dtype())

    def save() -> None:
        record.write()
        write_weights(
            out / "weights", config, build_processor(parts.tokenizer), vision_model.state_dict(), decoder.lora()
        )

    features = stage_two.compute_features(vision_model, _draw_stage_two_pictures(parts, seed, schedule))
    writer = Writer(Layout(parts.tokenizer, IMAGE), features.pool)
    checkpoints = Checkpoints(work / "decoder.pt", (seed, schedule))
    with record.stage("decoder", schedule.decoder.steps, report) as note:
        stage_two.train(vision_model, decoder, writer, features.states, schedule.decoder, seed, note, checkpoints, save)
    save()


def _train_vision(
    vision_model: vision.VisionModel,
    parts: Parts,
    seed: int,
    schedule: Schedule,
    record: Record,
    work: Path,
    report: Report,
) -> None:
    words = vision.Words(parts.tokenizer, parts.decoder.model.embed_tokens.weight.detach())
    drawn = (
        (pictures.scene_pictures(schedule.scenes, "train", seed), False),
        (pictures.digit_pictures(schedule.digits, "train", seed), False),
        (pictures.easy_vqa(parts.easy_vqa, "train").pictures, True),
        (pictures.shape_pictures(schedule.shapes, "train", seed), True),
        (pictures.noise_pictures(schedule.others, "train", seed), True),
        (pictures.photo_pictures(schedule.others, "train", seed), True),
    )
    sources = [
        vision.Source(each, words.targets(each), share, turns)
        for (each, turns), share in zip(drawn, schedule.shares, strict=True)
    ]
    makers = (pictures.scene_pictures, pictures.digit_pictures, pictures.shape_pictures)
    tests = [make(schedule.tests, "test", seed) for make in makers]
    checkpoints = Checkpoints(work / "vision.pt", (seed, schedule))
    with record.stage("vision", schedule.vision_steps, report) as note:
        vision.train(vision_model, words, sources, tests, schedule.vision_steps, seed, note, checkpoints)


def _draw_stage_two_pictures(parts: Parts, seed: int, schedule: Schedule) -> list[Pictures]:
    """Draw the pictures of stage 2: other scenes and shapes than those of stage 1."""
    few = max(1, schedule.stage_two_scenes // 4)
    return [
        pictures.scene_pictures(schedule.stage_two_scenes, "train", seed + 1),
        pictures.digit_pictures(few, "train", seed + 1),
        pictures.easy_vqa(parts.easy_vqa, "train").pictures,
        pictures.shape_pictures(few, "train", seed + 1),
        pictures.noise_pictures(100, "train", seed + 1),
        pictures.photo_pictures(100, "train", seed + 1),
    ]
