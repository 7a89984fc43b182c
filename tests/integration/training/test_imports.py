"""Imports that must stay light."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_tasks_does_not_import_torch() -> None:
    code = "import vlibrary.bundled.tasks, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
