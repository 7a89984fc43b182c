"""lm-evaluation-harness, by its command line: texts only, so there is no accuracy to compare.

It asks for answers by both endpoints, and scores two given answers to each question by their log-likelihoods. These are
compared with those of the same texts, requested without the token that the harness drops.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

from harness import COUNT, DATA, HERE, MODEL, V1, WORK, execute, report

(WORK / "tasks").mkdir()
for file in (HERE / "lm_task").glob("*.yaml"):
    (WORK / "tasks" / file.name).write_text(file.read_text().replace("DATA_FILE", str(DATA / "examples.jsonl")))


def evaluate(kind: str, endpoint: str, task: str, *options: str, tokenizer: str) -> list[dict]:
    """Run a task and return its samples."""
    place = WORK / f"{kind}-{task}"
    settings = f"model={MODEL}:off,base_url={V1}/{endpoint},{tokenizer},num_concurrent=8,max_retries=1"
    execute(
        *(sys.executable, "-m", "lm_eval", "run", "--model", kind, *options, "--model_args", settings),
        *("--tasks", task, "--include_path", str(WORK / "tasks"), "--limit", str(COUNT)),
        *("--log_samples", "--output_path", str(place)),
    )
    (samples,) = place.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


def log_likelihood(context: str, answer: str) -> float:
    """Return the log-probability of the answer's tokens, from the texts' offsets."""
    body = {"model": f"{MODEL}:off", "prompt": context + answer, "echo": True, "logprobs": 0, "max_tokens": 0}
    request = urllib.request.Request(
        f"{V1}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        found = json.load(response)["choices"][0]["logprobs"]
    pairs = zip(found["text_offset"], found["token_logprobs"], strict=True)
    return sum(number for offset, number in pairs if offset >= len(context))


plain = "tokenizer_backend=None"
answered = evaluate("local-chat-completions", "chat/completions", "questions", "--apply_chat_template", tokenizer=plain)
answered += evaluate("local-completions", "completions", "questions", tokenizer=plain)
failed = 2 * COUNT - sum(bool(sample["resps"]) for sample in answered)
own = f"tokenizer_backend=huggingface,tokenizer={os.environ['TOKENIZER']}"
scored = evaluate("local-completions", "completions", "choices", tokenizer=own)
differences = [
    abs(float(given[0][0]) - log_likelihood(*request.values()))
    for sample in scored
    for given, request in zip(sample["resps"], sample["arguments"].values(), strict=True)
]
assert len(differences) == 2 * COUNT, f"{len(differences)} log-likelihoods"
assert all(one < 0.001 for one in differences), f"they differ by {max(differences):.4f}"
report(requests=4 * COUNT, failed=failed, note=f"texts only; {2 * COUNT} log-likelihoods within {max(differences):.0e}")
