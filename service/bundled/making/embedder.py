"""Stage 3: a small CLIP whose image and text parts make the task keys.

It learns from images with captions, and from questions: two wordings of one noun belong together and
different nouns apart. Invented nouns keep it from knowing only the world's own.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from vlibrary.bundled.making.tokenizer import (
    ANSWER,
    BEGIN,
    END,
    IMAGE,
    PAD,
    PATCH,
    build_tokenizer,
    image_processor,
    nouns,
)
from vlibrary.bundled.making.vision import Pictures, Report, digit_pictures, normalise, scene_pictures
from vlibrary.bundled.tasks import TASKS, examples
from vlibrary.bundled.world.scenes import SIDE
from vlibrary.bundled.world.words import VALUES, wordings
from vlibrary.domain.example import Example

POSITIONS: Final = 64
WIDTH: Final = 96
PROJECTION: Final = 64
# CLIP's text model treats an end token with id 2 as "the largest id", a legacy rule.
SPECIALS: Final = (PAD, BEGIN, IMAGE, END, ANSWER)


def build_processor() -> CLIPProcessor:
    """Images to 32x32, texts to token rows that finish with the end token, padded on the right."""
    tokenizer = build_tokenizer(SPECIALS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, SPECIALS.index(END))]
    )
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = POSITIONS
    return CLIPProcessor(image_processor(), tokenizer)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> CLIPModel:
    """The model with random weights in float32."""
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": SPECIALS.index(BEGIN),
        "eos_token_id": SPECIALS.index(END),
        "pad_token_id": SPECIALS.index(PAD),
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    torch.manual_seed(seed)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


def _caption(pictures: Pictures, at: int, rng: np.random.Generator) -> str:
    """Names of the visible values in random order, some left out."""
    seen = [VALUES[name][labels[at]] for name, labels in pictures.labels.items() if labels[at] >= 0]
    kept = rng.permutation(len(seen))[: max(2, int(rng.integers(len(seen) // 2, len(seen) + 1)))]
    return " ".join(seen[each] for each in kept)


def _invented(rng: np.random.Generator) -> str:
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(3, 9))
    return "".join(letters)


def _question_pairs(count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Two different wordings for each of ``count`` different nouns, a third of them invented."""
    known = list(rng.permutation(nouns())[: count - count // 3])
    asked = [str(noun) for noun in known] + [_invented(rng) for _ in range(count - len(known))]
    picks = [rng.permutation(3)[:2] for _ in asked]
    first = [wordings(noun)[pick[0]] for noun, pick in zip(asked, picks, strict=True)]
    second = [wordings(noun)[pick[1]] for noun, pick in zip(asked, picks, strict=True)]
    return first, second


def _tokens(processor: CLIPProcessor, texts: Sequence[str]) -> dict[str, Tensor]:
    batch = processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def text_vectors(model: CLIPModel, processor: CLIPProcessor, texts: Sequence[str]) -> Tensor:
    """L2-normalised text parts, [N, projection]."""
    pooled = model.text_model(**_tokens(processor, texts)).pooler_output
    return functional.normalize(model.text_projection(pooled), dim=-1)


def image_vectors(model: CLIPModel, pixels: Tensor) -> Tensor:
    """L2-normalised image parts, [N, projection]."""
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    return functional.normalize(model.visual_projection(pooled), dim=-1)


def _contrast(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE: row i of one side belongs to row i of the other."""
    logits = first @ second.T * scale
    own = torch.arange(len(logits))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def train(model: CLIPModel, processor: CLIPProcessor, steps: int, seed: int, report: Report, pool_size: int) -> None:
    """Train the model in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 4])
    pools = ((scene_pictures(pool_size, "train", seed + 100), 144), (digit_pictures(pool_size // 3, "train", seed), 16))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=steps)
    model.train()
    for step in range(1, steps + 1):
        pixels, captions = [], []
        for pool, size in pools:
            chosen = rng.integers(len(pool.pixels), size=size)
            pixels.append(normalise(pool.pixels[chosen]))
            captions += [_caption(pool, int(at), rng) for at in chosen]
        first, second = _question_pairs(64, rng)
        scale = model.logit_scale.exp().clamp(max=50.0)
        with torch.autocast("cpu", torch.bfloat16):
            seen = image_vectors(model, torch.cat(pixels))
            texts = text_vectors(model, processor, [*captions, *first, *second])
        said, asked, again = torch.split(texts.float(), [len(captions), len(first), len(second)])
        matched = _contrast(seen.float(), said, scale)
        questions = _contrast(asked, again, scale)
        optimiser.zero_grad()
        torch.autograd.backward(matched + questions)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        report(step, {"captions": matched.item(), "questions": questions.item()})
    model.train(False)


def _query_vectors(model: CLIPModel, processor: CLIPProcessor, items: Sequence[Example]) -> Tensor:
    """Query vectors [N, 2, projection]: image part, text part."""
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(item.image))) for item in items])
    seen = image_vectors(model, normalise(pictures))
    asked = text_vectors(model, processor, [item.question for item in items])
    return torch.stack([seen, asked], dim=1)


@torch.no_grad()
def retrieval(model: CLIPModel, processor: CLIPProcessor, count: int) -> float:
    """Share of unseen queries whose nearest task centroid (mean of both cosines) is their own."""
    known = [_query_vectors(model, processor, examples(task, "train", count, seed=9)) for task in TASKS]
    keys = functional.normalize(torch.stack(known).mean(1), dim=-1)
    right = []
    for at, task in enumerate(TASKS):
        queries = _query_vectors(model, processor, examples(task, "test", count, seed=9))
        scores = torch.einsum("qpd,kpd->qk", queries, keys) / 2
        right.append((scores.argmax(-1) == at).float())
    return torch.cat(right).mean().item()


def save(model: CLIPModel, processor: CLIPProcessor, folder: Path) -> None:
    """Write model and processor so that ``AutoModel`` and ``AutoProcessor`` load them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
