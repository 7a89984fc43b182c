"""Every field that OpenAI's client can send is known: honoured, accepted as a hint, or refused with a reason.

The installed client's own types are the list, so that a new field fails here.
"""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from openai.types import completion_create_params as completion
from openai.types import embedding_create_params as embedding
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartRefusalParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat
from openai.types.chat.chat_completion_content_part_image_param import ImageURL
from openai.types.responses import (
    EasyInputMessageParam,
    ResponseFormatTextJSONSchemaConfigParam,
    ResponseInputImageParam,
    ResponseInputTextParam,
    ResponseOutputMessageParam,
    ResponseOutputRefusalParam,
    ResponseOutputTextParam,
    ResponseTextConfigParam,
)
from openai.types.responses import response_create_params as responses
from openai.types.responses.response_input_item_param import Message
from openai.types.shared_params.response_format_json_schema import JSONSchema
from pydantic import BaseModel

from vlibrary.api.openai.chat import ChatIn, JsonSchemaFormat, StreamOptions
from vlibrary.api.openai.completions.request import CompletionsIn
from vlibrary.api.openai.embeddings import EmbeddingsIn
from vlibrary.api.openai.messages import (
    AssistantMessage,
    ImageIn,
    ImagePart,
    RefusalPart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from vlibrary.api.openai.responses.items import AssistantItem, SystemItem, UserItem
from vlibrary.api.openai.responses.request import ResponsesIn, ResponseStreamOptions, TextConfig, TextFormat

PAIRS: list[tuple[Any, type[BaseModel]]] = [
    *((one, ChatIn) for one in get_args(chat.CompletionCreateParams)),
    *((one, CompletionsIn) for one in get_args(completion.CompletionCreateParams)),
    *((one, ResponsesIn) for one in get_args(responses.ResponseCreateParams)),
    (embedding.EmbeddingCreateParams, EmbeddingsIn),
    (ChatCompletionSystemMessageParam, SystemMessage),
    (ChatCompletionDeveloperMessageParam, SystemMessage),
    (ChatCompletionUserMessageParam, UserMessage),
    (ChatCompletionAssistantMessageParam, AssistantMessage),
    (ChatCompletionContentPartTextParam, TextPart),
    (ChatCompletionContentPartImageParam, ImagePart),
    (ChatCompletionContentPartRefusalParam, RefusalPart),
    (ChatCompletionStreamOptionsParam, StreamOptions),
    (ImageURL, ImageIn),
    (JSONSchema, JsonSchemaFormat),
    (EasyInputMessageParam, UserItem),
    (Message, SystemItem),
    (ResponseOutputMessageParam, AssistantItem),
    (ResponseInputTextParam, TextPart),
    (ResponseInputImageParam, ImagePart),
    (ResponseOutputTextParam, TextPart),
    (ResponseOutputRefusalParam, RefusalPart),
    (ResponseTextConfigParam, TextConfig),
    (ResponseFormatTextJSONSchemaConfigParam, TextFormat),
    (responses.StreamOptions, ResponseStreamOptions),
]


@pytest.mark.parametrize(("sent", "body"), PAIRS, ids=lambda one: one.__name__)
def test_every_field_of_openais_client_is_known(sent: Any, body: type[BaseModel]) -> None:
    known = {field.alias or name for name, field in body.model_fields.items()}
    assert set(get_type_hints(sent)) - known == set()
