"""The LVLM's configuration: Llava with a CLIP tower at patch 16 and a Llama decoder, unmodified."""

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from vlibrary.bundled.making.tokenizer import BEGIN, END, IMAGE, IMAGE_TOKENS, PAD, PATCH
from vlibrary.bundled.world.scenes import SIDE

POSITIONS = 1024
WIDTH = 128
LAYERS = 4


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The model with random weights in float32."""
    token = processor.tokenizer.convert_tokens_to_ids
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=-(-len(processor.tokenizer) // 64) * 64,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=POSITIONS,
        initializer_range=0.08,
        tie_word_embeddings=False,
        bos_token_id=token(BEGIN),
        eos_token_id=token(END),
        pad_token_id=token(PAD),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=token(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id = token(BEGIN), token(END)
    generation.pad_token_id = token(PAD)
    generation.max_new_tokens = 8
    generation.do_sample = False
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write model and processor so that the two ``Auto`` classes load them; replaces what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
