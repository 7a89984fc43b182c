"""The running batch: rows that decode together, each with its own vector, sampling options and end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from vlibrary.domain.errors import UnsupportedEdit, UnsupportedModel, VLibraryError
from vlibrary.domain.wire import Generation, TextPiece
from vlibrary.engine.decoder import Decoder
from vlibrary.engine.detokenizer import Detokenizer
from vlibrary.engine.request import Request
from vlibrary.engine.sampling import Sampler, next_tokens
from vlibrary.models.lvlm import Lvlm


@dataclass(eq=False)
class Row:
    """A request in the batch.

    slot: the pinned slot of its vector. token: its last token, the input of the next step.
    started, first_token_at: seconds on the clock of time.monotonic.
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

    def emit_text(self, text: str) -> None:
        if text:
            self.pieces.append(text)
            self.request.emit(TextPiece(text, self.tokens))


class RunningBatch:
    """B rows; `decode` generates one token for each."""

    def __init__(self, lvlm: Lvlm, decoder: Decoder) -> None:
        self._table = lvlm.table
        self._end_tokens = lvlm.end_tokens
        self._decoder = decoder
        self.rows: list[Row] = []

    def prefill(self, rows: Sequence[Row]) -> None:
        """Prefill the prompts of these rows, append the rows and generate their first tokens.

        Changes nothing when it raises.
        """
        prefilled = self._decoder.prefill([row.request.prompt for row in rows], [row.slot for row in rows])
        tokens = next_tokens(prefilled.logits.float(), [row.sampler for row in rows])
        self._decoder.join(prefilled)
        self.rows += rows
        self._postprocess(tokens, first=len(self.rows) - len(rows))

    def decode(self) -> None:
        """Generate one token for every row; rows that end leave. Changes nothing when it raises."""
        logits = self._decoder.decode([row.token for row in self.rows], [row.slot for row in self.rows])
        tokens = next_tokens(logits.float(), [row.sampler for row in self.rows])
        self._decoder.advance()
        self._postprocess(tokens, first=0)

    def drop(self, row: Row, *, scrub: bool = False) -> None:
        """Remove a row without emitting anything. scrub: its cache may hold non-finite numbers of a failed step."""
        self._remove(self.rows.index(row), scrub=scrub)

    def _postprocess(self, tokens: Sequence[int | None], first: int) -> None:
        """Append the tokens to the rows from `first` on, and remove rows that end."""
        ended = [
            (place, scrub)
            for place, token in enumerate(tokens, start=first)
            if (scrub := self._append(self.rows[place], token)) is not None
        ]
        for place, scrub in reversed(ended):  # from the back, because the last row takes the place of one that leaves
            self._remove(place, scrub=scrub)

    def _append(self, row: Row, token: int | None) -> bool | None:
        """Append a token and emit its text. Return None while the row continues, else whether to scrub its cache."""
        if token is None:
            row.request.emit(_not_finite(row.request))
            return True
        row.token = token
        row.tokens += 1
        row.sampler.advance()
        row.first_token_at = row.first_token_at or time.monotonic()
        ended = token in self._end_tokens
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
            "total_s": now - row.request.submitted,
        },
    )


def _not_finite(request: Request) -> VLibraryError:
    if request.vector is None:
        return UnsupportedModel(
            "The model's logits are not finite.", "Load it in bfloat16 or float32; the range of float16 is too small."
        )
    return UnsupportedEdit(
        "The model's logits overflow with this vector.",
        "Lower the strength, or load the model in bfloat16 or float32.",
    )
