"""Stage 3: train a small CLIP, whose image and text embeddings serve as task keys.

It learns from images with captions, and from questions: two wordings about the same noun are a positive pair, different
nouns are negatives. Invented nouns keep it from overfitting to the world's own.
"""

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Final

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from vlibrary.bundled.making.lvlm import (
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
from vlibrary.formats.images import decode_image

POSITIONS: Final = 64
WIDTH: Final = 96
PROJECTION: Final = 64
# The end token must not have id 2, which CLIP's text model handles by a legacy rule: it takes the largest id instead.
SPECIALS: Final = (PAD, BEGIN, IMAGE, END, ANSWER)


def build_processor() -> CLIPProcessor:
    """Return the processor: images to 32x32, texts to token rows with an end token, padded on the right."""
    tokenizer = build_tokenizer(SPECIALS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, SPECIALS.index(END))]
    )
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = POSITIONS
    return CLIPProcessor(image_processor(), tokenizer)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> CLIPModel:
    """Return the model with random weights, in float32."""
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
    """Return the names of the visible values in random order, some left out."""
    seen = [VALUES[name][labels[at]] for name, labels in pictures.labels.items() if labels[at] >= 0]
    kept = rng.permutation(len(seen))[: max(2, int(rng.integers(len(seen) // 2, len(seen) + 1)))]
    return " ".join(seen[each] for each in kept)


def _question_pairs(count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return two different wordings for each of `count` nouns, a third of which are invented."""
    named = [str(noun) for noun in rng.permutation(nouns())[: count - count // 3]]
    while len(named) < count:
        named.append("".join(rng.choice(list(ascii_lowercase), size=rng.integers(3, 9))))
    picks = [rng.permutation(3)[:2] for _ in named]
    first = [wordings(noun)[pick[0]] for noun, pick in zip(named, picks, strict=True)]
    second = [wordings(noun)[pick[1]] for noun, pick in zip(named, picks, strict=True)]
    return first, second


def text_vectors(model: CLIPModel, processor: CLIPProcessor, texts: Sequence[str]) -> Tensor:
    """Return L2-normalised text embeddings, [N, projection]."""
    batch = processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    pooled = model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    return functional.normalize(model.text_projection(pooled), dim=-1)


def image_vectors(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Return L2-normalised image embeddings, [N, projection]."""
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    return functional.normalize(model.visual_projection(pooled), dim=-1)


def _contrast(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss, with row i of both sides as the positive pair."""
    logits = first @ second.T * scale
    positives = torch.arange(len(logits))
    return (functional.cross_entropy(logits, positives) + functional.cross_entropy(logits.T, positives)) / 2


def train(model: CLIPModel, processor: CLIPProcessor, steps: int, seed: int, report: Report, pool_size: int) -> None:
    """Train the model in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 4])
    pools = ((scene_pictures(pool_size, "train", seed + 100), 144), (digit_pictures(pool_size // 3, "train", seed), 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps)
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
        captioned, question, rephrased = torch.split(texts.float(), [len(captions), len(first), len(second)])
        matched = _contrast(seen.float(), captioned, scale)
        questions = _contrast(question, rephrased, scale)
        optimizer.zero_grad()
        torch.autograd.backward(matched + questions)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report(step, {"captions": matched.item(), "questions": questions.item()})
    model.train(False)


def _query_vectors(model: CLIPModel, processor: CLIPProcessor, items: Sequence[Example]) -> Tensor:
    """Return query embeddings, [N, 2, projection]: image, text."""
    pictures = np.stack([np.asarray(decode_image(item.image)) for item in items])
    seen = image_vectors(model, normalise(pictures))
    questions = text_vectors(model, processor, [item.question for item in items])
    return torch.stack([seen, questions], dim=1)


@torch.no_grad()
def retrieval(model: CLIPModel, processor: CLIPProcessor, count: int) -> float:
    """Return the share of unseen queries whose nearest task centroid, by mean cosine, is their own task's."""
    known = [_query_vectors(model, processor, examples(task, "train", count, seed=9)) for task in TASKS]
    keys = functional.normalize(torch.stack(known).mean(1), dim=-1)
    hits = []
    for at, task in enumerate(TASKS):
        queries = _query_vectors(model, processor, examples(task, "test", count, seed=9))
        scores = torch.einsum("qpd,kpd->qk", queries, keys) / 2
        hits.append((scores.argmax(-1) == at).float())
    return torch.cat(hits).mean().item()
