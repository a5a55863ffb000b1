"""``video-llama ask --window``: a question about each window of a long medium, as a timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.options import ModelOptions, SegmentOptions, opened_media

if TYPE_CHECKING:
    from video_llama.chat import Decoding
    from video_llama.chat.timeline import Timeline, WindowAnswer
    from video_llama.processors.scene_cuts import ScenePlan
    from video_llama.processors.windows import WindowPlan

WINDOWS = "Long videos"


@dataclass(frozen=True)
class PlanOptions:
    """How a long medium is divided into windows."""

    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Answer each window of this length.", rich_help_panel=WINDOWS),
    ] = None
    stride: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Seconds from the start of a window to the next (default: the length of a window).",
            rich_help_panel=WINDOWS,
        ),
    ] = None
    scenes: Annotated[
        bool,
        typer.Option(
            "--scenes",
            help="Answer each scene between cuts; with --window, longer scenes are divided.",
            rich_help_panel=WINDOWS,
        ),
    ] = False
    scene_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT", help="Smallest difference of the frames at a cut (default: 8).", rich_help_panel=WINDOWS
        ),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether the medium is divided."""
        return self.window is not None or self.scenes

    def plan(self, segment: SegmentOptions) -> WindowPlan | ScenePlan | None:
        """Return how the medium is divided; None without --window and --scenes.

        Raises ValueError for invalid values, and for options that cannot be combined.
        """
        from video_llama.processors.scene_cuts import ScenePlan
        from video_llama.processors.windows import WindowPlan

        if not self.is_given:
            _refuse_without_plan({"stride": self.stride, "scene_threshold": self.scene_threshold})
            return None
        if segment.times is not None:
            raise ValueError("--times cannot be combined with a timeline. Give --frames or --fps.")
        if self.scenes:
            if self.stride is not None:
                raise ValueError("--stride cannot be combined with --scenes. Remove one of them.")
            threshold = ScenePlan.threshold if self.scene_threshold is None else self.scene_threshold
            return ScenePlan(threshold, max_seconds=self.window)
        if self.scene_threshold is not None:
            raise ValueError("--scene-threshold applies to scenes. Add --scenes, or remove it.")
        assert self.window is not None, "is_given"
        return WindowPlan(self.window, self.stride)


def _refuse_without_plan(given: dict[str, Any]) -> None:
    """Raise ValueError for an option that has a value but no effect."""
    for name, value in given.items():
        if value:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} applies to a timeline. Add --window SECONDS or --scenes, or remove it.")


@dataclass(frozen=True)
class WindowOptions(PlanOptions):
    """How a long medium is divided, and how its timeline is written."""

    summary: Annotated[
        bool,
        typer.Option("--summary", help="Add a summary of the answers about the windows.", rich_help_panel=WINDOWS),
    ] = False
    format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Format of the timeline: text, json, srt or vtt (default: by the ending of --output, else text).",
            rich_help_panel=WINDOWS,
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the timeline to a file, .txt, .json, .srt or .vtt.", rich_help_panel=WINDOWS
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Windows that are answered together.", rich_help_panel=WINDOWS)
    ] = 8

    def check(self, files: Sequence[str], segment: SegmentOptions, *, as_json: bool) -> None:
        """Raise ValueError for options that cannot be combined, before the model is loaded."""
        self.plan(segment)
        if not self.is_given:
            batch_size = self.batch_size != WindowOptions.batch_size
            names = ("summary", "format", "output")
            _refuse_without_plan({**{name: getattr(self, name) for name in names}, "batch_size": batch_size})
            return
        if len(files) != 1:
            raise ValueError(f"A timeline is about one video or sound, but {len(files)} files were given. Give one.")
        self.format_name(as_json=as_json)

    def format_name(self, *, as_json: bool) -> str:
        """Return the format of the timeline. Raises ValueError for an unknown one."""
        from video_llama.chat.timeline_formats import FORMATS, timeline_format

        if as_json and self.format not in (None, "json"):
            raise ValueError(f"--json and --format {self.format} cannot be combined. Give one of them.")
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"--format is {self.format!r}. Choose {', '.join(FORMATS)}.")
        if as_json or self.format is not None:
            return self.format or "json"
        return "text" if self.output is None else timeline_format(self.output)


def ask_windows(
    file: str,
    question: str,
    windows: WindowOptions,
    segment: SegmentOptions,
    decoding: Decoding,
    model: ModelOptions,
    *,
    subtitles: str | None = None,
    as_json: bool,
) -> None:
    """Answer the windows of a file and print the timeline, or write it to a file.

    Raises the errors of ``Assistant.timeline``; the windows that were answered before are printed or written.
    """
    from video_llama.errors import VideoLlamaError
    from video_llama.log import progress
    from video_llama.processors.subtitles import read_subtitles

    format_name = windows.format_name(as_json=as_json)
    plan = windows.plan(segment)
    assert plan is not None, "windows.check"
    with opened_media([file]) as [medium]:
        segment.check_applicable([medium])
        cues = None if subtitles is None else read_subtitles(subtitles, medium)
        assistant = model.load()
        answers = assistant.ask_windows(
            medium,
            question,
            plan=plan,
            subtitles=cues,
            batch_size=windows.batch_size,
            **segment.media_fields(assistant.settings.num_frames),
            **asdict(decoding),
        )
        answered: list[WindowAnswer] = []
        try:
            for each in progress(answers, "windows", len(answers.windows)):
                answered.append(each)
        except VideoLlamaError:
            if answered:  # what was answered before the error is not lost
                _write(answers.timeline(answered), windows, format_name)
            raise
    timeline = answers.timeline(answered)
    if windows.summary:
        try:
            timeline = assistant.summarized(timeline, **asdict(decoding))
        except VideoLlamaError:
            _write(timeline, windows, format_name)
            raise
    _write(timeline, windows, format_name)
    if format_name != "json" or windows.output is not None:
        _show_about(timeline, assistant.name, assistant.notice, windows, format_name)


def _write(timeline: Timeline, windows: WindowOptions, format_name: str) -> None:
    from video_llama.files import replace_text

    text = timeline.render(format_name)
    if windows.output is None:
        typer.echo(text, nl=False)
    else:
        replace_text(windows.output, text)


def _show_about(timeline: Timeline, name: str, notice: str, windows: WindowOptions, format_name: str) -> None:
    """Print warnings, what the timeline is based on, and the notice of the weights on standard error."""
    records = [each.answer.record for each in timeline.windows]
    for warning in dict.fromkeys(warning for record in records for warning in record.warnings):
        typer.echo(warning, err=True)
    if windows.output is not None:
        typer.echo(f"Wrote {windows.output} ({len(timeline.entries)} entries).", err=True)
    if timeline.summary is not None and (format_name == "srt" or windows.output is not None):
        typer.echo(f"Summary: {timeline.summary.text}", err=True)
    typer.echo(f"(weights: {name}; {timeline.duration:.1f} s in {_used(timeline.windows)})", err=True)
    if notice:
        typer.echo(notice, err=True)


def _used(windows: Sequence[WindowAnswer]) -> str:
    media = [each.answer.record.media[0] for each in windows]
    frames = sum(len(medium["frames"]["indices"]) for medium in media if medium["frames"])
    clips = sum(len(medium["sound"]["start_seconds"]) for medium in media if medium["sound"])
    used = f"{len(windows)} windows: {frames} frames, {clips} clips of audio"
    subtitles = [each.answer.record.subtitles for each in windows]
    cues = sum(each["num_cues"] for each in subtitles if each is not None)
    return used if subtitles[0] is None else f"{used}, {cues} subtitles"
