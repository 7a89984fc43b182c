"""Compressed request bodies: gzip and deflate are inflated within the limit of a body, other encodings refused."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlibrary.api.http.middleware.size_limits import too_large
from vlibrary.api.http.problems import problem, problem_response, type_of_status
from vlibrary.domain.errors import InvalidInput

ACCEPTED = "gzip, deflate"
# Inflated at a time, so that a body that grows a thousandfold does not hold up other requests.
_PIECE_BYTES = 2**18
_GZIP, _ZLIB, _RAW = 31, 15, -15
_NAMES: Mapping[str, str] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


class ContentEncoding:
    """Inflates the bodies that name an accepted Content-Encoding; answers 415 to others."""

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self._app = app
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope).getlist("content-encoding") if scope["type"] == "http" else []
        given = ", ".join(headers).strip().lower()
        if given in ("", "identity"):
            await self._app(scope, receive, send)
        elif given in _NAMES:
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if name not in (b"content-encoding", b"content-length")
            ]
            await self._app(scope, _Inflated(receive, _NAMES[given], self._max_body_size), send)
        else:
            refused = problem(
                type_of_status(HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
                f"Unsupported Content-Encoding {given!r:.80}.",
                "Send the body unencoded, or with one encoding of gzip and deflate.",
            )
            response = problem_response(refused, scope["path"])
            response.headers["Accept-Encoding"] = ACCEPTED
            await response(scope, receive, send)


class _Inflated:
    """The `receive` of a compressed body: gives its messages inflated. Raises InvalidInput, TooLarge."""

    def __init__(self, receive: Receive, encoding: str, max_bytes: int) -> None:
        self._receive = receive
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._total = 0
        self._inflater: Any = None
        self._pending = b""
        self._has_output = False
        self._more_body = True

    async def __call__(self) -> Message:
        if not self._pending and not self._has_output:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._pending = message.get("body", b"")
            self._more_body = message.get("more_body", False)
        else:
            await asyncio.sleep(0)
        piece = self._inflate()
        self._total += len(piece)
        if self._total > self._max_bytes:
            raise too_large()
        ended = not self._pending and not self._has_output and not self._more_body
        if ended and (self._inflater is None or not self._inflater.eof):
            raise InvalidInput(f"The {self._encoding} body ends too early.", "Send the whole body.")
        return {"type": "http.request", "body": piece, "more_body": not ended}

    def _inflate(self) -> bytes:
        """Return the next piece, and keep what is left in `_pending`."""
        if not self._pending and not self._has_output:
            return b""
        if self._inflater is None or (self._inflater.eof and self._encoding == "gzip"):  # gzip may have members
            self._inflater = zlib.decompressobj(_window_bits(self._encoding, self._pending))
        if self._inflater.eof:
            raise InvalidInput("Data follows the end of the deflate body.", "Send one deflate stream.")
        try:
            piece: bytes = self._inflater.decompress(self._pending, _PIECE_BYTES)
        except zlib.error as error:
            raise InvalidInput(
                f"The body is not valid {self._encoding}: {error}.", "Compress it, or omit Content-Encoding."
            ) from error
        self._pending = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        self._has_output = len(piece) == _PIECE_BYTES and not self._inflater.eof
        return piece


def _window_bits(encoding: str, start: bytes) -> int:
    """Return zlib's parameter. "deflate" is zlib's format; some clients send it without its header."""
    if encoding == "gzip":
        return _GZIP
    has_header = start[0] & 0x0F == zlib.DEFLATED and (len(start) < 2 or int.from_bytes(start[:2]) % 31 == 0)
    return _ZLIB if has_header else _RAW
