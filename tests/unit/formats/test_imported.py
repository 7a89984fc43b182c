"""Arrays and control vectors of other programs become vectors, at the layers and the site that the user names."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from tests.support.gguf import control_vector, write_gguf
from vlibrary.domain.errors import InvalidArtifact, InvalidInput, VLibraryError
from vlibrary.domain.vector import Array, ModelSpec, Site, check_applicable
from vlibrary.formats.artifact import decode, encode
from vlibrary.formats.imported import Placement, parse_layers, read_foreign_vector

MODEL = ModelSpec("tests/model", "f" * 64, "Llava", layers=4, hidden_size=8)
ROWS = np.arange(32, dtype=np.float32).reshape(4, 8) + 1


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def shifts(data: bytes, at: Site, **placement: Any) -> Array:
    """Return the shift at the only edited site, after a round trip through an artifact."""
    vector = decode(encode(read_foreign_vector(data, MODEL, Placement(**placement))))
    check_applicable(vector, MODEL)
    assert list(vector.edits) == [at]
    assert vector.method == "imported"
    return vector.edits[at].shift


@pytest.mark.parametrize("site", Site)
def test_an_array_with_a_row_per_layer_keeps_its_order(site: Site) -> None:
    for data in (npy(ROWS), npz(a=ROWS), save({"a": ROWS}), npy(ROWS.astype(np.float64)), npy(np.asfortranarray(ROWS))):
        assert (shifts(data, site, site=site) == ROWS).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_all_floating_point_types_are_read(dtype: torch.dtype) -> None:
    data = save_torch({"direction": torch.from_numpy(ROWS).to(dtype)})
    assert (shifts(data, Site.MLP, site=Site.MLP) == ROWS).all()


def test_arrays_of_other_types_next_to_the_named_one_do_not_matter() -> None:
    others = {"layer": np.array([3]), "tokens": np.arange(3)}
    for data in (npz(v=ROWS, **others, name=np.array("polite")), save({"v": ROWS, **others})):
        assert (shifts(data, Site.MLP, site=Site.MLP, tensor="v") == ROWS).all()
        with pytest.raises(InvalidInput, match=r"--tensor: 'v' \[4, 8\]\.$"):
            read_foreign_vector(data, MODEL, Placement(site=Site.MLP))


def test_one_direction_is_added_in_all_named_layers() -> None:
    for data in (npy(ROWS[0]), npy(ROWS[:1])):
        found = shifts(data, Site.MLP, site=Site.MLP, layers="1,3", scale=-0.5)
        assert (found[[1, 3]] == -0.5 * ROWS[0]).all()
        assert not found[[0, 2]].any()


@given(layers=st.permutations(range(4)).flatmap(lambda all_: st.integers(1, 4).map(lambda count: all_[:count])))
def test_rows_go_to_the_layers_named(layers: list[int]) -> None:
    found = shifts(npy(ROWS[: len(layers)]), Site.ATTENTION, site=Site.ATTENTION, layers=",".join(map(str, layers)))
    for row, layer in enumerate(layers):
        assert (found[layer] == ROWS[row]).all()
    assert np.count_nonzero(found.any(axis=1)) == len(layers)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_gguf_control_vector_acts_on_layer_outputs(first: int, dtype: Any) -> None:
    data = control_vector({layer + first: ROWS[layer].astype(dtype) for layer in (2, 0, 3)})
    found = shifts(data, Site.LAYER, first_layer=first)
    assert (found[[0, 2, 3]] == ROWS[[0, 2, 3]]).all()
    assert not found[1].any()


def test_gguf_with_more_metadata_and_another_alignment_is_read() -> None:
    metadata = {"general.architecture": "controlvector", "general.alignment": 64, "words": ["a", "b"]}
    data = write_gguf(metadata, {"direction.1": ROWS[0], "direction.2": ROWS[1]}, alignment=64)
    assert (shifts(data, Site.LAYER, first_layer=1)[:2] == ROWS[:2]).all()


GGUF = control_vector({1: ROWS[0], 2: ROWS[1], 3: ROWS[2]})
REFUSED: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "no first layer": (GGUF, {}, "does not say how it counts them"),
    "a site for GGUF": (GGUF, {"first_layer": 0, "site": Site.MLP}, "says itself which layers"),
    "a layer beyond the model": (control_vector({4: ROWS[0]}), {"first_layer": 0}, "Layer 4 is outside"),
    "a layer before the model": (control_vector({0: ROWS[0]}), {"first_layer": 1}, "Layer -1 is outside"),
    "another width": (control_vector({1: ROWS[0][:4]}), {"first_layer": 0}, "direction.1 has width 4"),
    "other tensors": (write_gguf({"general.architecture": "controlvector"}, {"a": ROWS[0]}), {"first_layer": 0}, "'a'"),
    "a GGUF model": (write_gguf({"general.architecture": "llama"}, {}), {"first_layer": 0}, "'llama'"),
    "truncated GGUF": (GGUF[:-40], {"first_layer": 0}, "truncated"),
    "no site": (npy(ROWS), {}, "does not say where"),
    "first layer of an array": (npy(ROWS), {"site": Site.MLP, "first_layer": 0}, "for GGUF files"),
    "hidden states": (npy(np.ones((5, 8))), {"site": Site.MLP}, "of the embeddings: remove it"),
    "one direction without layers": (npy(ROWS[0]), {"site": Site.MLP}, "has 1 row, for 4 layers"),
    "too few rows": (npy(ROWS[:2]), {"site": Site.MLP, "layers": "0-2"}, "has 2 rows, for 3 layers"),
    "a layer twice": (npy(ROWS[:2]), {"site": Site.MLP, "layers": "1,1"}, "one twice"),
    "no layer": (npy(ROWS), {"site": Site.MLP, "layers": "all"}, "Invalid layers 'all'"),
    "transposed": (npy(ROWS.T), {"site": Site.MLP}, "Transpose it"),
    "three dimensions": (npy(ROWS[None]), {"site": Site.MLP}, r"shape \[1, 4, 8\]"),
    "whole numbers": (npy(ROWS.astype(int)), {"site": Site.MLP}, "floating-point"),
    "whole numbers in .npz": (npz(layer=np.int64(3)), {"site": Site.MLP}, "'layer' does not contain floating-point"),
    "several arrays": (npz(a=ROWS, b=ROWS), {"site": Site.MLP}, r"--tensor: 'a' \[4, 8\], 'b' \[4, 8\]"),
    "an unknown array": (npz(a=ROWS), {"site": Site.MLP, "tensor": "b"}, "no array 'b'"),
    "NaN": (npy(ROWS * np.nan), {"site": Site.MLP}, "NaN"),
    "too large": (npy(ROWS.astype(np.float64) * 1e300), {"site": Site.MLP}, "too large numbers"),
    "zero": (npy(ROWS * 0), {"site": Site.MLP}, "change nothing"),
    "zero scale": (npy(ROWS), {"site": Site.MLP, "scale": 0.0}, "change nothing"),
    "objects": (npy(np.array([{}]), allow_pickle=True), {"site": Site.MLP}, "Python objects"),
    "a pickle": (pickle.dumps(ROWS), {"site": Site.MLP}, "a pickle"),
    "nothing": (b"", {"site": Site.MLP}, "The file is empty"),
    "two bytes": (b"{}", {"site": Site.MLP}, "a JSON file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_or_wrong_is_said(case: str) -> None:
    data, placement, problem = REFUSED[case]
    with pytest.raises((InvalidArtifact, InvalidInput), match=problem):
        read_foreign_vector(data, MODEL, Placement(**placement))


@given(
    data=st.sampled_from([GGUF, npy(ROWS), npz(a=ROWS), save({"a": ROWS})]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 400) | st.none(),
)
def test_a_damaged_file_is_read_or_refused(data: bytes, changes: list[tuple[int, int]], cut: int | None) -> None:
    damaged = bytearray(data[:cut])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    placement = Placement(first_layer=0) if data is GGUF else Placement(site=Site.MLP)
    try:
        vector = read_foreign_vector(bytes(damaged), MODEL, placement)
    except VLibraryError:
        return
    assert decode(encode(vector)) == vector


@pytest.mark.parametrize(("text", "layers"), [("3", [3]), ("10-12", [10, 11, 12]), ("2, 5,8-9", [2, 5, 8, 9])])
def test_layers_are_numbers_and_ranges(text: str, layers: list[int]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "-1", "1-", "3-2", "a", "1;2", "99999999", "１"])
def test_other_layers_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_layers(text)
