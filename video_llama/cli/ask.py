"""``video-llama ask FILE... QUESTION``: print one answer, and on standard error the frames and audio it is based on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.ask_windows import WindowOptions, ask_windows
from video_llama.cli.options import (
    SEGMENT,
    DecodingOptions,
    Json,
    ModelOptions,
    SegmentOptions,
    is_existing,
    json_text,
    opened_media,
)
from video_llama.log import activity, shown_activities

if TYPE_CHECKING:
    from video_llama.chat import Answer, Chat, Decoding
    from video_llama.processors.media_file import MediaSource
    from video_llama.processors.subtitles import Subtitles


def ask(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE]... QUESTION",
            help="Videos, images, audio files or folders of frames, in order, then the question.",
            show_default=False,
        ),
    ],
    *,
    segment: SegmentOptions,
    subtitles: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Put subtitles into the prompt: an .srt or .vtt file, or embedded for a track of the video.",
            rich_help_panel=SEGMENT,
        ),
    ] = None,
    windows: WindowOptions,
    decoding: DecodingOptions,
    model: ModelOptions,
    as_json: Json = False,
) -> None:
    """Answer one question about videos, images or audio.

    The answer is printed on standard output. If the media are unlike those that the model was trained on, a warning is
    printed before it on standard error. One line with the weights, frames and audio that were used is printed on
    standard error, followed by a note on the model's limitations. With --json, the complete record is printed on
    standard output and nothing on standard error.

    With --window, each window of one long video or sound is answered, and the answers are merged into a timeline.
    """
    files, question = _split(inputs)
    settings = decoding.settings()
    windows.check(files, segment, as_json=as_json)
    if windows.is_given:
        ask_windows(files[0], question, windows, segment, settings, model, subtitles=subtitles, as_json=as_json)
        return
    with shown_activities():
        with opened_media(files) as media:
            segment.check_applicable(media)
            cues = given_subtitles(subtitles, media, segment)
            assistant = model.load()
            chat = assistant.chat(*media, **segment.media_fields(assistant.settings.num_frames))
        answer = _answer(chat, question, settings, cues)
    if as_json:
        typer.echo(json_text(answer.as_dict()))
        return
    show_warnings(chat)
    typer.echo(answer.text)
    typer.echo(f"({used_inputs(answer)})", err=True)
    if assistant.notice:
        typer.echo(assistant.notice, err=True)


def _answer(chat: Chat, question: str, settings: Decoding, subtitles: Subtitles | None) -> Answer:
    stream = chat.stream(question, settings, subtitles=subtitles)
    next(stream, None)  # shows its own activities
    with activity("generating"):
        for _ in stream:
            pass
    assert stream.answer is not None, "set when the stream ends"
    return stream.answer


def given_subtitles(source: str | None, media: Sequence[MediaSource], segment: SegmentOptions) -> Subtitles | None:
    """Return the subtitles of a file or of the only medium, from the start to the end of the segment.

    Raises MediaError for subtitles that cannot be read, ValueError unless there is one medium.
    """
    if source is None:
        return None
    from video_llama.processors.subtitles import read_subtitles

    if len(media) != 1:
        raise ValueError(f"--subtitles belong to one video, but {len(media)} files were given. Give one.")
    subtitles = read_subtitles(source, media[0])
    return subtitles.between(segment.start or 0.0, math.inf if segment.end is None else segment.end)


def show_warnings(chat: Chat) -> None:
    """Print the warnings about the media of a chat."""
    for warning in chat.warnings:
        typer.echo(warning, err=True)


def _split(inputs: Sequence[str]) -> tuple[Sequence[str], str]:
    *files, question = inputs
    if is_existing(question):
        raise ValueError(f'The last argument must be the question, but {question} is a file. Add a question: "..."')
    return files, question


def used_inputs(answer: Answer) -> str:
    """Return one line with the weights, the frames with their times, and the audio that an answer is based on."""
    record = answer.record
    media = [_used(medium) for medium in record.media] or ["no media"]
    if record.subtitles is not None:
        media.append(f"{record.subtitles['num_cues']} subtitles")
    return "; ".join([f"weights: {record.weights['name']}", *media])


def _used(medium: dict[str, Any]) -> str:
    frames, sound = medium["frames"], medium["sound"]
    parts = []
    if frames is not None and medium["kind"] == "image":
        parts.append("1 image")
    elif frames is not None:
        seconds = [f"{second:g}" for second in frames["seconds"]]
        parts.append(f"{len(seconds)} frame{'' if len(seconds) == 1 else 's'} at {', '.join(seconds)} s")
    if sound is not None:
        count = len(sound["start_seconds"])
        parts.append(f"{sound['duration']:.1f} s of audio in {count} clip{'' if count == 1 else 's'}")
    elif medium["kind"] != "image":
        parts.append(f"no audio ({medium['why_no_sound']})")
    return ", ".join(parts)
