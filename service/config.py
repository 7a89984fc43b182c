"""Settings, read once from VLIBRARY_* environment variables, and their reference page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vlibrary.config_values import (
    check_address,
    check_database_url,
    check_device,
    check_endpoint,
    check_location,
    check_token,
    mask_passwords,
)
from vlibrary.domain.errors import InvalidSetting
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS, IMAGE_FORMATS
from vlibrary.domain.steering import Mode

BUNDLED = "bundled"
SMOL_LLAVA = "smol-llava"


def _image_format(value: str) -> str:
    """Return the format in the spelling of IMAGE_FORMATS."""
    name = {"JPG": "JPEG", "TIF": "TIFF"}.get(value.upper(), value.upper())
    if name not in IMAGE_FORMATS:
        raise ValueError(f"{value!r} is not one of {', '.join(IMAGE_FORMATS)}")
    return name


class _Group(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="VLIBRARY_", frozen=True, extra="ignore", env_ignore_empty=True, allow_inf_nan=False
    )


class StoreSettings(_Group):
    """Stores. Credentials and region of S3 come from boto3's own variables, such as AWS_ACCESS_KEY_ID."""

    data_dir: Path = Field(default=Path("vlibrary-data"), description="folder of the stores that are not set below")
    database_url: Annotated[str, AfterValidator(check_database_url)] | None = Field(
        default=None, description="SQLAlchemy URL; by default a SQLite file in data_dir"
    )
    database_pool: int = Field(default=15, ge=1, le=1_000, description="maximum database connections of a process")
    database_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=3_600,
        description="seconds that a request waits for a connection, for other writers and, on PostgreSQL, for a "
        "statement; then it gets 503",
    )
    artifacts: Annotated[str, AfterValidator(check_location)] | None = Field(
        default=None, description="folder or s3://bucket/prefix; by default a folder in data_dir"
    )
    s3_endpoint_url: Annotated[str, AfterValidator(check_endpoint)] | None = Field(
        default=None, description="S3 endpoint, for servers other than AWS"
    )
    snapshots: Annotated[str, AfterValidator(check_location)] | None = Field(
        default=None,
        description="folder or s3://bucket/prefix for snapshots of the task index, with a prefix of its own; "
        "by default a folder in data_dir",
    )
    snapshot_changes: int = Field(
        default=10_000, ge=1, le=10**9, description="write a snapshot after this many changes"
    )
    snapshot_s: float = Field(
        default=300.0, gt=0, le=31_536_000, description="write a snapshot when a change is this old, in seconds"
    )


class ModelSettings(_Group):
    """Models."""

    lvlm: str = Field(default=BUNDLED, description='model: a folder, a Hugging Face id, "bundled" or "smol-llava"')
    cache_dir: Path | None = Field(
        default=None,
        description="folder of assembled models; by default `vlibrary` in `$XDG_CACHE_HOME` or `~/.cache`",
    )
    model_name: str | None = Field(
        default=None, min_length=1, description="name of the served model; by default the hub id or the folder's name"
    )
    embedder: str = Field(default=BUNDLED, description='query embedder: a folder, a Hugging Face id, or "bundled"')
    embedding_cache_mb: int = Field(
        default=64, ge=0, le=2**20, description="host memory for cached embeddings of texts and images, in MiB"
    )
    device: Annotated[str, AfterValidator(check_device)] = Field(
        default="cpu", description="torch device, such as cpu or cuda:0"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="type of the weights")
    threads: int = Field(default=0, ge=0, le=1_024, description="CPU threads of the model; 0 lets torch choose")
    slots: int = Field(default=64, ge=1, le=8_192, description="vectors held on the device, ready to be applied")
    image_formats: Annotated[tuple[Annotated[str, AfterValidator(_image_format)], ...], NoDecode] = Field(
        default=DEFAULT_IMAGE_FORMATS,
        min_length=1,
        description="accepted image formats, separated by commas, out of " + ", ".join(IMAGE_FORMATS),
    )


