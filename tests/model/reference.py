"""Reference implementations that steering must equal.

Decoder: a whole decoder computed from its weights in float64. It covers Llama, Mistral, Qwen2 and Gemma 3 (norms around
each block, normalised queries and keys, local layers, image tokens that attend to each other).
steered_layer: for the other families, the equation of one layer over the unmodified blocks of a model without hooks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Layer:
    """Settings of one layer. window: how many positions back it attends to; None is all of them."""

    theta: float
    window: int | None


class Decoder:
    """config: the text decoder's configuration; weights: its state dict (`layers.0...`, `norm...`)."""

    COVERED = ("llama", "mistral", "qwen2", "gemma3_text")

    def __init__(self, config: Any, weights: Mapping[str, Tensor]) -> None:
        self._weights = {name: value.double() for name, value in weights.items()}
        self._config = config
        self._gemma = config.model_type == "gemma3_text"
        self._heads = config.num_attention_heads
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._scale = (config.query_pre_attn_scalar if self._gemma else self._head_dim) ** -0.5

    def hidden_states(self, h: Tensor, rows: Tensor, attended: Tensor, images: Tensor) -> list[Tensor]:
        """Return h_0 ... h_L, the last one normalised, as transformers reports them.

        h: [B, T, d], the embedded prompt; rows: [L, 2, B, 1, d]; attended: [B, T], 0 at padding;
        images: [B, T], 1 at image tokens that attend to each other in both directions, else 0.
        """
        h, rows = h.double(), rows.double()
        states = [h]
        for index in range(self._config.num_hidden_layers):
            layer = self._layer(index)
            mask = _mask(attended, images, layer.window)
            a = self._attention(index, self._norm(f"layers.{index}.input_layernorm", h), layer.theta, mask)
            if self._gemma:
                a = self._norm(f"layers.{index}.post_attention_layernorm", a)
            h = h + (a + rows[index, 0])
            before_mlp = "pre_feedforward_layernorm" if self._gemma else "post_attention_layernorm"
            m = self._mlp(index, self._norm(f"layers.{index}.{before_mlp}", h))
            if self._gemma:
                m = self._norm(f"layers.{index}.post_feedforward_layernorm", m)
            h = h + (m + rows[index, 1])
            states.append(h)
        return [*states[:-1], self._norm("norm", h)]

    def _layer(self, index: int) -> Layer:
        ropes = self._config.rope_parameters
        if not self._gemma:
            return Layer(ropes["rope_theta"], None)
        kind = self._config.layer_types[index]
        return Layer(ropes[kind]["rope_theta"], self._config.sliding_window if kind == "sliding_attention" else None)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self._weights[f"{name}.weight"] + (1 if self._gemma else 0)
        return weight * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self._config.rms_norm_eps)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))

    def _attention(self, index: int, x: Tensor, theta: float, mask: Tensor) -> Tensor:
        name = f"layers.{index}.self_attn"
        q, k, v = (self._split(self._linear(f"{name}.{part}_proj", x)) for part in "qkv")
        if self._gemma:
            q, k = self._norm(f"{name}.q_norm", q), self._norm(f"{name}.k_norm", k)
        q, k = _rotate(q, theta), _rotate(k, theta)
        repeats = self._heads // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        scores = (q @ k.transpose(-1, -2)) * self._scale
        weights = torch.softmax(scores.masked_fill(~mask[:, None], -1e30), dim=-1)
        return self._linear(f"{name}.o_proj", (weights @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """Reshape [B, T, heads · D] to [B, heads, T, D]."""
        return x.reshape(*x.shape[:2], -1, self._head_dim).transpose(1, 2)

    def _mlp(self, index: int, x: Tensor) -> Tensor:
        name = f"layers.{index}.mlp"
        gate = self._linear(f"{name}.gate_proj", x)
        gate = functional.gelu(gate, approximate="tanh") if self._gemma else functional.silu(gate)
        return self._linear(f"{name}.down_proj", gate * self._linear(f"{name}.up_proj", x))


def _rotate(x: Tensor, theta: float) -> Tensor:
    """Apply rotary positions 0 ... T - 1 to [B, heads, T, D]; halves are paired."""
    length, width = x.shape[-2:]
    frequencies = torch.exp(-math.log(theta) * torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _mask(attended: Tensor, images: Tensor, window: int | None) -> Tensor:
    """Return [B, T, T]: whether the position of the row attends to that of the column."""
    places = torch.arange(attended.shape[1])
    back = places[:, None] - places
    starts = images.bool() & ~functional.pad(images, (1, 0))[:, :-1].bool()
    blocks = torch.where(images.bool(), starts.cumsum(dim=1), 0)
    same_image = (blocks[:, :, None] == blocks[:, None]) & (blocks > 0)[:, :, None]
    seen = (back >= 0) | same_image
    if window is not None:
        seen = seen & (back < window)
    return seen & attended.bool()[:, None]


def steered_layer(layer: Any, x: Tensor, known: Mapping[str, Any], shift: Tensor) -> Tensor:
    """Return y = r + (m(r) + v_m) with r = x + (a(x) + v_a); a and m are the outputs of the branches, gates included.

    x: [B, T, d]; known: the layer's other arguments; shift: v_a and v_m, [2, B, 1, d].
    """
    if hasattr(layer, "cross_attn"):
        seen = {"attention_mask": known["cross_attention_mask"], "past_key_values": None}
        seen["cross_attention_states"] = known["cross_attention_states"]
        a = layer.cross_attn_attn_gate.tanh() * layer.cross_attn(layer.input_layernorm(x), **seen)[0]
        open_to_mlp = layer.cross_attn_mlp_gate.tanh() * known["full_text_row_masked_out_mask"][:, 0]
    else:
        names = ("attention_mask", "position_ids", "position_embeddings")
        seen = {name: known[name] for name in names if name in known}
        a = layer.self_attn(hidden_states=layer.input_layernorm(x), **seen)[0]
        open_to_mlp = torch.ones(1)
    r = x + (a + shift[0])
    y: Tensor = r + (open_to_mlp * layer.mlp(layer.post_attention_layernorm(r)) + shift[1])
    return y
