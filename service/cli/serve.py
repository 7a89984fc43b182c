"""`vlibrary serve`: the api, with a worker in the same process unless the settings name others."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from vlibrary.cli.errors import errors_at_start
from vlibrary.cli.output import errors, print_text
from vlibrary.cli.sockets import bind_sockets, format_host
from vlibrary.config import Settings, read_settings
from vlibrary.domain.errors import InvalidSetting
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.inference import Worker
from vlibrary.http_common import is_loopback

if TYPE_CHECKING:  # an optional dependency
    from prometheus_client import CollectorRegistry


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on", show_default="$VLIBRARY_HOST or 127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on", show_default="$VLIBRARY_PORT or 8000")] = None,
) -> None:
    """Start the HTTP service.

    By default, it serves the bundled models on the CPU and stores its data in ./vlibrary-data. Change this with
    VLIBRARY_* variables such as VLIBRARY_DATA_DIR, VLIBRARY_LVLM, VLIBRARY_DEVICE and VLIBRARY_ARTIFACTS. With
    VLIBRARY_WORKERS=http://host:9000,... the models run in other processes (`vlibrary work`).
    """
    # Imported here because these libraries take seconds to load, which would delay `vlibrary --help`.
    from vlibrary.api.bootstrap import open_app
    from vlibrary.api.http.server import ApiServer, ConnectionLimits

    settings = read_settings(host=host, port=port)
    configure_logging(json=settings.log_json)
    check_exposure(settings)

    def open_own_worker(artifacts: Artifacts, registry: CollectorRegistry) -> Worker:
        # Imports torch, which the api does not need when its workers are other processes.
        from vlibrary.worker.bootstrap import open_worker

        return open_worker(settings, artifacts, registry)

    with bind_sockets(settings.host, settings.port, variables="VLIBRARY_HOST, VLIBRARY_PORT") as sockets:
        with errors_at_start():
            app = open_app(settings, open_own_worker)
        address = f"http://{format_host(settings.host)}:{settings.port}"
        print_text(f"VLibrary on {address} · dashboard at /docs · stop with Ctrl+C", on=errors)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
            server = ApiServer(
                app,
                address=settings.host,
                port=settings.port,
                grace_s=settings.grace_s,
                drain_s=settings.drain_s,
                limits=ConnectionLimits(settings.max_connections),
            )
            server.run(sockets)


def check_exposure(settings: Settings) -> None:
    """Raise InvalidSetting if other machines could use the service, which has no authentication, without permission."""
    if not settings.allow_remote and not is_loopback(settings.host):
        raise InvalidSetting(
            f"VLIBRARY_HOST (--host) is {settings.host!r}, so other machines could read, change and delete all "
            "vectors: the service has no authentication.",
            "Use 127.0.0.1 behind a proxy that checks who is calling, or set VLIBRARY_ALLOW_REMOTE=true if only "
            "trusted machines can reach it.",
        )


def configure_logging(*, json: bool) -> None:
    """Log events to standard error, as readable lines or as JSON."""
    logging.captureWarnings(capture=True)
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # The default formatter prints the variables of every frame, including images, and takes seconds.
        exception_formatter=structlog.dev.plain_traceback,
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,  # the id of the request
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if json:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    # Standard error is looked up for each event: a program that calls the command line may have replaced it since.
    structlog.configure(processors=[*shared, renderer], logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
