"""Stage 2: train projector and decoder to learn in context, on cached patch states.

A sequence of 17 shots has a loss on every answer, and so trains every shot count at once. The difficulty rises only
while the model answers well where earlier shots determine the answer.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from vlibrary.bundled.making.episodes import Curriculum, draw_episode, task_episode
from vlibrary.bundled.making.lvlm import WIDTH
from vlibrary.bundled.making.reading import Layout, answer_loss, gathering_loss, matching_loss, read
from vlibrary.bundled.making.vision import Heads, Report, StateCache
from vlibrary.bundled.tasks import TASKS

Checkpoint = Callable[[int, Mapping[str, Mapping[int, float]]], None]
SHOTS = 17
LOSS_WEIGHTS: Final = {"loss": 1.0, "gathering": 1.0, "matching": 0.2}
SHOT_COUNTS = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Plan:
    """The settings of the decoder's training.

    Args:
        steps: Training steps.
        episodes: Episodes per step.
        rate: Peak learning rate.
        ramp: Steps from the easiest to the final mix of episodes, see `Curriculum`.
        fading: Steps until the repeats have faded, see `Curriculum`.
        early_shots: Shots per episode while the level is at most 0.2; half as many shots cost less than half the time.
        every: Steps between checkpoints.
        rows: Sequences per evaluation task at a checkpoint.
        compiled: Compile the decoder's layers, if a C++ compiler is installed.
    """

    steps: int = 4000
    episodes: int = 32
    rate: float = 2e-3
    ramp: int = 1500
    fading: int = 450
    early_shots: int = 9
    every: int = 250
    rows: int = 96
    compiled: bool = True


@torch.no_grad()
def curves(
    model: LlavaForConditionalGeneration, layout: Layout, unseen: StateCache, rows: int
) -> dict[str, dict[int, float]]:
    """Return the accuracy of every evaluation task by shot count, on images that training does not use."""
    found = {}
    model.train(False)
    with torch.compiler.set_stance("force_eager"), torch.autocast("cpu", torch.bfloat16):
        for each in TASKS:
            rng = np.random.default_rng(5)
            episodes = [task_episode(each, unseen.pool, SHOTS, rng) for _ in range(rows)]
            batch = layout.batch(episodes, rng)
            logits = read(model, batch, unseen, layout.image).words
            accuracy = (logits.argmax(-1) == batch.words).float().mean(0)
            found[each.name] = {count: accuracy[count].item() for count in SHOT_COUNTS}
    model.train()
    return found


class _Optimizers:
    """Muon for the weight matrices of the decoder's layers, AdamW for all other parameters."""

    def __init__(self, model: LlavaForConditionalGeneration, others: list[nn.Parameter], plan: Plan) -> None:
        inner = model.model
        self.parameters = [
            *inner.multi_modal_projector.parameters(),
            *inner.language_model.parameters(),
            *model.lm_head.parameters(),
            *others,
        ]
        matrices = [each for each in inner.language_model.layers.parameters() if each.ndim == 2]
        inside = {id(each) for each in matrices}
        outside = [each for each in self.parameters if id(each) not in inside]
        self._each = (
            torch.optim.Muon(matrices, lr=2 * plan.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(outside, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.02),
        )
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(each, lambda step: _lr_factor(step / plan.steps)) for each in self._each
        ]

    def step(self, loss: Tensor) -> None:
        """Run one update with clipped gradients."""
        for each in self._each:
            each.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for each in self._each:
            each.step()  # type: ignore[no-untyped-call]
        for schedule in self._schedules:
            schedule.step()


def _lr_factor(part: float) -> float:
    """Warm up over the first 2 % of the steps, stay flat, then decay to 2 % over the last 30 %."""
    return min(1.0, part / 0.02 + 0.01, max(0.02, (1 - part) / 0.3))


def train(
    model: LlavaForConditionalGeneration,
    layout: Layout,
    seen: StateCache,
    unseen: StateCache,
    plan: Plan,
    seed: int,
    report: Report,
    checkpoint: Checkpoint,
) -> None:
    """Train projector and decoder in place; the vision tower is not changed."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 3])
    heads = Heads(WIDTH)
    optimizers = _Optimizers(model, list(heads.parameters()), plan)
    curriculum = Curriculum(plan.ramp, plan.fading)
    model.train()
    model.set_attn_implementation("eager")  # `read` needs it; it is also the fastest for short rows on a CPU
    if plan.compiled and shutil.which("g++"):
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=False)  # doubles the speed
    for step in range(1, plan.steps + 1):
        shots = SHOTS if curriculum.level > 0.2 else plan.early_shots
        mix, shares = curriculum.difficulty, curriculum.shares()
        episodes = [draw_episode(seen.pool, shots, mix, rng, shares) for _ in range(plan.episodes)]
        batch = layout.batch(episodes, rng)
        with torch.autocast("cpu", torch.bfloat16):
            reading = read(model, batch, seen, layout.image)
            attributes = heads(reading.gathered)
        losses = {
            "loss": answer_loss(reading, batch, episodes),
            "gathering": gathering_loss(attributes, seen, batch),
            "matching": matching_loss(reading, episodes),
        }
        optimizers.step(sum((weight * losses[name] for name, weight in LOSS_WEIGHTS.items()), torch.zeros(())))
        curriculum.update(episodes, (reading.words.argmax(-1) == batch.words).numpy())
        report(step, {**{name: value.item() for name, value in losses.items()}, **curriculum.figures()})
        if step % plan.every == 0 or step == plan.steps:
            checkpoint(step, curves(model, layout, unseen, plan.rows))
