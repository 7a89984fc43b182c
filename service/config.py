"""Settings: frozen, read once from VLIBRARY_* variables; a wrong value stops the process and names itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vlibrary.domain.errors import InvalidInput

BUNDLED = "bundled"


class Settings(BaseSettings):
    """One process's settings; the defaults need no other server.

    lvlm, embedder: a folder, a hub id, or "bundled" for the small models that ship with the package.
    database_url, artifacts: by default a SQLite file and a folder below data_dir; artifacts may be s3://bucket/prefix,
    with credentials and region as boto3 finds them (AWS_ACCESS_KEY_ID, ...).
    snapshots: where the task index is kept for a quick start, by default below data_dir too; in an object store, where
    every replica finds it, under a prefix that holds nothing else.
    workers: addresses of worker processes, separated by commas; without any, the api holds a worker itself.
    worker_host, worker_port: where `vlibrary work` listens.
    """

    model_config = SettingsConfigDict(env_prefix="VLIBRARY_", frozen=True, extra="ignore", env_ignore_empty=True)

    data_dir: Path = Path("vlibrary-data")
    database_url: str | None = None
    artifacts: str | None = None
    s3_endpoint_url: str | None = None
    snapshots: str | None = None
    snapshot_changes: int = Field(default=10_000, ge=1, description="changes after which the task index is kept")
    snapshot_s: float = Field(default=300.0, gt=0, description="how long a change waits until it is kept")

    lvlm: str = BUNDLED
    model_name: str | None = Field(
        default=None, min_length=1, description="name of the served model; by default the hub id or the folder's name"
    )
    embedder: str = BUNDLED
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0 leaves the choice to torch")
    slots: int = Field(default=64, ge=1, le=65_536, description="vectors held ready beside the model")

    engine: Literal["inflight", "static"] = "inflight"
    compile: bool = Field(default=False, description="compile decode steps; takes a minute at start, checked there")
    max_batch: int = Field(default=16, ge=1, le=1024, description="requests that decode together")
    max_waiting: int = Field(default=64, ge=1, description="requests that wait before others are refused")
    kv_tokens: int = Field(default=65_536, ge=64, description="KV cache: rows × the longest row's prompt and answer")
    prefill_tokens: int = Field(default=4_096, ge=1, description="prompt tokens of one prefill pass")
    prepared_mb: int = Field(default=2_048, ge=1, description="prepared prompts, pictures most of all, in host memory")
    image_cache_mb: int = Field(default=256, ge=0, description="image features kept beside the model")

    workers: Annotated[tuple[str, ...], NoDecode] = ()
    worker_token: SecretStr | None = Field(default=None, min_length=8, description="shared by the api and its workers")
    worker_wait_s: float = Field(
        default=120.0, gt=0, description="how long the api waits for its first worker at start"
    )
    worker_host: str = "127.0.0.1"
    worker_port: int = Field(default=9000, ge=0, le=65_535)
    worker_grace_s: float = Field(default=30.0, ge=0, description="what runs may take this long after SIGTERM")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    max_artifact_bytes: int = Field(default=64 * 2**20, ge=1)
    max_card_bytes: int = Field(default=4 * 2**20, ge=1)
    max_request_bytes: int = Field(default=96 * 2**20, ge=1)
    max_inside: int = Field(default=256, ge=1, description="requests inside the api before others are refused")
    grace_s: float = Field(default=30.0, ge=0, description="answers may take this long after SIGTERM")
    timeout_s: float = Field(default=120.0, gt=0, le=600, description="for answers whose request names no time")
    log_json: bool = False

    @field_validator("workers", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("workers")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [url for url in value if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no address; write http://host:port, separated by commas")
        if len(set(value)) != len(value):
            raise ValueError("an address occurs twice")
        return value

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
    def snapshots_cache(self) -> Path:
        """Where snapshots lie on this machine, also those that are kept in an object store."""
        return self.data_dir / "snapshots"

    @property
    def snapshots_place(self) -> str:
        return self.snapshots or str(self.snapshots_cache.resolve())

    @property
    def beside_artifacts(self) -> tuple[str, ...]:
        """The places that must not be part of the artifacts' place, nor it of them."""
        return self.snapshots_place, str(self.snapshots_cache), self.catalogue_url


def read_settings(**overrides: Any) -> Settings:
    """Return the settings from the environment, with overrides. Raises InvalidInput that names the wrong variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(f"VLIBRARY_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise InvalidInput(
            f"Invalid setting. {wrong}.", "Fix or unset the variable; see docs/reference/settings.md."
        ) from error
