"""Finding sites from what a layer computes, and refusing models whose layers compute something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model import tiny
from vlibrary.domain.errors import UnsupportedModel
from vlibrary.models.lvlm import Lvlm
from vlibrary.steering.find_sites import LayersSkipped, find_sites
from vlibrary.steering.injector import BranchOutput, EditPoint, LayerOutput, LayerSites, NormInput

PLAIN = ("self_attn", "mlp")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
STREAM = ("stream into post_attention_layernorm", "stream after layer")
# Decoders of a Llava; selecting by name picks the wrong modules in OLMo2, Exaone4 and GLM-4.
DECODERS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "llama": ({}, PLAIN),
    "mistral": ({}, PLAIN),
    "qwen2": ({}, PLAIN),
    "qwen3": ({}, PLAIN),
    "gemma": ({"head_dim": 16}, PLAIN),
    "gemma2": ({"head_dim": 16}, POST_NORMS),
    "mixtral": ({"num_local_experts": 2}, PLAIN),
    "cohere2": ({}, PLAIN),  # attention and MLP in parallel
    "olmo2": ({}, POST_NORMS),
    "exaone4": ({}, POST_NORMS),
    "glm4": ({"head_dim": 16}, ("post_self_attn_layernorm", "post_mlp_layernorm")),
    "granite": ({"residual_multiplier": 0.2}, STREAM),  # scales the branch outputs
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
    return {names_in(model, pair) for pair in sites_of(model)}


def names_in(model: Any, pair: LayerSites) -> tuple[str, ...]:
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}

    def name(point: EditPoint) -> str:
        if isinstance(point, LayerOutput):
            return "stream after layer"
        assert isinstance(point, (BranchOutput, NormInput))
        return names[point.module] if isinstance(point, BranchOutput) else f"stream into {names[point.module]}"

    return tuple(name(point) for point in pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type", DECODERS)
def test_the_pair_that_adds_up_is_found_in_every_dtype(model_type: str, dtype: torch.dtype) -> None:
    settings, expected = DECODERS[model_type]
    model = build(with_decoder(model_type, **settings), dtype)
    assert names_of(model) == {expected}
    assert len(sites_of(model)) == tiny.LAYERS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_sites_are_found_in_a_stream_far_larger_than_the_branches(model_type: str, dtype: torch.dtype) -> None:
    """As in the last layers of large models, where the rounding error of the sum is close to the branch outputs."""
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
    """x + x / 4 + 3 x / 4, with dropout after the first block."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.mlp, self.attention = torch.nn.Dropout(0.5), Scale(0.75), Scale(0.25)

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        total: torch.Tensor = x + self.dropout(self.attention(x)) + self.mlp(x)
        return total


class AmbiguousLayer(ToyLayer):
    """The same sum, and two more blocks whose outputs also sum to it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Scale(0.4), Scale(0.6)

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        self.one(x), self.other(x)
        return super().forward(x)


def with_layer(layer: torch.nn.Module) -> Any:
    """Return a model with this middle layer."""
    model = build(with_decoder("llama"))
    model.model.language_model.layers[1] = layer
    return model.eval()


def test_dropout_in_eval_mode_is_no_branch() -> None:
    layer = ToyLayer()
    assert sites_of(with_layer(layer))[1] == LayerSites(BranchOutput(layer.attention), BranchOutput(layer.mlp))


def test_a_layer_with_two_possible_pairs_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"layer 1 .* 2 possible pairs"):
        sites_of(with_layer(AmbiguousLayer()))


def test_the_probe_leaves_no_hook_behind() -> None:
    model = build(with_decoder("llama"))
    sites_of(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_family_has_the_expected_sites(lvlm: Lvlm) -> None:
    pairs = [names_in(lvlm.model, pair) for pair in lvlm.sites]
    gemma3, mllama = ("Gemma3" in lvlm.spec.architecture), ("Mllama" in lvlm.spec.architecture)
    expected = [POST_NORMS if gemma3 else PLAIN] * lvlm.spec.layers
    if mllama:
        expected[1] = STREAM
    assert pairs == expected
    assert lvlm.takes_gain is not mllama


def test_a_layer_that_is_skipped_without_an_image_is_reported() -> None:
    model = build(tiny.FAMILIES["mllama"]()[0])
    with pytest.raises(LayersSkipped, match="skips decoder layer 1"):
        sites_of(model)


def test_the_error_of_a_model_that_rejects_the_probe_is_reported() -> None:
    with pytest.raises(LayersSkipped, match="pixel_values") as refusal:
        sites_of(build(tiny.FAMILIES["idefics"]()[0]))
    assert "y = x + attention + MLP" in refusal.value.cure


class ScaledLayer(ToyLayer):
    """(r + m) / 2: neither a shift of a branch nor one of the stream reaches the output unscaled."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Scale(1.5)

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        r = x + 0.3 * self.attention(x)
        y: torch.Tensor = 0.5 * (r + 0.3 * self.mlp(self.norm(r)))
        return y


