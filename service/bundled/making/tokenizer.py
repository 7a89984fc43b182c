"""The byte-level BPE tokenizer and the processor: any text works, answers are single tokens."""

from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from vlibrary.bundled.world.scenes import SIDE
from vlibrary.bundled.world.words import (
    CODE_WORDS,
    EXPLICIT_NOUNS,
    LANGUAGES,
    NEUTRAL_NOUNS,
    wordings,
)

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
    """Every word that the world can answer with, without repeats, in a fixed order."""
    named = [word for table in LANGUAGES.values() for words in table.values() for word in words]
    return tuple(dict.fromkeys([*named, *CODE_WORDS]))


def nouns() -> tuple[str, ...]:
    """Every noun that a question can name."""
    explicit = [noun for pair in EXPLICIT_NOUNS.values() for noun in pair]
    return tuple(dict.fromkeys([*explicit, *NEUTRAL_NOUNS]))


def _corpus() -> Iterator[str]:
    """Every word often enough that BPE merges it into one token, first in a text and after a space."""
    for _ in range(20):
        for noun in nouns():
            yield from wordings(noun)
        for word in answer_words():
            yield from (word, f"{word} {word}")


def build_tokenizer(specials: tuple[str, ...] = SPECIALS) -> PreTrainedTokenizerFast:
    """Train the tokenizer; deterministic, a second or so. ``specials`` take the first ids in order."""
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
    """Any picture to 32x32 in -1..1."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def build_processor() -> LlavaProcessor:
    """The LVLM's processor: four tokens per image, a chat template without fixed preamble."""
    return LlavaProcessor(
        image_processor(),
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
