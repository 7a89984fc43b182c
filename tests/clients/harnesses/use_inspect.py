"""Inspect (UK AI Security Institute), by its command line."""

from __future__ import annotations

import json
import shutil

from harness import BIN, COUNT, DATA, HERE, V1, VECTOR, WORK, execute, report

# It takes paths relative to the working directory only.
shutil.copy(HERE / "inspect_task.py", WORK)
execute(
    *(BIN / "inspect", "eval", "inspect_task.py"),
    *("--model", f"openai-api/vlibrary/{VECTOR}", "-T", f"data={DATA}", "--limit", str(COUNT)),
    *("--temperature", "0", "--max-connections", "8", "--max-tokens", "32", "--display", "plain"),
    *("--log-dir", WORK / "logs", "--log-format", "json"),
    VLIBRARY_BASE_URL=V1,
    VLIBRARY_API_KEY="none",
)
(log,) = (WORK / "logs").glob("*.json")
result = json.loads(log.read_text())
assert result["status"] == "success", result["status"]
done = result["results"]
report(
    requests=done["total_samples"],
    failed=done["total_samples"] - done["completed_samples"],
    accuracy=done["scores"][0]["metrics"]["accuracy"]["value"],
)
