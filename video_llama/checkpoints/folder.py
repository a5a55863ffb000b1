"""A model folder in, the whole model out, with its tokenizer and the settings of its media; and back.

A folder holds ``config.json``, ``model.safetensors`` (or shards with their index), ``tokenizer.model``,
``processor_config.json`` and ``manifest.json``. Nothing in it is optional and nothing is loaded in part: every tensor
of the model is in the files with its shape, and every tensor of the files in the model, or it is an error with names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from video_llama.checkpoints.placement import Dtypes, resolve_placing, stored_values, torch_dtype
from video_llama.checkpoints.tensors import StoredTensor, check_tensors, shapes_of, stored_tensors
from video_llama.conversation import TEMPLATES, Tokenizer
from video_llama.errors import CheckpointError
from video_llama.processors.settings import ProcessorSettings

if TYPE_CHECKING:
    import torch

    from video_llama.models.configuration import VideoLlamaConfig
    from video_llama.models.placing import Placing
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.model"
PROCESSOR_FILE = "processor_config.json"
MANIFEST_FILE = "manifest.json"

Scalars = TypeVar("Scalars", "ProcessorSettings", "Manifest")


@dataclass(frozen=True)
class Manifest:
    """Where weights come from and what they are good for (``manifest.json``)."""

    name: str
    sources: dict[str, Any] = field(default_factory=dict)
    """The files or the run that the parts were made from."""
    untrained_parts: tuple[str, ...] = ()
    """Beginnings of the names of parameters that are random: such a folder may be trained, and never answers."""
    notice: str = ""
    """What these weights can and cannot know; shown with every answer."""


@dataclass
class ModelFolder:
    """A model in memory. ``path`` is None if it was not read from a folder."""

    path: Path | None
    model: VideoLlamaForConditionalGeneration
    tokenizer: Tokenizer
    settings: ProcessorSettings
    manifest: Manifest


def read_model_folder(
    path: str | Path, *, dtype: Dtypes | None = None, device: torch.device | str = "cpu", **placing: Any
) -> ModelFolder:
    """Read a folder whole, in evaluation mode; on a CPU, tensors that keep their type stay mapped parts of the files.

    ``dtype``, ``device`` and ``placing`` (quantization, device_map, max_memory, low_resource) are those of
    ``placement.resolve_placing``, which raises ValueError. Raises CheckpointError that names the file, and the keys
    or tensors in it, for anything missing, left over, of the wrong shape, or that does not fit together.
    """
    from video_llama.models.placing import meta_model

    path = Path(path)
    config = read_config(path)
    settings = read_settings(path)
    manifest = read_manifest(path)
    tokenizer = Tokenizer(path / TOKENIZER_FILE, pad_token=settings.pad_token)
    check_fit(config, settings, tokenizer)
    stored = stored_tensors(path)
    model = meta_model(config)
    shapes = shapes_of(model)
    check_tensors(shapes, stored, str(path))
    _check_untrained_parts(manifest, shapes, str(path))
    wanted = resolve_placing(getattr(config, "dtype", None) or "float32", dtype=dtype, device=device, **placing)
    return ModelFolder(path, _filled(path, model, stored, wanted), tokenizer, settings, manifest)


def write_model_folder(
    path: str | Path,
    model: VideoLlamaForConditionalGeneration,
    *,
    tokenizer_path: str | Path,
    settings: ProcessorSettings,
    manifest: Manifest,
) -> None:
    """Write a folder that ``read_model_folder`` reads; it appears whole or not at all.

    A model folder that is there already is replaced. Raises CheckpointError where something else stands at ``path``,
    or where model, tokenizer and settings do not fit together; and for a model with a packed decoder.
    """
    from video_llama.models.modeling_llama import is_packed

    path = Path(path)
    if is_packed(model):
        raise CheckpointError(f"{path}: its decoder is packed, which no folder holds. Load it without quantization.")
    check_fit(cast("VideoLlamaConfig", model.config), settings, Tokenizer(tokenizer_path, pad_token=settings.pad_token))
    _check_untrained_parts(manifest, dict.fromkeys(model.state_dict(), ()), str(path))
    with new_folder(path) as unfinished:
        with no_progress_bar():
            model.save_pretrained(unfinished)
        write_rest(unfinished, tokenizer_path=tokenizer_path, settings=settings, manifest=manifest)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into, which becomes ``path`` if nothing is raised and is removed otherwise.

    A model folder that is there already is replaced. Raises CheckpointError where something else stands at ``path``.
    """
    is_other = path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST_FILE).is_file()))
    if is_other:
        raise CheckpointError(f"{path} exists and is no model folder. Choose another name, or remove it first.")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        _put_in_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_rest(folder: Path, *, tokenizer_path: str | Path, settings: ProcessorSettings, manifest: Manifest) -> None:
    """What a model folder has beside its configuration and weights."""
    shutil.copyfile(tokenizer_path, folder / TOKENIZER_FILE)
    _write_json(folder / PROCESSOR_FILE, asdict(settings))
    _write_json(folder / MANIFEST_FILE, asdict(manifest))


