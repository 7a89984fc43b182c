"""Constrained decoding: answers that are JSON of a schema, with the grammars of llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from vlibrary.domain.errors import InvalidInput
from vlibrary.engine.token_bytes import TokenBytes
from vlibrary.models.lvlm import Lvlm

_CACHED = 64  # compiled schemas
# Masks of few tokens take microseconds, less than waking a thread; those of many can take 20 ms.
_SMALL_VOCABULARY = 32_768
# Without a limit, a model can write white space to the end of the answer. A schema's `x-guidance` cannot lift it.
_OPTIONS: Any = {"whitespace_pattern": r"( |\n {0,16})?"}
_NEEDED = b'{}[]":,-.0123456789'
# Keywords whose values are schemas, lists of schemas, and schemas by name.
_ONE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


class Constraint:
    """The state of one answer: which tokens may come next."""

    def __init__(self, matcher: LLMatcher, pool: ThreadPoolExecutor | None) -> None:
        """pool: computes the next mask while the model computes the logits; None computes it at once."""
        self._matcher = matcher
        self._pool = pool
        self._mask = self._compute_next()

    def allowed_tokens(self, vocabulary: int) -> Tensor:
        """Return which of the tokens may come next, [V], on the host; none when the tokenizer cannot go on."""
        bits = np.unpackbits(np.frombuffer(self._mask.result(), np.uint8), bitorder="little")[:vocabulary]
        return torch.from_numpy(np.pad(bits, (0, vocabulary - len(bits)))).bool()

    def advance(self, token: int) -> None:
        """Commit a token that was allowed."""
        self._mask.result()
        self._matcher.consume_token(token)
        self._mask = self._compute_next()

    def _compute_next(self) -> Future[bytes]:
        if self._pool is not None:
            return self._pool.submit(self._compute)
        done: Future[bytes] = Future()
        done.set_result(self._compute())
        return done

    def _compute(self) -> bytes:
        return b"" if self._matcher.is_error() else self._matcher.compute_bitmask()


def no_continuation() -> InvalidInput:
    """Return the error for an answer that no token of the model can continue."""
    return InvalidInput(
        "The model's tokenizer cannot write what the JSON schema demands, or the model's logits are not finite.",
        "Use ASCII in the schema's names and constants, or simplify the schema.",
        field="json_schema",
    )


class Grammars:
    """Compiles JSON schemas for one model's tokenizer; thread-safe. Nothing is built before the first schema."""

    def __init__(self, lvlm: Lvlm) -> None:
        self._tokenizer = lvlm.tokenizer
        self._vocabulary = lvlm.vocabulary
        self._end_tokens = sorted(lvlm.end_tokens)
        self._lock = threading.Lock()
        self._native: LLTokenizer | None = None
        self._compiled: LRUCache[str, LLMatcher] = LRUCache(_CACHED)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def compile(self, schema: str) -> LLMatcher:
        """Return the matcher of a JSON schema, which must not be changed. May take seconds; later calls are quick.

        Raises InvalidInput that names the place of what is invalid or not supported, and for tokenizers without JSON's
        characters.
        """
        with self._lock:
            if schema not in self._compiled:
                self._native = self._native or self._open_tokenizer()
                self._compiled[schema] = _compile(json.loads(schema), self._native)
            return self._compiled[schema]

    def start(self, schema: str | None) -> Constraint | None:
        """Return the state of a new answer, None without a schema. Raises as `compile`."""
        if schema is None:
            return None
        pool = self._pool if self._vocabulary > _SMALL_VOCABULARY else None
        return Constraint(self.compile(schema).deep_copy(), pool)

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown()

    def _open_tokenizer(self) -> LLTokenizer:
        wrapped = _Tokenizer(self._tokenizer, self._vocabulary, self._end_tokens[0])
        single = {token for token in wrapped.tokens if len(token) == 1}
        missing = [chr(byte) for byte in _NEEDED if bytes([byte]) not in single]
        if missing:
            raise InvalidInput(
                f"The model's tokenizer cannot write JSON: it has no token for {missing[0]!r}.",
                "Omit the JSON format, or use another model.",
                field="json_schema",
            )
        native: Any = wrapped  # the declared type is a class that does the same
        return LLTokenizer(native, n_vocab=self._vocabulary, eos_token=self._end_tokens)


class _Tokenizer:
    """A tokenizer with the interface that llguidance reads."""

    bos_token_id = None
    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Any, vocabulary: int, end_token: int) -> None:
        names = TokenBytes(tokenizer)
        self.eos_token_id = end_token
        self.tokens = [names[token] for token in range(vocabulary)]
        self.special_token_ids = [token for token in tokenizer.added_tokens_decoder if token < vocabulary]
        self._backend = copy(tokenizer.backend_tokenizer)  # a copy, because others change its padding
        self._backend.no_padding()
        self._backend.no_truncation()

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _compile(schema: Any, tokenizer: LLTokenizer) -> LLMatcher:
    matcher = _try_compile(schema, tokenizer)
    if not matcher.is_error():
        return matcher
    place, reason = _find_error(schema, schema, tokenizer) or ("", matcher.get_error())
    raise InvalidInput(
        f"The JSON schema is invalid or not supported at {place or 'its root'}: {' '.join(reason.split())}.",
        "Change this part of the schema.",
        field="json_schema",
    )


def _try_compile(schema: Any, tokenizer: LLTokenizer) -> LLMatcher:
    compiled = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)
    return LLMatcher(tokenizer, compiled, log_level=0)


def _find_error(schema: Any, root: Any, tokenizer: LLTokenizer) -> tuple[str, str] | None:
    """Return the JSON pointer of the innermost schema that does not compile on its own, and the reason."""
    if not isinstance(schema, dict):
        return None if isinstance(schema, bool) else ("", "a schema must be an object or a boolean")
    for pointer, inner in _iter_inner(schema):
        found = _find_error(inner, root, tokenizer)
        if found is not None:
            return pointer + found[0], found[1]
    shared = {name: root[name] for name in ("$defs", "definitions") if name in root}
    matcher = _try_compile(shared | schema, tokenizer)
    return ("", matcher.get_error()) if matcher.is_error() else None


def _iter_inner(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas inside a schema with their JSON pointers."""
    for name in _ONE:
        if name in schema and not isinstance(schema[name], list):
            yield f"/{name}", schema[name]
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            yield from ((f"/{name}/{place}", one) for place, one in enumerate(schema[name]))
    for name in _NAMED:
        if isinstance(schema.get(name), dict):
            for key, one in schema[name].items():
                yield f"/{name}/{key.replace('~', '~0').replace('/', '~1')}", one
