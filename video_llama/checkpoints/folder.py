"""Read and write model folders: the model, its tokenizer and its media settings.

A folder contains ``config.json``, ``model.safetensors`` (or shards with an index), ``tokenizer.model`` and
``processor_config.json``. All of them are required. ``manifest.json`` records where the weights come from; folders
written by ``save_pretrained`` have none. The files of ``tokenizer_files.py`` are for transformers. Loading is strict:
every tensor of the model must be in the files with the right shape, and every tensor of the files in the model;
otherwise an error names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import logging

from video_llama.checkpoints.building import build_model
from video_llama.checkpoints.chat_template_files import write_chat_template_files
from video_llama.checkpoints.completeness import check_tensors, shapes_of, without_tied_output
from video_llama.checkpoints.familiarity import read_familiarity
from video_llama.checkpoints.files import StoredTensor, read_values, scan
from video_llama.checkpoints.place_rows import NUM_PLACES
from video_llama.checkpoints.tokenizer_files import write_tokenizer_files
from video_llama.conversation import (
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    FastTokenizer,
    Tokenizer,
    open_tokenizer_file,
    template_of,
)
from video_llama.errors import CheckpointError
from video_llama.files import new_folder, read_json
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.configuration_limits import BAD_VALUES, first_line
from video_llama.models.familiarity import Familiarity
from video_llama.models.modeling_llama import is_packed
from video_llama.models.placement import LoadOptions, Placing, meta_model, resolve_placing
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.processors.settings import PROCESSOR_CLASS, ModelNumbers, ProcessorSettings

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
PROCESSOR_FILE = "processor_config.json"
MANIFEST_FILE = "manifest.json"

GENERATION_KEYS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens", "min_length", "min_new_tokens"),
    *("do_sample", "num_beams", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
    *("no_repeat_ngram_size", "early_stopping", "num_return_sequences", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate", "stop_strings"),
}
"""Settings of ``generation_config.json`` that are read."""
GENERATION_NOTES = {"_from_model_config", "transformers_version"}
MAX_SCALAR = 1e7
"""Limit of the numbers in ``processor_config.json``."""
MAX_ENDS, MAX_SETTING, MAX_STOP_LENGTH = 100, 1e9, 100
"""Most ids or strings that end an answer, the limit of numbers, and the longest such string."""
NO_MANIFEST = "no manifest: nothing is recorded about the origin of these weights"
"""Notice of a folder without ``manifest.json``."""

Scalars = TypeVar("Scalars", ProcessorSettings, ModelNumbers, "Manifest")


@dataclass(frozen=True)
class Manifest:
    """Provenance and limitations of the weights (``manifest.json``)."""

    name: str
    sources: dict[str, Any] = field(default_factory=dict)
    """The files or the run from which the parts were made."""
    untrained_parts: tuple[str, ...] = ()
    """Name prefixes of randomly initialized parameters. A model with such parts can be trained but never answers."""
    notice: str = ""
    """What these weights can and cannot answer; shown with every answer."""


@dataclass
class ModelFolder:
    """A model in memory. ``path`` is None if it was not read from a folder."""

    path: Path | None
    model: VideoLlamaForConditionalGeneration
    tokenizer: Tokenizer
    settings: ProcessorSettings
    manifest: Manifest
    familiarity: Familiarity | None = None
    """Tests for media unlike the training media (``familiarity.safetensors``, optional)."""
    placing: Placing | None = None
    """The data types and devices with which the model was loaded. None if it was not read from files."""


@dataclass(frozen=True)
class FolderTensors:
    """The tensors of a model folder, read from its files when the model is filled."""

    stored: Mapping[str, StoredTensor]

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Stored data type of each tensor."""
        return {name: tensor.dtype for name, tensor in self.stored.items()}

    @property
    def files(self) -> Mapping[str, tuple[Path, str]]:
        """The file of each tensor and its name there."""
        return {name: (tensor.file, tensor.stored_name) for name, tensor in self.stored.items()}

    def read(self, names: Sequence[str], *, is_kept: bool) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors, mapped. Raises CheckpointError for a file that cannot be read."""
        return read_values({name: self.stored[name] for name in names}, is_kept=is_kept)


def read_model_folder(path: str | Path, options: LoadOptions = LoadOptions()) -> ModelFolder:  # noqa: B008  (frozen)
    """Load a model folder, in evaluation mode; on a CPU, tensors that keep their data type stay memory-mapped.

    Raises ValueError for invalid options, and CheckpointError, naming the file and its keys or tensors, for anything
    missing, unexpected, of the wrong shape or inconsistent.
    """
    path = Path(path)
    config = read_config(path)
    settings = read_settings(path)
    manifest = read_manifest(path)
    tokenizer = open_tokenizer(path, settings)
    check_fit(config, settings, tokenizer)
    _check_numbers(path, config)
    familiarity = read_familiarity(path, config)
    stored = scan(path, safetensors_only=True)
    model = meta_model(config, str(path / CONFIG_FILE))
    shapes = shapes_of(model)
    stored = without_tied_output(stored, shapes, str(path))
    check_tensors(shapes, stored, str(path))
    _check_untrained_parts(manifest, shapes, str(path))
    placing = resolve_placing(getattr(config, "dtype", None) or "float32", options)
    build_model(model, FolderTensors(stored), placing)
    model.config._name_or_path = str(path)  # ``generate`` reads the tokenizer there, to find stop strings
    if (path / GENERATION_FILE).is_file():
        model.generation_config = _read_generation_config(path)
    return ModelFolder(path, model, tokenizer, settings, manifest, familiarity, placing)


def write_model_folder(
    path: str | Path,
    model: VideoLlamaForConditionalGeneration,
    *,
    tokenizer_path: str | Path,
    settings: ProcessorSettings,
    manifest: Manifest,
) -> None:
    """Write a model folder, atomically; an existing model folder at ``path`` is replaced.

    Raises CheckpointError if something other than a model folder exists at ``path``, if model, tokenizer and settings
    do not fit together, and for a quantized model.
    """
    path = Path(path)
    if is_packed(model):
        raise CheckpointError(f"{path}: a quantized decoder cannot be saved. Load the model without quantization.")
    tokenizer = open_tokenizer_file(tokenizer_path, pad_token=settings.pad_token)
    check_fit(cast("VideoLlamaConfig", model.config), settings, tokenizer)
    _check_untrained_parts(manifest, dict.fromkeys(model.state_dict(), ()), str(path))
    with new_model_folder(path) as unfinished:
        with no_progress_bar():
            model.save_pretrained(unfinished)
        config = cast("VideoLlamaConfig", model.config)
        write_rest(unfinished, config, tokenizer=tokenizer, settings=settings, manifest=manifest)


@contextmanager
def new_model_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` if the block does not raise; see ``files.new_folder``.

    Raises CheckpointError if something other than a model folder or an empty folder exists at ``path``.
    """
    is_other = path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST_FILE).is_file()))
    if is_other:
        raise CheckpointError(f"{path} exists and is not a model folder. Choose another name, or remove it first.")
    with new_folder(path) as unfinished:
        yield unfinished


