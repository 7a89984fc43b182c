"""Stage 3: make the query embedder out of two pretrained models.

Texts: the meaning of each token is read out of all-MiniLM-L6-v2, one token at a time. Only the tokens' weights are
learned, from pairs of questions about the same noun in different frames. The nouns are the vocabulary's own, and none
of the world's.

Images: the features of EfficientNet-Lite0 are projected linearly, first to the directions in which kinds of pictures
differ (linear discriminant analysis of scenes, digits and the background's kinds), then to their principal components.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPProcessor, PreTrainedModel, PreTrainedTokenizerFast

from vlibrary.bundled.background import background_pictures
from vlibrary.bundled.making.sources import Sources
from vlibrary.bundled.making.vision import Report, digit_pictures, scene_pictures
from vlibrary.bundled.tasks import TASKS, Task, examples
from vlibrary.domain.vector import Array
from vlibrary.models.embedder import Embedder
from vlibrary.models.small_encoder import ImageFeatures, SmallEncoder, SmallEncoderConfig

SIDE: Final = 64
POSITIONS: Final = 64
PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[SEP]"
MEANING, HASHED, IMAGE = 128, 128, 64
_FRAMES: Final = Path(__file__).with_name("question_frames.txt")
# Learned on texts in Latin letters; a word in others is an unknown one.
_LAST_LETTER: Final = "\N{LATIN SMALL LETTER Z WITH CARON}"
# Ranks in MiniLM's vocabulary, which is sorted by frequency: the first word, and the nouns to learn from.
_FIRST_WORD: Final = 1996
_NOUNS: Final = range(2500, 14_000)
_PAIRS: Final = 192
_KIND_SHARE: Final = 0.8
_BATCH: Final = 256


def _kept_tokens(source: Tokenizer) -> list[tuple[str, int]]:
    """Return the tokens of the table, with their ranks in the source's vocabulary, in its order."""
    ranked = sorted(source.get_vocab().items(), key=lambda item: item[1])
    return [
        (token, rank)
        for token, rank in ranked
        if token in (PAD, UNKNOWN, END) or (not token.startswith("[") and max(token) <= _LAST_LETTER) or token in "[]"
    ]


def build_processor(tokenizer_file: Path) -> tuple[CLIPProcessor, NDArray[np.int64]]:
    """Return the processor, and the rank of each of its tokens in the source's vocabulary."""
    source = Tokenizer.from_file(str(tokenizer_file))
    kept = _kept_tokens(source)
    settings = json.loads(source.to_str())
    numbers = {token: number for number, (token, _) in enumerate(kept)}
    settings["model"]["vocab"] = numbers
    settings["added_tokens"] = [
        one | {"id": numbers[one["content"]]} for one in settings["added_tokens"] if one["content"] in numbers
    ]
    settings["truncation"] = settings["padding"] = settings["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(settings))
    # With an end token no text is empty.
    tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, numbers[END])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, model_max_length=POSITIONS
    )
    pictures = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        resample=Image.Resampling.BILINEAR,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )
    return CLIPProcessor(pictures, fast), np.array([rank for _, rank in kept])


@torch.no_grad()
def _read_meanings(model: PreTrainedModel, tokenizer_file: Path, ranks: NDArray[np.int64]) -> Array:
    """Return the mean last state of each token alone, centred and reduced to its main directions: [V, MEANING]."""
    source = Tokenizer.from_file(str(tokenizer_file))
    start, end = source.token_to_id("[CLS]"), source.token_to_id(END)
    rows = []
    for at in range(0, len(ranks), _BATCH):
        ids = torch.tensor([[start, rank, end] for rank in ranks[at : at + _BATCH]])
        rows.append(model(input_ids=ids).last_hidden_state.mean(1).numpy())
    states = np.concatenate(rows)
    states -= states.mean(0)
    _, _, components = np.linalg.svd(states, full_matrices=False)
    reduced: Array = (states @ components[:MEANING].T).astype(np.float32)
    return reduced


def _expect_weights(ranks: NDArray[np.int64]) -> Tensor:
    """Return weights to start from: a word counts less the more frequent it is (Arora et al., ICLR 2017), [V]."""
    place = np.maximum(ranks - _FIRST_WORD, 1)
    share = 1 / (place + 2.7)
    weights = 1e-3 / (1e-3 + share / share.sum())
    return torch.from_numpy(np.where(ranks < _FIRST_WORD, 0.3, weights).astype(np.float32))


