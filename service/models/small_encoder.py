"""The architecture of the bundled query embedder, `vlibrary-encoder`, in the interface of a CLIP model.

Its text side is a table of token embeddings whose weighted sum is a text's embedding: no context, any length, well
below a millisecond. One half of a token's row is its meaning, projected from all-MiniLM-L6-v2; the other half is a
fixed random direction, so that two words of similar meaning stay two words. The weights, learned from the frames of
questions, let a text be what it asks about ("hue") and not how ("Could you tell me the ... of the objects?").

Its image side is the first half of EfficientNet-Lite0, trained on ImageNet by its authors, whose features are pooled at
four depths and projected linearly.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoProcessor, CLIPProcessor, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

MODEL_TYPE: Final = "vlibrary-encoder"
# Channels, kernel, stride and expansion of the inverted residual blocks of EfficientNet-Lite0, without the last five.
_BLOCKS: Final = (
    (16, 3, 1, 1),
    (24, 3, 2, 6),
    (24, 3, 1, 6),
    (40, 5, 2, 6),
    (40, 5, 1, 6),
    (80, 3, 2, 6),
    (80, 3, 1, 6),
    (80, 3, 1, 6),
    (112, 5, 1, 6),
    (112, 5, 1, 6),
    (112, 5, 1, 6),
)
_STEM: Final = 32
# The blocks whose outputs are pooled: the last of each width.
_POOLED: Final = (2, 4, 7, 10)
# Mean and deviation of each pooled channel.
FEATURES: Final = 2 * sum(_BLOCKS[number][0] for number in _POOLED)


class SmallEncoderConfig(PreTrainedConfig):
    """Sizes of the two sides.

    vocabulary: tokens of the table. meaning: dimensions of its learned half. hashed: dimensions of the other half.
    image_size: dimensions of an image embedding. max_tokens: how many tokens of a text are read.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        vocabulary: int = 0,
        meaning: int = 128,
        hashed: int = 128,
        image_size: int = 64,
        max_tokens: int = 64,
        **rest: Any,
    ) -> None:
        self.vocabulary, self.meaning, self.hashed = vocabulary, meaning, hashed
        self.image_size, self.max_tokens = image_size, max_tokens
        super().__init__(**rest)

    @property
    def text_config(self) -> SimpleNamespace:
        return SimpleNamespace(max_position_embeddings=self.max_tokens)


class _Conv(nn.Conv2d):
    """A convolution padded as TensorFlow pads it: to ceil(size / stride) outputs, with the odd pixel at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, images: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for size in (images.shape[-1], images.shape[-2]):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [total // 2, total - total // 2]
        outputs: Tensor = super().forward(functional.pad(images, pads))
        return outputs


class _Block(nn.Module):
    """An inverted residual block, with its batch normalisation folded into the convolutions."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = _Conv(inputs, width) if expansion > 1 else None
        self.depthwise = _Conv(width, width, kernel, stride, groups=width)
        self.project = _Conv(width, outputs)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        hidden = images if self.expand is None else functional.relu6(self.expand(images))
        outputs: Tensor = self.project(functional.relu6(self.depthwise(hidden)))
        return images + outputs if self.skips else outputs


class ImageFeatures(nn.Module):
    """The first eleven blocks of EfficientNet-Lite0: images [N, 3, H, W] to pooled features [N, FEATURES]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, _STEM, 3, 2)
        widths = [_STEM, *(outputs for outputs, *_ in _BLOCKS)]
        self.blocks = nn.ModuleList(_Block(width, *block) for width, block in zip(widths, _BLOCKS, strict=False))

    def forward(self, images: Tensor) -> Tensor:
        hidden, pooled = functional.relu6(self.stem(images)), []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in _POOLED:
                pooled += [hidden.mean((2, 3)), hidden.std((2, 3))]
        return torch.cat(pooled, 1)


class SmallEncoder(PreTrainedModel):
    """The two sides; built from the configuration, it has no useful weights."""

    config_class = SmallEncoderConfig
    main_input_name = "pixel_values"
    table: Tensor

    def __init__(self, config: SmallEncoderConfig) -> None:
        super().__init__(config)
        self.features = ImageFeatures()
        self.projection = nn.Linear(FEATURES, config.image_size)
        # Rows of 8-bit numbers, whose lengths mean nothing; `scale` holds each token's weight in a text.
        self.register_buffer("table", torch.zeros(config.vocabulary, config.meaning, dtype=torch.int8))
        self.scale = nn.Parameter(torch.zeros(config.vocabulary), requires_grad=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the embeddings [N, image_size] of images [N, 3, H, W] as `pooler_output`."""
        # One at a time: the projection enlarges differences in rounding, which depend on the batch.
        embeddings = [self.projection(self.features(one[None])) for one in pixel_values]
        return BaseModelOutputWithPooling(pooler_output=torch.cat(embeddings))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the embeddings [N, meaning + hashed] of token ids [N, T] as `pooler_output`."""
        weights = self.scale[input_ids] * attention_mask
        return BaseModelOutputWithPooling(pooler_output=(self.token_rows(input_ids) * weights[..., None]).sum(1))

    def token_rows(self, ids: Tensor) -> Tensor:
        """Return the embedding of each token without its weight, [N, T, meaning + hashed]; both halves of length 1."""
        meanings = functional.normalize(self.table[ids].float(), dim=-1)
        unique, places = ids.unique(return_inverse=True)
        hashed = torch.stack([self._direction(token) for token in unique.tolist()]).to(ids.device)
        return torch.cat([meanings, hashed[places]], -1)

    def _direction(self, token: int) -> Tensor:
        """Return a direction of length 1 that depends on nothing but the token's id, [hashed]."""
        size: int = self.config.hashed
        digest = hashlib.shake_128(token.to_bytes(4, "little")).digest(size // 8)
        signs = [(byte >> bit & 1) * 2 - 1 for byte in digest for bit in range(8)]
        direction: Tensor = torch.tensor(signs, dtype=torch.float32) / size**0.5
        return direction


def register_encoder() -> None:
    """Let the Auto classes of transformers load folders with this architecture."""
    AutoConfig.register(MODEL_TYPE, SmallEncoderConfig, exist_ok=True)
    AutoModel.register(SmallEncoderConfig, SmallEncoder, exist_ok=True)
    AutoProcessor.register(SmallEncoderConfig, CLIPProcessor, exist_ok=True)
