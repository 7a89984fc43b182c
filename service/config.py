"""Settings: frozen, read once from VLIBRARY_* variables; a wrong value stops the process and names itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

BUNDLED = "bundled"


class Settings(BaseSettings):
    """One process's settings; the defaults need no other server.

    lvlm, embedder: a folder, a hub id, or "bundled" for the small models that ship with the package.
    database_url, artifacts: by default a SQLite file and a folder below data_dir; artifacts may be s3://bucket/prefix,
    with credentials and region as boto3 finds them (AWS_ACCESS_KEY_ID, ...).
    """

    model_config = SettingsConfigDict(env_prefix="VLIBRARY_", frozen=True, extra="ignore", env_ignore_empty=True)

    data_dir: Path = Path("vlibrary-data")
    database_url: str | None = None
    artifacts: str | None = None
    s3_endpoint_url: str | None = None

    lvlm: str = BUNDLED
    embedder: str = BUNDLED
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0 leaves the choice to torch")
    slots: int = Field(default=64, ge=1, le=65_536, description="vectors held ready beside the model")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    max_artifact_bytes: int = Field(default=64 * 2**20, ge=1)
    max_card_bytes: int = Field(default=4 * 2**20, ge=1)
    max_request_bytes: int = Field(default=96 * 2**20, ge=1)
    log_json: bool = False

    @property
    def catalogue_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'catalogue.db').resolve()}"

    @property
    def artifacts_place(self) -> str:
        return self.artifacts or str((self.data_dir / "artifacts").resolve())
