"""Constrained decoding: answers that are JSON of a schema, with the grammars of llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch
from cachetools import LRUCache, cachedmethod
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
_NAMED = ("properties", "patternProperties", "dependentSchemas")
_MOVED = "#/$defs/root"  # where the whole schema is in one that stands for a part of it
_MOST_STEPS = 200  # of references that are followed, since each takes a call


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
        self._compiled: LRUCache[Any, LLMatcher] = LRUCache(_CACHED)
        self._changed = threading.Condition()  # guards _compiled, not a compilation
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    @cachedmethod(lambda self: self._compiled, condition=lambda self: self._changed)
    def compile(self, schema: str) -> LLMatcher:
        """Return the matcher of a JSON schema, which must not be changed. May take seconds; later calls are quick.

        Threads that call it with one schema at the same time wait for one compilation; other calls do not wait for it.
        Raises InvalidInput that names the place of what is invalid or not supported, and for tokenizers without JSON's
        characters.
        """
        with self._lock:
            self._native = self._native or self._open_tokenizer()
        return _compile(json.loads(schema), self._native)

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
    matcher = _try_compile(json.dumps(schema), tokenizer)
    if not matcher.is_error():
        return matcher
    place, reason = _ErrorFinder(schema, tokenizer).find("", schema, ()) or ("", matcher.get_error())
    raise InvalidInput(
        f"The JSON schema is invalid or not supported at {place or 'its root'}: {' '.join(reason.split())}.",
        "Change this part of the schema.",
        field="json_schema",
    )


def _try_compile(schema: str, tokenizer: LLTokenizer) -> LLMatcher:
    return LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS), log_level=0)


class _ErrorFinder:
    """Finds the part of a schema that is invalid, by compiling the parts one by one."""

    def __init__(self, root: dict[str, Any], tokenizer: LLTokenizer) -> None:
        self._root = {name: value for name, value in root.items() if name != "$id"}  # "#" refers to the part then
        self._text = json.dumps(_move_references(self._root, ()))
        self._tokenizer = tokenizer
        self._visited: set[str] = set()

    def find(self, pointer: str, schema: Any, above: tuple[str, ...]) -> tuple[str, str] | None:
        """Return the JSON pointer of the innermost invalid schema in the one at `pointer`, and the reason.

        References are followed. above: the schemas that lead to this one; references back to them count as valid, since
        the error may be theirs.
        """
        self._visited.add(pointer)
        if not isinstance(schema, dict):
            return None if isinstance(schema, bool) else (pointer, "a schema must be an object or a boolean")
        parts = [(pointer + place, inner) for place, inner in _iter_inner(schema)]
        if len(above) < _MOST_STEPS:
            parts += self._follow(schema.get("$ref"))
        for place, inner in parts:
            if place not in self._visited and (found := self.find(place, inner, (*above, pointer))) is not None:
                return found
        matcher = self._compile_part(pointer, self._text)
        if matcher.is_error() and above:
            matcher = self._compile_part(pointer, json.dumps(_move_references(self._root, above)))
        return (pointer, matcher.get_error().replace(_MOVED[1:], "")) if matcher.is_error() else None

    def _compile_part(self, pointer: str, root: str) -> LLMatcher:
        """Compile the schema at the pointer. root: the whole schema, with its references moved."""
        reference = json.dumps(_MOVED + quote(pointer, safe="/~"))
        return _try_compile(f'{{"$ref": {reference}, "$defs": {{"root": {root}}}}}', self._tokenizer)

    def _follow(self, reference: Any) -> list[tuple[str, Any]]:
        """Return the pointer and the schema that the reference stands for, if it is in this document."""
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return []
        pointer = unquote(reference[1:])
        found: Any = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and step.isdecimal():
                found = dict(enumerate(found)).get(int(step))
            else:
                found = found.get(step) if isinstance(found, dict) else None
        return [] if found is None else [(pointer, found)]


def _move_references(value: Any, dropped: Collection[str]) -> Any:
    """Return the JSON value with its references to the document as references to _MOVED, without those to `dropped`."""
    if isinstance(value, list):
        return [_move_references(one, dropped) for one in value]
    if not isinstance(value, dict):
        return value
    moved = {name: _move_references(one, dropped) for name, one in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = _MOVED + reference[1:]
        if unquote(reference[1:]) in dropped:
            del moved["$ref"]
    return moved


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
