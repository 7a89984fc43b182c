"""`import vlibrary` is light, and so are its clients; checked in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sklearn", "fastapi", "starlette", "faiss", "sqlalchemy", "alembic", "boto3")


@pytest.mark.parametrize(
    "statement",
    [
        "import vlibrary",
        "from vlibrary import AsyncClient, Client, ServiceError, VectorOut",
        "from vlibrary import SteeringVector, load_vector, save_vector",
    ],
)
def test_importing_loads_no_heavy_packages(statement: str) -> None:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_importing_the_package_alone_loads_no_third_party_packages() -> None:
    program = "import sys; before = set(sys.modules); import vlibrary; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"vlibrary"}
