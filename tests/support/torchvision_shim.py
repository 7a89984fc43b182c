"""torchvision for the tests of model families whose processors import it, with a CPU build of torch.

PyPI's torchvision is linked with CUDA: its compiled operators do not load here, and its import fails because they are
not declared. Declaring them is enough for the tests: no processor runs them. The package is installed in a separate
folder (`make` creates it), because every other process of the environment would fail to import transformers with it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix) / "test-libraries"
_OPERATORS = ("nms", "qnms")
_kept_alive: list[object] = []


def activate() -> None:
    """Make torchvision importable if it is installed; call this before anything imports transformers."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        sys.meta_path.insert(0, _DeclareFirst())


def available() -> bool:
    """Whether torchvision can be imported."""
    return importlib.util.find_spec("torchvision") is not None


class _DeclareFirst(MetaPathFinder):
    """Declare the operators when torchvision is first imported, so that tests without torch do not load it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _declare_missing_operators() -> None:
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(Path(found.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(library)  # a library that is collected takes its operators with it
