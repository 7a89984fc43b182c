"""Foreign hosts, pages of other origins, redirects and the headers that browsers obey."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.support.library import memory_library
from vlibrary.api.app import create_app
from vlibrary.cli.serve import check_exposure
from vlibrary.config import Settings, read_settings
from vlibrary.domain.errors import InvalidInput

OFF = {"prompt": "a", "steering": "off"}


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    app = create_app(
        memory_library(),
        cors_origins=("localhost", "https://tool.example"),
        allowed_hosts=("private", "library.example", "*.team.example"),
    )
    with TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False) as client:
        yield client


HOSTS = {
    "127.0.0.1:8000": True,
    "localhost": True,
    "localhost.": True,
    "LOCALHOST:8000": True,
    "app.localhost": True,
    "[::1]:8000": True,
    "10.1.2.3": True,
    "vlibrary:8000": True,
    "library.example": True,
    "Library.Example:443": True,
    "a.team.example": True,
    "": True,
    "evil.example": False,
    "evil.example:8000": False,
    "127.0.0.1.evil.example": False,
    "library.example.evil.example": False,
    "evillibrary.example": False,
    "team.example": False,
    "evilteam.example": False,
    "user@evil.example": False,
    "[::1": False,
    "evil.example#localhost": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_allowed_hosts_are_answered(api: TestClient, host: str) -> None:
    answer = api.get("/livez", headers={"Host": host})
    assert answer.status_code == (200 if HOSTS[host] else 421)
    if not HOSTS[host]:
        assert "VLIBRARY_ALLOWED_HOSTS" in answer.json()["cure"]


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1:8000", 200), ("localhost", 200), ("[::1]", 200), ("10.1.2.3", 421)]
)
def test_health_checks_on_the_same_computer_pass_whatever_hosts_are_set(host: str, status: int) -> None:
    app = create_app(memory_library(), allowed_hosts=("library.example",))
    with TestClient(app) as client:
        assert client.get("/livez", headers={"Host": host}).status_code == status


ORIGINS = {
    "http://127.0.0.1:8000": True,
    "https://127.0.0.1:8000": True,  # a proxy ends TLS
    "http://localhost:3000": True,
    "https://tool.example": True,
    "https://evil.example": False,
    "http://127.0.0.1.evil.example": False,
    "https://tool.example.evil.example": False,
    "http://tool.example": False,
    "null": False,
    "": False,
    "file://": False,
    "http://[": False,
    "http://x[": False,
    "http://127.0.0.1:port": False,
}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/vectors"), ("POST", "/generate"), ("DELETE", "/vectors/x"), ("PATCH", "/vectors/x")]
)
def test_only_pages_of_allowed_origins_may_write(api: TestClient, method: str, path: str, origin: str) -> None:
    answer = api.request(method, path, headers={"Origin": origin}, files={"card": b"{}"} if method == "POST" else None)
    assert (answer.status_code == 403) is not ORIGINS[origin]
    if not ORIGINS[origin]:
        assert "VLIBRARY_CORS_ORIGINS" in answer.json()["cure"]


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://library.example", "library.example:443", True),
        ("http://library.example", "library.example:80", True),
        ("http://library.example", "library.example:443", False),
        ("https://library.example:8443", "library.example", False),
        ("https://[::1]", "[::1]:443", True),
        ("https://library.example", "library.example:port", False),
    ],
)
def test_the_default_port_in_host_is_the_same_as_none(api: TestClient, origin: str, host: str, same: bool) -> None:
    answer = api.post("/generate", json=OFF, headers={"Origin": origin, "Host": host})
    assert answer.status_code == (200 if same else 403)


def test_requests_without_an_origin_and_reading_ones_pass(api: TestClient) -> None:
    assert api.post("/generate", json=OFF).status_code == 200
    assert api.get("/livez", headers={"Origin": "https://evil.example"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "other:1"])
def test_redirects_name_no_host(api: TestClient, host: str) -> None:
    answer = api.get("/docs/?a=1", headers={"Host": host})
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs?a=1")


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/livez", "GET"),
        ("/nothing", "GET"),
        ("/docs", "GET"),
        ("/docs", "HEAD"),
        ("/generate", "POST"),
        ("/docs/", "GET"),
    ],
)
def test_every_response_has_the_security_headers(api: TestClient, path: str, method: str) -> None:
    headers = api.request(method, path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_the_policy_of_a_page_allows_what_the_page_needs_and_no_more(api: TestClient, path: str) -> None:
    page = api.get(path)
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
    for script in re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy["script-src"]
    for address in re.findall(r'(?:src|href)="([^"]*)"', page.text):
        assert address.startswith("/")
        assert api.get(address).status_code == 200
    assert "unsafe-inline" not in policy["script-src"]
    assert not re.search(r"https?:|\*", page.headers["content-security-policy"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "library.example"])
def test_a_service_that_others_can_reach_must_be_allowed(host: str) -> None:
    with pytest.raises(InvalidInput, match="VLIBRARY_HOST") as refused:
        check_exposure(Settings(host=host))
    assert "VLIBRARY_ALLOW_REMOTE=true" in refused.value.cure
    check_exposure(Settings(host=host, allow_remote=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_a_service_on_loopback_is_allowed(host: str) -> None:
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("value", ["http://a.example", "a.example:80", "*.*.example", "a b", ","])
def test_an_invalid_host_name_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VLIBRARY_ALLOWED_HOSTS", value)
    with pytest.raises(InvalidInput, match="VLIBRARY_ALLOWED_HOSTS"):
        read_settings()
