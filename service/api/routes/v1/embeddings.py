"""OpenAI's embeddings, by the query embedder."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import LibraryDep, ScopeDep
from vlibrary.api.http.responses import problems
from vlibrary.api.openai.embeddings import EmbeddingsIn, EmbeddingsOut

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/embeddings",
    operation_id="create_embeddings",
    summary="Embed texts or images",
    response_model=EmbeddingsOut,
    responses=problems(400, 404, 413, 422, 429, 500, 503, 504),
    openapi_extra=json_docs(EmbeddingsIn),
)
async def create_embeddings(request: Request, scope: ScopeDep, library: LibraryDep) -> EmbeddingsOut:
    """Compatible with OpenAI's embeddings. The model is the query embedder, with which the service finds vectors.

    The inner product of two embeddings is their cosine. A text and an image can be compared as well, because both have
    embeddings in one space. The score of a match in `POST /retrieve` is the mean cosine over the query's parts.

    An image is sent as one user message in `messages`, as vLLM takes it.
    """
    async with scope.deadline():
        body = await read_json(request, EmbeddingsIn)
    spec = (await scope.run_in_thread(library.worker.models))[0].embedder
    body.check_embedder(spec)
    calls = [partial(library.worker.embed, query) for query in body.to_queries()]
    embeddings = await scope.run_in_threads(calls)
    body.check_lengths(embeddings)
    return EmbeddingsOut.of(embeddings, spec.embedder_id, body.encoding_format)
