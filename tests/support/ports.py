"""Wrap the catalogue's ports, for tests that watch or delay every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from vlibrary.domain.ports.catalogue import Catalogue


def wrap_ports(catalogue: Catalogue, wrap: Callable[[Any, str], Any]) -> Catalogue:
    """Return the catalogue with each port replaced by wrap(port, its name)."""
    return Catalogue(**{one.name: wrap(getattr(catalogue, one.name), one.name) for one in fields(catalogue)})
