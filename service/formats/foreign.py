"""Recognises files of other programs by their content, and says what to do with them.

Nothing is unpickled or unpacked, and at most 64 KiB at either end of a file are looked at.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from vlibrary.formats import gguf

IMPORT = "Convert it with `vlibrary import-vector`; see docs/guides/import.md."
_TRAIN = "Register the .safetensors file that `vlibrary train` or `vlibrary import-vector` writes."
_GGUF = "Control vectors of GGUF version 2 or 3, little-endian, can be converted with `vlibrary import-vector`."
_UNPACK = "Unpack it, and register the .safetensors file inside."
_UNPICKLE = (
    "It can run code when loaded, so VLibrary never loads it. Where you trust it, load it with "
    "torch.load(file, weights_only=True), save the tensor with safetensors or numpy.save, and convert that file with "
    "`vlibrary import-vector`."
)
_ADAPTER = "An adapter changes weights; load it with PEFT. VLibrary stores vectors that are added to activations."
_LOOK = 64 * 1024
_TEXT = re.compile(rb"(?:[\t\n\r -~]|[\xc2-\xf4][\x80-\xbf]{1,3})+[\xc2-\xf4]?")  # UTF-8, of which a part is looked at
_TENSOR_NAME = re.compile(rb'"((?:[^"\\]|\\.){1,300})"\s*:\s*\{\s*"(?:dtype|shape|data_offsets)"')


@dataclass(frozen=True)
class Foreign:
    """what: a noun phrase, such as "a NumPy array". cure: what to do with the file."""

    what: str
    cure: str


# First bytes of formats that need no further look.
_MAGICS = (
    (b"\x1f\x8b", Foreign("a gzip file", _UNPACK)),
    (b"BZh", Foreign("a bzip2 file", _UNPACK)),
    (b"\xfd7zXZ\x00", Foreign("an xz file", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Foreign("a Zstandard file", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Foreign("a RAR archive", _UNPACK)),
    (b"\x89HDF\r\n\x1a\n", Foreign("an HDF5 file, such as Keras weights", _TRAIN)),
    (b"\x89PNG\r\n\x1a\n", Foreign("a PNG image", _TRAIN)),
    (b"\xff\xd8\xff", Foreign("a JPEG image", _TRAIN)),
    (b"%PDF-", Foreign("a PDF document", _TRAIN)),
    (
        b"version https://git-lfs.github.com/spec/",
        Foreign(
            "a Git LFS pointer, not the file itself", "Run `git lfs pull` in its repository, or download the file."
        ),
    ),
)
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number with which torch.save began before 1.6
_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # what follows the version of the format, in its protocol buffer
_ADAPTERS = {
    "lora_A": "LoRA",
    "lora_B": "LoRA",
    "lora_embedding": "LoRA",
    "ia3_l": "IA3",
    "beft_bias": "BEFT",
    "prompt_embeddings": "prompt tuning",
    "vera_lambda": "VeRA",
    "oft_": "OFT",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
}


def recognise(data: bytes) -> Foreign | None:
    """Return what the file is; None if it may be an artifact, or if it is not known."""
    if data[8:9] == b"{" and len(data) >= 8 + int.from_bytes(data[:8], "little"):  # safetensors
        return None if b'"vlibrary"' in data[8:_LOOK] else _safetensors(data)
    for magic, found in _MAGICS:
        if data.startswith(magic):
            return found
    for look in (_gguf, _numpy, _zip, _pickle, _tar, _onnx, _text):
        if (one := look(data)) is not None:
            return one
    return None


def _safetensors(data: bytes) -> Foreign:
    """Return what a safetensors file that is no artifact contains, by the names at the beginning of its header."""
    names = [name.decode("utf-8", errors="backslashreplace") for name in _TENSOR_NAME.findall(data[8:_LOOK])]
    for part, kind in _ADAPTERS.items():
        if any(part in name for name in names):
            return Foreign(f"a PEFT adapter ({kind}) in safetensors", _ADAPTER)
    if any(re.search(r"(^|\.)(layers|h|blocks?)\.[0-9]+\.", name) for name in names):
        return Foreign("a safetensors file with the weights of a model", _TRAIN)
    shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return Foreign(
        f"a safetensors file of another program (it has no 'vlibrary' record), with tensors {shown or '(none)'}", IMPORT
    )


def _gguf(data: bytes) -> Foreign | None:
    if not data.startswith(gguf.MAGIC):
        return None
    architecture = gguf.read_architecture(data)
    if architecture in gguf.ARCHITECTURES:
        return Foreign("a GGUF control vector", IMPORT)
    if architecture is None:
        return Foreign("a GGUF file of another version or byte order, or a truncated one", _GGUF)
    return Foreign(f"a GGUF file with a model ({architecture})", _TRAIN)


def _numpy(data: bytes) -> Foreign | None:
    if not data.startswith(b"\x93NUMPY"):
        return None
    header = re.search(rb"\{[^}]*\}", data[:1024])
    try:
        fields = ast.literal_eval(header[0].decode("latin-1")) if header else {}
        shape = f" of shape {list(fields['shape'])} and type {fields['descr']}"
    except (ValueError, SyntaxError, KeyError, TypeError):
        shape = ""
    return Foreign(f"a NumPy array{shape}", IMPORT)


def _zip(data: bytes) -> Foreign | None:
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None
    names = _zip_names(data[-_LOOK:])
    if any(name.endswith("data.pkl") for name in names):
        return Foreign("a PyTorch checkpoint (a zip archive with a pickle)", _UNPICKLE)
    if names and all(name.endswith(".npy") for name in names):
        arrays = ", ".join(name.removesuffix(".npy") for name in names[:3])
        return Foreign(f"an .npz file with the NumPy arrays {arrays}", IMPORT)
    if any(name.endswith("adapter_config.json") for name in names):
        return Foreign("a zip archive with a PEFT adapter", _ADAPTER)
    return Foreign(f"a zip archive with {', '.join(names[:3]) or 'no complete directory'}", _UNPACK)


def _zip_names(end: bytes) -> list[str]:
    """Return the names in the part of a zip archive's directory that the end of the file contains."""
    names = []
    for entry in re.finditer(rb"PK\x01\x02", end):
        at = entry.start()
        size = int.from_bytes(end[at + 28 : at + 30], "little")
        names.append(end[at + 46 : at + 46 + size].decode("utf-8", errors="backslashreplace"))
    return names


