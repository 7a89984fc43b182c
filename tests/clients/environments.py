"""An environment for every program: its own packages at pinned versions, made when it is first needed.

Each is a folder under .venv/clients, so that no package of a client reaches the service's environment. An installation
that was interrupted, or whose list has changed, goes on with what is there: pip keeps what it has downloaded, and
installs only what is missing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv" / "clients"
# The CPU build of torch comes from its own index; the same variables as in the Makefile.
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
# The largest environments hold 5 GB.
INSTALL_TIMEOUT_S = 3_600.0
_STAMP = "installed"


class NotInstalledError(Exception):
    """The packages of a program cannot be installed on this machine; the message is the end of what pip or npm says."""


@dataclass(frozen=True)
class Program:
    """A client program: how it is called in the matrix, its file, and the name of its list of packages.

    A harness is a program that asks many questions and measures something, instead of checking one feature after
    another.
    """

    name: str
    file: str
    packages: str
    harness: bool = False

    @property
    def path(self) -> Path:
        return HERE / ("harnesses" if self.harness else "programs") / self.file

    def command(self) -> list[str]:
        """Install what the program needs, and return the command that runs it. Raises NotInstalledError."""
        if self.file.endswith(".mjs"):
            return ["node", str(_node_program(self.path))]
        return [str(_python(self.packages)), str(self.path)]


def _python(packages: str) -> Path:
    requirements = HERE / "requirements" / f"{packages}.txt"
    folder = FOLDER / packages
    stamp = folder / _STAMP
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        stamp.unlink(missing_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        # The lists are complete. Dependencies are left out because some of them are CUDA builds that nothing here uses.
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        lines = requirements.read_text().splitlines()
        # Only torch comes from the other index: where it cannot be reached, pip would wait for it at every package.
        for torch in (line for line in lines if line.startswith("torch==")):
            _run([*pip, "--retries", "1", "--extra-index-url", TORCH_INDEX, torch])
        _run([*pip, "--requirement", str(requirements)])
        if "torchvision==" in requirements.read_text():
            _declare_operators_of_torchvision(folder)
        stamp.write_text(digest)
    return folder / "bin" / "python"


def _declare_operators_of_torchvision(folder: Path) -> None:
    """The tests of model families have the same need; their module says why."""
    (site,) = (folder / "lib").glob("python*/site-packages")
    shutil.copy(ROOT / "tests" / "support" / "torchvision_shim.py", site)
    (site / "sitecustomize.py").write_text("import torchvision_shim\n\ntorchvision_shim.activate()\n")


def _node_program(path: Path) -> Path:
    """Node looks for packages next to the program, so the programs are copied to where they are installed."""
    folder = FOLDER / "node"
    if shutil.which("npm") is None:
        raise NotInstalledError("npm is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*path.parent.glob("*.mjs"), path.with_name("package.json"), path.with_name("package-lock.json")):
        shutil.copy(file, folder)
    stamp = folder / _STAMP
    digest = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        _run(["npm", "ci", "--no-audit", "--no-fund", "--prefix", str(folder)])
        stamp.write_text(digest)
    return folder / path.name


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"no end after {INSTALL_TIMEOUT_S:.0f} s; run it again to go on") from error
    if done.returncode != 0:
        raise NotInstalledError((done.stderr or done.stdout).strip()[-300:])
