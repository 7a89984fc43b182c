"""What keeps web pages of others away: the hosts and origins that requests may name, and headers that browsers obey.

Without it, a page that resolves its own name to this address (DNS rebinding) could read the library, and a form of any
page could write to it: browsers send simple forms to every address, without asking.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlibrary.api.http.middleware.cors import is_allowed_origin
from vlibrary.api.http.problems import Problem, problem, problem_response, type_of_status
from vlibrary.http_common import is_loopback

# Names that no page on the internet can have: IP addresses, and names without a dot, such as localhost.
PRIVATE = "private"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Referrer-Policy": "no-referrer",
}
_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"
# The documentation pages: their own scripts and styles, the schema, and requests to this service.
_PAGE = (
    "default-src 'none'; connect-src 'self'; font-src 'self' data:; img-src 'self' data:; style-src 'self' "
    "'unsafe-inline'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "script-src 'self'"
)
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class BrowserGuard:
    """ASGI middleware that refuses foreign hosts (421) and writes from foreign origins (403).

    hosts: names that may be in Host, as "example.org" or "*.example.org"; PRIVATE; "*" for any. localhost and loopback
    addresses always may. origins: see allow_origins. Pages of the service's own host may always write. Redirects to it
    have no host, so that a wrong Host cannot turn them elsewhere.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        pending: Message | None = None

        async def send_guarded(message: Message) -> None:
            nonlocal pending
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(_HEADERS)
                if (location := urlsplit(answer.get("location", ""))).netloc == host:
                    answer["Location"] = location._replace(scheme="", netloc="").geturl()
                if answer.get("content-type", "").startswith("text/html"):
                    pending = message  # until its scripts are known
                    return
                answer["Content-Security-Policy"] = _NO_CONTENT
            elif pending is not None:
                MutableHeaders(scope=pending)["Content-Security-Policy"] = _page_policy(message.get("body", b""))
                await send(pending)
                pending = None
            await send(message)

        found = self._find_problem(scope["method"], host, headers.get("origin"))
        if found is None:
            await self._app(scope, receive, send_guarded)
        else:
            await problem_response(found, scope["path"])(scope, receive, send_guarded)

    def _find_problem(self, method: str, host: str, origin: str | None) -> Problem | None:
        if host and not _is_allowed_host(host, self._hosts):
            return problem(
                type_of_status(HTTPStatus.MISDIRECTED_REQUEST),
                f"The service does not accept requests for the host {host!r:.120}.",
                "Use its address, or add the name to VLIBRARY_ALLOWED_HOSTS on the service.",
            )
        if method in _SAFE_METHODS or origin is None or is_allowed_origin(origin, self._origins):
            return None
        if _is_same_host(origin, host):
            return None
        return problem(
            type_of_status(HTTPStatus.FORBIDDEN),
            f"Web pages of {origin!r:.120} may not send {method} requests.",
            "Add the origin to VLIBRARY_CORS_ORIGINS on the service if they may.",
        )


def _is_same_host(origin: str, host: str) -> bool:
    """Return whether a page of this origin comes from this host; proxies may name the default port in Host."""
    try:
        page, service = urlsplit(origin), urlsplit(f"{urlsplit(origin).scheme}://{host}")
        ports = page.port, service.port
    except ValueError:  # brackets that do not close, or a port that is not a number
        return False
    default = {"http": 80, "https": 443}.get(page.scheme, 0)
    return bool(page.hostname) and page.hostname == service.hostname and len({port or default for port in ports}) == 1


def _is_allowed_host(host: str, allowed: Collection[str]) -> bool:
    """Return whether the value of a Host header is allowed, at any port."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:  # brackets that do not close
        return "*" in allowed
    # Always this computer, whose health checks name it: no page on the internet can have such a name.
    if "*" in allowed or name in allowed or is_loopback(name) or (PRIVATE in allowed and _is_private(name)):
        return True
    return any(one.startswith("*.") and name.endswith(one[1:]) for one in allowed)


def _is_private(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(".localhost")
    return True


def _page_policy(page: bytes) -> str:
    """Return the policy of a page, with the digests of its inline scripts."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
    return _PAGE + "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
