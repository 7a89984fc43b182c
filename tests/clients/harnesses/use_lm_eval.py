"""lm-evaluation-harness, by its command line: texts only, so there is no accuracy to compare."""

from __future__ import annotations

import json
import sys

from harness import COUNT, DATA, HERE, MODEL, V1, WORK, execute, report

(WORK / "tasks").mkdir()
task = (HERE / "lm_task" / "questions.yaml").read_text()
(WORK / "tasks" / "questions.yaml").write_text(task.replace("DATA_FILE", str(DATA / "examples.jsonl")))
answered = 0
for kind, endpoint, options in (
    ("local-chat-completions", "chat/completions", ["--apply_chat_template"]),
    ("local-completions", "completions", []),
):
    execute(
        *(sys.executable, "-m", "lm_eval", "run", "--model", kind, *options),
        *(
            "--model_args",
            f"model={MODEL},base_url={V1}/{endpoint},tokenizer_backend=None,num_concurrent=8,max_retries=1",
        ),
        *("--tasks", "questions", "--include_path", str(WORK / "tasks"), "--limit", str(COUNT)),
        *("--log_samples", "--output_path", str(WORK / kind)),
    )
    (samples,) = (WORK / kind).rglob("samples_questions_*.jsonl")
    answered += sum(bool(json.loads(line)["resps"]) for line in samples.read_text().splitlines())
report(requests=2 * COUNT, failed=2 * COUNT - answered, note="texts only")
