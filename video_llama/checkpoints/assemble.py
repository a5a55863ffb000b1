"""Plan a model from published files: the source of each tensor, and which tensors are missing or left over.

Planning reads names and shapes only. Values are read later, one tensor at a time: ``convert`` writes them to a model
folder, ``load_yaml_model`` fills a model with them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from video_llama.checkpoints.architecture import infer_config
from video_llama.checkpoints.completeness import EMBEDDING, OUTPUT, check_tied_output, first_names, shapes_of
from video_llama.checkpoints.config import ModelType, ModelYaml
from video_llama.checkpoints.decoder_folder import MODEL_TYPE_TEMPLATES, DecoderFolder, read_decoder_folder
from video_llama.checkpoints.files import Shape, StoredTensor, opened, scan
from video_llama.checkpoints.keys import convert_state_dict, reference_names
from video_llama.checkpoints.place_rows import NUM_PLACES, PLACE_TABLES, with_place_rows
from video_llama.checkpoints.published_files import ROLES, WeightSource, list_sources, remedy_for
from video_llama.errors import CheckpointError, ConfigError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.placement import meta_model
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.processors.settings import ProcessorSettings

POSITIONS = "model.frame_encoder.vision_model.embeddings.position_embedding"


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the model and the stored tensors that it is made from: one, or the two halves of a ViT bias."""

    name: str
    """Our name of the tensor."""
    source: WeightSource
    parts: dict[str, StoredTensor]
    """The reference's name -> the stored tensor."""
    shape: Shape
    dtype: torch.dtype


@dataclass
class SourceReport:
    """The use of the tensors of one source. The lists contain the reference's names."""

    source: WeightSource
    num_taken: int = 0
    leftovers: Counter[str] = field(default_factory=Counter)
    """Number of known tensors that the model does not need, by the module that they belong to."""
    unexpected: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """Taken from this source, then replaced by a later one."""


@dataclass
class Assembly:
    """The plan of a complete model."""

    config: VideoLlamaConfig
    model: VideoLlamaForConditionalGeneration
    """The model on the meta device; ``load_assembly`` fills it, once."""
    settings: ProcessorSettings
    decoder: DecoderFolder
    tensors: dict[str, PlannedTensor]
    reports: list[SourceReport]
    expected: dict[str, Shape]
    initialized: tuple[str, ...] = ()
    """Name prefixes of the tensors that are in no file and are initialized randomly, for training."""

    @property
    def missing(self) -> list[str]:
        """Our names of the tensors that are in no file and are not initialized either."""
        return [name for name in self.expected if name not in self.tensors and not name.startswith(self.initialized)]

    @property
    def mismatched(self) -> list[str]:
        """Our names of the tensors whose shape differs from the model's."""
        return [name for name, each in self.tensors.items() if each.shape != self.expected.get(name, each.shape)]


def assemble(
    config: ModelYaml, where: str, model_type: ModelType | None = None, initializable: Sequence[str] = ()
) -> Assembly:
    """Plan a model from the files that ``config`` names.

    Args:
        config: the evaluation YAML.
        where: name of the configuration, for error messages.
        model_type: prompt style that the user requested.
        initializable: prefixes (of ``initialization.INITIALIZABLE_PARTS``) of the parts that are initialized randomly
            if no file contains any of their tensors.

    Raises:
        CheckpointError: a file that cannot be read, or dimensions that cannot be inferred. Missing and unexpected
            tensors are reported by :func:`check_assembly`.
    """
    model_type = _agreed_model_type(config, model_type, where)
    tensors, reports = collect(list_sources(config, where), config)
    if EMBEDDING not in tensors:
        raise CheckpointError(
            f"{where}: {config.model.llama_model} has no embed_tokens.weight. Copy the decoder again."
        )
    num_rows = tensors[EMBEDDING].shape[0]
    decoder = read_decoder_folder(Path(config.model.llama_model), num_rows, model_type)
    num_tokens = decoder.tokenizer.vocab_size
    for name in PLACE_TABLES:
        if name in tensors and tensors[name].shape[0] == num_rows:
            tensors[name] = replace(tensors[name], shape=(num_tokens + NUM_PLACES, *tensors[name].shape[1:]))
    shapes = {name: each.shape for name, each in tensors.items()}
    initialized = tuple(part for part in initializable if not any(name.startswith(part) for name in shapes))
    image = {} if config.image_size is None else {"vision_config": {"image_size": config.image_size}}
    model = infer_config(
        shapes,
        decoder.text_config | {"vocab_size": num_tokens + NUM_PLACES},
        _merged(image, config.model.config),
        video_token_id=num_tokens,
        audio_token_id=num_tokens + 1,
        prompt_template=MODEL_TYPE_TEMPLATES[decoder.model_type],
        turn_format=decoder.turn_format,
        with_audio_branch=config.model.equip_audio_branch,
        dtype=_dtype_name(tensors[EMBEDDING].dtype),
        initialized=initialized,
        **_requested_counts(config, initialized),
    )
    _check_counts(config, model, where)
    empty = meta_model(model)
    expected = shapes_of(empty)
    _remove_surplus(tensors, reports, expected)
    if POSITIONS in tensors and _is_resizable(tensors[POSITIONS].shape, expected[POSITIONS]):
        tensors[POSITIONS] = replace(tensors[POSITIONS], shape=expected[POSITIONS])
    initialized = tuple(part for part in initialized if any(name.startswith(part) for name in expected))
    return Assembly(model, empty, _settings(config, model, decoder), decoder, tensors, reports, expected, initialized)


