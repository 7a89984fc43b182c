"""`vlibrary register | import-vector | list | retrieve | generate`: commands that use a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlibrary.cli.output import (
    errors,
    format_time,
    print_answer,
    print_json,
    print_result,
    print_rows,
    print_text,
    shorten,
)
from vlibrary.client import Client, GenerateOptions, VectorFilter
from vlibrary.client.endpoints import RetrievalFilter
from vlibrary.domain.card import VectorCard, has_lift
from vlibrary.domain.errors import InvalidArtifact, InvalidInput
from vlibrary.domain.vector import ModelSpec, Site
from vlibrary.domain.wire import TextPiece
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card, parse_card
from vlibrary.formats.foreign import recognise
from vlibrary.formats.imported import Placement, read_foreign_vector
from vlibrary.formats.text import NotUtf8, decode_utf8
from vlibrary.schemas.generate import ChosenVector, GenerateOut
from vlibrary.schemas.health import ModelOut
from vlibrary.schemas.vectors import EmbeddedTextOut

Url = Annotated[str, typer.Option("--url", envvar="VLIBRARY_URL", help="Base URL of the service")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's response as JSON")]
Images = Annotated[list[Path] | None, typer.Option("--image", help="Image file; may be repeated")]
Name = Annotated[str | None, typer.Option(help="Only versions of the vector with this name")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only vectors with this tag; may be repeated")]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", help="Only vectors whose metadata match, such as shots>=8; may be repeated"),
]
LOCAL = "http://127.0.0.1:8000"


def vector_filter(name: str | None, tags: list[str] | None, metadata: list[str] | None) -> VectorFilter:
    """Return the filter options as the client takes them."""
    found: VectorFilter = {"tag": tags or [], "metadata": metadata or []}
    if name is not None:
        found["name"] = name
    return found


def register(
    artifact: Annotated[Path, typer.Argument(help="The .safetensors file written by `vlibrary train`")],
    card: Annotated[
        Path | None, typer.Option(help="Card file", show_default="NAME.card.json next to NAME.safetensors")
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Register it even if its results are no better than those without a vector")
    ] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Register a trained vector with the service."""
    card = card or artifact.parent / f"{artifact.stem}.card.json"
    if artifact.is_dir():
        raise InvalidInput(
            f"{artifact} is a folder.", "Give a .safetensors file; `vlibrary import` reads folders of exported vectors."
        )
    data = _read(artifact)
    if (foreign := recognise(data)) is not None:  # before a large file is sent
        raise InvalidArtifact(f"{artifact} is {foreign.what}.", foreign.cure)
    try:
        text = decode_utf8(_read(card))
    except NotUtf8 as error:
        raise InvalidInput(f"{card} is not UTF-8: {error}.", "Save the file as UTF-8 text.") from error
    results = parse_card(text).results
    if has_lift(results) is False and not force:
        raise InvalidInput(
            f"According to its card, {artifact.stem} is no better than the model without it: "
            f"{results['steered']:.1%} against {results['zero_shot']:.1%}.",
            "Train it with more examples, or use --force to register it anyway.",
        )
    with Client(url) as service:
        record = service.register(data, text)
    _warn_if_truncated("description", record.description_text)
    print_result(record, f"Registered {record.name} version {record.version} as {record.id}", as_json=as_json)


def import_vector(
    file: Annotated[Path, typer.Argument(help="A .npy, .npz, .safetensors or .gguf file of another program")],
    name: Annotated[str, typer.Option(help="Name of the vector, such as politeness")],
    description: Annotated[str, typer.Option(help="What the vector does; queries find it by this text")],
    site: Annotated[Site | None, typer.Option(help="Output that the directions are added to; not for GGUF")] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Decoder layers of the rows, counted from 0, such as 3 or 10-14", show_default="all, in order"
        ),
    ] = None,
    first_layer: Annotated[
        int | None, typer.Option(min=0, max=1, help="Number of the first decoder layer in a GGUF file")
    ] = None,
    tensor: Annotated[str | None, typer.Option(help="Name of the array, if the file has several")] = None,
    scale: Annotated[float, typer.Option(help="Factor of the directions")] = 1.0,
    model: Annotated[str | None, typer.Option(help="Base model, if the service serves several")] = None,
    out: Annotated[Path, typer.Option(help="Output folder for NAME.safetensors and NAME.card.json")] = Path(),
    url: Url = LOCAL,
) -> None:
    """Convert a steering vector of another program into a file that can be registered."""
    card = VectorCard(name, description)
    if not description.strip():
        raise InvalidInput("The description is empty.", "Describe what the vector does; queries find it by this text.")
    with Client(url) as service:
        spec = _choose_model(service.list_models(), model)
    vector = read_foreign_vector(_read(file), spec, Placement(site, layers, first_layer, tensor, scale))
    out.mkdir(parents=True, exist_ok=True)
    artifact = out / f"{name}.safetensors"
    artifact.write_bytes(encode(vector))
    (out / f"{name}.card.json").write_text(dump_card(card), encoding="utf-8")
    edited = next(iter(vector.edits.values())).scale.astype(bool).sum()
    print_text(
        f"Wrote {artifact}, which edits {edited} of {spec.layers} layers. Register it: vlibrary register {artifact}"
    )


