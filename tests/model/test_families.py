"""The sites are found by what a layer computes, and a model whose layers compute something else is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from service.domain.errors import UnsupportedModel
from service.steering.families import LayerSites, Output, find_sites
from service.steering.lvlm import Lvlm
from tests.model import tiny

PLAIN = ("self_attn", "mlp")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
# Decoders put into a Llava; a rule by names picks the wrong blocks in OLMo2, Exaone4 and GLM-4.
DECODERS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "llama": ({}, PLAIN),
    "mistral": ({}, PLAIN),
    "qwen2": ({}, PLAIN),
    "qwen3": ({}, PLAIN),
    "gemma": ({"head_dim": 16}, PLAIN),
    "gemma2": ({"head_dim": 16}, POST_NORMS),
    "mixtral": ({"num_local_experts": 2}, PLAIN),
    "cohere2": ({}, PLAIN),  # attention and MLP side by side
    "olmo2": ({}, POST_NORMS),
    "exaone4": ({}, POST_NORMS),
    "glm4": ({"head_dim": 16}, ("post_self_attn_layernorm", "post_mlp_layernorm")),
    "granite": ({"residual_multiplier": 1.0}, PLAIN),
}


def build(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    return tiny.random_model(tiny.hf.AutoModelForImageTextToText, config).eval().to(dtype)


def with_decoder(model_type: str, **settings: Any) -> Any:
    text = tiny.text_settings(tiny.build_tokenizer(("<image>",)), model_type=model_type, **settings)
    return tiny.llava(text)[0]


def sites_of(model: Any) -> tuple[LayerSites, ...]:
    ids = torch.randint(10, 200, (2, 8), generator=torch.Generator().manual_seed(0))
    return find_sites(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def names_of(model: Any) -> set[tuple[str, ...]]:
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    return {tuple(names[module] for module in pair) for pair in sites_of(model)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type", DECODERS)
def test_the_pair_that_adds_up_is_found_in_every_number_format(model_type: str, dtype: torch.dtype) -> None:
    settings, expected = DECODERS[model_type]
    model = build(with_decoder(model_type, **settings), dtype)
    assert names_of(model) == {expected}
    assert len(sites_of(model)) == tiny.LAYERS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_stream_far_larger_than_what_a_layer_adds_hides_nothing(model_type: str, dtype: torch.dtype) -> None:
    """As in the late layers of large models, where the rounding of the sum is close to the blocks' own size."""
    settings, expected = DECODERS[model_type]
    model = build(with_decoder(model_type, **settings))
    with torch.no_grad():
        model.get_input_embeddings().weight *= 30
    assert names_of(model.to(dtype)) == {expected}


class Scale(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class ToyLayer(torch.nn.Module):
    """x + x / 4 + 3 x / 4, with dropout behind the first block."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.mlp, self.attention = torch.nn.Dropout(0.5), Scale(0.75), Scale(0.25)

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        total: torch.Tensor = x + self.dropout(self.attention(x)) + self.mlp(x)
        return total


class AmbiguousLayer(ToyLayer):
    """The same sum, and two more blocks that give it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Scale(0.4), Scale(0.6)

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        self.one(x), self.other(x)
        return super().forward(x)


def with_layer(layer: torch.nn.Module) -> Any:
    """A model whose middle layer is this one."""
    model = build(with_decoder("llama"))
    model.model.language_model.layers[1] = layer
    return model.eval()


def test_dropout_at_rest_is_not_taken_for_the_block_before_it() -> None:
    layer = ToyLayer()
    assert sites_of(with_layer(layer))[1] == LayerSites(Output(layer.attention), Output(layer.mlp))


def test_a_layer_with_two_explanations_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"layer 1 .* 2 pairs of blocks"):
        sites_of(with_layer(AmbiguousLayer()))


def test_the_probe_leaves_no_hook_behind() -> None:
    model = build(with_decoder("llama"))
    sites_of(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def mllama() -> Any:
    vision = tiny.vision_settings("mllama_vision_model") | {"attention_heads": 2, "num_global_layers": 1}
    vision |= {"max_num_tiles": 4, "vision_output_dim": 64, "intermediate_layers_indices": [0]}
    text = tiny.text_settings(tiny.build_tokenizer(), cross_attention_layers=[1], bos_token_id=1, eos_token_id=2)
    return tiny.hf.MllamaConfig(vision_config=vision, text_config=text)


def idefics1() -> Any:
    vision = tiny.vision_settings("idefics_vision") | {"embed_dim": 32}
    text = tiny.text_settings(tiny.build_tokenizer())
    return tiny.hf.IdeficsConfig(vision_config=vision, perceiver_config={}, cross_layer_interval=2, **text)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        pytest.param(lambda: with_decoder("granite", residual_multiplier=0.5), "0 pairs of blocks", id="granite"),
        pytest.param(mllama, "skips decoder layer 1", id="mllama: gated cross-attention"),
        pytest.param(idefics1, "cannot read a text without an image", id="idefics: gated cross-attention"),
    ],
)
def test_a_model_without_the_unique_pair_is_refused_with_the_reason(config: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModel) as refusal:
        sites_of(build(config()))
    assert reason in refusal.value.detail
    assert "y = x + attention + MLP" in refusal.value.cure


def test_a_decoder_whose_mlp_is_no_module_is_refused() -> None:
    """OPT, the decoder of BLIP-2."""
    text = tiny.text_settings(tiny.build_tokenizer(), ffn_dim=96, word_embed_proj_dim=tiny.HIDDEN)
    model = tiny.random_model(tiny.hf.AutoModelForCausalLM, tiny.hf.OPTConfig(**text)).eval()
    with pytest.raises(UnsupportedModel, match="0 pairs of blocks"):
        sites_of(model)


def test_a_block_between_the_layers_is_noticed() -> None:
    model = build(with_decoder("llama"))
    layer = model.model.language_model.layers[1]
    layer.register_forward_pre_hook(lambda _layer, args: (args[0] * 1.01, *args[1:]))
    with pytest.raises(UnsupportedModel, match="further blocks between"):
        sites_of(model)


def test_layers_that_share_a_block_are_refused() -> None:
    model = build(with_decoder("llama"))
    layers = model.model.language_model.layers
    layers[2].mlp = layers[0].mlp
    with pytest.raises(UnsupportedModel, match="0 pairs of blocks"):
        sites_of(model)


def test_the_canary_sees_a_site_that_hooks_do_not_reach(llava: Lvlm) -> None:
    attention = llava.model.model.language_model.layers[1].self_attn
    handles = dict(attention._forward_hooks)
    attention._forward_hooks.clear()
    try:
        with pytest.raises(UnsupportedModel, match="1 of 6 sites"):
            llava.canary()
    finally:
        attention._forward_hooks.update(handles)
    llava.canary()
