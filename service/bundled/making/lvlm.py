"""The LVLM and its processor: an unmodified Llava with a CLIP vision tower at patch 16 and a Llama decoder.

Its byte-level BPE tokenizer can encode any text; every answer is a single token.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from vlibrary.bundled.world.scenes import SIDE
from vlibrary.bundled.world.words import CODE_WORDS, EXPLICIT_NOUNS, LANGUAGES, NEUTRAL_NOUNS, wordings

POSITIONS: Final = 1024
WIDTH: Final = 128
LAYERS: Final = 4
PAD: Final = "<pad>"
BEGIN: Final = "<s>"
END: Final = "</s>"
IMAGE: Final = "<image>"
ANSWER: Final = "<answer>"
SPECIALS: Final = (PAD, BEGIN, END, IMAGE, ANSWER)
PATCH: Final = 16
IMAGE_TOKENS: Final = (SIDE // PATCH) ** 2

CHAT_TEMPLATE: Final = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<answer>' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<answer>' }}{% endif %}"
)


def answer_words() -> tuple[str, ...]:
    """Return every answer word of the world, without duplicates, in a fixed order."""
    named = [word for table in LANGUAGES.values() for words in table.values() for word in words]
    return tuple(dict.fromkeys([*named, *CODE_WORDS]))


def nouns() -> tuple[str, ...]:
    """Return every noun that a question can name."""
    explicit = [noun for pair in EXPLICIT_NOUNS.values() for noun in pair]
    return tuple(dict.fromkeys([*explicit, *NEUTRAL_NOUNS]))


def _corpus() -> Iterator[str]:
    """Yield every word often enough for BPE to merge it into one token, at the start of a text and after a space."""
    for _ in range(20):
        for noun in nouns():
            yield from wordings(noun)
        for word in answer_words():
            yield from (word, f"{word} {word}")


def build_tokenizer(specials: tuple[str, ...] = SPECIALS) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer: deterministic, about a second. `specials` take the first ids, in order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[IMAGE, ANSWER],
        padding_side="left",
    )


def image_processor() -> CLIPImageProcessorPil:
    """Return a processor that scales any image to 32x32 in -1..1."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def build_processor() -> LlavaProcessor:
    """Return the LVLM's processor: four tokens per image, and a chat template without a preamble."""
    return LlavaProcessor(
        image_processor(),
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """Return the model with random weights, in float32."""
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


def save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write model and processor for the `Auto` classes to load; existing files are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
