"""lmms-eval, by its command line, with a task folder of the user's own."""

from __future__ import annotations

import json
import shutil
import sys

from harness import COUNT, DATA, HERE, V1, VECTOR, WORK, execute, report

tasks = WORK / "tasks"
shutil.copytree(HERE / "lmms_task", tasks, ignore=shutil.ignore_patterns("__pycache__"))
task = tasks / "questions.yaml"
task.write_text(task.read_text().replace("DATA_FILE", str(DATA / "examples.jsonl")))
printed = execute(
    *(sys.executable, "-m", "lmms_eval", "--model", "async_openai"),
    *("--model_args", f"model_version={VECTOR},base_url={V1},api_key=none,num_cpus=8,max_retries=1"),
    *("--tasks", "questions", "--include_path", tasks, "--limit", str(COUNT), "--batch_size", "1"),
    *("--log_samples", "--output_path", WORK / "out"),
)
(results,) = (WORK / "out").rglob("*_results.json")
figures = json.loads(results.read_text())["results"]["questions"]
(samples,) = (WORK / "out").rglob("*_samples_questions.jsonl")
given = [json.loads(line) for line in samples.read_text().splitlines()]
failed = sum("LMMS_EVAL_REQUEST_FAILED" in json.dumps(sample) for sample in given)
report(
    requests=len(given),
    failed=failed,
    accuracy=next(value for name, value in figures.items() if name.startswith("exact_match,")),
)
