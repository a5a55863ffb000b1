"""``video-llama miniature ...``: make the miniature, examine it, draw a clip of its world. Imports are cheap here."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from video_llama.miniature.world import Scene, ScenePart

app = typer.Typer(no_args_is_help=True, help="The small Video-LLaMA that is made here from nothing.")


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Where every stage is kept; a run that was cut off goes on.")] = Path(
        "runs/miniature"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of clips, initial weights and batches.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Stages side by side, each on one core.")] = 2,
    install: Annotated[
        bool, typer.Option("--install", help="Put the weights into the package, in the place of those shipped.")
    ] = False,
) -> None:
    """Make the miniature from nothing: world, frozen parts, both branches in two stages, weights."""
    from video_llama.miniature.train import install_weights, train_miniature

    weights = train_miniature(output, seed=seed, workers=workers)
    typer.echo(str(install_weights(weights) if install else weights))


@app.command()
def clips(
    output: Annotated[Path, typer.Option(help="Root folder; the clips are written to its subfolder data.")] = Path(
        "runs/miniature"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the data set.")] = 0,
    num_clips: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 6000,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that write clips.")] = 2,
) -> None:
    """Write the training clips and annotations of the miniature. Existing clips are kept."""
    from video_llama.miniature.dataset import write_training_clips

    typer.echo(str(write_training_clips(output, seed=seed, num_clips=num_clips, workers=workers)))


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="miniature, or a model folder.")] = "miniature",
    num_clips: Annotated[int, typer.Option(min=1, help="Fresh held-out clips.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Of the clips and of the questions.")] = 1,
    clips_dir: Annotated[
        Path | None, typer.Option("--clips", help="Keep the clips in this folder; else they go away.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that write clips.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this .png, .svg or .pdf.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Write every question and answer to this .jsonl.")] = None,
) -> None:
    """Ask about fresh clips of combinations that were never trained on, and count."""
    from rich.console import Console

    from video_llama.chat.loading import load
    from video_llama.miniature import evaluation_report
    from video_llama.miniature.evaluation import evaluate as run_evaluation

    assistant = load(model)
    with ExitStack() as stack:
        folder = clips_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="video-llama-clips-")))
        evaluation = run_evaluation(assistant, folder, num_clips=num_clips, seed=seed, workers=workers)
    if plot is not None:
        evaluation_report.plot(evaluation, plot)
    if answers is not None:
        answers.write_text(
            "".join(f"{json.dumps(row)}\n" for row in evaluation_report.answer_rows(evaluation)), "utf-8"
        )
    if as_json:
        typer.echo(json.dumps(evaluation.as_dict(), indent=2))
    else:
        Console().print(evaluation_report.table_of(evaluation))


@app.command()
def clip(
    path: Annotated[Path, typer.Argument(help="The .mp4 to write.")],
    shows: Annotated[
        list[str] | None,
        typer.Option(help='What is seen, such as "red circle left" or "blue star still"; twice for two in a row.'),
    ] = None,
    sounds: Annotated[
        list[str] | None, typer.Option(help="The shape whose sound is heard (twice for two), or none.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is not said.")] = 0,
) -> None:
    """Draw a clip of the miniature's world; what is not said is drawn by chance."""
    from video_llama.miniature.world import write_clip

    scene = make_scene(shows or [], sounds, seed)
    write_clip(scene, path)
    seen = ", then ".join(f"{part.colour} {part.shape} {part.motion}" for part in scene.parts)
    typer.echo(f"{path}: {seen}; sound: {', then '.join(scene.sounds) or 'none'}")


def make_scene(shows: list[str], sounds: list[str] | None, seed: int) -> Scene:
    """A scene as told. ``sounds`` None is what is seen; ["none"] is silence.

    Raises ConfigError for words that the world does not have.
    """
    from dataclasses import replace

    import numpy as np

    from video_llama.errors import ConfigError
    from video_llama.miniature.world import SHAPES, sample_scene

    scene = sample_scene(np.random.default_rng([seed, 40]), two_part=len(shows) > 1 if shows else None)
    if len(shows) > 2:
        raise ConfigError(f"--shows is given {len(shows)} times. A clip shows one or two shapes.")
    if shows:
        parts = tuple(_part(text) for text in shows)
        if len(parts) == 2 and any(part.motion != "still" for part in parts):
            raise ConfigError("Of two shapes in a row both stay still: end each --shows with still.")
        scene = replace(scene, parts=parts)
    heard = scene.shapes if sounds is None else () if sounds == ["none"] else tuple(sounds)
    if wrong := [shape for shape in heard if shape not in SHAPES]:
        raise ConfigError(f"--sounds {wrong[0]}: no such sound. Use one of {', '.join(SHAPES)}, or none.")
    return replace(scene, sounds=heard)


def _part(text: str) -> ScenePart:
    from video_llama.errors import ConfigError
    from video_llama.miniature.world import COLOURS, MOTIONS, SHAPES, ScenePart

    words = text.split()
    for options, word in zip((COLOURS, SHAPES, MOTIONS), words, strict=False):
        if word not in options:
            raise ConfigError(f"--shows {text!r}: {word} is none of {', '.join(options)}.")
    if len(words) != 3:
        raise ConfigError(f"--shows {text!r}: say a colour, a shape and a motion, such as 'red circle left'.")
    return ScenePart(*words)
