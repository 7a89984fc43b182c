"""The running batch: rows that decode together, each with its own vector, options and end."""

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
    """One request in the batch. token: the last one drawn, which the next step reads."""

    request: Request
    slot: int
    text: Detokenizer
    sampler: Sampler
    started: float
    token: int = 0
    drawn: int = 0
    first_at: float | None = None
    shown: list[str] = field(default_factory=list)

    def show(self, text: str) -> None:
        if text:
            self.shown.append(text)
            self.request.emit(TextPiece(text, self.drawn))


class RunningBatch:
    """B rows that decode together; one `step` draws one token for each."""

    def __init__(self, lvlm: Lvlm, decoder: Decoder) -> None:
        self._table = lvlm.table
        self._ends = frozenset(lvlm.model.generation_config.eos_token_id)
        self._decoder = decoder
        self.rows: list[Row] = []

    def join(self, rows: Sequence[Row]) -> None:
        """Prefill these rows and draw their first tokens. Changes nothing if it fails."""
        newcomers = self._decoder.prefill([row.request.prompt for row in rows], [row.slot for row in rows])
        tokens = next_tokens(newcomers.logits.float(), [row.sampler for row in rows])
        self._decoder.join(newcomers)
        self.rows += rows
        self._take(tokens, first=len(self.rows) - len(rows))

    def step(self) -> None:
        """One token for every row; rows that end leave. Changes nothing if it fails."""
        logits = self._decoder.decode([row.token for row in self.rows], [row.slot for row in self.rows])
        tokens = next_tokens(logits.float(), [row.sampler for row in self.rows])
        self._decoder.advance()
        self._take(tokens, first=0)

    def drop(self, row: Row, *, scrub: bool = False) -> None:
        """Take a row out; nothing is emitted. scrub: a step failed half-way and may have left anything in its cache."""
        self._remove(self.rows.index(row), scrub=scrub)

    def _take(self, tokens: Sequence[int | None], first: int) -> None:
        """Give each row from `first` on its next token; those that end leave, from the back to keep the numbers."""
        ended = [
            (place, broken)
            for place, token in enumerate(tokens, start=first)
            if (broken := self._advance(self.rows[place], token)) is not None
        ]
        for place, broken in reversed(ended):
            self._remove(place, scrub=broken)

    def _advance(self, row: Row, token: int | None) -> bool | None:
        """None while the row goes on; else whether its numbers are broken."""
        if token is None:
            row.request.emit(_not_finite(row.request))
            return True
        row.token = token
        row.drawn += 1
        row.sampler.advance()
        row.first_at = row.first_at or time.monotonic()
        ended = token in self._ends
        row.show("" if ended else row.text.push(token))
        if ended or row.text.stopped or row.drawn >= row.request.decoding.max_new_tokens:
            row.show(row.text.finish())
            row.request.emit(_generation(row, "stop" if ended or row.text.stopped else "length"))
            return False
        return None

    def _remove(self, place: int, *, scrub: bool = False) -> None:
        self._table.unpin([self.rows[place].slot])
        self._decoder.leave(place, scrub=scrub)
        self.rows[place] = self.rows[-1]
        self.rows.pop()


def _generation(row: Row, reason: str) -> Generation:
    now = time.monotonic()
    first = row.first_at or now
    return Generation(
        text="".join(row.shown),
        prompt_tokens=row.request.prompt.length,
        completion_tokens=row.drawn,
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
            "The model's answer is not a number.", "Load it in bfloat16 or float32; float16 is too narrow for it."
        )
    return UnsupportedEdit(
        "With this vector the model's numbers overflow.",
        "Lower the strength, or load the model in bfloat16 or float32.",
    )