def _pickle(data: bytes) -> Foreign | None:
    if not data.startswith(_PICKLES):
        return None
    kind = (
        "a PyTorch checkpoint (a pickle, as torch.save wrote before 1.6)" if _TORCH_MAGIC in data[:64] else "a pickle"
    )
    return Foreign(kind, _UNPICKLE)


def _tar(data: bytes) -> Foreign | None:
    if data[257:262] != b"ustar":
        return None
    if data.startswith((b"vectors/", b"manifest.ndjson")):
        return Foreign("an archive of vectors", "Import it: `vlibrary import FILE`.")
    return Foreign("a tar archive", _UNPACK)


def _onnx(data: bytes) -> Foreign | None:
    if len(data) > 3 and data[0] == 8 and 1 <= data[1] <= 30 and data[2] in _ONNX_FIELDS:
        return Foreign("an ONNX model", _TRAIN)
    return None


def _text(data: bytes) -> Foreign | None:
    start = data[:_LOOK].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return Foreign(
            "an HTML page, such as a login or error page that was saved under the file's name",
            "Download the file itself; on a hub, use the link of its download button.",
        )
    if start.startswith(b"<?xml"):
        return Foreign("an XML document, such as an error of a storage service", "Download the file itself.")
    if start.startswith((b"{", b"[")):
        if b'"thresholds"' in start or b'"description"' in start:
            return Foreign("a JSON file, such as a card", "Give the .safetensors file, and the card with --card.")
        return Foreign("a JSON file", _TRAIN)
    return Foreign("a text file", _TRAIN) if _TEXT.fullmatch(data[:_LOOK]) else None
