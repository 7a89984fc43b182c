"""The functions that the task file names."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image


def doc_to_visual(doc):
    return [Image.open(Path(os.environ["DATA"]) / doc["image"]).convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
