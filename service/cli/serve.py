"""`vlibrary serve`: the api, with a worker in the same process unless others are named."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Annotated, Any

import structlog
import typer
from prometheus_client import CollectorRegistry

from vlibrary.bootstrap import read_settings
from vlibrary.cli.output import errors
from vlibrary.cli.sockets import held
from vlibrary.domain.ports import Artifacts, Worker


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on")] = None,
) -> None:
    """Start the service; without settings it needs no other server, no GPU and no download.

    Settings come from VLIBRARY_* variables: VLIBRARY_DATA_DIR, VLIBRARY_LVLM, VLIBRARY_DEVICE, VLIBRARY_ARTIFACTS ...
    With VLIBRARY_WORKERS=http://host:9000,... the models run in other processes (`vlibrary work`).
    """
    # The libraries load for seconds; the command line must not wait for them to print its help.
    from vlibrary.api.bootstrap import open_app
    from vlibrary.api.http.server import ApiServer

    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = read_settings(**given)
    configure_logging(json=settings.log_json)

    def open_own_worker(artifacts: Artifacts, registry: CollectorRegistry) -> Worker:
        # Imports torch, which the api does not need when its workers are other processes.
        from vlibrary.worker.bootstrap import open_worker

        return open_worker(settings, artifacts, registry)

    with held(settings.host, settings.port, variables="VLIBRARY_HOST, VLIBRARY_PORT") as sockets:
        app = open_app(settings, open_own_worker)
        errors.print(f"VLibrary on http://{settings.host}:{settings.port} · dashboard at /docs · stop with Ctrl+C")
        with suppress(KeyboardInterrupt):  # uvicorn raises Ctrl+C again when it has stopped
            ApiServer(app, address=settings.host, port=settings.port, grace_s=settings.grace_s).run(sockets)


def configure_logging(*, json: bool) -> None:
    """Events with fields on standard error, as lines for people or as JSON for machines."""
    logging.captureWarnings(capture=True)
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # The default one prints every frame's variables, pictures included, and takes seconds.
        exception_formatter=structlog.dev.plain_traceback,
    )
    shared: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if json:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(processors=[*shared, renderer], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
