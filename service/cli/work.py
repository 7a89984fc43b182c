"""`vlibrary work`: one worker, in a process of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from vlibrary.bootstrap import read_settings
from vlibrary.cli.output import errors
from vlibrary.cli.serve import configure_logging
from vlibrary.cli.sockets import held


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(work)


def work(
    model: Annotated[str | None, typer.Option(help="Folder or hub id of the model, or bundled")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on")] = None,
) -> None:
    """Start a worker: one model with its vectors, for services that name it in VLIBRARY_WORKERS.

    Settings come from VLIBRARY_* variables, as for `vlibrary serve`; both must name the same artifact store. An address
    that other machines reach needs VLIBRARY_WORKER_TOKEN.
    """
    # The models' libraries load for seconds; the command line must not wait for them to print its help.
    from vlibrary.worker.bootstrap import open_server

    options = {"lvlm": model, "worker_host": host, "worker_port": port}
    settings = read_settings(**{name: value for name, value in options.items() if value is not None})
    configure_logging(json=settings.log_json)
    server, loading = open_server(settings)
    address = f"http://{settings.worker_host}:{settings.worker_port}"
    variables = "VLIBRARY_WORKER_HOST, VLIBRARY_WORKER_PORT"
    with held(settings.worker_host, settings.worker_port, variables=variables) as sockets:
        errors.print(f"Worker on {address} · ready when /readyz says so · stop with Ctrl+C")
        server.run(sockets)
    if loading.failure is not None:
        raise loading.failure
