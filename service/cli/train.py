"""`vlibrary train`: examples on disk become a vector and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlibrary.bootstrap import read_settings


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(train)


def train(
    examples: Annotated[Path, typer.Argument(help='JSONL of {"image": relative path, "question", "answer"}')],
    name: Annotated[str, typer.Option(help="Name of the vector, such as colour-codes")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images; the JSONL's own if left out")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write NAME.safetensors and NAME.card.json to")] = Path(),
    description: Annotated[str, typer.Option(help="What the vector does; text queries can find it by this")] = "",
    shots: Annotated[int, typer.Option(min=1, help="Length of the prompts that the vector replaces")] = 16,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; the method's own number if left out")
    ] = None,
    seed: int = 0,
    state: Annotated[Path | None, typer.Option(help="Folder for checkpoints: the same command resumes from it")] = None,
) -> None:
    """Train an M²IV vector on the model that VLIBRARY_LVLM names (the bundled one by default)."""
    # torch takes seconds to import; `vlibrary --help` must not wait for it.
    from vlibrary.methods.m2iv.config import M2ivConfig
    from vlibrary.methods.m2iv.method import M2iv
    from vlibrary.methods.train import save_trained, train_vector
    from vlibrary.training.examples import read_examples
    from vlibrary.training.progress import Bar, progress_bars
    from vlibrary.worker.bootstrap import open_embedder, open_lvlm

    console = Console()
    settings = read_settings()
    given = read_examples(examples, images or examples.parent)
    config = M2ivConfig(shots=shots) if steps is None else M2ivConfig(shots=shots, steps=steps)
    with progress_bars(console) as progress:
        bar = Bar(progress, f"train {name}")
        trained = train_vector(
            given,
            name=name,
            description=description,
            lvlm=open_lvlm(settings),
            embedder=open_embedder(settings),
            method=M2iv(config),
            seed=seed,
            folder=state,
            report=bar,
        )
        bar.finish()
    artifact, card = save_trained(trained, out)
    results = trained.card.results
    console.print(
        f"On {results['test_examples']} examples held back: zero-shot {results['zero_shot']:.1%}, "
        f"{shots}-shot prompt {results['n_shot']:.1%}, with the vector {results['steered']:.1%}"
    )
    console.print(f"Wrote {artifact} and {card}. Register it: vlibrary register {artifact}", soft_wrap=True)
