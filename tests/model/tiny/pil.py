"""Families whose processors need only Pillow."""

from __future__ import annotations

from typing import Any

from tests.model.tiny.parts import (
    CHAT_TEMPLATE,
    HIDDEN,
    IMAGE,
    PATCH,
    Family,
    build_tokenizer,
    clip_pixels,
    hf,
    text_settings,
    vision_settings,
)


def llava(text: dict[str, Any] | None = None) -> Family:
    """text: the settings of another decoder; None means Llama."""
    tokenizer = build_tokenizer(("<image>",))
    config = hf.LlavaConfig(
        vision_config=vision_settings("clip_vision_model"),
        text_config=text_settings(tokenizer, model_type="llama") if text is None else text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        pad_token_id=0,
    )
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(**clip_pixels()),
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
        hf.LlavaNextImageProcessorPil(**clip_pixels(), image_grid_pinpoints=[[IMAGE, IMAGE]]),
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
    """Sliding-window layers, with a window shorter than the tests' prompts."""
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


def idefics3() -> Family:
    specials = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    tokenizer = build_tokenizer(specials)
    config = hf.Idefics3Config(
        vision_config=vision_settings("idefics3_vision") | {"patch_size": PATCH // 2},
        text_config=text_settings(tokenizer, model_type="llama"),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    edge = {"longest_edge": IMAGE}
    pixels = hf.Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    template = CHAT_TEMPLATE.replace("@IMAGE@", "<image>").replace("eos_token", "'<end_of_utterance>'")
    return config, hf.Idefics3Processor(pixels, tokenizer, image_seq_len=4, chat_template=template)


def paligemma() -> Family:
    """The processor adds 1152 location and segmentation tokens; there is no chat template."""
    tokenizer = build_tokenizer(("<image>",))
    pixels = hf.SiglipImageProcessorPil(size={"height": IMAGE, "width": IMAGE})
    pixels.image_seq_length = 4
    processor = hf.PaliGemmaProcessor(pixels, tokenizer)
    config = hf.PaliGemmaConfig(
        vision_config={**vision_settings("siglip_vision_model"), "vision_use_head": False},
        text_config=text_settings(tokenizer, model_type="gemma", head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
    )
    return config, processor


def mllama() -> Family:
    """The middle layer is gated cross-attention to the images."""
    tokenizer = build_tokenizer(("<|image|>", "<|python_tag|>"))
    vision = vision_settings("mllama_vision_model") | {"attention_heads": 2, "num_global_layers": 1}
    vision |= {"max_num_tiles": 4, "vision_output_dim": 64, "intermediate_layers_indices": [0]}
    config = hf.MllamaConfig(
        vision_config=vision,
        text_config=text_settings(tokenizer, cross_attention_layers=[1]),
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    pixels = hf.MllamaImageProcessorPil(size={"height": IMAGE, "width": IMAGE}, max_image_tiles=4)
    template = CHAT_TEMPLATE.replace("@IMAGE@", "<|image|>")
    return config, hf.MllamaProcessor(pixels, tokenizer, chat_template=template)


def idefics1() -> Family:
    """A gated cross-attention block before every layer; no chat template."""
    tokenizer = build_tokenizer(("<fake_token_around_image>", "<image>"))
    config = hf.IdeficsConfig(
        vision_config=vision_settings("idefics_vision") | {"embed_dim": 32},
        perceiver_config={},
        cross_layer_interval=1,
        **text_settings(tokenizer),
    )
    return config, hf.IdeficsProcessor(hf.IdeficsImageProcessorPil(image_size=IMAGE), tokenizer)
