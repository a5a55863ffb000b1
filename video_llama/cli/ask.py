"""``video-llama ask FILE... "question"``: one answer on standard output, what it rests on beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli import options

if TYPE_CHECKING:
    from video_llama.chat import Answer


def ask(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... QUESTION",
            help="Videos, images, sounds or folders of frames, in order; the question comes last.",
            show_default=False,
        ),
    ],
    model: options.Model = "miniature",
    overrides: options.Overrides = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    low_resource: options.LowResource = False,
    device_map: options.DeviceMap = None,
    frames: options.NumFrames = None,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    times: options.Times = None,
    no_audio: options.NoAudio = False,
    require_audio: options.RequireAudio = False,
    beams: options.Beams = 1,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    max_new_tokens: options.MaxNewTokens = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Answer a question about one or several files, or about none.

    The answer goes to standard output; one line on what it rests on, and what these weights can know, to standard
    error. With --json the whole record goes to standard output, and nothing else.
    """
    files, question = _split(inputs)
    options.require_use(files, frames, fps, start, end, times)
    decoding = options.decoding(
        num_beams=beams,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
    )
    assistant = options.load_assistant(
        model, overrides, device, dtype, quantization=quantization, low_resource=low_resource, device_map=device_map
    )
    sampling = options.frame_sampling(assistant, frames, fps, start, end, times)
    chat = assistant.chat(*files, frames=sampling, no_audio=no_audio, require_audio=require_audio)
    answer = chat.ask(question, **decoding)
    if as_json:
        typer.echo(json.dumps(answer.as_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    typer.echo(answer.text)
    typer.echo(f"({rests_on(answer)})", err=True)
    if assistant.notice:
        typer.echo(assistant.notice, err=True)


def _split(inputs: Sequence[str]) -> tuple[Sequence[str], str]:
    *files, question = inputs
    if options.existing(question):
        raise ValueError(f'The last argument is the question, and {question} is a file. Add the question: "..."')
    return files, question


def rests_on(answer: Answer) -> str:
    """The weights, the frames with their seconds, the sound: one line."""
    record = answer.record
    media = [_taken(medium) for medium in record.media] or ["no media"]
    return "; ".join([f"weights: {record.weights['name']}", *media])


def _taken(medium: dict[str, Any]) -> str:
    frames, sound = medium["frames"], medium["sound"]
    seen = heard = None
    if frames is not None and medium["kind"] == "image":
        seen = "an image"
    elif frames is not None:
        seconds = [f"{second:g}" for second in frames["seconds"]]
        seen = f"{len(seconds)} frame{'' if len(seconds) == 1 else 's'} at {', '.join(seconds)} s"
    if sound is not None:
        heard = f"sound of {sound['duration']:.1f} s in {len(sound['start_seconds'])} clips"
    elif medium["kind"] != "image":
        heard = f"no sound ({medium['why_no_sound']})"
    return ", ".join(part for part in (seen, heard) if part)