def write_rest(
    folder: Path,
    config: VideoLlamaConfig,
    *,
    tokenizer: Tokenizer,
    settings: ProcessorSettings,
    manifest: Manifest,
) -> None:
    """Write the files of a model folder other than its config and weights."""
    tokenizer.save(folder)
    length = int(config.text_config.max_position_embeddings)
    if isinstance(tokenizer, FastTokenizer):
        template = template_of(config.prompt_template, config.turn_format)
        write_chat_template_files(folder, tokenizer, template, context_length=length)
    else:
        write_tokenizer_files(folder, tokenizer, settings.pad_token, config.prompt_template, context_length=length)
    _write_json(folder / PROCESSOR_FILE, asdict(settings) | asdict(ModelNumbers.of(config)) | PROCESSOR_CLASS)
    _write_json(folder / MANIFEST_FILE, asdict(manifest))


def open_tokenizer(folder: Path, settings: ProcessorSettings) -> Tokenizer:
    """Return the tokenizer of a model folder. Raises CheckpointError if it is missing or cannot be read."""
    return open_tokenizer_file(tokenizer_file(folder), pad_token=settings.pad_token)


def tokenizer_file(folder: Path) -> Path:
    """Return the file that a model folder's tokenizer is read from: ``tokenizer.model``, else ``tokenizer.json``."""
    model, fast = folder / TOKENIZER_MODEL, folder / TOKENIZER_JSON
    return fast if fast.is_file() and not model.is_file() else model


