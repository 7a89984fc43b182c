"""A prompt as the engine takes it: tokens and pixels on the host, pictures with their digests."""

from __future__ import annotations

import hashlib

from vlibrary.domain.wire import Prompt
from vlibrary.engine.request import EncodedPrompt
from vlibrary.models.lvlm import Lvlm


def encode(lvlm: Lvlm, prompt: Prompt, max_new_tokens: int) -> EncodedPrompt:
    """The prompt, ready to be prefilled; any thread may call it.

    Raises InvalidImage, InvalidQuery, PromptTooLong.
    """
    batch = lvlm.encode_on_host(prompt, max_new_tokens)
    shown = [image for one in prompt.demonstrations for image in one.images]
    digests = tuple(hashlib.sha256(image).hexdigest() for image in (*shown, *prompt.images))
    return EncodedPrompt(prompt, batch.inputs, batch.prompt_tokens[0], digests)
