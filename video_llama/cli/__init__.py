"""The command line ``video-llama``. Each command has a module of its own.

Errors are printed as one line on standard error, with exit code 2; ``--debug`` shows the traceback. A command imports
what it needs when it runs, so that ``--help`` loads neither torch nor transformers.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from video_llama import __version__
from video_llama.cli.apply_delta import apply_delta
from video_llama.cli.ask import ask
from video_llama.cli.batch import batch
from video_llama.cli.benchmark import benchmark
from video_llama.cli.chat import chat
from video_llama.cli.convert import convert
from video_llama.cli.demo import demo
from video_llama.cli.embed import embed
from video_llama.cli.evaluate import evaluate
from video_llama.cli.extract_features import extract_features
from video_llama.cli.help import MAX_WIDTH, HelpCommand, HelpGroup
from video_llama.cli.inspect import inspect
from video_llama.cli.judge import judge
from video_llama.cli.merge import merge
from video_llama.cli.options import Debug, expand_groups
from video_llama.cli.plot import plot
from video_llama.cli.reporting import ReportingGroup, reported_errors
from video_llama.cli.serve import serve
from video_llama.cli.train import train
from video_llama.cli.validate_data import validate_data
from video_llama.miniature.commands import app as miniature

__all__ = ["app", "main"]

COMMANDS: dict[str, dict[Callable[..., None], tuple[str, ...]]] = {
    "Use": {
        ask: (
            'video-llama ask clip.mp4 "What happens in the video?"',
            'video-llama ask clip.mp4 "What do you hear?" --start 2 --end 6 --json',
        ),
        chat: ("video-llama chat clip.mp4", "video-llama chat clip.mp4 < questions.txt"),
        batch: (
            'video-llama batch clips/ answers.jsonl --question "What happens in the video?"',
            "video-llama batch questions.csv answers.parquet --workers 2 --max-new-tokens 32",
        ),
        embed: ("video-llama embed clips/ vectors.parquet", "video-llama embed clips/ vectors.npz --workers 2"),
        demo: ("video-llama demo", "video-llama demo --model my-model --device cuda --port 7860"),
        serve: ("video-llama serve --model my-model --port 8000 --set max_rows=32",),
    },
    "Measure": {
        evaluate: (
            "video-llama evaluate questions.jsonl --output results --model my-model",
            "video-llama evaluate test_qa.json --layout msvd-qa --media-dir YouTubeClips --output results",
            "video-llama evaluate --compare results-a results-b",
        ),
        benchmark: ("video-llama benchmark --size 7b",),
        judge: ("video-llama judge results --url https://api.openai.com/v1 --judge-model gpt-4o-2024-08-06",),
    },
    "Train": {
        train: (
            "video-llama train own.yaml --set run.init_lr=1e-4",
            "video-llama train own.yaml --resume auto",
            "video-llama train own.yaml --dry-run --world-size 8 --gpu-memory 80GB",
        ),
        validate_data: ("video-llama validate-data own.yaml",),
        extract_features: ("video-llama extract-features own.yaml",),
        plot: ("video-llama plot runs/own",),
        merge: ("video-llama merge runs/own --into base-model my-model",),
    },
    "Weights": {
        inspect: (
            "video-llama inspect clip.mp4",
            "video-llama inspect my-model",
            "video-llama inspect --memory --size 7b --quantization int4",
        ),
        convert: (
            "video-llama convert Video-LLaMA-2-7B-Finetuned my-model",
            "video-llama convert --from hub:DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned my-model",
        ),
        apply_delta: ("video-llama apply-delta llama-7b vicuna-7b-delta-v0 vicuna-7b",),
    },
}
"""Panel of ``--help`` -> its commands, each with examples."""

ALIASES = {"options": "set", "model_type": "model-type"}
"""Former spellings of options, and the reference's; accepted, and not listed in ``--help``."""

app = typer.Typer(
    name="video-llama",
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": MAX_WIDTH,
        "token_normalize_func": lambda name: ALIASES.get(name, name),
    },
)


def _show_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"video-llama {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Ask questions about videos, images and audio.

    The commands use the miniature, a small demonstration model shipped with the package, unless --model names another
    model.
    """


def _add_commands() -> None:
    for panel, commands in COMMANDS.items():
        for command, examples in commands.items():
            add = app.command(cls=HelpCommand, rich_help_panel=panel, epilog="\n".join(examples))
            add(expand_groups(command))
    for info in miniature.registered_commands:
        assert info.callback is not None
        info.callback, info.cls = expand_groups(info.callback), HelpCommand
    app.add_typer(miniature, name="miniature", cls=HelpGroup, rich_help_panel="Miniature")


_add_commands()


def main() -> None:
    """Run the console script."""
    with reported_errors():
        app()
