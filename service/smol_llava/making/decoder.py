"""The pretrained decoder with a LoRA, arranged for training on a CPU: weights in bfloat16, logits of answers only."""

import shutil
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

RANK: Final = 8
TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ATTENTION: Final = "causal_by_parts"
_PARTS: Final = 4


def matrix_dtype() -> torch.dtype:
    """Return bfloat16 if this processor multiplies matrices in it, otherwise float32."""
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("amx_bf16") or has.get("avx512_bf16") else torch.float32


class _MergedLinear(torch.autograd.Function):
    """x @ (W + B·A)^T with W + B·A given: no cost beyond the plain layer in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, merged: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, merged, a, b)
        return functional.linear(x, merged)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        x, merged, a, b = ctx.saved_tensors
        out = grads[0].reshape(-1, merged.shape[0])
        flat = x.reshape(-1, merged.shape[1])
        low = out @ b.to(out.dtype)
        grad_a = (low.T @ flat).float()
        grad_b = (out.T @ (flat @ a.to(flat.dtype).T)).float()
        return (out @ merged).view_as(x), None, grad_a, grad_b


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank part; `merge` must follow every update of that part."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.frozen = weight.detach().float()
        self.lora_A = nn.Parameter(torch.randn(RANK, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], RANK))
        self.merged = weight.detach().to(dtype, copy=True)

    @torch.no_grad()
    def merge(self) -> None:
        self.merged.copy_(torch.addmm(self.frozen, self.lora_B, self.lora_A))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _MergedLinear.apply(x, self.merged, self.lora_A, self.lora_B)  # type: ignore[no-untyped-call]
        return result


def _attention(
    _module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, _mask: None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention without a padding mask, as matrix products: rows are padded on the right.

    The queries are taken in parts, so that the first parts do not meet the last keys. torch's fused attention needs
    ten times as long for the backward pass in bfloat16 on a CPU.
    """
    batch, heads, length, size = queries.shape
    groups = keys.shape[1]
    each = heads // groups
    grouped = (queries * scaling).view(batch, groups, each, length, size)
    step = -(-length // _PARTS)
    results = []
    for start in range(0, length, step):
        end = min(start + step, length)
        part = grouped[:, :, :, start:end].reshape(batch * groups, each * (end - start), size)
        scores = part @ keys[:, :, :end].reshape(batch * groups, end, size).transpose(1, 2)
        later = torch.full((end - start, end), float("-inf"), dtype=scores.dtype).triu(start + 1)
        spread = (scores.view(batch * groups, each, end - start, end) + later).softmax(-1)
        mixed = spread.view(batch * groups, -1, end) @ values[:, :, :end].reshape(batch * groups, end, size)
        results.append(mixed.view(batch, groups, each, end - start, size))
    joined = torch.cat(results, 3).permute(0, 3, 1, 2, 4).reshape(batch, length, heads, size)
    return joined, None


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attention)


class Decoder(nn.Module):
    """The decoder with its LoRA. Only the parameters whose names contain `lora_` are trained."""

    def __init__(self, model: LlamaForCausalLM, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        model.requires_grad_(False)
        adapted = [(name, each) for name, each in model.named_modules() if name.rsplit(".", 1)[-1] in TARGETS]
        self.adapters: dict[str, LoraLinear] = {}
        for name, linear in adapted:
            parent, _, leaf = name.rpartition(".")
            self.adapters[name] = LoraLinear(linear.weight, dtype)
            setattr(model.get_submodule(parent), leaf, self.adapters[name])
        for module in model.modules():
            if not isinstance(module, LoraLinear):
                for own in module._parameters.values():
                    if own is not None:
                        own.data = own.data.to(dtype)
        model.config._attn_implementation = _ATTENTION
        self.inner = model.model
        self.embeddings = model.model.embed_tokens.weight

    def states(self, embedded: Tensor) -> Tensor:
        """Return the final states [B, T, d] of embedded sequences [B, T, d], padded on the right."""
        hidden = embedded.to(self.embeddings.dtype)
        places = torch.arange(hidden.shape[1])[None]
        rotary = self.inner.rotary_emb(hidden, position_ids=places)
        for layer in self.inner.layers:
            hidden = layer(hidden, attention_mask=None, position_ids=places, position_embeddings=rotary)
        final: Tensor = self.inner.norm(hidden)
        return final

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of states [N, d] over the vocabulary, [N, V], in float32."""
        return functional.linear(states, self.embeddings).float()

    def merge(self) -> None:
        """Bring the weights up to date with the LoRA."""
        for each in self.adapters.values():
            each.merge()

    def lora(self) -> dict[str, Tensor]:
        """Return the LoRA under the names that its file uses, see `folder`."""
        parts = (
            (name, part, getattr(each, part)) for name, each in self.adapters.items() for part in ("lora_A", "lora_B")
        )
        return {f"language_model.{name}.{part}": value.detach() for name, part, value in parts}

    def compile_layers(self) -> None:
        """Compile the layers, which nearly doubles the speed; without a C++ compiler, they stay as they are."""
        if shutil.which("g++"):
            for layer in self.inner.layers:
                layer.compile(dynamic=False)
