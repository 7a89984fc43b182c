"""Tiny random vision-language models, built and saved by the tests themselves: real classes, real processors.

Weights are drawn large enough that every block matters; hidden width 64, three decoder layers, images of 32 × 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import nn

# Annotated in part only, so its classes are taken as they come.
hf: Any = transformers

Family = tuple[Any, Any]  # a configuration and a processor

IMAGE = 32
PATCH = 16
HIDDEN = 64
LAYERS = 3
CONTEXT = 512
_CORPUS = ("USER: what colour is the large circle? ASSISTANT: red", "how many squares are there, blue or green?")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT:' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '@IMAGE@' }}"
    "{% elif message['role'] == 'user' %}{{ part['text'] }}{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{{ '\n' if message['role'] == 'user' else eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_tokenizer(specials: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE with a few merges; ids 0, 1, 2 are <pad>, <s>, </s>, then the specials."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>", *specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(specials),
    )


def vocabulary(tokenizer: Any) -> int:
    return math.ceil(len(tokenizer) / 64) * 64


def text_settings(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """A small decoder with grouped queries; `changes` are what a family adds."""
    return {
        "vocab_size": vocabulary(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


def vision_settings(model_type: str) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE,
        "patch_size": PATCH,
    }


def _clip_pixels() -> dict[str, Any]:
    return {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}


def llava(text: dict[str, Any] | None = None) -> Family:
    """text: another decoder's settings, to try decoders that no released model joins to Llava."""
    tokenizer = build_tokenizer(("<image>",))
    config = hf.LlavaConfig(
        vision_config=vision_settings("clip_vision_model"),
        text_config=text_settings(tokenizer, model_type="llama") if text is None else text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        pad_token_id=0,
    )
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(**_clip_pixels()),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<image>"),
    )
    return config, processor


def llava_next() -> Family:
    tokenizer = build_tokenizer(("<image>",))
    config = hf.LlavaNextConfig(
        vision_config=vision_settings("clip_vision_model"),
        text_config=text_settings(tokenizer, model_type="llama"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        image_grid_pinpoints=[[IMAGE, IMAGE]],
        pad_token_id=0,
    )
    processor = hf.LlavaNextProcessor(
        hf.LlavaNextImageProcessorPil(**_clip_pixels(), image_grid_pinpoints=[[IMAGE, IMAGE]]),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<image>"),
    )
    return config, processor


def idefics2() -> Family:
    tokenizer = build_tokenizer(("<fake_token_around_image>", "<image>", "<end_of_utterance>"))
    config = hf.Idefics2Config(
        vision_config=vision_settings("idefics2_vision"),
        text_config=text_settings(tokenizer, model_type="mistral", sliding_window=None),
        perceiver_config={
            "model_type": "idefics2_perceiver",
            "hidden_size": HIDDEN,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    pixels = hf.Idefics2ImageProcessorPil(
        size={"shortest_edge": IMAGE, "longest_edge": IMAGE}, do_image_splitting=False
    )
    template = CHAT_TEMPLATE.replace("@IMAGE@", "<image>").replace("eos_token", "'<end_of_utterance>'")
    return config, hf.Idefics2Processor(pixels, tokenizer, image_seq_len=4, chat_template=template)


def gemma3() -> Family:
    """One local layer in two, with a window shorter than the tests' prompts."""
    specials = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = build_tokenizer(tuple(specials.values()))
    tokenizer._set_model_specific_special_tokens(specials)
    config = hf.Gemma3Config(
        vision_config={**vision_settings("siglip_vision_model"), "vision_use_head": False},
        text_config=text_settings(
            tokenizer,
            model_type="gemma3_text",
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessorPil(size={"height": IMAGE, "width": IMAGE}),
        tokenizer,
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<start_of_image>"),
    )
    return config, processor


FAMILIES: dict[str, Callable[[], Family]] = {
    "idefics2": idefics2,
    "llava_next": llava_next,
    "gemma3": gemma3,
    "llava": llava,
}


def _towers(vision_type: str, text_type: str) -> dict[str, dict[str, Any]]:
    text = text_settings(build_tokenizer(), model_type=text_type, max_position_embeddings=16)
    return {"text_config": text, "vision_config": vision_settings(vision_type) | {"hidden_size": HIDDEN}}


def clip() -> Family:
    config = hf.CLIPConfig(**_towers("clip_vision_model", "clip_text_model"), projection_dim=24)
    return config, hf.CLIPProcessor(hf.CLIPImageProcessorPil(**_clip_pixels()), build_tokenizer())


def siglip() -> Family:
    config = hf.SiglipConfig(**_towers("siglip_vision_model", "siglip_text_model"))
    pixels = hf.SiglipImageProcessorPil(size={"height": IMAGE, "width": IMAGE})
    return config, hf.SiglipProcessor(pixels, build_tokenizer())


EMBEDDERS: dict[str, Callable[[], Family]] = {"clip": clip, "siglip": siglip}


def randomise(model: nn.Module, seed: int) -> None:
    """Matrices that keep the size of what they multiply, and norms and biases off their neutral values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(noise / math.sqrt(fan_in))
            else:
                parameter.add_(0.1 * noise)


def random_model(kind: Any, config: Any, seed: int = 0) -> Any:
    """kind: the auto class that builds it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config)
    randomise(model, seed)
    return model


def speak_plainly(model: Any, tokenizer: Any) -> None:
    """Never let half a letter or an image token be the likeliest, so that different tokens are different texts."""
    texts = {token: tokenizer.decode([token]).strip() for token in range(3, vocabulary(tokenizer))}
    plain = {token for token, text in texts.items() if text and text.isascii() and text.isprintable()}
    odd = [token for token, text in texts.items() if token not in plain or "image" in text]
    with torch.no_grad():
        model.get_output_embeddings().weight[odd] = 0


def save(config: Any, processor: Any, folder: Path, seed: int = 0) -> Path:
    model = random_model(hf.AutoModelForImageTextToText, config, seed)
    speak_plainly(model, processor.tokenizer)
    end = getattr(processor, "end_of_utterance_token", None)
    ends = [2] if end is None else [2, processor.tokenizer.convert_tokens_to_ids(str(end))]
    model.generation_config.update(eos_token_id=ends, pad_token_id=0, bos_token_id=1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_embedder(config: Any, processor: Any, folder: Path, seed: int = 0) -> Path:
    random_model(hf.AutoModel, config, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
