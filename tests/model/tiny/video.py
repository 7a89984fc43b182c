"""Families whose processors also read videos, for which transformers requires torchvision."""

from __future__ import annotations

from typing import Any

from tests.model.tiny.parts import (
    CHAT_TEMPLATE,
    HIDDEN,
    IMAGE,
    PATCH,
    Family,
    build_tokenizer,
    hf,
    text_settings,
    vision_settings,
)

_EDGE = {"height": IMAGE, "width": IMAGE}
_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN_TEMPLATE = CHAT_TEMPLATE.replace("@IMAGE@", "<|vision_start|><|image_pad|><|vision_end|>")


def smolvlm() -> Family:
    specials = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>")
    tokenizer = build_tokenizer(specials)
    config = hf.SmolVLMConfig(
        vision_config=vision_settings("smolvlm_vision") | {"patch_size": PATCH // 2},
        text_config=text_settings(tokenizer, model_type="llama"),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    edge = {"longest_edge": IMAGE}
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer,
        hf.SmolVLMVideoProcessor(
            size=edge, max_image_size=edge, video_sampling={"fps": 1, "max_frames": 2, "video_size": edge}
        ),
        image_seq_len=4,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<image>").replace("eos_token", "'<end_of_utterance>'"),
    )
    return config, processor


def llava_onevision() -> Family:
    tokenizer = build_tokenizer(("<image>", "<video>"))
    config = hf.LlavaOnevisionConfig(
        vision_config={**vision_settings("siglip_vision_model"), "vision_use_head": False},
        text_config=text_settings(tokenizer, model_type="qwen2"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[IMAGE, IMAGE]],
    )
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessorPil(size=_EDGE, image_grid_pinpoints=[[IMAGE, IMAGE]]),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=_EDGE),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<image>"),
    )
    return config, processor


def internvl() -> Family:
    specials = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = build_tokenizer(tuple(specials.values()))
    tokenizer._set_model_specific_special_tokens(specials)
    config = hf.InternVLConfig(
        vision_config=vision_settings("internvl_vision") | {"patch_size": PATCH // 2},
        text_config=text_settings(tokenizer, model_type="qwen2"),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessorPil(size=_EDGE, max_patches=1),
        tokenizer,
        hf.InternVLVideoProcessor(size=_EDGE),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<IMG_CONTEXT>"),
    )
    return config, processor


def mistral3() -> Family:
    """With the Pixtral vision tower."""
    tokenizer = build_tokenizer(("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    config = hf.Mistral3Config(
        vision_config=vision_settings("pixtral") | {"patch_size": PATCH // 2},
        text_config=text_settings(tokenizer, model_type="mistral", sliding_window=None, head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    patch = {"height": PATCH // 2, "width": PATCH // 2}
    processor = hf.PixtralProcessor(
        hf.PixtralImageProcessorPil(size={"longest_edge": IMAGE}, patch_size=patch),
        tokenizer,
        patch_size=PATCH // 2,
        spatial_merge_size=2,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "[IMG]"),
    )
    return config, processor


def qwen2_vl() -> Family:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 2}
    return _qwen(hf.Qwen2VLConfig, "qwen2_vl", vision, hf.Qwen2VLProcessor, hf.Qwen2VLVideoProcessor)


def qwen2_5_vl() -> Family:
    vision = _deep_qwen_vision() | {"window_size": IMAGE, "fullatt_block_indexes": [1]}
    return _qwen(hf.Qwen2_5_VLConfig, "qwen2_5_vl", vision, hf.Qwen2_5_VLProcessor, hf.Qwen2VLVideoProcessor)


def qwen3_vl() -> Family:
    """Image features are added again after the first decoder layer (DeepStack)."""
    vision = _deep_qwen_vision() | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return _qwen(
        hf.Qwen3VLConfig, "qwen3_vl", vision, hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor, mrope_interleaved=True
    )


def _deep_qwen_vision() -> dict[str, Any]:
    return {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": HIDDEN}


def _qwen(config: Any, name: str, vision: dict[str, Any], processor: Any, video: Any, **rope: Any) -> Family:
    """Build a Qwen-VL with three-dimensional positions: 2, 3 and 3 of the 8 rotary pairs."""
    tokenizer = build_tokenizer(tuple(_QWEN.values()))
    tokenizer._set_model_specific_special_tokens(_QWEN)
    ids = {f"{part}_id": tokenizer.convert_tokens_to_ids(text) for part, text in _QWEN.items()}
    sizes = {"patch_size": PATCH // 2, "temporal_patch_size": 2}
    positions = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], **rope}
    built = config(
        vision_config={"model_type": f"{name}_vision", "spatial_merge_size": 2, **sizes, **vision},
        text_config=text_settings(
            tokenizer, model_type=f"{name}_text", rope_parameters=positions, head_dim=HIDDEN // 4
        ),
        **ids,
    )
    area = {"shortest_edge": IMAGE * IMAGE, "longest_edge": IMAGE * IMAGE}
    return built, processor(
        hf.Qwen2VLImageProcessorPil(size=area, merge_size=2, **sizes),
        tokenizer,
        video(size=area, merge_size=2, **sizes),
        chat_template=_QWEN_TEMPLATE,
    )
