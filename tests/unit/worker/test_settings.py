"""Settings of workers and of the API that uses them."""

from __future__ import annotations

import pytest

from vlibrary.config import Settings, read_settings
from vlibrary.domain.errors import InvalidInput
from vlibrary.worker.bootstrap import check_exposure, open_embedder, open_lvlm


def test_workers_are_addresses_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLIBRARY_WORKERS", " http://a:9000, https://b ,")
    assert read_settings().workers == ("http://a:9000", "https://b")
    monkeypatch.setenv("VLIBRARY_WORKERS", "")
    assert read_settings().workers == ()


@pytest.mark.parametrize("value", ["a:9000", "ftp://a", "http://", "http://a:9000,http://a:9000"])
def test_an_invalid_address_names_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VLIBRARY_WORKERS", value)
    with pytest.raises(InvalidInput, match="VLIBRARY_WORKERS"):
        read_settings()


def test_image_formats_are_names_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLIBRARY_IMAGE_FORMATS", "png, jpg,WebP, tif")
    assert read_settings().image_formats == ("PNG", "JPEG", "WEBP", "TIFF")
    for value in ("png,heic", ","):
        monkeypatch.setenv("VLIBRARY_IMAGE_FORMATS", value)
        with pytest.raises(InvalidInput, match="VLIBRARY_IMAGE_FORMATS"):
            read_settings()


def test_a_token_is_long_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLIBRARY_WORKER_TOKEN", "short")
    with pytest.raises(InvalidInput, match="VLIBRARY_WORKER_TOKEN") as caught:
        read_settings()
    assert "'short'" not in str(caught.value)
    monkeypatch.setenv("VLIBRARY_WORKER_TOKEN", "long enough")
    settings = read_settings()
    assert settings.shared_token == "long enough"
    assert "long enough" not in repr(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "worker.example"])
def test_a_worker_that_others_can_reach_needs_a_token(host: str) -> None:
    with pytest.raises(InvalidInput, match="needs a token") as caught:
        check_exposure(Settings(worker_host=host))
    assert "VLIBRARY_WORKER_TOKEN" in caught.value.cure
    check_exposure(Settings.model_validate({"worker_host": host, "worker_token": "long enough"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_a_worker_on_loopback_needs_no_token(host: str) -> None:
    check_exposure(Settings(worker_host=host))


@pytest.mark.parametrize("name", ["smol_llava", "SMOL-LLAVA", "smolllava", "Bundled", "bundeld"])
def test_a_misspelled_model_is_refused_before_a_hub_is_asked(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"VLIBRARY_LVLM is '{name}'") as caught:
        open_lvlm(Settings(lvlm=name))
    assert "Did you mean" in caught.value.cure


def test_a_misspelled_embedder_is_refused_before_a_hub_is_asked() -> None:
    with pytest.raises(InvalidInput, match="VLIBRARY_EMBEDDER is 'Bundled'"):
        open_embedder(Settings(embedder="Bundled"))
