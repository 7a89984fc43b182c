"""CORS: which web pages may call the service from a browser."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# Pages served from the computer on which the browser runs, at any port.
LOCALHOST = "localhost"
_LOCALHOST_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


def is_allowed_origin(origin: str, origins: Collection[str]) -> bool:
    """Return whether pages of this origin may call the service. origins: see allow_origins."""
    if "*" in origins or origin in origins:
        return True
    return LOCALHOST in origins and re.fullmatch(_LOCALHOST_PAGES, origin) is not None


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Return the app with CORS headers for pages of these origins; without any, the app itself.

    origins: such as "https://example.org"; LOCALHOST; "*" for every page. Cookies are never allowed.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=[origin for origin in origins if origin != LOCALHOST],
        allow_origin_regex=_LOCALHOST_PAGES if LOCALHOST in origins else None,
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=["*"],
    )
