"""The running batch: rows that decode together, each with its own vector, sampling options and end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from vlibrary.domain.errors import UnsupportedEdit, UnsupportedModel, VLibraryError
from vlibrary.domain.wire import Generation, ScoredToken, TextPiece
from vlibrary.engine.decoder import Decoder
from vlibrary.engine.detokenizer import Detokenizer
from vlibrary.engine.grammar import no_continuation
from vlibrary.engine.logprobs import score_prompt, score_tokens
from vlibrary.engine.request import Request
from vlibrary.engine.sampling import Sampler, next_tokens
from vlibrary.engine.token_bytes import TokenBytes
from vlibrary.models.lvlm import Lvlm


@dataclass(eq=False)
class Row:
    """A request in the batch.

    slot: the pinned slot of its vector. token: its last token, the input of the next step.
    started, first_token_at: seconds on the clock of time.monotonic.
    logprobs: of the tokens so far, if requested; the first `reported` of them are in pieces.
    """

    request: Request
    slot: int
    detokenizer: Detokenizer
    sampler: Sampler
    started: float
    token: int = 0
    tokens: int = 0
    first_token_at: float | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[ScoredToken] = field(default_factory=list)
    reported: int = 0
    prompt_logprobs: tuple[ScoredToken, ...] | None = None

    def emit_text(self, text: str) -> None:
        if text:
            self.pieces.append(text)
            scored = tuple(self.logprobs[self.reported :])
            self.request.emit(TextPiece(text, self.tokens, scored, self.request.prompt.length))
            self.reported = len(self.logprobs)


class RunningBatch:
    """B rows; `decode` generates one token for each."""

    def __init__(self, lvlm: Lvlm, decoder: Decoder) -> None:
        self._table = lvlm.table
        self._token_bytes = TokenBytes(lvlm.tokenizer)
        self._decoder = decoder
        self.rows: list[Row] = []

    def prefill(self, rows: Sequence[Row]) -> None:
        """Prefill the prompts of these rows, append the rows and generate their first tokens.

        Changes nothing when it raises.
        """
        every = any(row.request.decoding.prompt_logprobs is not None for row in rows)
        prefilled = self._decoder.prefill([row.request.prompt for row in rows], [row.slot for row in rows], every=every)
        logits = prefilled.logits
        if every:
            for row, one in zip(rows, logits, strict=True):
                count, ids = row.request.decoding.prompt_logprobs, row.request.prompt.ids
                if count is not None:  # one: [T, V], of the left-padded prompt
                    row.prompt_logprobs = score_prompt(one[-len(ids) :], ids, count, self._token_bytes)
            logits = logits[:, -1]
        drawn = self._draw(logits.float(), rows)
        self._decoder.join(prefilled)
        self.rows += rows
        self._postprocess(drawn, first=len(self.rows) - len(rows))

    def decode(self) -> None:
        """Generate one token for every row; rows that end leave. Changes nothing when it raises."""
        logits = self._decoder.decode([row.token for row in self.rows], [row.slot for row in self.rows])
        drawn = self._draw(logits.float(), self.rows)
        self._decoder.advance()
        self._postprocess(drawn, first=0)

    def drop(self, row: Row, *, scrub: bool = False) -> None:
        """Remove a row without emitting anything. scrub: its cache may hold non-finite numbers of a failed step."""
        self._remove(self.rows.index(row), scrub=scrub)

    def _draw(self, logits: Tensor, rows: Sequence[Row]) -> list[tuple[int | None, ScoredToken | None]]:
        """Return each row's next token, None if its logits are not finite, with its log-probability if requested."""
        tokens = next_tokens(logits, [row.sampler for row in rows])
        asking = [
            (place, token, count)
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True))
            if (count := row.request.decoding.logprobs) is not None and token is not None
        ]
        drawn: list[tuple[int | None, ScoredToken | None]] = [(token, None) for token in tokens]
        if asking:
            places, chosen, counts = zip(*asking, strict=True)
            scores = score_tokens(logits[list(places)], chosen, counts, self._token_bytes)
            for place, token, scored in zip(places, chosen, scores, strict=True):
                drawn[place] = token, scored
        return drawn

    def _postprocess(self, drawn: Sequence[tuple[int | None, ScoredToken | None]], first: int) -> None:
        """Append the tokens to the rows from `first` on, and remove rows that end."""
        ended = [
            (place, scrub)
            for place, (token, scored) in enumerate(drawn, start=first)
            if (scrub := self._append(self.rows[place], token, scored)) is not None
        ]
        for place, scrub in reversed(ended):  # from the back, because the last row takes the place of one that leaves
            self._remove(place, scrub=scrub)

    def _append(self, row: Row, token: int | None, scored: ScoredToken | None) -> bool | None:
        """Append a token and emit its text. Return None while the row continues, else whether to scrub its cache."""
        if token is None:
            row.request.emit(_not_finite(row.request))
            return True
        row.first_token_at = row.first_token_at or time.monotonic()
        if row.request.decoding.max_new_tokens == 0:
            row.request.emit(_generation(row, "length"))
            return False
        row.token = token
        row.tokens += 1
        row.sampler.advance(token)
        ended = token in row.sampler.end_tokens
        if scored is not None and not ended:
            row.logprobs.append(scored)
        row.emit_text("" if ended else row.detokenizer.push(token))
        if ended or row.detokenizer.stopped or row.tokens >= row.request.decoding.max_new_tokens:
            row.emit_text(row.detokenizer.finish())
            row.request.emit(_generation(row, "stop" if ended or row.detokenizer.stopped else "length"))
            return False
        return None

    def _remove(self, place: int, *, scrub: bool = False) -> None:
        self._table.unpin([self.rows[place].slot])
        self._decoder.leave(place, scrub=scrub)
        self.rows[place] = self.rows[-1]
        self.rows.pop()


def _generation(row: Row, reason: str) -> Generation:
    now = time.monotonic()
    first = row.first_token_at or now
    return Generation(
        text="".join(row.pieces),
        prompt_tokens=row.request.prompt.length,
        completion_tokens=row.tokens,
        finish_reason=reason,
        timings={
            "queue_s": row.started - row.request.submitted,
            "prefill_s": first - row.started,
            "decode_s": now - first,
            "total_s": now - row.request.submitted,
        },
        logprobs=None if row.request.decoding.logprobs is None else tuple(row.logprobs),
        prompt_logprobs=row.prompt_logprobs,
    )


def _not_finite(request: Request) -> VLibraryError:
    if request.decoding.json_schema is not None:
        return no_continuation()
    if request.vector is None:
        return UnsupportedModel(
            "The model's logits are not finite.", "Load it in bfloat16 or float32; the range of float16 is too small."
        )
    return UnsupportedEdit(
        "The model's logits overflow with this vector.",
        "Lower the strength, or load the model in bfloat16 or float32.",
    )