def read_config(path: Path) -> VideoLlamaConfig:
    """The folder's ``config.json``. Raises CheckpointError where it is missing, no JSON, or another model's."""
    from video_llama.models.configuration import VideoLlamaConfig

    data = _read_json(path, CONFIG_FILE)
    kind = data.get("model_type")
    if kind != VideoLlamaConfig.model_type:
        raise CheckpointError(
            f"{path / CONFIG_FILE} describes a model of type {kind!r}, not {VideoLlamaConfig.model_type!r}. "
            "Give a Video-LLaMA model folder."
        )
    try:
        return VideoLlamaConfig.from_dict(data)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path / CONFIG_FILE}: {error} Write the folder again.") from error


def read_settings(path: Path) -> ProcessorSettings:
    """The folder's ``processor_config.json``. Raises CheckpointError for missing files, unknown or missing keys."""
    return _scalars(ProcessorSettings, path, PROCESSOR_FILE)


def read_manifest(path: Path) -> Manifest:
    """The folder's ``manifest.json``. Raises CheckpointError for missing files, unknown or missing keys."""
    return _scalars(Manifest, path, MANIFEST_FILE)


def check_fit(config: VideoLlamaConfig, settings: ProcessorSettings, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError, with the numbers, unless the three parts of a folder belong together."""
    facts: list[tuple[str, Any, str, Any]] = [
        ("image_size", settings.image_size, "vision_config.image_size", config.vision_config.image_size),
        ("the tokenizer's video_token_id", tokenizer.video_token_id, "video_token_id", config.video_token_id),
        ("the tokenizer's audio_token_id", tokenizer.audio_token_id, "audio_token_id", config.audio_token_id),
        ("the tokenizer's vocab_size", tokenizer.vocab_size, "text_config.vocab_size", config.text_config.vocab_size),
    ]
    if config.with_audio_branch:
        heard = (settings.num_mel_bins, settings.target_length)
        size = tuple(config.imagebind_audio_config.input_size)
        facts.append(("(num_mel_bins, target_length)", heard, "imagebind_audio_config.input_size", size))
    for ours, value, theirs, wanted in facts:
        if value != wanted:
            raise CheckpointError(
                f"{ours} is {value} and the model's {theirs} is {wanted}. Use the tokenizer.model and "
                f"{PROCESSOR_FILE} that were made with this model."
            )
    for name, count, limit in (
        ("num_frames", settings.num_frames, config.max_frame_pos),
        ("num_clips", settings.num_clips, config.max_audio_pos),
    ):
        if count > limit:
            raise CheckpointError(f"{name} is {count}, and the model has positions for {limit}. Set {limit} or less.")
    if config.prompt_template not in TEMPLATES:
        raise CheckpointError(
            f"prompt_template is {config.prompt_template!r}. Set one of {', '.join(TEMPLATES)} in {CONFIG_FILE}."
        )


def _check_untrained_parts(manifest: Manifest, names: Mapping[str, object], where: str) -> None:
    for part in manifest.untrained_parts:
        if not any(name.startswith(part) for name in names):
            raise CheckpointError(
                f"{where}: untrained_parts has {part!r}, which begins no parameter's name. Correct {MANIFEST_FILE}."
            )


def _filled(
    path: Path, model: VideoLlamaForConditionalGeneration, stored: Mapping[str, StoredTensor], placing: Placing
) -> VideoLlamaForConditionalGeneration:
    from transformers import GenerationConfig

    from video_llama.models.placing import build_model

    build_model(
        model,
        {name: torch_dtype(tensor.dtype) for name, tensor in stored.items()},
        lambda names, is_kept: stored_values({name: stored[name] for name in names}, is_kept=is_kept),
        placing,
        {name: tensor.file for name, tensor in stored.items()},
    )
    if (path / GENERATION_FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(path))
    return model


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar: whoever calls this may be answering on that screen."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder. Give a model folder, an evaluation YAML, or the name miniature.")
    try:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {name}: it is no model folder, or not a whole one.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name} is not readable JSON ({error}). Copy it again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{folder / name} holds a {type(data).__name__}, not an object. Copy it again.")
    return data


def _scalars(kind: type[Scalars], folder: Path, name: str) -> Scalars:
    data = _read_json(folder, name)
    known = {each.name for each in fields(kind)}
    if set(data) != known:
        wrong = [f"unknown key {key}" for key in sorted(set(data) - known)]
        wrong += [f"missing key {key}" for key in sorted(known - set(data))]
        raise CheckpointError(f"{folder / name}: {', '.join(wrong)}. It has exactly {', '.join(sorted(known))}.")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return kind(**values)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _put_in_place(unfinished: Path, path: Path) -> None:
    """Rename the finished folder to its name; one that stood there goes only when the new one is in its place."""
    if not path.exists():
        unfinished.rename(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    try:
        unfinished.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
