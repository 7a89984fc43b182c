"""A device that runs out of memory: the real error, raised where tensors are allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ALLOCATIONS = ("new_zeros", "new_empty", "new_full", "zeros", "empty", "full", "zeros_like", "empty_like")


class ScarceMemory(TorchDispatchMode):
    """During the block, the n-th allocation of a four-dimensional tensor (a cache layer's keys or values) fails."""

    def __init__(self, failing: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._left = failing

    @property
    def ended(self) -> bool:
        """Return whether that allocation was reached."""
        return self._left <= 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _ALLOCATIONS and isinstance(made, torch.Tensor) and made.dim() == 4:
            self._left -= 1
            if not self._left:
                raise torch.OutOfMemoryError("out of memory, as the test asked")
        return made
