"""A Llama decoder out of a GGUF file: its tensors under the names of a Llava folder, and its tokenizer.

Formats: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md for GGUF, convert_hf_to_gguf.py of llama.cpp for the
names and for the order of rows in the query and key projections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

IMAGE = "<image>"
# A token of code corpora that takes the place of the image token, so that the decoder needs no further row.
REPLACED = "<empty_output>"

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_CONTROL = 3  # the type of tokens that no text contains


class Decoder:
    """The decoder in a GGUF file, whose embeddings serve as its output layer, too."""

    def __init__(self, path: Path) -> None:
        """Read the metadata, which takes seconds; `read_tensors` reads the weights."""
        self._reader = GGUFReader(path)

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self._reader.tensors)

    def read_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each tensor in float32, under its name in a Llava folder."""
        heads = {"attn_q": self._value("attention.head_count"), "attn_k": self._value("attention.head_count_kv")}
        for tensor in self._reader.tensors:
            weights = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
            kind = tensor.name.split(".")[-2]
            if kind in heads:
                weights = restore_row_order(weights, heads[kind])
            yield f"language_model.model.{rename(tensor.name)}", weights

    def build_tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer, in which REPLACED is called IMAGE."""
        content = {name: self._reader.fields[f"tokenizer.ggml.{name}"].contents() for name in _TOKENIZER}
        tokens = [IMAGE if token == REPLACED else token for token in content["tokens"]]
        merges = [tuple(merge.split(" ")) for merge in content["merges"]]
        tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = [token for token, kind in zip(tokens, content["token_type"], strict=True) if kind == _CONTROL]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=tokens[content["bos_token_id"]],
            eos_token=tokens[content["eos_token_id"]],
            pad_token=tokens[content["eos_token_id"]],
            unk_token=tokens[content["unknown_token_id"]],
            padding_side="left",
        )

    def _value(self, name: str) -> Any:
        return self._reader.fields[f"llama.{name}"].contents()


_TOKENIZER = ("tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "unknown_token_id")


def rename(name: str) -> str:
    """Return the tensor's name in transformers: layers.3.self_attn.q_proj.weight for blk.3.attn_q.weight."""
    if layer := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"layers.{layer[1]}.{_LAYER[layer[2]]}.weight"
    return f"{_OTHER[name.removesuffix('.weight')]}.weight"


def restore_row_order(weights: Tensor, heads: int) -> Tensor:
    """Return query or key weights [heads · d, width] with the rows of each head in the order of transformers.

    Rotary embeddings rotate pairs of rows. llama.cpp stores a pair's rows one after the other, and transformers stores
    all first rows of a head before all second rows.
    """
    rows, width = weights.shape
    return weights.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
