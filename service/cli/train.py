"""`vlibrary train`: trains a vector from examples on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vlibrary.cli.output import print_text
from vlibrary.config import read_settings


def train(
    examples: Annotated[
        Path, typer.Argument(help='JSONL file; each line is {"image": PATH, "question": TEXT, "answer": TEXT}')
    ],
    name: Annotated[str, typer.Option(help="Name of the vector, such as colour-codes")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images", show_default="the folder of the JSONL file")
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder for the vector, its card and its curves")] = Path(),
    description: Annotated[str, typer.Option(help="What the vector does; text queries can match it")] = "",
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations in the prompts that the vector replaces")] = 16,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps", show_default="chosen by the method")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed")] = 0,
    sweep: Annotated[bool, typer.Option(help="Measure accuracy at strengths from -1 to 2")] = True,
    state: Annotated[Path | None, typer.Option(help="Checkpoint folder; rerun the command to resume from it")] = None,
) -> None:
    """Train an M²IV vector from labelled examples.

    The model is the one in VLIBRARY_LVLM; by default, the bundled one.
    """
    # Imported here because torch takes seconds to load, which would delay `vlibrary --help`.
    from vlibrary.evaluation.strength import STRENGTHS
    from vlibrary.methods.m2iv.config import M2ivConfig
    from vlibrary.methods.m2iv.method import M2iv
    from vlibrary.methods.train import save_trained, train_vector
    from vlibrary.training.examples import read_examples
    from vlibrary.training.progress import Bar, progress_bars
    from vlibrary.worker.bootstrap import open_embedder, open_lvlm

    settings = read_settings()
    given = read_examples(examples, images or examples.parent, image_formats=settings.image_formats)
    with progress_bars(Console()) as progress:
        bar = Bar(progress, f"train {name}")
        trained = train_vector(
            given,
            name=name,
            description=description,
            lvlm=open_lvlm(settings),
            embedder=open_embedder(settings),
            method=M2iv(M2ivConfig(shots=shots, steps=steps or M2ivConfig.steps)),
            seed=seed,
            folder=state,
            strengths=STRENGTHS if sweep else (),
            report=bar,
        )
        bar.finish()
    _print_results(trained.card.results, *save_trained(trained, out))


def _print_results(results: Mapping[str, Any], artifact: Path, card: Path) -> None:
    print_text(
        f"On {results['test_examples']} held-out examples: zero-shot {results['zero_shot']:.1%}, "
        f"{results['shots']}-shot prompt {results['n_shot']:.1%}, with the vector {results['steered']:.1%}"
    )
    if truncated := results["truncated_questions"]:
        print_text(
            f"{truncated} questions are longer than the embedder reads; task keys and thresholds lack their ends."
        )
    if window := results.get("strength_window"):
        print_text(f"The vector keeps its accuracy at strengths from {window[0]:g} to {window[1]:g}.")
    print_text(f"Curves: {artifact.with_suffix('.training.png')}")
    print_text(f"Wrote {artifact} and {card}. Register it: vlibrary register {artifact}")
