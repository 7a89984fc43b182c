"""An Inspect task: the questions of DATA about its images, scored by exact match."""

from __future__ import annotations

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def questions(data: str) -> Task:
    folder = Path(data)
    samples = []
    for line in (folder / "examples.jsonl").read_text().splitlines():
        example = json.loads(line)
        content = [ContentImage(image=str(folder / example["image"])), ContentText(text=example["question"])]
        samples.append(Sample(input=[ChatMessageUser(content=content)], target=example["answer"]))
    return Task(dataset=samples, solver=generate(), scorer=match(location="exact"))
