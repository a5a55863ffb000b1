"""``video-llama judge RUN``: judge the answers of an evaluation with a language model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.evaluate import summary_text
from video_llama.cli.options import Json, json_text

JUDGE_KEY_VARIABLE = "VIDEO_LLAMA_JUDGE_KEY"


def judge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an evaluation.", show_default=False)],
    url: Annotated[
        str,
        typer.Option(metavar="URL", help="OpenAI-compatible URL, such as https://HOST/v1.", show_default=False),
    ],
    judge_model: Annotated[
        str,
        typer.Option(metavar="NAME", help="Name of the model, of a version that does not change.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the judgements (default: RUN/judge).")
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of the prompt, with {question}, {expected} and {answer}."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of the replies (default: in the output folder).")
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Number of requests at the same time.")] = 4,
    as_json: Json = False,
) -> None:
    """Judge the answers of an evaluation with a language model.

    Sends each question, its expected answer and the model's answer to URL, with temperature 0, and writes
    judgements.jsonl and metrics.json to a folder of their own. Set the environment variable VIDEO_LLAMA_JUDGE_KEY to
    the key of the server. Replies are stored, and an interrupted command is continued.
    """
    from video_llama.evaluation.judge import JUDGE_PROMPT, JudgeOptions, judge_run
    from video_llama.files import read_text

    options = JudgeOptions(url, judge_model, JUDGE_PROMPT if prompt is None else read_text(prompt), concurrency)
    summary = judge_run(run, options, output, api_key=os.environ.get(JUDGE_KEY_VARIABLE), cache=cache)
    counts = f"{summary['rows']} rows, {summary['not_judged']} whose reply could not be read"
    typer.echo(json_text(summary) if as_json else summary_text(summary, counts))