class GatedLayer(ScaledLayer):
    """The same without the last factor."""

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gated_branches_are_edited_in_the_stream(dtype: torch.dtype) -> None:
    layer = GatedLayer()
    assert sites_of(with_layer(layer).to(dtype))[1] == LayerSites(NormInput(layer.norm), LayerOutput(layer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_layer_that_scales_the_stream_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedModel, match="0 possible pairs"):
        sites_of(with_layer(ScaledLayer()).to(dtype))


def test_gemma_4_is_refused_when_it_scales_its_layers() -> None:
    full = ["full_attention"] * tiny.LAYERS
    model = build(with_decoder("gemma4_text", layer_types=full, vocab_size_per_layer_input=320))
    layers = model.model.language_model.layers
    assert {type(point) for pair in sites_of(model) for point in pair} == {NormInput, LayerOutput}
    layers[1].layer_scalar.fill_(0.5)
    with pytest.raises(UnsupportedModel, match=r"layer 1 .* 0 possible pairs"):
        sites_of(model)


def test_a_decoder_without_an_mlp_module_is_refused() -> None:
    """OPT, the decoder of BLIP-2."""
    text = tiny.text_settings(tiny.build_tokenizer(), ffn_dim=96, word_embed_proj_dim=tiny.HIDDEN)
    model = tiny.random_model(tiny.hf.AutoModelForCausalLM, tiny.hf.OPTConfig(**text)).eval()
    with pytest.raises(UnsupportedModel, match="0 possible pairs"):
        sites_of(model)


def test_a_block_between_layers_does_not_change_the_sites() -> None:
    model = build(with_decoder("llama"))
    plain = sites_of(model)
    layer = model.model.language_model.layers[1]
    layer.register_forward_pre_hook(lambda _layer, args: (args[0] * 1.01, *args[1:]))
    assert sites_of(model) == plain


def test_a_module_shared_by_layers_is_not_an_edit_point() -> None:
    model = build(with_decoder("llama"))
    layers = model.model.language_model.layers
    layers[2].mlp = layers[0].mlp
    assert [names_in(model, pair) for pair in sites_of(model)] == [STREAM, PLAIN, STREAM]
    layers[2].post_attention_layernorm = layers[0].post_attention_layernorm
    with pytest.raises(UnsupportedModel, match="0 possible pairs"):
        sites_of(model)


def test_a_layer_that_runs_twice_is_refused() -> None:
    model = build(with_decoder("llama"))
    layers = model.model.language_model.layers

    def repeat_first(_layer: Any, args: Any, kwargs: Any) -> None:
        layers[0](*args, **kwargs)

    layers[1].register_forward_pre_hook(repeat_first, with_kwargs=True)
    with pytest.raises(UnsupportedModel, match=r"layer 0 .* runs twice"):
        sites_of(model)


def test_the_self_check_reports_a_site_without_a_hook(llava: Lvlm) -> None:
    attention = llava.model.model.language_model.layers[1].self_attn
    handles = dict(attention._forward_hooks)
    attention._forward_hooks.clear()
    try:
        with pytest.raises(UnsupportedModel, match="1 of 6 sites"):
            llava.self_check()
    finally:
        attention._forward_hooks.update(handles)
    llava.self_check()
