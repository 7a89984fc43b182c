"""The built wheel, installed into empty environments with each extra. `make test-package` runs these tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
TORCH = os.environ.get("TORCH", "torch==2.13.0")
START_S = 120.0
# PYTHONPATH would put the checkout before the installed package.
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

TYPED_SCRIPT = """
import asyncio
import io
from pathlib import Path

import numpy as np
import vlibrary
from PIL import Image

picture = Image.new("RGB", (8, 8))
array = np.zeros((8, 8, 3), np.uint8)

with vlibrary.Client("http://127.0.0.1:8000", timeout=10, actor="ci") as library:
    answer = library.generate("Q", images="a.png", strength=0.5, timeout=3.0, model="colour@production")
    text: str = answer.text
    names: list[str] = [one.name for one in answer.steering.applied]
    library.generate("Q", images=[b"", Path("a.png"), "b.png", picture, array, io.BytesIO()], steering="colour:1")
    library.generate("Q", images=picture, steering=[vlibrary.ChosenVector(id="a", strength=2.0), "b"])
    library.generate("Q", images=array, decoding={"max_new_tokens": 3, "stop": ["."]})
    best: vlibrary.MatchOut = library.retrieve("Q", images=Path("a.png"), k=1)[0]
    for record in library.list_vectors(tag=["checked"]):
        reveal_type(record.tags)
    with library.stream("Q", images=[picture]) as pieces:
        for piece in pieces:
            if isinstance(piece, vlibrary.TextPiece):
                print(piece.text)
    library.generate("Q", strenght=1.0)  # wrong
    library.generate("Q", images=7)  # wrong


async def main() -> None:
    async with vlibrary.AsyncClient("http://127.0.0.1:8000") as library:
        answer = await library.generate("Q", images=picture)
        reveal_type(answer)
        async for record in library.list_vectors():
            print(record.name)


asyncio.run(main())
"""

pytestmark = [pytest.mark.package, pytest.mark.timeout(1800)]


def run(*command: str | Path, **variables: str) -> str:
    done = subprocess.run(command, env=CLEAN | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run("git", "-C", ROOT, "archive", "--prefix=source/", "-o", folder / "source.tar", "HEAD")
    run("tar", "-xf", folder / "source.tar", "-C", folder)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, folder / "source")
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path, extra: str, *others: str) -> Path:
    """Return the bin folder of a new environment with the wheel."""
    run(sys.executable, "-m", "venv", folder)
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(folder / "bin" / "pip", "install", "--quiet", *constraints, *others, f"{wheel}[{extra}]" if extra else wheel)
    return folder / "bin"


@contextmanager
def running(command: list[str | Path], port: int, **variables: str) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([*command, "--port", str(port)], env=CLEAN | variables) as process:
        try:
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    if httpx.get(f"{url}/readyz").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_wheel_holds_one_package_with_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"vlibrary"}
    assert {"vlibrary/py.typed", "vlibrary/migrations/env.py", "vlibrary/migrations/script.py.mako"} <= set(names)
    versions = {f"vlibrary/migrations/versions/{path.name}" for path in (ROOT / "migrations/versions").glob("*.py")}
    assert versions <= set(names)
    assert "vlibrary/bundled/weights/lvlm/model.safetensors" in names


def test_a_script_type_checks_strictly_against_the_base_package(wheel: Path, tmp_path: Path) -> None:
    """Two lines of the script are wrong, and mypy finds these two."""
    python = install(wheel, tmp_path / "base", "", "mypy", "pillow") / "python"
    assert not {"torch", "sqlalchemy"} & set(run(python, "-m", "pip", "list").lower().split())
    script = tmp_path / "script.py"
    script.write_text(TYPED_SCRIPT)
    command: list[str | Path] = [
        python,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={tmp_path / 'cache'}",
        script,
    ]
    found = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False).stdout
    wrong = [number for number, line in enumerate(TYPED_SCRIPT.splitlines(), start=1) if "# wrong" in line]
    assert [int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line] == wrong, found
    assert 'Revealed type is "list[str]"' in found
    assert "generate.GenerateOut" in found


def test_an_api_without_torch_serves_with_a_worker_of_another_environment(wheel: Path, tmp_path: Path) -> None:
    api = install(wheel, tmp_path / "api", "api")
    worker = install(wheel, tmp_path / "worker", "worker", TORCH)
    assert "torch" not in run(api / "pip", "list", "--format=freeze")
    data = {"VLIBRARY_DATA_DIR": str(tmp_path / "data")}
    alone = subprocess.run([api / "vlibrary", "serve"], env=CLEAN | data, capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert "pip install 'vlibrary[worker]'" in alone.stderr
    with (
        running([worker / "vlibrary", "work"], free_port(), **data) as worker_url,
        running([api / "vlibrary", "serve"], free_port(), VLIBRARY_WORKERS=worker_url, **data) as url,
    ):
        assert "not steered (no_match)" in run(api / "vlibrary", "generate", "Which hue?", "--url", url)


def test_all_in_one_migrates_and_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    everything = install(wheel, tmp_path / "all", "all", TORCH)
    run(everything / "vlibrary", "migrate", VLIBRARY_DATA_DIR=str(tmp_path / "data"))
    assert "retrieval_hit_rate" in run(everything / "vlibrary", "demo", "--json", "--queries", "4")