class EngineSettings(_Group):
    """Engine."""

    engine: Literal["inflight", "static"] = Field(
        default="inflight",
        description="inflight: requests join the batch at every token; static: fixed batches",
    )
    compile: bool = Field(default=False, description="compile decode steps; adds about a minute to the start")
    max_batch: int = Field(default=16, ge=1, le=1024, description="maximum requests in the running batch")
    max_waiting: int = Field(default=64, ge=1, le=10**6, description="maximum waiting requests; further ones get 429")
    kv_tokens: int = Field(
        default=65_536,
        ge=64,
        le=2**24,
        description="size of the KV cache in tokens: rows × the longest prompt and answer",
    )
    prefill_tokens: int = Field(default=4_096, ge=1, le=2**24, description="maximum prompt tokens of one prefill pass")
    prepared_mb: int = Field(default=2_048, ge=1, le=2**20, description="host memory for prepared prompts, in MiB")
    image_cache_mb: int = Field(
        default=256, ge=0, le=2**20, description="device memory for cached image features, in MiB"
    )


class WorkerSettings(_Group):
    """Workers."""

    workers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="addresses of workers, separated by commas; without any, the api runs the model itself"
    )
    worker_token: SecretStr | None = Field(default=None, description="secret shared by the api and its workers")
    worker_wait_s: float = Field(
        default=120.0, gt=0, le=86_400, description="how long `vlibrary doctor --deep` waits for a worker, in seconds"
    )
    worker_host: str = Field(default="127.0.0.1", description="address on which `vlibrary work` listens")
    worker_port: int = Field(default=9000, ge=0, le=65_535, description="port on which `vlibrary work` listens")
    worker_grace_s: float = Field(
        default=30.0, ge=0, le=86_400, description="seconds for running requests after SIGTERM"
    )


class HttpSettings(_Group):
    """HTTP."""

    host: str = Field(default="127.0.0.1", description="address on which `vlibrary serve` listens")
    port: int = Field(default=8000, ge=0, le=65_535, description="port on which `vlibrary serve` listens")
    allow_remote: bool = Field(
        default=False,
        description="listen on an address that other machines can reach, although the service has no authentication",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("private",),
        min_length=1,
        description="host names that requests may name, separated by commas, such as example.org or *.example.org; "
        "private: IP addresses and names without a dot, which no page on the internet has; *: all; localhost and "
        "127.0.0.1 are always allowed",
    )
    max_artifact_bytes: int = Field(
        default=64 * 2**20, ge=1, le=2**34, description="maximum size of an artifact, in bytes"
    )
    max_card_bytes: int = Field(default=4 * 2**20, ge=1, le=2**34, description="maximum size of a card, in bytes")
    max_request_bytes: int = Field(
        default=96 * 2**20, ge=65_536, le=2**34, description="maximum size of a request body, in bytes"
    )
    max_bodies_bytes: int = Field(
        default=256 * 2**20,
        ge=65_536,
        le=2**40,
        description="maximum size of all request bodies in memory, in bytes; others get 429",
    )
    max_connections: int = Field(
        default=1_000, ge=1, le=10**6, description="maximum open connections; idle ones make room for new ones"
    )
    max_inside: int = Field(
        default=256,
        ge=1,
        le=10**6,
        description="maximum concurrent requests; further ones wait up to a second for a place, or get 429",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("localhost",),
        description="origins of web pages that may call the service, separated by commas, such as "
        "https://example.org; other pages can neither read nor write; localhost: pages served from the "
        "browser's own computer; *: all pages; none: no page",
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        le=3_600,
        description="seconds after SIGTERM in which the service still accepts requests but is not ready, so that load "
        "balancers notice",
    )
    grace_s: float = Field(default=30.0, ge=0, le=86_400, description="seconds for running requests after SIGTERM")
    timeout_s: float = Field(
        default=120.0, gt=0, le=600, description="seconds for an answer, unless the request sets timeout_s"
    )


class SteeringSettings(_Group):
    """Steering."""

    default_steering: Mode = Field(
        default=Mode.AUTO,
        description="auto or off: how a request is steered that names a base model, or no model, and no steering",
    )


class LogSettings(_Group):
    """Logging."""

    log_json: bool = Field(default=False, description="write log lines as JSON")


