"""A typed client for a running service: what the command line, the demo and scripts use.

with Client("http://127.0.0.1:8000") as library:
    vector = library.register(Path("colour.safetensors").read_bytes(), card_json)
    library.set_alias("colour", "production", vector["id"])
    answer = library.generate("Which hue?", images=[png])
"""

from __future__ import annotations

from vlibrary.client.answers import Answers
from vlibrary.client.archive import Archives
from vlibrary.client.registry import Registry, Which
from vlibrary.client.transport import Json, ServiceError

__all__ = ["Client", "Json", "ServiceError", "Which"]


class Client(Registry, Archives, Answers):
    """Calls one service; every method raises ServiceError with the service's own words and cure."""

    def ready(self) -> Json:
        """The service's own checks; does not raise when one of them fails."""
        answer: Json = self._request("GET", "/readyz").json()
        return answer

    def models(self) -> list[Json]:
        """The models that are served."""
        items: list[Json] = self._json("GET", "/models")["items"]
        return items
