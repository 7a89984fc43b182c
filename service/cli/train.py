"""`vlibrary train`: trains a vector from examples on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from vlibrary.cli.output import errors, print_text
from vlibrary.config import read_settings
from vlibrary.domain.card import has_lift
from vlibrary.domain.errors import InvalidInput

if TYPE_CHECKING:
    from vlibrary.methods.m2iv.config import M2ivConfig

NOT_BETTER = 3  # exit code
# Below these, the advice is another one: 128 queries brought a vector close to its prompt in most trials.
MANY_QUERIES = 128
SURE = 0.6
Examples = Annotated[
    Path,
    typer.Argument(help='JSONL file; each line is {"image": PATH, "question": TEXT, "answer": TEXT or [TEXT, ...]}'),
]
Name = Annotated[str, typer.Option(help="Name of the vector, such as colour-codes")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images", show_default="the folder of each JSONL file")]
Test = Annotated[
    Path | None, typer.Option(help="JSONL file of examples to measure on", show_default="a fifth of the examples")
]
Unlabelled = Annotated[
    Path | None,
    typer.Option(
        help='JSONL file of {"image": PATH, "question": TEXT}. The model answers these questions with the examples in '
        "its prompt, and the vector is trained on its answers: a few labels are then enough"
    ),
]
Out = Annotated[Path, typer.Option(help="Output folder for the vector, its card and its curves")]
Description = Annotated[str, typer.Option(help="What the vector does; text queries can match it")]
Shots = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Demonstrations in the prompts that the vector replaces",
        show_default="16, or as many as the examples allow",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps", show_default="chosen by the method")]
Seed = Annotated[int, typer.Option(help="Random seed")]
Losses = Annotated[
    list[str] | None,
    typer.Option(
        "--loss",
        metavar="NAME=WEIGHT",
        help="Weight of a loss (mimicry, synergistic, supervised); may be repeated. Others then have weight 0",
        show_default="chosen by the teacher's probability of the true answers",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of docs/reference/method.md, such as contexts=4; may be repeated",
    ),
]
Sweep = Annotated[bool, typer.Option(help="Measure accuracy at strengths from -1 to 2")]
State = Annotated[Path | None, typer.Option(help="Checkpoint folder; rerun the command to resume from it")]
Force = Annotated[bool, typer.Option(help="Exit with 0 even if the vector is not better than the model without it")]


def train(
    examples: Examples,
    name: Name,
    images: Images = None,
    test: Test = None,
    unlabelled: Unlabelled = None,
    out: Out = Path(),
    description: Description = "",
    shots: Shots = None,
    steps: Steps = None,
    seed: Seed = 0,
    loss: Losses = None,
    overrides: Overrides = None,
    sweep: Sweep = True,
    state: State = None,
    force: Force = False,
) -> None:
    """Train an M²IV vector for VLIBRARY_LVLM, by default the bundled model, from labelled examples.

    The exit code is 3 if the vector is not better than the model without it.
    """
    # Imported here because torch takes seconds to load, which would delay `vlibrary --help`.
    from vlibrary.evaluation.strength import STRENGTHS
    from vlibrary.methods.m2iv.method import M2iv
    from vlibrary.methods.train import save_trained, train_vector
    from vlibrary.training.progress import Bar, progress_bars
    from vlibrary.worker.bootstrap import open_embedder, open_lvlm

    config = read_config({"shots": shots, "steps": steps}, loss or (), overrides or ())
    settings = read_settings()
    data = _read_data(examples, test, unlabelled, images, settings.image_formats)
    with progress_bars(Console()) as progress:
        bar = Bar(progress, f"train {name}")
        trained = train_vector(
            **data,
            name=name,
            description=description,
            lvlm=open_lvlm(settings),
            embedder=open_embedder(settings),
            method=M2iv(config),
            seed=seed,
            folder=state,
            out=out,
            strengths=STRENGTHS if sweep else (),
            report=bar,
        )
        bar.finish()
    _print_results(trained.card.results, *save_trained(trained, out))
    if not has_lift(trained.card.results) and not force:
        raise typer.Exit(NOT_BETTER)


def _read_data(
    examples: Path, test: Path | None, unlabelled: Path | None, images: Path | None, formats: Sequence[str]
) -> dict[str, Any]:
    """Read the files; return the arguments of `train_vector`."""
    from vlibrary.training.examples import read_examples, read_questions

    return {
        "examples": read_examples(examples, images or examples.parent, image_formats=formats),
        "test": test and read_examples(test, images or test.parent, image_formats=formats),
        "unlabelled": read_questions(unlabelled, images or unlabelled.parent, formats) if unlabelled else (),
    }


def read_config(chosen: Mapping[str, Any], losses: Sequence[str], overrides: Sequence[str]) -> M2ivConfig:
    """Return the settings of M²IV with these values, those of `--loss`, and those of `--set`.

    Raises InvalidInput for a text that is not NAME=VALUE, an unknown name or a value of another type, InvalidSettings
    for a value out of range.
    """
    from vlibrary.methods.m2iv.config import M2ivConfig

    types = get_type_hints(M2ivConfig)
    values = {name: value for name, value in chosen.items() if value is not None}
    for name, value in _split(overrides, "--set"):
        if name not in types or name in ("weights", *chosen):
            names = ", ".join(sorted(set(types) - {"weights", *chosen}))
            raise InvalidInput(f"--set has the unknown setting {name!r}.", f"Use one of {names}.")
        values[name] = _convert(f"--set {name}", None if value == "none" else value, types[name])
    if losses:
        values["weights"] = {name: _convert(f"--loss {name}", value, float) for name, value in _split(losses, "--loss")}
    return M2ivConfig(**values)


def _split(texts: Sequence[str], option: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for name, sign, value in pairs:
        if not (name and sign and value):
            raise InvalidInput(f"{option} {name + sign + value!r} is not NAME=VALUE.", "Write, for example, steps=400.")
    return [(name, value) for name, _, value in pairs]


def _convert(where: str, value: str | None, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InvalidInput(f"{where} is {value!r}: {error.errors()[0]['msg']}.", "Use a value of that type.") from error


def _print_results(results: Mapping[str, Any], artifact: Path, card: Path) -> None:
    zero_shot, n_shot, steered = (
        f"{results[name]:.1%} ({results['intervals'][name][0]:.0%}–{results['intervals'][name][1]:.0%})"
        for name in ("zero_shot", "n_shot", "steered")
    )
    with_labels = results.get("compared_with", "labels") == "labels"
    against = "" if with_labels else " that the prompt answered; agreement with its answers"
    print_text(
        f"On {results['test_examples']} held-out examples{against}: zero-shot {zero_shot}, {results['shots']}-shot "
        f"prompt {n_shot}, with the vector {steered}. In brackets: 95 % intervals."
    )
    weights = ", ".join(f"{name} {weight:g}" for name, weight in results.get("weights", {}).items() if weight)
    sure = f"{results['teacher_p_gold']:.2f}"
    print_text(f"With demonstrations, the model gives the answers a probability of {sure}; losses: {weights}.")
    if truncated := results["truncated_questions"]:
        print_text(
            f"{truncated} questions are longer than the embedder reads; task keys and thresholds lack their ends."
        )
    if window := results.get("strength_window"):
        print_text(f"The vector keeps its accuracy at strengths from {window[0]:g} to {window[1]:g}.")
    print_text(f"Curves: {artifact.with_suffix('.training.png')}")
    if not has_lift(results):
        print_text(f"Wrote {artifact} and {card}, for inspection.")
        errors.print(f"The vector is no better than the model without it. {_advise(results)}")
        return
    if results["steered"] < results["n_shot"]:
        gap = results["n_shot"] - results["steered"]
        print_text(f"The vector is {100 * gap:.1f} points below the prompt that it replaces. {_advise(results)}")
    print_text(f"Wrote {artifact} and {card}. Register it: vlibrary register {artifact}")


def _advise(results: Mapping[str, Any]) -> str:
    """Return what would help, from what the results show."""
    if results["queries"] < MANY_QUERIES:
        more = "more unlabelled questions" if results["self_labelled"] else "more examples, or --unlabelled questions"
        return f"It was trained on {results['queries']} questions; {more} would help most."
    if results["self_labelled"] and results["teacher_p_gold"] < SURE:
        return (
            "The prompt gives its own answers a low probability; labelled examples of these questions would help most."
        )
    return "More --steps, or --set contexts=4 (demonstrations from several prompts), may help."
