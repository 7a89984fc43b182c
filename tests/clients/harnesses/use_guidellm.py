"""GuideLLM, by its command line: our questions with their images, eight at a time."""

from __future__ import annotations

import json
import os

from harness import BIN, COUNT, DATA, URL, VECTOR, WORK, examples, execute, is_correct, report, share

questions = WORK / "questions.jsonl"
lines = [{"prompt": each["question"], "image": str(DATA / each["image"])} for each in examples()]
questions.write_text("".join(json.dumps(line) + "\n" for line in lines))


backend = {
    "kind": "openai_http",
    "target": URL,
    "model": VECTOR,
    "extras": {"body": {"temperature": 0, "max_tokens": 32}},
}
execute(
    *(BIN / "guidellm", "run", "--backend", json.dumps(backend), "--data", f"kind=json_file,path={questions}"),
    *("--profile", "kind=concurrent,streams=8", "--constraint", f"kind=max_requests,count={COUNT}"),
    *("--tokenizer", f"kind=huggingface_auto,model={os.environ['TOKENIZER']}"),
    *("--output", f"kind=json,path={WORK / 'report.json'}", "--disable-progress"),
    # By default it starts ten processes, each of which imports torch.
    GUIDELLM__MAX_WORKER_PROCESSES="1",
)
(benchmark,) = json.loads((WORK / "report.json").read_text())["benchmarks"]
# Its report has the answers but not the questions; they were sent in the order of the file.
given = sorted(benchmark["requests"]["successful"], key=lambda each: each["info"]["timings"]["queued"])
correct = [is_correct(each["output"], example["answer"]) for each, example in zip(given, examples(), strict=False)]
report(requests=COUNT, failed=COUNT - len(given), accuracy=share(correct) if correct else 0.0, images="JPEG")