def read_config(path: Path) -> VideoLlamaConfig:
    """Read ``config.json``. Raises CheckpointError if it is missing, invalid, or of another model type."""
    data = _read_json(path, CONFIG_FILE)
    kind = data.get("model_type")
    if kind != VideoLlamaConfig.model_type:
        raise CheckpointError(
            f"{path / CONFIG_FILE} describes a model of type {kind!r}, not {VideoLlamaConfig.model_type!r}. "
            "Give a Video-LLaMA model folder."
        )
    try:
        return cast("VideoLlamaConfig", VideoLlamaConfig.from_dict(data))
    except BAD_VALUES as error:
        raise CheckpointError(f"{path / CONFIG_FILE}: {first_line(error)} Write the folder again.") from error


def _read_generation_config(path: Path) -> GenerationConfig:
    """Read ``generation_config.json``.

    Raises CheckpointError for invalid values and for settings other than GENERATION_KEYS; transformers has settings
    that name other models.
    """
    data = _read_json(path, GENERATION_FILE)
    unknown = sorted(data.keys() - GENERATION_KEYS - GENERATION_NOTES)
    if unknown:
        raise CheckpointError(
            f"{path / GENERATION_FILE}: unsupported key {unknown[0]}. Use {', '.join(sorted(GENERATION_KEYS))}."
        )
    values = {key: value for key, value in data.items() if key in GENERATION_KEYS}
    wrong = [key for key, value in values.items() if not _is_setting(value) and key != "stop_strings"]
    try:
        if wrong:
            raise ValueError(f"{wrong[0]} is {repr(values[wrong[0]])[:80]}, not a finite number or truth value")
        _check_stop_strings(values.get("stop_strings"))
        return GenerationConfig(**values)  # type: ignore[no-untyped-call]
    except BAD_VALUES as error:
        raise CheckpointError(f"{path / GENERATION_FILE}: {first_line(error)}. Correct the file.") from error


def _check_stop_strings(value: Any) -> None:
    texts = [value] if isinstance(value, str) else value
    is_list = texts is None or (isinstance(texts, list) and len(texts) <= MAX_ENDS)
    if not is_list or not all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_LENGTH for text in texts or ()):
        raise ValueError(f"stop_strings is {repr(value)[:80]}, not a list of strings of 1 to {MAX_STOP_LENGTH} letters")


