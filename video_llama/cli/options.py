"""Groups of options that several commands share, and the settings that they build.

A command takes a group as one parameter; ``expand_groups`` turns it into one option for each field of the group.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from video_llama.cli.reporting import turn_on_debug
from video_llama.log import activity

if TYPE_CHECKING:
    from video_llama.chat import Assistant, Decoding
    from video_llama.checkpoints.config import ModelType
    from video_llama.processors.media_file import MediaSource
    from video_llama.processors.medium import MediaFields
    from video_llama.processors.sampling import FrameSampling

Choice = TypeVar("Choice", bound=str)

MODEL, SEGMENT, DECODING, ENGINE, OPTIONS = "Model", "Frames and audio", "Decoding", "Engine", "Options"

Debug = Annotated[
    bool,
    typer.Option("--debug", callback=turn_on_debug, help="Show the traceback of an error.", rich_help_panel=OPTIONS),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.", rich_help_panel=OPTIONS)]


def json_text(value: Any) -> str:
    """Return the text that ``--json`` prints."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


RunYaml = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the training run.", show_default=False)]
DTYPE_HELP = "Data type of the weights: float32, bfloat16 or float16"


def overrides_option(example: str, *, of: str = "the YAML file", panel: str = OPTIONS) -> Any:
    """Return ``--set``, which overrides a key of a YAML file."""
    help_text = f"Override a key of {of}, such as {example}. Repeatable."
    return typer.Option("--set", metavar="KEY=VALUE", help=help_text, show_default=False, rich_help_panel=panel)


TrainOverrides = Annotated[list[str] | None, overrides_option("run.init_lr=1e-4")]
EvalOverrides = Annotated[list[str] | None, overrides_option("model.ckpt=FILE", of="an evaluation YAML")]
ModelTypeName = Annotated[
    str | None,
    typer.Option(
        "--model-type",
        metavar="TYPE",
        help="Prompt style: vicuna or llama_v2 (default: read from the decoder's folder).",
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, and how."""

    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Model to load: miniature, a model folder, an evaluation YAML, or a folder of published weights.",
            rich_help_panel=MODEL,
        ),
    ] = "miniature"
    overrides: Annotated[
        list[str] | None, overrides_option("model.ckpt=FILE", of="the evaluation YAML", panel=MODEL)
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Device to run on, such as cpu, cuda or cuda:1 (default: the GPU if available).",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help=f"{DTYPE_HELP} (default: as stored).", rich_help_panel=MODEL)
    ] = None
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Quantize the language model: int8, int4 or q4_k (CPU; needs the extra ggml).",
            rich_help_panel=MODEL,
        ),
    ] = None
    encoder_quantization: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="int8: quantize the vision and audio encoders (x86 CPUs).", rich_help_panel=MODEL
        ),
    ] = None
    low_resource: Annotated[
        bool,
        typer.Option(
            "--low-resource",
            help="Save GPU memory: int8 language model, and the vision encoder on the CPU.",
            rich_help_panel=MODEL,
        ),
    ] = False
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="MAP",
            help="auto: distribute the model over all GPUs, CPU memory and disk.",
            rich_help_panel=MODEL,
        ),
    ] = None

    interpolate_positions: Annotated[
        bool,
        typer.Option(
            "--interpolate-positions",
            help="Allow more frames than the model has positions for (outside of training).",
            rich_help_panel=MODEL,
        ),
    ] = False

    def load(self) -> Assistant:
        """Load the model. Raises the errors of ``video_llama.load``."""
        with activity("importing libraries"):
            from video_llama.chat.loading import load_assistant, usable_device
            from video_llama.models.placement import LoadOptions

        options = LoadOptions(
            usable_device(self.device),
            self.dtype,
            self.quantization,
            self.device_map,
            low_resource=self.low_resource,
            encoder_quantization=self.encoder_quantization,
            interpolate_positions=self.interpolate_positions,
        )
        return load_assistant(self.model, options, self.overrides or ())


@dataclass(frozen=True)
class RayFlags:
    """The engine of a command that can use Ray, and what each of its processes gets."""

    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="local, or ray (extra scale).", rich_help_panel=ENGINE)
    ] = "local"
    num_cpus: Annotated[
        float, typer.Option(metavar="N", help="Ray: CPU cores of each worker or replica.", rich_help_panel=ENGINE)
    ] = 1.0
    num_gpus: Annotated[
        float,
        typer.Option(
            metavar="N",
            help="Ray: GPUs of each worker or replica; 0.5 places two on one GPU.",
            rich_help_panel=ENGINE,
        ),
    ] = 0.0
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray: address of a cluster (default: RAY_ADDRESS, or Ray is started on this machine).",
            rich_help_panel=ENGINE,
        ),
    ] = None

    def engine_name(self) -> Literal["local", "ray"]:
        """Return the engine. Raises ValueError for an unknown one."""
        choices: tuple[Literal["local", "ray"], ...] = ("local", "ray")
        return as_choice("--engine", self.engine, choices) or "local"

    def resources(self) -> dict[str, Any]:
        """Return the arguments of ``RayResources``."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "address": self.ray_address}


@dataclass(frozen=True)
class SegmentOptions:
    """Which frames and which audio of the media to use."""

    frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of frames, sampled uniformly from the segment (default: the model's).",
            rich_help_panel=SEGMENT,
        ),
    ] = None
    fps: Annotated[
        float | None, typer.Option(metavar="FPS", help="Frames to sample per second.", rich_help_panel=SEGMENT)
    ] = None
    times: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="Times of the frames, such as 0.5,2,3.5.", rich_help_panel=SEGMENT),
    ] = None
    start: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Start of the segment, in seconds.", rich_help_panel=SEGMENT),
    ] = None
    end: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="End of the segment, in seconds.", rich_help_panel=SEGMENT),
    ] = None
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Ignore the audio of the files.", rich_help_panel=SEGMENT)
    ] = False
    require_audio: Annotated[
        bool, typer.Option("--require-audio", help="Fail if a file has no audio.", rich_help_panel=SEGMENT)
    ] = False

    def check_applicable(self, media: Sequence[MediaSource]) -> None:
        """Raise ValueError for an option that applies to none of the media.

        ``--frames``, ``--fps`` and ``--times`` apply to videos, ``--start`` and ``--end`` to videos and audio.
        """
        from video_llama.processors.medium import media_kind

        given: dict[str, Any] = {
            f"--{name}": getattr(self, name) for name in ("frames", "fps", "start", "end", "times")
        }
        given = {name: value for name, value in given.items() if value is not None}
        kinds = {media_kind(source) for source in media} if given else set()
        if kinds & {"video", "frames"}:
            return
        for name, value in given.items():
            if name not in ("--start", "--end"):
                raise ValueError(f"{name} is {value}, but no file is a video. Remove the option, or add a video.")
            if "audio" not in kinds:
                raise ValueError(
                    f"{name} is {value:g}, but no file is a video or audio. Remove the option, or add such a file."
                )

    def media_fields(self, default_frames: int) -> MediaFields:
        """Return the keyword arguments of ``Assistant.chat``. ``default_frames`` is the model's number of frames.

        Raises ValueError for options that exclude each other, and for invalid values.
        """
        return {
            "frames": self._frame_sampling(default_frames),
            "no_audio": self.no_audio,
            "require_audio": self.require_audio,
        }

    def _frame_sampling(self, default_frames: int) -> FrameSampling:
        from video_llama.processors.sampling import FrameSampling

        given = {"--frames": self.frames, "--fps": self.fps, "--times": self.times}
        excluding = [name for name, value in given.items() if value is not None]
        if len(excluding) > 1:
            raise ValueError(f"{' and '.join(excluding)} cannot be combined. Give one of them.")
        num_frames = default_frames if self.frames is None else self.frames
        return FrameSampling(num_frames, self.fps, _seconds(self.times), self.start, self.end)