# May be in files, which VLIBRARY_..._FILE names.
SECRETS = ("database_url", "worker_token")
# Of the client, of tests, of compose, and what Kubernetes adds for a Service called vlibrary.
_OTHERS = re.compile(
    r"VLIBRARY_(URL|ACTOR|TARGET|TEST_\w+|SERVICE_(HOST|PORT)(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)"
)
# The least that a row of the running batch needs for an image, a question and an answer.
MIN_ROW_TOKENS = 256
GROUPS = (StoreSettings, ModelSettings, EngineSettings, WorkerSettings, SteeringSettings, HttpSettings, LogSettings)


class Settings(
    StoreSettings, ModelSettings, EngineSettings, WorkerSettings, SteeringSettings, HttpSettings, LogSettings
):
    """The settings of one process, frozen; the defaults need no other server."""

    @field_validator("workers", "image_formats", "cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [
            one
            for one in value
            if one not in ("localhost", "*", "none") and not re.fullmatch(r"https?://[^/?#@\s]+", one, re.IGNORECASE)
        ]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not an origin; use https://host, http://host:port, localhost, * or none")
        if "none" in value and len(value) > 1:
            raise ValueError("none excludes other origins")
        # Browsers send the origin in lower case.
        return () if value == ("none",) else tuple(one.lower() for one in value)

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [one for one in value if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", one)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a host name without port; use example.org, *.example.org or private")
        return tuple(one.lower() for one in value)

    @field_validator("workers")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        value = tuple(map(check_address, value))
        if len(set(value)) != len(value):
            raise ValueError("duplicate address")
        return value

    @field_validator("worker_token")
    @classmethod
    def _is_token(cls, value: SecretStr | None) -> SecretStr | None:
        return value and SecretStr(check_token(value.get_secret_value()))

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        """Raise ValueError for values that are valid each, but not together."""
        for name in ("max_artifact_bytes", "max_card_bytes"):
            if getattr(self, name) > self.max_request_bytes:
                raise ValueError(
                    f"{variable(name)} is {getattr(self, name)}, but VLIBRARY_MAX_REQUEST_BYTES is "
                    f"{self.max_request_bytes}, so no such upload could arrive; raise the latter or lower the former"
                )
        if self.max_bodies_bytes < self.max_request_bytes:
            raise ValueError(
                f"VLIBRARY_MAX_BODIES_BYTES is {self.max_bodies_bytes}; it should be at least "
                f"VLIBRARY_MAX_REQUEST_BYTES, which is {self.max_request_bytes}"
            )
        if self.kv_tokens < MIN_ROW_TOKENS * self.max_batch:
            raise ValueError(
                f"VLIBRARY_KV_TOKENS is {self.kv_tokens}, too few for VLIBRARY_MAX_BATCH={self.max_batch} requests; it "
                f"should be at least {MIN_ROW_TOKENS} for each, {MIN_ROW_TOKENS * self.max_batch}"
            )
        if self.s3_endpoint_url and not any(
            place is not None and place.startswith("s3://") for place in (self.artifacts, self.snapshots)
        ):
            raise ValueError(
                f"VLIBRARY_S3_ENDPOINT_URL is {self.s3_endpoint_url!r}, but neither VLIBRARY_ARTIFACTS nor "
                "VLIBRARY_SNAPSHOTS is s3://bucket/prefix, so vectors would be stored in a folder"
            )
        return self

    @property
    def shared_token(self) -> str | None:
        return None if self.worker_token is None else self.worker_token.get_secret_value()

    @property
    def catalogue_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'catalogue.db').resolve()}"

    @property
    def artifacts_place(self) -> str:
        return self.artifacts or str((self.data_dir / "artifacts").resolve())

    @property
    def models_cache(self) -> Path:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return (self.cache_dir or Path(caches, "vlibrary")).expanduser().absolute() / "models"

    @property
    def snapshots_cache(self) -> Path:
        """The local folder of snapshots, used as a cache when they are in an object store."""
        return self.data_dir / "snapshots"

    @property
    def snapshots_place(self) -> str:
        return self.snapshots or str(self.snapshots_cache.resolve())

    @property
    def beside_artifacts(self) -> tuple[str, ...]:
        """The locations that must not overlap with the artifact store."""
        return self.snapshots_place, str(self.snapshots_cache), self.catalogue_url


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"VLIBRARY_{name.upper()}"


