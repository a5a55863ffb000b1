"""Commands ``video-llama miniature ...``: train and evaluate the miniature, and write clips.

Heavy modules are imported inside the commands, so that ``video-llama --help`` stays fast.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from video_llama.miniature.world import Scene, ScenePart

app = typer.Typer(
    no_args_is_help=True, help="Train and evaluate the small demonstration model shipped with the package."
)


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Folder for the files of all stages.")] = Path("runs/miniature"),
    seed: Annotated[int, typer.Option(min=0, help="Random seed of clips, initial weights and batches.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of stages to run in parallel, each on one core.")] = 2,
    install: Annotated[
        bool, typer.Option("--install", help="Replace the weights shipped with the package by the new ones.")
    ] = False,
) -> None:
    """Train the miniature from scratch.

    Trains the tokenizer, the language model, the encoders and both branches, and prints the folder of the weights.
    Takes over two hours on two CPU cores. An interrupted run is resumed by the same command.
    """
    from video_llama.miniature.train import install_weights, train_miniature

    weights = train_miniature(output, seed=seed, workers=workers)
    typer.echo(str(install_weights(weights) if install else weights))


@app.command()
def clips(
    output: Annotated[Path, typer.Option(help="Root folder; the clips are written to its subfolder data.")] = Path(
        "runs/miniature"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the clips.")] = 0,
    num_clips: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 6000,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that write clips.")] = 2,
) -> None:
    """Write the training clips of the miniature, with their annotations.

    Existing clips are kept. Prints the folder. The command miniature train writes the clips by itself.
    """
    from video_llama.miniature.dataset import write_training_clips

    typer.echo(str(write_training_clips(output, seed=seed, num_clips=num_clips, workers=workers)))


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Model to evaluate: miniature, or a model folder.")] = "miniature",
    num_clips: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the clips and the questions.")] = 1,
    clips_dir: Annotated[
        Path | None, typer.Option("--clips", help="Folder to keep the clips in (default: a temporary folder).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that write clips.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Plot the results to this .png, .svg or .pdf file.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Write every question and answer to this .jsonl file.")] = None,
) -> None:
    """Evaluate a model on new clips.

    The clips show combinations that the miniature was not trained on.
    """
    from rich.console import Console

    from video_llama.chat.loading import load
    from video_llama.miniature.evaluation import evaluate as evaluate_model
    from video_llama.miniature.evaluation_report import answer_rows, plot_figures, table_of

    assistant = load(model)
    with ExitStack() as stack:
        folder = clips_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="video-llama-clips-")))
        evaluation = evaluate_model(assistant, folder, num_clips=num_clips, seed=seed, workers=workers)
    if plot is not None:
        plot_figures(evaluation, plot)
    if answers is not None:
        answers.write_text("".join(f"{json.dumps(row)}\n" for row in answer_rows(evaluation)), "utf-8")
    if as_json:
        typer.echo(json.dumps(evaluation.as_dict(), indent=2))
    else:
        Console().print(table_of(evaluation))


@app.command()
def fit_familiarity(
    folder: Annotated[Path, typer.Argument(help="Model folder of a trained miniature.", show_default=False)],
    num_clips: Annotated[int, typer.Option(min=50, help="Number of clips for statistics, and for limits.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the clips.")] = 0,
) -> None:
    """Write the statistics for the warning about unfamiliar clips.

    They are computed from new clips and written to familiarity.safetensors in the model folder. The weights do not
    change. The command miniature train does the same at its end.
    """
    from video_llama.miniature.familiarity import write_familiarity_of

    typer.echo(str(write_familiarity_of(folder, num_clips=num_clips, seed=seed)))


@app.command()
def evaluate_familiarity(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Other media to count.", show_default=False)
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="Model to evaluate: miniature, or a model folder.")] = "miniature",
    num_clips: Annotated[int, typer.Option(min=1, help="Number of clips of the miniature.")] = 300,
    num_others: Annotated[int, typer.Option(min=1, help="Number of other media of each kind.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of all media.")] = 1,
) -> None:
    """Count the warnings about unfamiliar media.

    Counts them for new clips of the miniature, for generated media of other kinds, and for FILEs.
    """
    from video_llama.chat.loading import load
    from video_llama.miniature.familiarity import count_files, measure_familiarity

    assistant = load(model)
    with tempfile.TemporaryDirectory(prefix="video-llama-familiarity-") as folder:
        counts = measure_familiarity(assistant, Path(folder), num_clips=num_clips, num_others=num_others, seed=seed)
    counts |= count_files(assistant, files or [])
    for name, count in counts.items():
        typer.echo(f"{name}: {count.right} of {count.total} with a warning")


@app.command()
def clip(
    path: Annotated[Path, typer.Argument(help="The .mp4 file to write.", show_default=False)],
    shows: Annotated[
        list[str] | None,
        typer.Option(
            help='Colour, shape and motion, such as "red circle left" or "blue star still" (default: random). Give it '
            "twice for two shapes, one after the other."
        ),
    ] = None,
    sounds: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape whose sound to use, or none for no audio track (default: the shapes shown). Give it twice for "
            "two sounds."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of everything that is not given.")] = 0,
) -> None:
    """Write a clip for the miniature."""
    from video_llama.miniature.world import write_clip

    scene = make_scene(shows or [], sounds, seed)
    write_clip(scene, path)
    shown = ", then ".join(f"{part.colour} {part.shape} {part.motion}" for part in scene.parts)
    typer.echo(f"{path}: {shown}; sound: {', then '.join(scene.sounds) or 'none'}")


def make_scene(shows: list[str], sounds: list[str] | None, seed: int) -> Scene:
    """Return a scene with the given contents; everything else is random.

    Args:
        shows: up to two descriptions, such as "red circle left".
        sounds: shapes whose sounds are used; None uses the shapes shown, and ["none"] gives a silent scene.
        seed: random seed of everything that is not given.

    Raises:
        ConfigError: a description that is not possible.
    """
    from dataclasses import replace

    import numpy as np

    from video_llama.errors import ConfigError
    from video_llama.miniature.world import SHAPES, sample_scene

    scene = sample_scene(np.random.default_rng([seed, 40]), two_part=len(shows) > 1 if shows else None)
    if len(shows) > 2:
        raise ConfigError(f"--shows is given {len(shows)} times. Give it once or twice.")
    if shows:
        parts = tuple(_part(text) for text in shows)
        if len(parts) == 2 and any(part.motion != "still" for part in parts):
            raise ConfigError("Two shapes in one clip cannot move. End each --shows with still.")
        scene = replace(scene, parts=parts)
    sounding = scene.shapes if sounds is None else () if sounds == ["none"] else tuple(sounds)
    if wrong := [shape for shape in sounding if shape not in SHAPES]:
        raise ConfigError(f"--sounds {wrong[0]}: unknown sound. Use one of {', '.join(SHAPES)}, or none.")
    return replace(scene, sounds=sounding)


def _part(text: str) -> ScenePart:
    from video_llama.errors import ConfigError
    from video_llama.miniature.world import COLOURS, MOTIONS, SHAPES, ScenePart

    words = text.split()
    for options, word in zip((COLOURS, SHAPES, MOTIONS), words, strict=False):
        if word not in options:
            raise ConfigError(f"--shows {text!r}: unknown word {word}. Use one of {', '.join(options)}.")
    if len(words) != 3:
        raise ConfigError(f"--shows {text!r}: give a colour, a shape and a motion, such as 'red circle left'.")
    return ScenePart(*words)
