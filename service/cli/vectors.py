"""`vlibrary register | list | retrieve | generate`: verbs against a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlibrary.cli.output import console, moment, print_json, print_rows
from vlibrary.cli.which import Metadata, Name, Tags, which_of
from vlibrary.client import Client, GenerateOptions
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.wire import TextPiece
from vlibrary.schemas.generate import ChosenVector, GenerateOut
from vlibrary.schemas.vectors import MatchOut, VectorOut

Url = Annotated[str, typer.Option("--url", envvar="VLIBRARY_URL", help="Where the service is")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON")]
Images = Annotated[list[Path] | None, typer.Option("--image", help="Picture; may be given several times")]
LOCAL = "http://127.0.0.1:8000"


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(register)
    app.command("list")(list_vectors)
    app.command()(retrieve)
    app.command()(generate)


def register(
    artifact: Annotated[Path, typer.Argument(help="The .safetensors file that `vlibrary train` wrote")],
    card: Annotated[
        Path | None, typer.Option(help="Its card; NAME.card.json beside NAME.safetensors if left out")
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Register a trained vector."""
    card = card or artifact.with_suffix(".card.json")
    with Client(url) as service:
        record = service.register(_read(artifact), _read(card).decode("utf-8", errors="replace"))
    if as_json:
        print_json(record)
    else:
        console.print(f"Registered {record.name} version {record.version} as {record.id}")


def list_vectors(
    name: Name = None,
    tags: Tags = None,
    metadata: Metadata = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List the vectors, newest first."""
    with Client(url) as service:
        records = list(service.list_vectors(**which_of(name, tags, metadata)))
    if as_json:
        print_json(records)
        return
    columns = ("name", "version", "method", "model", "created", "id")
    none = "There are none. `vlibrary train` makes a vector, `register` adds it."
    print_rows(columns, [_vector_row(record) for record in records], none=none)


def _vector_row(record: VectorOut) -> tuple[str, ...]:
    kind = (record.name, str(record.version), record.method, record.model)
    return (*kind, moment(record.created_at), record.id)


def retrieve(
    text: Annotated[str | None, typer.Argument(help="The question")] = None,
    image: Images = None,
    k: Annotated[int, typer.Option(help="How many vectors")] = 5,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Find the vectors that fit a question, a picture, or both."""
    with Client(url) as service:
        matches = service.retrieve(text, images=[_read(path) for path in image or []], k=k)
    if as_json:
        print_json(matches)
        return
    columns = ("name", "version", "score", "threshold", "accepted", "id")
    print_rows(columns, [_match_row(match) for match in matches], none="The library has no vector for this model.")


def _match_row(match: MatchOut) -> tuple[str, ...]:
    accepted = "yes" if match.accepted else "no"
    numbers = (f"{match.score:.3f}", f"{match.threshold:.3f}")
    return (match.name, str(match.version), *numbers, accepted, match.id)


def generate(
    prompt: Annotated[str, typer.Argument(help="The question")],
    image: Images = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(help="Id, name, name:3 or name@alias to apply, perhaps with =strength; instead of auto"),
    ] = None,
    unsteered: Annotated[bool, typer.Option("--unsteered", help="Apply no vector")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens")] = 16,
    stop: Annotated[list[str] | None, typer.Option(help="Text before which the answer ends; may repeat")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes")] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Answer a question, steered by the vector that fits it best."""
    if stream and as_json:
        raise InvalidInput("Both --stream and --json are given.", "Give one of them.")
    options: GenerateOptions = {
        "images": [_read(path) for path in image or []],
        "steering": _steering(vector, unsteered),
        "decoding": {"max_new_tokens": max_new_tokens, "stop": stop or []},
    }
    with Client(url) as service:
        answer = _print_stream(service, prompt, options) if stream else service.generate(prompt, **options)
    if as_json:
        print_json(answer)
        return
    if not stream:
        console.print(answer.text, markup=False)
    _print_steering(answer)


def _print_stream(service: Client, prompt: str, options: GenerateOptions) -> GenerateOut:
    """Prints the pieces as they come; returns the whole answer."""
    with service.stream(prompt, **options) as events:
        for event in events:
            if isinstance(event, TextPiece):
                # soft_wrap: a piece does not know where on the line it begins
                console.print(event.text, end="", markup=False, highlight=False, soft_wrap=True)
            else:
                answer = event
    console.print()
    return answer


def _print_steering(answer: GenerateOut) -> None:
    for applied in answer.steering.applied:
        score = "" if applied.score is None else f", score {applied.score:.3f}"
        console.print(f"[dim]steered by {applied.name} version {applied.version}{score}[/]")
    if reason := answer.steering.reason:
        console.print(f"[dim]not steered ({reason.code}): {reason.detail}[/]")


def _steering(vector: list[str] | None, unsteered: bool) -> Literal["auto", "off"] | list[ChosenVector]:
    if vector and unsteered:
        raise InvalidInput("Both --vector and --unsteered are given.", "Give one of them.")
    if not vector:
        return "off" if unsteered else "auto"
    return [_chosen(text) for text in vector]


def _chosen(text: str) -> ChosenVector:
    reference, _, strength = text.partition("=")
    try:
        return ChosenVector(id=reference, strength=float(strength or 1))
    except ValueError as error:
        raise InvalidInput(f"The strength {strength!r} is not a number.", "Write --vector ID=0.5.") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
