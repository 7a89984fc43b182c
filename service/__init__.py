"""VLibrary stores in-context vectors for vision-language models, retrieves the right one and applies it.

Talk to a running service::

    with vlibrary.Client("http://127.0.0.1:8000") as library:
        answer = library.generate("Which hue?", images="picture.png")

Steer a Hugging Face model in a notebook (needs the `worker` extra)::

    vector = vlibrary.load_vector("colour.safetensors")
    with vlibrary.steer(model, vector, strength=1.0):
        tokens = model.generate(**inputs)

Names are imported when they are first used, so that `import vlibrary` loads no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlibrary.client import AsyncClient, Client, ServiceError
    from vlibrary.domain.errors import ErrorCode, VLibraryError
    from vlibrary.domain.example import Example
    from vlibrary.domain.vector import SteeringVector
    from vlibrary.domain.wire import TextPiece
    from vlibrary.formats.archive import open_archive
    from vlibrary.formats.artifact import load_vector, save_vector
    from vlibrary.schemas.generate import ChosenVector, GenerateOut
    from vlibrary.schemas.registry import AliasOut
    from vlibrary.schemas.vectors import MatchOut, VectorOut
    from vlibrary.steering.steer import steer

__version__ = "0.2.0"

__all__ = [
    "AliasOut",
    "AsyncClient",
    "ChosenVector",
    "Client",
    "ErrorCode",
    "Example",
    "GenerateOut",
    "MatchOut",
    "ServiceError",
    "SteeringVector",
    "TextPiece",
    "VLibraryError",
    "VectorOut",
    "__version__",
    "load_vector",
    "open_archive",
    "save_vector",
    "steer",
]

_MODULES = {
    "AliasOut": "schemas.registry",
    "AsyncClient": "client",
    "ChosenVector": "schemas.generate",
    "Client": "client",
    "ErrorCode": "domain.errors",
    "Example": "domain.example",
    "GenerateOut": "schemas.generate",
    "MatchOut": "schemas.vectors",
    "ServiceError": "client",
    "SteeringVector": "domain.vector",
    "TextPiece": "domain.wire",
    "VLibraryError": "domain.errors",
    "VectorOut": "schemas.vectors",
    "load_vector": "formats.artifact",
    "open_archive": "formats.archive",
    "save_vector": "formats.artifact",
    "steer": "steering.steer",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562). Raises ImportError if its extra is not installed."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise ImportError(
            f"vlibrary.{name} needs {error.name}; install it with: pip install 'vlibrary[worker]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
