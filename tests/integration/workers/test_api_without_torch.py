"""The API in a process without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_api_with_remote_workers_does_not_import_torch(tmp_path: Path) -> None:
    """Start as `vlibrary serve` does, with workers that are absent."""
    code = (
        "import sys; from vlibrary.bootstrap import read_settings; from vlibrary.api.bootstrap import open_app\n"
        "open_app(read_settings(), lambda *_: sys.exit('opened a worker in this process'))\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    environment = os.environ | {"VLIBRARY_DATA_DIR": str(tmp_path), "VLIBRARY_WORKERS": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