def _is_setting(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_ENDS and all(isinstance(each, int) for each in value)
    return value is None or (isinstance(value, int | float) and abs(value) < MAX_SETTING)


def read_settings(path: Path) -> ProcessorSettings:
    """Read ``processor_config.json``. Raises CheckpointError for a missing file and for unknown or missing keys."""
    data = _read_json(path, PROCESSOR_FILE)
    others = {*PROCESSOR_CLASS, *_names(ModelNumbers)}
    return _scalars(ProcessorSettings, path / PROCESSOR_FILE, {k: v for k, v in data.items() if k not in others})


def _check_numbers(path: Path, config: VideoLlamaConfig) -> None:
    """Raise CheckpointError if ``processor_config.json`` contains numbers of another model."""
    data = _read_json(path, PROCESSOR_FILE)
    given = {name: data[name] for name in _names(ModelNumbers) if name in data}  # folders written before have none
    expected = asdict(ModelNumbers.of(config))
    for name, value in given.items():
        if value != expected[name]:
            raise CheckpointError(
                f"{path / PROCESSOR_FILE}: {name} is {value!r}, but {expected[name]!r} in {CONFIG_FILE}. Use the "
                f"{PROCESSOR_FILE} of this model."
            )


def read_manifest(path: Path) -> Manifest:
    """Read ``manifest.json``; a folder without it has the notice NO_MANIFEST. Raises CheckpointError for unknown or
    missing keys."""
    if path.is_dir() and not (path / MANIFEST_FILE).exists():
        return Manifest(path.resolve().name, notice=NO_MANIFEST)
    return _scalars(Manifest, path / MANIFEST_FILE, _read_json(path, MANIFEST_FILE))


def check_fit(config: VideoLlamaConfig, settings: ProcessorSettings, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError, with the values, unless config, settings and tokenizer fit together."""
    facts: list[tuple[str, Any, str, Any]] = [
        ("image_size", settings.image_size, "vision_config.image_size", config.vision_config.image_size),
        ("the tokenizer's video_token_id", tokenizer.video_token_id, "video_token_id", config.video_token_id),
        ("the tokenizer's audio_token_id", tokenizer.audio_token_id, "audio_token_id", config.audio_token_id),
    ]
    if (
        config.text_config.vocab_size != tokenizer.vocab_size + NUM_PLACES
    ):  # without rows of the places: earlier folders
        num_rows = config.text_config.vocab_size
        facts.append(("the tokenizer's vocab_size", tokenizer.vocab_size, "text_config.vocab_size", num_rows))
    if config.with_audio_branch:
        mel_size = (settings.num_mel_bins, settings.target_length)
        size = tuple(config.imagebind_audio_config.input_size)
        facts.append(("(num_mel_bins, target_length)", mel_size, "imagebind_audio_config.input_size", size))
    for ours, value, theirs, expected in facts:
        if value != expected:
            raise CheckpointError(
                f"{ours} is {value}, but the model's {theirs} is {expected}. Use the tokenizer.model and "
                f"{PROCESSOR_FILE} of this model."
            )
    for name, count, limit in (
        ("num_frames", settings.num_frames, config.max_frame_pos),
        ("num_clips", settings.num_clips, config.max_audio_pos),
    ):
        if count > limit:
            raise CheckpointError(f"{name} is {count}, but the model has {limit} positions. Set {limit} or less.")
    template_of(config.prompt_template, config.turn_format)


def _check_untrained_parts(manifest: Manifest, names: Mapping[str, object], where: str) -> None:
    for part in manifest.untrained_parts:
        if not any(name.startswith(part) for name in names):
            raise CheckpointError(
                f"{where}: untrained_parts has {part!r}, which matches no parameter. Correct {MANIFEST_FILE}."
            )


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Disable transformers' progress bar inside the block; the terminal may be showing an answer."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder. Give a model folder, an evaluation YAML, or the name miniature."
        )
    try:
        data = read_json(folder / name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {name}, so it is not a complete model folder.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name} is not valid JSON ({error}). Copy it again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{folder / name} contains a {type(data).__name__} instead of an object. Copy it again.")
    return data


def _names(kind: type[Any]) -> set[str]:
    return {each.name for each in fields(kind)}


def _scalars(kind: type[Scalars], file: Path, data: dict[str, Any]) -> Scalars:
    known = _names(kind)
    if set(data) != known:
        wrong = [f"unknown key {key}" for key in sorted(set(data) - known)]
        wrong += [f"missing key {key}" for key in sorted(known - set(data))]
        raise CheckpointError(f"{file}: {', '.join(wrong)}. The keys are {', '.join(sorted(known))}.")
    for key, value in data.items():
        numbers = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int | float)]
        if not all(abs(each) < MAX_SCALAR for each in numbers):  # false for NaN
            raise CheckpointError(f"{file}: {key} is {repr(value)[:80]}. Correct the file.")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first: Any = error.errors()[0]
        reason = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
        raise CheckpointError(f"{file}: {reason.rstrip('.')}. Correct the file.") from error


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