def _choose_model(served: list[ModelOut], model: str | None) -> ModelSpec:
    known = {one.id: one for one in served}
    if (model or len(known) != 1) and model not in known:
        raise InvalidInput(
            f"The service does not serve {model!r:.80}." if model else f"The service serves {len(known)} models.",
            f"Choose one with --model: {', '.join(sorted(known)) or 'none is ready'}.",
        )
    one = known[model] if model else served[0]
    return ModelSpec(one.id, one.fingerprint, one.architecture, one.layers, one.hidden_size)


def list_vectors(
    name: Name = None,
    tags: Tags = None,
    metadata: Metadata = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List vectors, newest first."""
    with Client(url) as service:
        records = list(service.list_vectors(**vector_filter(name, tags, metadata)))
    if as_json:
        print_json(records)
        return
    columns = ("name", "version", "method", "model", "created", "id")
    rows = [
        (one.name, str(one.version), shorten(one.method), shorten(one.model), format_time(one.created_at), one.id)
        for one in records
    ]
    print_rows(columns, rows, none="No vectors. Create one with `vlibrary train`, then `vlibrary register` it.")


def retrieve(
    text: Annotated[str | None, typer.Argument(help="Question; optional if there is an image")] = None,
    image: Images = None,
    k: Annotated[int, typer.Option(help="Maximum number of vectors")] = 5,
    name: Name = None,
    tags: Tags = None,
    metadata: Metadata = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Find the vectors that match a question, images, or both."""
    with Client(url) as service:
        among: RetrievalFilter = {"tags": tags or [], "metadata": metadata or []}
        if name is not None:
            among["name"] = name
        matches = service.retrieve(text, images=[_read(path) for path in image or []], k=k, filter=among)
    _warn_if_truncated("question", matches.query_text)
    if as_json:
        print_json(matches)
        return
    columns = ("name", "version", "score", "threshold", "accepted", "id")
    rows = []
    for match in matches:
        numbers = (str(match.version), f"{match.score:.3f}", f"{match.threshold:.3f}")
        rows.append((match.name, *numbers, "yes" if match.accepted else "no", match.id))
    print_rows(columns, rows, none="No vectors for this model.")
    if matches and matches.reason is not None:
        print_text(f"auto applies none ({matches.reason.code}): {matches.reason.detail}")


def generate(
    prompt: Annotated[str, typer.Argument(help="Question")],
    image: Images = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(
            help="Apply this vector (ID, NAME, NAME:VERSION or NAME@ALIAS, optionally =STRENGTH) instead of the best "
            "match; may be repeated"
        ),
    ] = None,
    unsteered: Annotated[bool, typer.Option("--unsteered", help="Apply no vector")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of the answer, in tokens")] = 16,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer before this text; may be repeated")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer while it is generated")] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Answer a question, steered by the best-matching vector."""
    if stream and as_json:
        raise InvalidInput("--stream and --json are mutually exclusive.", "Use one of them.")
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
        print_answer(answer.text)
    _print_steering(answer)


def _print_stream(service: Client, prompt: str, options: GenerateOptions) -> GenerateOut:
    """Print the pieces as they arrive; return the complete answer."""
    with service.stream(prompt, **options) as events:
        for event in events:
            if isinstance(event, TextPiece):
                print_answer(event.text, end="")
            else:
                answer = event
    print_answer("")
    return answer


def _print_steering(answer: GenerateOut) -> None:
    for applied in answer.steering.applied:
        score = "" if applied.score is None else f", score {applied.score:.3f}"
        if (decision := answer.steering.decision) and decision.second and decision.margin is not None:
            score += f", {decision.margin:.3f} above {decision.second.name}"
        print_text(f"steered by {applied.name} version {applied.version}{score}", style="dim")
    _warn_if_truncated("question", answer.steering.query_text)
    if reason := answer.steering.reason:
        print_text(f"not steered ({reason.code}): {reason.detail}", style="dim")


def _warn_if_truncated(what: str, text: EmbeddedTextOut | None) -> None:
    if text is not None and text.truncated:
        print_text(f"The {what} has {text.tokens} tokens; searches compare only the first {text.embedded}.", on=errors)


def _steering(vector: list[str] | None, unsteered: bool) -> Literal["auto", "off"] | list[ChosenVector]:
    if vector and unsteered:
        raise InvalidInput("--vector and --unsteered are mutually exclusive.", "Use one of them.")
    if not vector:
        return "off" if unsteered else "auto"
    return [_parse_vector(text) for text in vector]


def _parse_vector(text: str) -> ChosenVector:
    reference, _, strength = text.partition("=")
    try:
        return ChosenVector(id=reference, strength=float(strength or 1))
    except ValueError as error:  # pydantic's, too: infinity and NaN are no strengths
        raise InvalidInput(
            f"Invalid vector {text!r:.80}.", "Use a reference, or REFERENCE=STRENGTH such as colour=0.5."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror}.", "Check the path and its permissions.") from error
