"""The files of service/ that one `auto` POST /generate runs, and the functions in each: python -m tests.bench.trace

The service is one process and warm: it has answered the same request before. Background tasks are left out.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from fastapi.testclient import TestClient

import vlibrary
from tests.support.samples import artifact, card, png
from vlibrary.api.bootstrap import open_app
from vlibrary.config import read_settings
from vlibrary.worker.bootstrap import open_worker

ROOT = Path(vlibrary.__file__).parent
BACKGROUND = "background-tasks"  # the thread of upkeep/background.py


class Recorder:
    """A profile function that notes, while `on`, which functions of the service run, by file and in their order."""

    def __init__(self) -> None:
        self.on = False
        self.found: dict[str, dict[str, None]] = {}

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if self.on and event == "call" and not code.co_name.startswith("<"):
            file = Path(code.co_filename)
            if file.is_relative_to(ROOT) and threading.current_thread().name != BACKGROUND:
                self.found.setdefault(str(file.relative_to(ROOT)), {})[code.co_qualname] = None


def trace(recorder: Recorder) -> None:
    """Register a vector, and record its application in the second answer to the same question."""
    settings = read_settings()
    app = open_app(settings, partial(open_worker, settings))
    body = {"prompt": "Which hue?", "images": [base64.b64encode(png()).decode()], "decoding": {"max_new_tokens": 4}}
    with TestClient(app) as client:
        model = app.state.library.worker.models()[0].model
        described = card("hue", "Which hue?", thresholds={"image_text": 0.0})
        files: dict[str, Any] = {"artifact": ("hue.safetensors", artifact(model)), "card": (None, described)}
        client.post("/vectors", files=files).raise_for_status()
        for recorder.on in (False, True):
            answer = client.post("/generate", json=body | {"steering": "auto"}).raise_for_status()
        recorder.on = False
    if not answer.json()["steering"]["applied"]:
        raise SystemExit("no vector was applied")


def main() -> None:
    recorder = Recorder()
    threading.setprofile(recorder)  # before the first thread is started
    sys.setprofile(recorder)
    with TemporaryDirectory() as folder:
        os.environ["VLIBRARY_DATA_DIR"] = folder
        trace(recorder)
    for file, functions in sorted(recorder.found.items()):
        print(f"{file}: {', '.join(functions)}")
    print(f"{len(recorder.found)} files")


if __name__ == "__main__":
    main()