def _question_pairs(nouns: Sequence[str], rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    """Return questions, the same in other frames, and other questions in the frames of the first."""
    frames = _FRAMES.read_text().splitlines()
    drawn = rng.choice(len(nouns), min(_PAIRS, len(nouns)), replace=False)
    chosen = rng.integers(len(frames), size=(2, len(drawn)))
    first, again = ([frames[at].format(nouns[noun]) for at, noun in zip(row, drawn, strict=True)] for row in chosen)
    other = [frames[at].format(nouns[noun]) for at, noun in zip(chosen[0], np.roll(drawn, 1), strict=True)]
    return first, again, other


def learn_weights(
    model: SmallEncoder,
    tokenizer: PreTrainedTokenizerFast,
    ranks: NDArray[np.int64],
    steps: int,
    seed: int,
    report: Report,
) -> None:
    """Set the tokens' weights."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 4])
    words = tokenizer.convert_ids_to_tokens(list(range(len(ranks))))
    asked = {word for task in TASKS for text in task.wordings for word in text.lower().strip("?.").split()}
    nouns = [
        word
        for word, rank in zip(words, ranks, strict=True)
        if rank in _NOUNS and word.isalpha() and len(word) > 3 and word not in asked
    ]
    expected = _expect_weights(ranks).log()
    change = nn.Parameter(torch.zeros(len(ranks)))
    optimizer = torch.optim.Adam([change], lr=0.05)

    def embed(texts: list[str]) -> Tensor:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        ids, present = batch["input_ids"], batch["attention_mask"]
        weights = (expected[ids] + change[ids]).exp() * present
        return functional.normalize((model.token_rows(ids) * weights[..., None]).sum(1), dim=-1)

    for step in range(1, steps + 1):
        first, again, other = (embed(texts) for texts in _question_pairs(nouns, rng))
        cosines = first @ again.T
        rivals = torch.cat([cosines, (first * other).sum(1, keepdim=True)], 1) / 0.07
        told_apart = functional.cross_entropy(rivals, torch.arange(len(first)))
        apart = (1 - cosines.diagonal()).mean()
        loss = told_apart + apart + 0.02 * (change**2).sum() / len(first)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        report(step, {"loss": loss.item(), "apart": apart.item()})
    scale = (expected + change.detach()).exp()
    # A word that the table does not know is one all the same; the end token only keeps empty texts from being zero.
    scale[tokenizer.unk_token_id], scale[tokenizer.eos_token_id] = 1.0, 1e-3
    model.scale.copy_(scale)


def load_features(features: ImageFeatures, weights: dict[str, Tensor]) -> None:
    """Copy the weights of EfficientNet-Lite0, with each batch normalisation folded into its convolution."""

    def copy(layer: Any, conv: str, norm: str) -> None:
        if layer is None:
            return
        gain = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + 1e-3)
        layer.weight.copy_(weights[f"{conv}.weight"] * gain[:, None, None, None])
        layer.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)

    with torch.no_grad():
        copy(features.stem, "_conv_stem", "_bn0")
        for number, block in enumerate(features.blocks):
            name = f"_blocks.{number}."
            copy(block.expand, name + "_expand_conv", name + "_bn0")
            copy(block.depthwise, name + "_depthwise_conv", name + "_bn1")
            copy(block.project, name + "_project_conv", name + "_bn2")


@torch.no_grad()
def _read_features(
    model: SmallEncoder, processor: CLIPProcessor, pictures: Sequence[Image.Image]
) -> NDArray[np.float64]:
    rows = []
    for at in range(0, len(pictures), _BATCH):
        pixels = processor(images=list(pictures[at : at + _BATCH]), return_tensors="pt")["pixel_values"]
        rows.append(model.features(pixels).double().numpy())
    return np.concatenate(rows)


def fit_projection(model: SmallEncoder, processor: CLIPProcessor, count: int, seed: int) -> None:
    """Set the projection of the image features, from `count` scenes, as many digits and twice as many others."""
    others, kinds = background_pictures(2 * count, seed + 1)
    drawn = [scene_pictures(count, "train", seed).pixels, digit_pictures(count, "train", seed).pixels]
    pictures = others + [Image.fromarray(pixels) for kind in drawn for pixels in kind]
    labels = np.concatenate([kinds, np.repeat([kinds.max() + 1, kinds.max() + 2], count)])
    features = _read_features(model, processor, pictures)
    mean, spread = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / spread
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(scaled, labels)
    differing = analysis.scalings_[:, : kinds.max() + 2].T
    _, _, components = np.linalg.svd(scaled, full_matrices=False)
    shares = ((differing, _KIND_SHARE), (components[: IMAGE - len(differing)], 1 - _KIND_SHARE))
    sized = [rows * (share / ((scaled @ rows.T) ** 2).sum(1).mean()) ** 0.5 for rows, share in shares]
    projection = np.concatenate(sized) / spread
    with torch.no_grad():
        model.projection.weight.copy_(torch.from_numpy(projection))
        model.projection.bias.copy_(torch.from_numpy(-projection @ mean))


def build_model(
    sources: Sources, steps: int, pictures: int, seed: int, report: Report
) -> tuple[SmallEncoder, CLIPProcessor]:
    """Return the embedder and its processor. steps: of learning the tokens' weights. pictures: scenes to fit on."""
    processor, ranks = build_processor(sources.tokenizer)
    config = SmallEncoderConfig(len(ranks), MEANING, HASHED, IMAGE, POSITIONS)
    model = SmallEncoder(config).requires_grad_(False)
    model.train(False)
    meanings = _read_meanings(sources.texts, sources.tokenizer, ranks)
    model.table.copy_(
        torch.from_numpy(np.rint(127 * meanings / np.abs(meanings).max(1, keepdims=True)).astype(np.int8))
    )
    learn_weights(model, processor.tokenizer, ranks, steps, seed, report)
    load_features(model.features, sources.images)
    fit_projection(model, processor, pictures, seed)
    return model, processor


def retrieval(model: SmallEncoder, processor: CLIPProcessor, count: int) -> float:
    """Return the share of unseen queries whose nearest task centroid, by mean cosine, is their own task's."""
    embedder = Embedder(model, processor, embedder_id="bundled")

    def embed(task: Task, split: Literal["train", "test"]) -> Array:
        items = examples(task, split, count, seed=9)
        parts = (
            embedder.embed_images([one.image for one in items]),
            embedder.embed_texts([one.question for one in items]),
        )
        return np.concatenate(parts, axis=1)

    keys = np.stack([embed(task, "train").mean(0) for task in TASKS])
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    hits = [(embed(task, "test") @ keys.T).argmax(1) == number for number, task in enumerate(TASKS)]
    return float(np.mean(hits))
