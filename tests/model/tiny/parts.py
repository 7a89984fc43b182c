"""The parts that the tiny families share: a tokenizer, sizes, a chat template."""

from __future__ import annotations

import math
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

# Typed as Any, because transformers is only partly annotated.
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
    """Train a byte-level BPE with a few merges; ids 0, 1, 2 are <pad>, <s>, </s>, then the special tokens."""
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
    """Return the settings of a small decoder with grouped-query attention; `changes` are added for one family."""
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


def clip_pixels() -> dict[str, Any]:
    return {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
