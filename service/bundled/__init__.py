"""The bundled toy world, the two small models trained on it, and the code that trained them."""

from pathlib import Path

LVLM_FOLDER: Path = Path(__file__).parent / "weights" / "lvlm"
EMBEDDER_FOLDER: Path = Path(__file__).parent / "weights" / "embedder"
LVLM_ID = "vlibrary/bundled-llava"
EMBEDDER_ID = "vlibrary/bundled-encoder"
