"""VLMEvalKit (ms-vlmeval): a data set of the user's own as TSV, answered through its OpenAI wrapper."""

from __future__ import annotations

import base64
import csv
import json
import sys

from harness import COUNT, DATA, V1, VECTOR, WORK, examples, execute, is_correct, report, share

with (WORK / "Questions.tsv").open("w", newline="") as file:
    rows = csv.writer(file, delimiter="\t")
    rows.writerow(("index", "image", "question", "answer"))
    for number, example in enumerate(examples()):
        picture = base64.b64encode((DATA / example["image"]).read_bytes()).decode()
        rows.writerow((number, picture, example["question"], example["answer"]))
model = {"class": "GPT4V", "model": VECTOR, "api_base": f"{V1}/chat/completions", "key": "none", "temperature": 0}
config = {
    "model": {"steered": model | {"img_size": -1, "img_detail": "high", "retry": 2}},
    "data": {"Questions": {"class": "CustomVQADataset", "dataset": "Questions"}},
}
(WORK / "config.json").write_text(json.dumps(config))
# It enlarges images below 100 pixels by default.
settings = {"LMUData": str(WORK), "VLMEVAL_MIN_IMAGE_EDGE": "1", "PRED_FORMAT": "tsv"}
execute(
    *(sys.executable, "-m", "vlmeval", "--config", WORK / "config.json", "--mode", "infer", "--api-nproc", "8"),
    *("--work-dir", WORK / "out"),
    **settings,
)
(predictions,) = {path.resolve() for path in (WORK / "out").rglob("steered_Questions.tsv")}
with predictions.open(newline="") as file:
    given = list(csv.DictReader(file, delimiter="\t"))
failed = [row for row in given if row["prediction"].startswith("Failed to obtain answer")]
report(
    requests=len(given),
    failed=COUNT - len(given) + len(failed),
    accuracy=share([is_correct(row["prediction"], row["answer"]) for row in given]),
    images="JPEG",
)
