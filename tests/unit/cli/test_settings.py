"""Settings that people get wrong: each is refused with its variable, its value and what is allowed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import run
from vlibrary.cli.demo.service_process import demo_environment
from vlibrary.config import Settings, read_settings, settings_in_force, variable
from vlibrary.config_values import check_location, mask_passwords
from vlibrary.domain.errors import InvalidSetting
from vlibrary.worker.bootstrap import open_embedder, open_lvlm

SECRET = "secretpw"
# The settings, and what the message says besides the variable.
WRONG = {
    "VLIBRARY_PORT=99999": "'99999': it should be less than or equal to 65535",
    "VLIBRARY_PORT=abc": "'abc': it should be a valid integer",
    "VLIBRARY_PORT=tcp://10.0.0.1:8000": "enableServiceLinks",
    "VLIBRARY_DEVICE=gpu0": "'gpu0': it should be cpu, cuda",
    "VLIBRARY_DEVICE=meta": "it should be cpu, cuda",
    "VLIBRARY_DTYPE=int8": "'int8'",
    "VLIBRARY_SLOTS=0": "greater than or equal to 1",
    "VLIBRARY_SLOTS=65536": "less than or equal to 8192",
    "VLIBRARY_MAX_BATCH=1024": "VLIBRARY_KV_TOKENS is 65536, too few",
    "VLIBRARY_KV_TOKENS=64": "VLIBRARY_KV_TOKENS is 64, too few for VLIBRARY_MAX_BATCH=16",
    "VLIBRARY_COMPILE=maybe": "'maybe': it should be true or false.",
    "VLIBRARY_TIMEOUT_S=0": "greater than 0",
    "VLIBRARY_TIMEOUT_S=nan": "finite number",
    "VLIBRARY_GRACE_S=inf": "finite number",
    "VLIBRARY_GRACE_S=1e9": "less than or equal to 86400",
    "VLIBRARY_WORKER_WAIT_S=inf": "finite number",
    "VLIBRARY_MAX_INSIDE=0": "greater than or equal to 1",
    "VLIBRARY_WORKERS=http://a b:1": "'http://a b:1' is not an address",
    "VLIBRARY_WORKERS=http://a:99999": "is not an address",
    "VLIBRARY_WORKERS=http://a:1/x": "is not an address",
    "VLIBRARY_WORKERS=http://user:secretpw@127.0.0.1:1": "no user name and no password",
    "VLIBRARY_WORKER_TOKEN=short": "at least 8 printable ASCII characters",
    "VLIBRARY_WORKER_TOKEN=ünïcödé-token": "at least 8 printable ASCII characters",
    "VLIBRARY_WORKER_TOKEN=secretpw\n": "at least 8 printable ASCII characters",
    "VLIBRARY_DATABASE_URL=postgres://u:secretpw@h/d": "write postgresql+psycopg://",
    "VLIBRARY_DATABASE_URL=postgresql://u:secretpw@h/d": "write postgresql+psycopg://",
    "VLIBRARY_DATABASE_URL=postgresql+psycopg2://u:secretpw@h/d": "it should be sqlite",
    "VLIBRARY_DATABASE_URL=postgresql+psycopg://u:secretpw@h": "host:port/name",
    "VLIBRARY_DATABASE_URL=postgresql+psycopg://u:secretpw@h:port/d": "host:port/name",
    "VLIBRARY_DATABASE_URL=postgresql+psycopg://u:secret@secretpw@h/d": "%40",
    "VLIBRARY_DATABASE_URL=mysql://u:secretpw@h/d": "it should be sqlite",
    "VLIBRARY_DATABASE_URL=garbage": "it should be sqlite",
    "VLIBRARY_DATABASE_URL=sqlite://": "a database in memory would be lost",
    "VLIBRARY_DATABASE_URL=sqlite:///:memory:": "a database in memory would be lost",
    "VLIBRARY_DATABASE_URL=sqlite://catalogue.db": "sqlite:////absolute",
    "VLIBRARY_ARTIFACTS=s3://": "3 to 63",
    "VLIBRARY_ARTIFACTS=s3:/bucket/prefix": "s3://bucket/prefix",
    "VLIBRARY_ARTIFACTS=s3:bucket": "s3://bucket/prefix",
    "VLIBRARY_ARTIFACTS=gs://b/p": "s3://bucket/prefix",
    "VLIBRARY_ARTIFACTS=file:///tmp/x": "the path of a folder",
    "VLIBRARY_ARTIFACTS=s3://b/p": "3 to 63",
    "VLIBRARY_ARTIFACTS=s3://Bucket/p": "lower-case",
    "VLIBRARY_ARTIFACTS=s3://key:secretpw@bucket/p": "s3://bucket/prefix",
    "VLIBRARY_SNAPSHOTS=https://bucket/p": "s3://bucket/prefix",
    "VLIBRARY_SNAPSHOT_S=-1": "greater than 0",
    "VLIBRARY_S3_ENDPOINT_URL=localhost:9000": "http://host:port",
    "VLIBRARY_S3_ENDPOINT_URL=http://localhost:9000": "neither VLIBRARY_ARTIFACTS nor",
    "VLIBRARY_MAX_REQUEST_BYTES=96MiB": "'96MiB': it should be a valid integer",
    "VLIBRARY_MAX_REQUEST_BYTES=1": "greater than or equal to 65536",
    "VLIBRARY_MAX_REQUEST_BYTES=1000000": "VLIBRARY_MAX_ARTIFACT_BYTES is 67108864",
    "VLIBRARY_MAX_BODIES_BYTES=1000000": "at least VLIBRARY_MAX_REQUEST_BYTES",
    "VLIBRARY_IMAGE_FORMATS=heic": "'heic'",
    "VLIBRARY_CORS_ORIGINS=example.org": "'example.org' is not an origin",
    "VLIBRARY_DATABSE_URL=postgresql+psycopg://u:secretpw@h/d": "Did you mean VLIBRARY_DATABASE_URL?",
    "VLIBRARY_ARTEFACTS=s3://x/y": "Did you mean VLIBRARY_ARTIFACTS?",
    "VLIBRARY_WORKER=http://a:1": "Did you mean VLIBRARY_WORKER",
    "vlibrary_dta_dir=x": "Did you mean VLIBRARY_DATA_DIR?",
    "VLIBRARY_WORKER_TOKEN_FILE=/nowhere": "cannot be read",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, _, value = case.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as refused:
        read_settings()
    message = str(refused.value)
    assert name in message
    assert WRONG[case] in message
    assert SECRET not in message
    assert refused.value.__cause__ is None or "cannot be read" in message
    assert "Input should" not in message


def test_a_wrong_setting_ends_a_command_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLIBRARY_PORT", "abc")
    code = run("settings")
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert shown.err.startswith("Invalid setting. VLIBRARY_PORT is 'abc': ")


@pytest.mark.parametrize("name", ["VLIBRARY_LVLM", "VLIBRARY_EMBEDDER"])
@pytest.mark.parametrize("value", ["/nonexistent", "./nonexistent", "~/nonexistent"])
def test_a_model_folder_that_is_missing_is_refused(name: str, value: str) -> None:
    field = name.removeprefix("VLIBRARY_").lower()
    settings = Settings.model_validate({field: value})
    with pytest.raises(InvalidSetting, match=f"{name} is '{value}', which is not a folder"):
        (open_lvlm if field == "lvlm" else open_embedder)(settings)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="VLIBRARY_DEVICE is 'xpu:99'"):
        open_lvlm(Settings(device="xpu:99"))


GOOD = {
    "VLIBRARY_DATABASE_URL": [
        "sqlite:////a/b.db",
        "sqlite:///b.db",
        "postgresql+psycopg://u:p%40@h:5432/d",
        "postgresql+psycopg:///d?host=/run/postgresql",
        "postgresql+psycopg://u@[::1]/d",
    ],
    "VLIBRARY_ARTIFACTS": ["/a/b", "relative", "s3://bucket", "s3://bucket.name/prefix/more", "./a:b"],
    "VLIBRARY_DEVICE": ["cpu", "cuda", "cuda:7", "mps"],
    "VLIBRARY_WORKERS": ["http://a:1", "https://a.example/", "http://[::1]:9000", "http://10.0.0.7:9000,http://b"],
    "VLIBRARY_WORKER_TOKEN": ["a" * 8, "!#~=/+long"],
    "VLIBRARY_PORT_8000_TCP": ["tcp://10.0.0.1:8000"],
    "VLIBRARY_SERVICE_HOST": ["10.0.0.1"],
    "VLIBRARY_URL": ["http://a"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_a_right_setting_is_accepted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    read_settings()


@given(st.text(max_size=40))
def test_any_location_is_a_folder_or_a_bucket(value: str) -> None:
    with suppress(ValueError):
        accepted = check_location(value)
        assert accepted.startswith("s3://") or "://" not in accepted


@given(st.text(max_size=30), st.text("QXZ", min_size=8), st.text(max_size=20))
def test_the_message_about_a_database_never_has_its_password(before: str, password: str, after: str) -> None:
    for value in (f"{before}{password}{after}", f"postgresql+psycopg://{before}:{password}@{after}"):
        with suppress(InvalidSetting):
            read_settings(database_url=value)
            continue
        with pytest.raises(InvalidSetting) as refused:
            read_settings(database_url=value)
        assert password not in str(refused.value)


def test_secrets_may_be_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n".replace(" ", "-"))
    monkeypatch.setenv("VLIBRARY_WORKER_TOKEN_FILE", str(tmp_path / "token"))
    assert read_settings().shared_token == "from-a-file"
    monkeypatch.setenv("VLIBRARY_WORKER_TOKEN", "from-the-environment")
    with pytest.raises(InvalidSetting, match="VLIBRARY_WORKER_TOKEN and VLIBRARY_WORKER_TOKEN_FILE are both set"):
        read_settings()


def test_settings_in_force_have_sources_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "url").write_text(f"postgresql+psycopg://u:{SECRET}@h/d")
    monkeypatch.setenv("VLIBRARY_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("VLIBRARY_WORKER_TOKEN", SECRET)
    monkeypatch.setenv("VLIBRARY_PORT", "8001")
    found = {one.variable: one for one in settings_in_force()}
    assert set(found) == {variable(name) for name in Settings.model_fields}
    assert (found["VLIBRARY_PORT"].value, found["VLIBRARY_PORT"].source) == ("8001", "environment")
    assert (found["VLIBRARY_HOST"].value, found["VLIBRARY_HOST"].source) == ("127.0.0.1", "default")
    url = found["VLIBRARY_DATABASE_URL"]
    assert (url.value, url.source) == ("postgresql+psycopg://***@h/d", "file")
    assert run("settings", "--json") == 0
    shown = capsys.readouterr().out
    assert len(json.loads(shown)) == len(found)
    assert SECRET not in shown


@pytest.mark.parametrize("text", [f"a://u:{SECRET}@h/d", f"a://{SECRET}@b@h", f"x a://u:{SECRET}@h y"])
def test_passwords_in_addresses_are_masked(text: str) -> None:
    assert SECRET not in mask_passwords(text)


def test_the_demo_has_its_own_stores_and_models(tmp_path: Path) -> None:
    shell = {variable(name): "production" for name in Settings.model_fields} | {"PATH": "/bin", "vlibrary_lvlm": "x"}
    kept = {"PATH": "/bin", "VLIBRARY_CACHE_DIR": "production"}
    assert demo_environment(shell, tmp_path) == kept | {"VLIBRARY_DATA_DIR": str(tmp_path)}


def test_an_option_that_is_left_out_does_not_hide_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLIBRARY_CACHE_DIR", str(tmp_path))
    assert read_settings(cache_dir=None).cache_dir == tmp_path
    assert read_settings(cache_dir=tmp_path / "other").cache_dir == tmp_path / "other"