def check_assembly(assembly: Assembly, where: str) -> None:
    """Raise CheckpointError, with files and names, for missing tensors, unexpected tensors and wrong shapes."""
    problems = [
        f"{report.source.path} contains unexpected tensors ({len(report.unexpected)}): {first_names(report.unexpected)}"
        for report in assembly.reports
        if report.unexpected
    ]
    mismatched = [_mismatch(assembly.tensors[name], assembly.expected[name]) for name in assembly.mismatched]
    problems += [f"wrong shapes ({len(mismatched)}): {first_names(mismatched)}"] if mismatched else []
    by_remedy: dict[str, list[str]] = {}
    for name in assembly.missing:
        by_remedy.setdefault(remedy_for(name), []).append(" and ".join(reference_names(name)))
    problems += [
        f"missing tensors ({len(names)}): {first_names(names)}; {remedy}" for remedy, names in by_remedy.items()
    ]
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}. `video-llama inspect` lists the parts.")


def _mismatch(planned: PlannedTensor, expected: Shape) -> str:
    names = " and ".join(planned.parts)
    return f"{names} is {list(planned.shape)} and must be {list(expected)} ({planned.source.path})"


def read_planned(planned: Iterable[PlannedTensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the values of planned tensors, file by file. A file is mapped only while its tensors are read."""
    by_file: dict[tuple[Path, ...], list[PlannedTensor]] = {}
    for each in planned:
        by_file.setdefault(tuple(sorted({part.file for part in each.parts.values()})), []).append(each)
    for (file, *others), group in by_file.items():
        assert not others, "both halves of a bias are in one file"
        with opened(file) as tensors:
            for each in group:
                yield each.name, _value(each, tensors)


def resize_positions(table_1LD: Tensor, length: int) -> Tensor:
    """Resize a ViT's position table [1, 1 + n x n, D] (class token, then a square of patches) to [1, length, D].

    Bicubic interpolation with ``align_corners=False``, as in the reference's ``interpolate_pos_embed``.
    """
    old, new = math.isqrt(table_1LD.shape[1] - 1), math.isqrt(length - 1)
    patches = table_1LD[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = interpolate(patches, size=(new, new), mode="bicubic", align_corners=False)
    flat = resized.permute(0, 2, 3, 1).flatten(1, 2).to(table_1LD.dtype)
    return torch.cat([table_1LD[:, :1], flat], dim=1)


def collect(sources: list[WeightSource], config: ModelYaml) -> tuple[dict[str, PlannedTensor], list[SourceReport]]:
    """Return the tensors by our names, with later sources replacing earlier ones, and a report per source."""
    planned: dict[str, PlannedTensor] = {}
    reports: list[SourceReport] = []
    owners: dict[str, SourceReport] = {}
    for source in sources:
        report, own = _scan_source(source, config)
        for name, each in own.items():
            if name in planned:
                owners[name].replaced += each.parts
        owners |= dict.fromkeys(own, report)
        planned |= own
        reports.append(report)
    return planned, reports


def _scan_source(source: WeightSource, config: ModelYaml) -> tuple[SourceReport, dict[str, PlannedTensor]]:
    role, report = ROLES[source.role], SourceReport(source)
    stored = {role.name(own): tensor for own, tensor in scan(source.path).items()}
    taken = {name: tensor for name, tensor in stored.items() if role.is_taken(name)}
    report.leftovers.update(owner_of(name) for name in stored if role.is_leftover(name))
    report.unexpected += [name for name in stored if name not in taken and not role.is_leftover(name)]
    meta = {name: torch.empty(part.shape, dtype=part.dtype, device="meta") for name, part in taken.items()}
    ours, ignored, unknown = convert_state_dict(meta, include=lambda name: is_needed(name, config))
    report.leftovers.update(map(owner_of, ignored))
    report.unexpected += unknown
    planned = {}
    for name, tensor in ours.items():
        parts = {theirs: taken[theirs] for theirs in reference_names(name)}
        planned[name] = PlannedTensor(name, source, parts, tuple(tensor.shape), tensor.dtype)
        report.num_taken += len(parts)
    return report, planned


def is_needed(name: str, config: ModelYaml) -> bool:
    """Return whether the model that ``config`` describes has the tensor ``name`` (one of our names)."""
    if name.startswith("model.imagebind_vision."):
        return bool(config.model.config.get("with_imagebind_vision", False))
    if name.startswith(("model.imagebind_audio.", "model.audio_qformer.")):
        return config.model.equip_audio_branch
    return True


def owner_of(name: str) -> str:
    """Return the module under which an unused tensor is counted, such as ``Qformer`` or ``audio_encoder.thermal``."""
    first, _, rest = name.partition(".")
    if first == "audio_encoder":
        return f"{first}.{rest.split('.')[1]}"
    return first if not name.endswith(("inv_freq", "position_ids")) else name.rpartition(".")[2]


def _remove_surplus(
    tensors: dict[str, PlannedTensor], reports: list[SourceReport], expected: Mapping[str, Shape]
) -> None:
    """Remove tensors that the model does not have, and report them as unexpected in their source."""
    for name in [name for name in tensors if name not in expected]:
        planned = tensors.pop(name)
        if name == OUTPUT:
            pair = dict(read_planned([planned, tensors[EMBEDDING]]))
            check_tied_output(pair[OUTPUT], pair[EMBEDDING], str(planned.source.path))
        report = next(report for report in reports if report.source == planned.source)
        report.num_taken -= len(planned.parts)
        if name == OUTPUT:  # a copy of the embedding
            report.leftovers.update(list(planned.parts))
        else:
            report.unexpected += planned.parts


def _value(planned: PlannedTensor, tensors: Mapping[str, Tensor]) -> Tensor:
    stored = {theirs: tensors[part.name] for theirs, part in planned.parts.items()}
    value = convert_state_dict(stored)[0][planned.name]
    if planned.name == POSITIONS and value.shape != planned.shape:
        value = resize_positions(value, planned.shape[1])
    if planned.name in PLACE_TABLES and value.shape != planned.shape:
        value = with_place_rows(value, planned.shape[0] - NUM_PLACES)
    return value


def _is_resizable(stored: Shape, expected: Shape) -> bool:
    """Return whether two position tables have one width and each has a class token and a square of patches."""
    lengths = [shape[1] - 1 for shape in (stored, expected)]
    return stored[-1] == expected[-1] and all(math.isqrt(length) ** 2 == length for length in lengths)


def _dtype_name(embedding: torch.dtype) -> str:
    """Return the default data type of the model; the reference runs a half-precision decoder in bfloat16."""
    return "bfloat16" if embedding.itemsize == 2 else "float32"


def _merged(first: Mapping[str, dict[str, int]], second: Mapping[str, object]) -> dict[str, object]:
    merged: dict[str, object] = {**first, **second}
    for key in first.keys() & second.keys():
        section = second[key]
        merged[key] = {**first[key], **section} if isinstance(section, Mapping) else section
    return merged


def _agreed_model_type(config: ModelYaml, requested: ModelType | None, where: str) -> ModelType | None:
    own = config.model_type
    if own is not None and requested is not None and own != requested:
        raise ConfigError(
            f"--model_type is {requested}, but model.model_type in {where} is {own}. Correct one of them."
        )
    return requested or own


def _requested_counts(config: ModelYaml, initialized: Sequence[str]) -> dict[str, int]:
    """Return the dimensions that the YAML sets for initialized parts, as arguments of VideoLlamaConfig."""
    keys = {
        "model.video_qformer.query_tokens": ("num_video_query_token", "num_video_query_tokens"),
        "model.audio_qformer.query_tokens": ("num_audio_query_token", "num_audio_query_tokens"),
        "model.video_qformer.position_embeddings.": ("max_frame_pos", "max_frame_pos"),
        "model.video_qformer.qformer.": ("fusion_head_layers", "fusion_head_layers"),
    }
    requested = {ours: getattr(config.model, key) for part, (key, ours) in keys.items() if part in initialized}
    return {ours: value for ours, value in requested.items() if value is not None}


def _check_counts(config: ModelYaml, model: VideoLlamaConfig, where: str) -> None:
    facts = {
        "num_query_token": model.num_query_tokens,
        "num_video_query_token": model.num_video_query_tokens,
        "num_audio_query_token": model.num_audio_query_tokens if model.with_audio_branch else None,
        "fusion_head_layers": model.fusion_head_layers,
        "max_frame_pos": model.max_frame_pos,
    }
    for key, value in facts.items():
        given = getattr(config.model, key)
        if value is not None and given not in (None, value):
            raise CheckpointError(
                f"{where}: model.{key} is {given}, but the weights have {value}. Correct or remove it."
            )


def _settings(config: ModelYaml, model: VideoLlamaConfig, decoder: DecoderFolder) -> ProcessorSettings:
    num_mel_bins, target_length = model.imagebind_audio_config.input_size
    return ProcessorSettings(
        image_size=int(model.vision_config.image_size),  # type: ignore[arg-type]  # a single number in this model
        num_frames=config.num_frames,
        num_mel_bins=num_mel_bins,
        target_length=target_length,
        num_clips=model.max_audio_pos,
        pad_token=decoder.pad_token,
    )
