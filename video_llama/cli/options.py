"""Options that several commands share, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.reporting import turn_on_debug

if TYPE_CHECKING:
    from video_llama.chat import Assistant
    from video_llama.processors import FrameSampling

MEDIA, DECODING, MODEL = "What is seen and heard", "How the answer is chosen", "Model"

Debug = Annotated[bool, typer.Option("--debug", callback=turn_on_debug, help="Show the trace of an error.")]
RunYaml = Annotated[Path, typer.Argument(help="The run's YAML file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Model = Annotated[str, typer.Option(help="miniature, a model folder, or an evaluation YAML.", rich_help_panel=MODEL)]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)", rich_help_panel=MODEL)
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16. (default: as stored)", rich_help_panel=MODEL)
]
Quantization = Annotated[
    str | None, typer.Option(help="int8 or int4: the decoder packed, docs/memory.md.", rich_help_panel=MODEL)
]
LowResource = Annotated[
    bool, typer.Option("--low-resource", help="int8, and the ViT kept off the GPU.", rich_help_panel=MODEL)
]
DeviceMap = Annotated[
    str | None, typer.Option(help="auto: over all GPUs, memory and disk.", rich_help_panel=MODEL, metavar="auto")
]
NumFrames = Annotated[
    int | None, typer.Option("--frames", help="Frames to look at. (default: the model's)", rich_help_panel=MEDIA)
]
Fps = Annotated[float | None, typer.Option(help="Frames per second to look at.", rich_help_panel=MEDIA)]
Start = Annotated[float | None, typer.Option(help="Look and listen from this second on.", rich_help_panel=MEDIA)]
End = Annotated[float | None, typer.Option(help="Look and listen up to this second.", rich_help_panel=MEDIA)]
Times = Annotated[
    str | None, typer.Option(help="Look at these seconds: 0.5,2,3.5", rich_help_panel=MEDIA, metavar="SECONDS")
]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the sound out.", rich_help_panel=MEDIA)]
RequireAudio = Annotated[
    bool, typer.Option("--require-audio", help="A medium without sound is an error.", rich_help_panel=MEDIA)
]
Beams = Annotated[int, typer.Option(help="Beams of the search, at most 64. 1 is none.", rich_help_panel=DECODING)]
Temperature = Annotated[
    float | None, typer.Option(help="Draw the words, at this temperature. (default: greedy)", rich_help_panel=DECODING)
]
TopP = Annotated[
    float | None, typer.Option(help="Draw from the likeliest words of this sum.", rich_help_panel=DECODING)
]
TopK = Annotated[int | None, typer.Option(help="Draw from this many likeliest words.", rich_help_panel=DECODING)]
Seed = Annotated[int | None, typer.Option(help="Of the draws. (default: drawn, recorded)", rich_help_panel=DECODING)]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, words recur less.", rich_help_panel=DECODING)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--options",
        metavar="KEY=VALUE",
        help="Overrides of the YAML: model.ckpt=...; may be repeated.",
        show_default=False,
    ),
]
ModelType = Annotated[
    str | None,
    typer.Option("--model-type", "--model_type", help="vicuna or llama_v2. (default: what the decoder's folder says)"),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help="Longest answer. (default: 300, at most half the context)", rich_help_panel=DECODING),
]


def require_use(
    files: Sequence[str],
    num_frames: int | None,
    fps: float | None,
    start: float | None,
    end: float | None,
    times: str | None,
) -> None:
    """Raise ValueError for an option that none of the files has a use for: an image has one frame, a sound none."""
    from video_llama.processors.medium import media_kind

    given = {"--frames": num_frames, "--fps": fps, "--start": start, "--end": end, "--times": times}
    given = {name: value for name, value in given.items() if value is not None}
    kinds = {media_kind(file) for file in files} if given else set()
    if kinds & {"video", "frames"}:
        return
    for name, value in given.items():
        if name not in ("--start", "--end"):
            raise ValueError(f"{name} is {value}, and there is no video among the files. Leave it out, or add one.")
        if "audio" not in kinds:
            raise ValueError(f"{name} is {value:g}, and nothing that is given lasts. Leave it out, or add a video.")


def frame_sampling(
    assistant: Assistant,
    num_frames: int | None,
    fps: float | None,
    start: float | None,
    end: float | None,
    times: str | None,
) -> FrameSampling:
    """The frames asked for; ValueError where two options exclude each other or a number cannot be."""
    from video_llama.processors import FrameSampling

    given = {"--frames": num_frames, "--fps": fps, "--times": times}
    excluding = [name for name, value in given.items() if value is not None]
    if len(excluding) > 1:
        raise ValueError(f"{' and '.join(excluding)} are given. Give one of them.")
    return FrameSampling(
        assistant.settings.num_frames if num_frames is None else num_frames, fps, _seconds(times), start, end
    )


def _seconds(times: str | None) -> tuple[float, ...] | None:
    if times is None:
        return None
    try:
        return tuple(float(time) for time in times.split(","))
    except ValueError as error:
        raise ValueError(f"--times is {times!r}. Give seconds with commas between: 0.5,2,3.5") from error


def load_assistant(
    model: str, overrides: list[str] | None, device: str | None, dtype: str | None, **placing: Any
) -> Assistant:
    """The model by name or path; ``placing`` is that of ``video_llama.load``."""
    from video_llama.chat.loading import load

    return load(model, options=overrides or (), device=device, dtype=dtype, **placing)


def existing(path: str) -> bool:
    """Whether something stands at this path (none does at an empty one, or one too long for the file system)."""
    try:
        return path != "" and Path(path).exists()
    except (OSError, ValueError):
        return False


def as_model_type(name: str | None) -> Any:
    """The prompt style by the reference's name; ValueError for another."""
    from video_llama.checkpoints.decoder import MODEL_TYPE_TEMPLATES

    if name not in (None, *MODEL_TYPE_TEMPLATES):
        raise ValueError(f"--model-type is {name!r}. Choose {' or '.join(MODEL_TYPE_TEMPLATES)}.")
    return name


def decoding(**settings: Any) -> dict[str, Any]:
    """The decoding settings that were given, checked."""
    from video_llama.chat import Decoding

    given = {name: value for name, value in settings.items() if value is not None}
    Decoding(**given)
    return given
