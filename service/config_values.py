"""What the values of settings may be, and how they are shown: without passwords.

Each check returns the value or raises ValueError that says what is allowed.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:[0-9]{1,3})?")
_HOST = r"([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_DATABASES = "sqlite:////absolute/path/file.db or postgresql+psycopg://user:password@host/name"
_PRINTABLE = re.compile(r"[!-~][ -~]{6,}[!-~]")


def check_device(value: str) -> str:
    """Return the name of a torch device."""
    if not _DEVICE.fullmatch(value):
        raise ValueError("it should be cpu, cuda, cuda:N (such as cuda:0), mps or xpu")
    return value


def check_address(value: str) -> str:
    """Return http://host:port or https://host:port, without anything else."""
    if "@" in value:
        raise ValueError("an address has no user name and no password; workers check VLIBRARY_WORKER_TOKEN")
    parts = re.fullmatch(rf"https?://{_HOST}(:([0-9]{{1,5}}))?/?", value, re.IGNORECASE)
    if parts is None or not 1 <= int(parts[4] or 80) <= 65_535:
        raise ValueError(f"{value!r:.120} is not an address; use http://host:port, separated by commas")
    return value.rstrip("/")


def check_endpoint(value: str) -> str:
    """Return the URL of an S3 server."""
    url = _split(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or " " in value:
        raise ValueError("it should be http://host:port or https://host, without user name and password")
    return value


def check_token(value: str) -> str:
    """Return a secret that an HTTP header can carry."""
    if not _PRINTABLE.fullmatch(value):
        raise ValueError("it should be at least 8 printable ASCII characters")
    return value


def check_location(value: str) -> str:
    """Return a folder's path or s3://bucket/prefix."""
    if not value.strip() or "\0" in value:
        raise ValueError("it should be the path of a folder, or s3://bucket/prefix")
    if not _SCHEME.match(value):
        return value
    url = _split(value)
    if not value.startswith("s3://") or url.query or url.fragment or "@" in url.netloc:
        raise ValueError("it should be the path of a folder, or s3://bucket/prefix")
    if not _BUCKET.fullmatch(url.netloc):
        raise ValueError("a bucket's name has 3 to 63 lower-case letters, digits, dots and dashes: s3://bucket/prefix")
    return value


def check_database_url(value: str) -> str:
    """Return the URL of a SQLite file or of a PostgreSQL database. The message never repeats the value."""
    scheme, separator, rest = value.partition("://")
    if scheme in ("postgres", "postgresql") and separator:
        raise ValueError(f"write postgresql+psycopg:// instead of {scheme}://")
    if scheme == "sqlite" and separator:
        if rest in ("", "/") or ":memory:" in rest:
            raise ValueError(f"a database in memory would be lost; use {_DATABASES}")
        if not rest.startswith("/"):
            raise ValueError("the path after sqlite:// begins with a slash: sqlite:////absolute/path/file.db")
        return value
    if scheme != "postgresql+psycopg" or not separator:
        raise ValueError(f"it should be {_DATABASES}")
    return _check_postgres(value, rest)


def _check_postgres(value: str, rest: str) -> str:
    if rest.count("@") > 1:
        raise ValueError("its password contains a character that must be written as %40 (@), %2F (/) or %3A (:)")
    url = _split(value)
    try:
        named = bool(url.path.strip("/")) and url.port != 0
    except ValueError:
        named = False
    if not named:
        raise ValueError("it should be postgresql+psycopg://user:password@host:port/name")
    return value


def mask_passwords(text: str) -> str:
    """Return the text with *** for what may be a user's password in a URL."""
    return re.sub(r"://\S*@", "://***@", text)


def _split(value: str) -> SplitResult:
    try:
        return urlsplit(value)
    except ValueError:
        raise ValueError("it is not a valid URL") from None