def read_settings(**overrides: Any) -> Settings:
    """Return the settings from the environment, with overrides. None, an option left out, is no override.

    Raises InvalidSetting that names the wrong variable, its value and what is allowed; unknown variables are wrong too.
    """
    _check_names(os.environ)
    try:
        given = {name: value for name, value in overrides.items() if value is not None}
        return Settings(**(_read_secret_files() | given))
    except ValidationError as error:
        wrong = "; ".join(map(_describe, error.errors(include_url=False)))
    cure = "Fix or unset the variable; see docs/reference/settings.md."
    if os.environ.get("VLIBRARY_PORT", "").startswith("tcp://"):
        cure = "Kubernetes sets VLIBRARY_PORT for a Service of this name: set enableServiceLinks: false in the pod."
    # Without the cause, which contains values such as passwords.
    raise InvalidSetting(f"{wrong}.", cure)


@dataclass(frozen=True)
class InForce:
    """A setting with its effective value. value: as text, masked if it is secret. source: where it comes from."""

    variable: str
    value: str
    source: Literal["default", "environment", "file"]


def settings_in_force() -> list[InForce]:
    """Return every setting of the environment. Raises InvalidSetting."""
    settings = read_settings()
    found = []
    given = {name.upper() for name, value in os.environ.items() if value}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        text = _as_text(value)
        source: Literal["default", "environment", "file"] = "default"
        if variable(name) in given:
            source = "environment"
        elif f"{variable(name)}_FILE" in given:
            source = "file"
        found.append(InForce(variable(name), mask_passwords(text), source))
    return found


def _check_names(environment: Mapping[str, str]) -> None:
    """Raise InvalidSetting for a variable that looks like a setting and is none."""
    known = {variable(name) for name in Settings.model_fields} | {f"{variable(name)}_FILE" for name in SECRETS}
    for name in sorted(environment):
        if not name.upper().startswith("VLIBRARY_") or name.upper() in known or _OTHERS.fullmatch(name.upper()):
            continue
        near = get_close_matches(name.upper(), known, n=1, cutoff=0.5)
        raise InvalidSetting(
            f"{name} is not a setting.",
            f"Did you mean {near[0]}? " * bool(near) + "Unset it; docs/reference/settings.md lists all settings.",
        )


def _read_secret_files() -> dict[str, str]:
    """Return the secrets that are in files. Raises InvalidSetting."""
    found = {}
    for name in SECRETS:
        path = os.environ.get(f"{variable(name)}_FILE")
        if not path:
            continue
        if os.environ.get(variable(name)):
            raise InvalidSetting(f"{variable(name)} and {variable(name)}_FILE are both set.", "Set one of them.")
        try:
            found[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise InvalidSetting(
                f"{variable(name)}_FILE is {path!r:.200}, which cannot be read: {reason}.",
                "Name a file that this process can read.",
            ) from error
    return found


def _describe(error: ErrorDetails) -> str:
    """Return what is wrong, with the variable and its value unless it is secret."""
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "it should be").rstrip(".")
    message = message.partition(", unable to")[0].replace("a valid boolean", "true or false")
    if not error["loc"]:  # of several settings
        return message
    name = str(error["loc"][0])
    value = error["input"]
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    shown = "not valid" if name in SECRETS else mask_passwords(repr(text))
    return f"{variable(name)} is {shown:.200}: {message}"


def _as_text(value: Any) -> str:
    """Return the value as a variable has it; empty for None."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    lines = [
        "# Settings",
        "",
        "Settings are environment variables. Each process reads them once at start; an invalid value stops",
        "it with exit code 2 and a message that names the variable. So does a VLIBRARY_ variable that is not listed",
        "here. `vlibrary settings` shows the effective values and where each comes from. Secrets may be in files:",
        "`VLIBRARY_DATABASE_URL_FILE` and `VLIBRARY_WORKER_TOKEN_FILE` name them. This page is generated from",
        "`service/config.py` by `make docs`.",
    ]
    for group in GROUPS:
        title, _, note = (group.__doc__ or "").partition(".")
        lines += ["", f"## {title}", "", *([note.strip(), ""] if note.strip() else [])]
        lines += ["| variable | default | meaning |", "|---|---|---|"]
        for name, field in group.model_fields.items():
            default = f"`{text}`" if (text := _as_text(field.default)) else ""
            lines.append(f"| `VLIBRARY_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201  standard output is the page
