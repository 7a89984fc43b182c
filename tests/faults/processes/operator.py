"""Runs an operator command in its own process, on the stores of a cycle, with an optional failpoint."""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from tests.faults.processes.api_process import Died
from tests.faults.processes.app import Life
from tests.faults.processes.failpoints import Steps
from tests.faults.processes.shifted_clocks import LaterStore, later_catalogue
from tests.support.memory.worker import EMBEDDER
from vlibrary import bootstrap, cli
from vlibrary.bootstrap import OpenStores, open_operator_stores
from vlibrary.cli import doctor
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.library.publish import DEADLINE

PATIENCE_S = 60.0
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class CommandResult:
    """Result of a command. code: exit status, None if it was killed. output: everything it printed."""

    code: int | None
    output: str
    struck: str | None


def vlibrary(life: Life, *arguments: str, ahead: timedelta = timedelta(0)) -> CommandResult:
    """Run `vlibrary` with these arguments until it ends, or until the failpoint strikes.

    ahead: how far the stores' clocks are ahead, for collectors. Raises Died if the command does not end.
    """
    process = _CONTEXT.Process(target=_run, args=(life, arguments, ahead), daemon=True)
    process.start()
    try:
        process.join(PATIENCE_S)
        code = process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()
    if code is None:
        raise Died(f"vlibrary {' '.join(arguments)} goes on and on")
    return CommandResult(code if code >= 0 else None, life.log.read_text(), _content(life.struck))


def _run(life: Life, arguments: tuple[str, ...], ahead: timedelta) -> None:
    """Run the command with watched steps, and an embedder without a model."""
    os.environ.update({**life.environment, **_settings(life)})
    steps = Steps(life.failpoint, life.struck)
    steps.watch_sql()
    steps.watch_files()

    def opened(**how: Any) -> OpenStores:
        stores = _later(open_operator_stores(**how), ahead) if ahead else open_operator_stores(**how)
        return replace(
            stores,
            catalogue=steps.watch_catalogue(stores.catalogue),
            artifacts=steps.watch_port(stores.artifacts, "artifacts"),
        )

    # Commands import it when they run. setattr, because mypy refuses an assignment to a module's function.
    setattr(bootstrap, "open_operator_stores", opened)  # noqa: B010
    setattr(doctor, "_open_embedder", lambda _stores: EMBEDDER)  # noqa: B010
    sys.argv = ["vlibrary", *arguments]
    with life.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        cli.main()


def _later(stores: OpenStores, ahead: timedelta) -> OpenStores:
    artifacts = LaterStore(stores.artifacts, ahead)
    catalogue = later_catalogue(stores.catalogue, max(DEADLINE - ahead, timedelta(0)))
    return replace(stores, catalogue=catalogue, artifacts=cast("Artifacts", artifacts))


def _settings(life: Life) -> dict[str, str]:
    given = {
        "VLIBRARY_DATA_DIR": str(life.data_dir),
        "VLIBRARY_DATABASE_URL": life.database_url,
        "VLIBRARY_ARTIFACTS": life.artifacts,
        "VLIBRARY_SNAPSHOTS": life.snapshots,
        "VLIBRARY_S3_ENDPOINT_URL": life.s3_endpoint_url,
    }
    return {name: value for name, value in given.items() if value is not None}


def _content(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        return path.read_text()
    return None
