"""Stage 2: train the decoder's LoRA and the projector on episodes, so that pictures are used in context.

An episode holds one answer convention and has a loss on every answer, and so trains every number of demonstrations at
once. The vision tower is not changed: its patch states are computed once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vlibrary.bundled.making.vision import patch_states
from vlibrary.smol_llava.making.checkpoints import Checkpoints
from vlibrary.smol_llava.making.decoder import Decoder
from vlibrary.smol_llava.making.episodes import Batch, Pool, Writer
from vlibrary.smol_llava.making.pictures import Facts, Pictures, to_input
from vlibrary.smol_llava.making.vision import Report, VisionModel

_SHOTS: Final = ((1, 3), (3, 6), (6, 11), (11, 25))


@dataclass(frozen=True)
class Plan:
    """Settings of stage 2.

    Args:
        steps: Training steps.
        short_steps: Steps at the start with twice as many episodes of half the length.
        rows: Episodes per step after that.
        length: Tokens per episode after that.
        rate: Peak learning rate of the LoRA; the projector's is a fifth.
        every: Steps between checkpoints.
        compiled: Compile the decoder's layers, if a C++ compiler is installed.
    """

    steps: int = 540
    short_steps: int = 100
    rows: int = 8
    length: int = 512
    rate: float = 1.5e-3
    every: int = 50
    compiled: bool = True


@dataclass(frozen=True)
class ImageFeatures:
    """What the decoder's training sees of pictures: patch states [N, 9, d_vision] in bfloat16, and their facts."""

    states: Tensor
    pool: Pool


@torch.no_grad()
def compute_features(vision: VisionModel, pictures: Sequence[Pictures]) -> ImageFeatures:
    """Run the vision tower over all pictures. Plain shapes of unknown colour or shape belong to no kind."""
    states: list[Tensor] = []
    facts: list[Facts] = []
    members: dict[str, list[int]] = {}
    for each in pictures:
        starts = range(0, len(each.pixels), 256)
        states += [patch_states(vision.vision_tower, to_input(each.pixels[at : at + 256])).bfloat16() for at in starts]
        known = [at for at, fact in enumerate(each.facts) if each.kind != "shape" or {"colour", "shape"} <= fact.keys()]
        members.setdefault(each.kind, []).extend(len(facts) + at for at in known)
        facts.extend(each.facts)
    return ImageFeatures(torch.cat(states), Pool(facts, {kind: np.array(own) for kind, own in members.items()}))


class _Student(nn.Module):
    """What stage 2 trains: the projector, and the decoder's LoRA."""

    def __init__(self, vision: VisionModel, decoder: Decoder, image_token: int) -> None:
        super().__init__()
        self.projector = vision.multi_modal_projector
        self.decoder = decoder
        self._image = image_token

    def forward(self, batch: Batch, states: Tensor) -> Tensor:
        """Return the logits [A, V] that predict the batch's answer tokens."""
        embedded = self.decoder.embeddings[batch.ids].float()
        tokens = self.projector(states[batch.pictures].float())
        spread = (batch.ids == self._image)[..., None].expand_as(embedded)
        final = self.decoder.states(embedded.masked_scatter(spread, tokens))
        return self.decoder.logits(final.flatten(0, 1)[batch.places])


def train(
    vision: VisionModel,
    decoder: Decoder,
    writer: Writer,
    states: Tensor,
    plan: Plan,
    seed: int,
    report: Report,
    checkpoints: Checkpoints,
    on_checkpoint: Callable[[], None],
) -> None:
    """Train the projector and the LoRA in place; go on after the last checkpoint.

    states: of the vision tower, from `compute_features`. on_checkpoint: called after every checkpoint.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 6])
    student = _Student(vision, decoder, writer.image_token)
    lora = [each for name, each in decoder.named_parameters() if "lora_" in name]
    projector = list(student.projector.parameters())
    groups = [{"params": lora, "lr": plan.rate}, {"params": projector, "lr": plan.rate / 5}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    done = checkpoints.restore(student, [optimizer], rng)
    decoder.merge()
    if plan.compiled:
        decoder.compile_layers()
    for step in range(done + 1, plan.steps + 1):
        rows, length = (2 * plan.rows, plan.length // 2) if step <= plan.short_steps else (plan.rows, plan.length)
        batch = writer.batch(rows, length, rng)
        logits = student(batch, states)
        each = functional.cross_entropy(logits, batch.targets, reduction="none")
        loss = (each * batch.weights).sum() / batch.weights.sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([*lora, *projector], 1.0)
        for group, rate in zip(optimizer.param_groups, (plan.rate, plan.rate / 5), strict=True):
            group["lr"] = rate * _factor(step, plan.steps)
        optimizer.step()
        decoder.merge()
        report(step, {"loss": loss.item(), **_hits(logits, batch)})
        if step % plan.every == 0 or step == plan.steps:
            checkpoints.save(step, student, [optimizer], rng)
            on_checkpoint()


def _factor(step: int, steps: int) -> float:
    """Warm up over 30 steps, stay flat, then fall to 2 % over the last 40 %."""
    return min(1.0, step / 30, max(0.02, (1 - step / steps) / 0.4))


def _hits(logits: Tensor, batch: Batch) -> Mapping[str, float]:
    """Return the share of right answer tokens: shown before, by number of shots; new; and plain, without shots."""
    right = (logits.argmax(-1) == batch.targets).float()
    parts = {f"shown after {low}": (batch.shots >= low) & (batch.shots < high) & ~batch.fresh for low, high in _SHOTS}
    parts["new"] = batch.fresh & (batch.shots > 2)
    parts["plain"] = (batch.weights == 1) & (batch.shots == 0)
    return {name: right[part].mean().item() for name, part in parts.items() if part.any()}