@dataclass(frozen=True)
class DecodingOptions:
    """How to generate the answer: fields of ``video_llama.chat.Decoding``."""

    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Maximum length of the answer, in tokens (default: 300, at most half of the context).",
            rich_help_panel=DECODING,
        ),
    ] = None
    num_beams: Annotated[
        int,
        typer.Option(
            "--beams", metavar="N", help="Number of beams for beam search, at most 64.", rich_help_panel=DECODING
        ),
    ] = 1
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="FLOAT", help="Sampling temperature (default: greedy decoding).", rich_help_panel=DECODING
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="FLOAT",
            help="Nucleus sampling: smallest set of tokens whose probabilities add up to this value.",
            rich_help_panel=DECODING,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Top-k sampling: number of most probable tokens to sample from.", rich_help_panel=DECODING
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Random seed for sampling (default: random; recorded in the answer).",
            rich_help_panel=DECODING,
        ),
    ] = None
    repetition_penalty: Annotated[
        float,
        typer.Option(
            metavar="FLOAT",
            help="Repetition penalty; values above 1 discourage repetition.",
            rich_help_panel=DECODING,
        ),
    ] = 1.0

    def settings(self) -> Decoding:
        """Return the decoding settings. Raises ValueError for invalid values."""
        from video_llama.chat import Decoding

        return Decoding(**vars(self))


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command`` with a parameter for each field of its option groups, and ``--debug``, for typer to read."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _field_parameters(groups[parameter.name])
        else:
            parameters.append(_keyword(parameter.name, hints[parameter.name], parameter.default))
    parameters.append(_keyword("debug", Debug, False))

    @wraps(command)
    def run(*, debug: bool, **values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **built)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _field_parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [_keyword(field.name, hints[field.name], field.default) for field in fields(group)]


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@contextmanager
def opened_media(files: Sequence[str]) -> Iterator[list[MediaSource]]:
    """Yield the files as ``MediaFile``, so that each is opened once, and folders of frames as paths."""
    from video_llama.processors.media_file import MediaFile, is_folder

    with ExitStack() as stack:
        yield [file if is_folder(file) else stack.enter_context(MediaFile(file)) for file in files]


def _seconds(times: str | None) -> tuple[float, ...] | None:
    if times is None:
        return None
    try:
        return tuple(float(time) for time in times.split(","))
    except ValueError as error:
        raise ValueError(f"--times is {times!r}. Give seconds separated by commas, such as 0.5,2,3.5.") from error


def is_existing(path: str) -> bool:
    """Return whether there is a file or folder at ``path``; False for an empty name and one that is too long."""
    try:
        return path != "" and Path(path).exists()
    except (OSError, ValueError):
        return False


def as_model_type(name: str | None) -> ModelType | None:
    """Return the prompt style of this name. Raises ValueError for an unknown one."""
    from video_llama.checkpoints.decoder_folder import MODEL_TYPE_TEMPLATES

    return as_choice("--model-type", name, MODEL_TYPE_TEMPLATES)


def as_choice(option: str, name: str | None, choices: Iterable[Choice]) -> Choice | None:
    """Return the choice of this name, or None if the option was not given. Raises ValueError for an unknown name."""
    known = {str(each): each for each in choices}
    if name is not None and name not in known:
        raise ValueError(f"{option} is {name!r}. Choose {' or '.join(known)}.")
    return None if name is None else known[name]
