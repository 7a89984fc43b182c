"""`vlibrary work`: a worker in its own process."""

from __future__ import annotations

from typing import Annotated

import typer

from vlibrary.cli.output import errors, print_text
from vlibrary.cli.serve import configure_logging
from vlibrary.cli.sockets import bind_sockets, format_host
from vlibrary.config import read_settings


def work(
    model: Annotated[
        str | None,
        typer.Option(
            help='Folder or Hugging Face id of the model, or "bundled"',
            show_default="$VLIBRARY_LVLM or bundled",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on", show_default="$VLIBRARY_WORKER_HOST or 127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on", show_default="$VLIBRARY_WORKER_PORT or 9000")
    ] = None,
) -> None:
    """Start a worker, which holds one model and its vectors.

    Services that name it in VLIBRARY_WORKERS send it their requests; both must use the same artifact store. Settings
    are the same VLIBRARY_* variables as for `vlibrary serve`. VLIBRARY_WORKER_TOKEN is required if other machines can
    reach the address.
    """
    # Imported here because the model libraries take seconds to load, which would delay `vlibrary --help`.
    from vlibrary.worker.bootstrap import open_server

    settings = read_settings(lvlm=model, worker_host=host, worker_port=port)
    configure_logging(json=settings.log_json)
    server, loading = open_server(settings)
    address = f"http://{format_host(settings.worker_host)}:{settings.worker_port}"
    variables = "VLIBRARY_WORKER_HOST, VLIBRARY_WORKER_PORT"
    with bind_sockets(settings.worker_host, settings.worker_port, variables=variables) as sockets:
        print_text(f"Worker on {address} · ready when /readyz says so · stop with Ctrl+C", on=errors)
        server.run(sockets)
    if loading.failure is not None:
        raise loading.failure
