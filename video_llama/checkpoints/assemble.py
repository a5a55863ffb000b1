"""Files in, a plan of the whole model out: where each tensor comes from, and what is missing or left over.

Planning reads names and shapes only. Values are read later, one tensor at a time, by whoever needs them: the converter
writes them to a folder, ``load_yaml_model`` puts them into a model.
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
from video_llama.checkpoints.completeness import shapes_of
from video_llama.checkpoints.config import ModelType, ModelYaml
from video_llama.checkpoints.decoder import MODEL_TYPE_TEMPLATES, Decoder, read_decoder
from video_llama.checkpoints.files import Shape, StoredTensor, opened, scan
from video_llama.checkpoints.keys import convert_state_dict, reference_names
from video_llama.checkpoints.published_files import ROLES, WeightSource, list_sources, remedy_for
from video_llama.errors import CheckpointError, ConfigError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.placement import meta_model
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.processors.settings import ProcessorSettings

EMBEDDING = "model.language_model.embed_tokens.weight"
POSITIONS = "model.frame_encoder.vision_model.embeddings.position_embedding"
NUM_NAMED = 3
"""How many tensors of a part an error names before it counts the rest."""


@dataclass(frozen=True)
class Piece:
    """One tensor of ours, and what it is made from: one tensor of a source, or two halves of a bias."""

    name: str
    source: WeightSource
    parts: dict[str, StoredTensor]
    """The reference's name -> where it is."""
    shape: Shape
    dtype: torch.dtype


@dataclass
class SourceReport:
    """What a source gave. The lists hold the reference's names."""

    source: WeightSource
    num_taken: int = 0
    leftovers: Counter[str] = field(default_factory=Counter)
    """Known and not needed, counted by what they belong to."""
    unexpected: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """Taken, and then given again by a later source."""


@dataclass
class Assembly:
    """A whole model as a plan."""

    config: VideoLlamaConfig
    model: VideoLlamaForConditionalGeneration
    """On the meta device; ``load_assembly`` makes it whole, once."""
    settings: ProcessorSettings
    decoder: Decoder
    pieces: dict[str, Piece]
    reports: list[SourceReport]
    expected: dict[str, Shape]
    drawn: tuple[str, ...] = ()
    """Beginnings of the names of what no source gives, and training begins with at random."""

    @property
    def missing(self) -> list[str]:
        """Our names of tensors that no source gives and nobody draws."""
        return [name for name in self.expected if name not in self.pieces and not name.startswith(self.drawn)]

    @property
    def mismatched(self) -> list[str]:
        """Our names of tensors that have another shape than the model needs."""
        return [name for name, piece in self.pieces.items() if piece.shape != self.expected.get(name, piece.shape)]


def assemble(
    config: ModelYaml, where: str, model_type: ModelType | None = None, may_be_drawn: Sequence[str] = ()
) -> Assembly:
    """Plan a model from the files that ``config`` names.

    ``where`` names the configuration in errors, ``model_type`` is the prompt style that the user asked for. Those of
    ``may_be_drawn`` (``initial.DRAWN_PARTS``) of which no file holds anything are left to be drawn. Raises
    CheckpointError for files that cannot be read and dimensions that cannot be told; whether the plan is whole is
    ``check_assembly``'s to say.
    """
    model_type = _agreed_model_type(config, model_type, where)
    pieces, reports = collect(list_sources(config, where), config)
    if EMBEDDING not in pieces:
        raise CheckpointError(f"{where}: {config.model.llama_model} holds no embed_tokens. Copy the decoder again.")
    decoder = read_decoder(Path(config.model.llama_model), pieces[EMBEDDING].shape[0], model_type)
    shapes = {name: piece.shape for name, piece in pieces.items()}
    drawn = tuple(part for part in may_be_drawn if not any(name.startswith(part) for name in shapes))
    image = {} if config.image_size is None else {"vision_config": {"image_size": config.image_size}}
    model = infer_config(
        shapes,
        decoder.text_config,
        _merged(image, config.model.config),
        video_token_id=pieces[EMBEDDING].shape[0],
        audio_token_id=pieces[EMBEDDING].shape[0] + 1,
        prompt_template=MODEL_TYPE_TEMPLATES[decoder.model_type],
        with_audio_branch=config.model.equip_audio_branch,
        dtype=_dtype_name(pieces[EMBEDDING].dtype),
        drawn=drawn,
        **_asked_counts(config, drawn),
    )
    _check_counts(config, model, where)
    empty = meta_model(model)
    expected = shapes_of(empty)
    _leave_surplus(pieces, reports, expected)
    if POSITIONS in pieces and _is_resizable(pieces[POSITIONS].shape, expected[POSITIONS]):
        pieces[POSITIONS] = replace(pieces[POSITIONS], shape=expected[POSITIONS])
    drawn = tuple(part for part in drawn if any(name.startswith(part) for name in expected))
    return Assembly(model, empty, _settings(config, model, decoder), decoder, pieces, reports, expected, drawn)


def check_assembly(assembly: Assembly, where: str) -> None:
    """Raise CheckpointError, with files and names, unless every tensor is there once, fits, and was asked for."""
    problems = [
        f"{report.source.path} holds {len(report.unexpected)} tensors that are no part of this model: "
        f"{_some(report.unexpected)}"
        for report in assembly.reports
        if report.unexpected
    ]
    mismatched = [_mismatch(assembly.pieces[name], assembly.expected[name]) for name in assembly.mismatched]
    problems += [f"{len(mismatched)} tensors are of the wrong shape: {_some(mismatched)}"] if mismatched else []
    by_remedy: dict[str, list[str]] = {}
    for name in assembly.missing:
        by_remedy.setdefault(remedy_for(name), []).append(" and ".join(reference_names(name)))
    problems += [
        f"{len(names)} tensors are in none of the files, such as {_some(names)} ({remedy})"
        for remedy, names in by_remedy.items()
    ]
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}. `video-llama inspect` shows the parts.")


def _mismatch(piece: Piece, wanted: Shape) -> str:
    return f"{' and '.join(piece.parts)} is {list(piece.shape)} and must be {list(wanted)} ({piece.source.path})"


def read_pieces(pieces: Iterable[Piece]) -> Iterator[tuple[str, Tensor]]:
    """The values of some pieces, one at a time, file by file; a file is mapped only while its pieces are read."""
    by_file: dict[tuple[Path, ...], list[Piece]] = {}
    for piece in pieces:
        by_file.setdefault(tuple(sorted({part.file for part in piece.parts.values()})), []).append(piece)
    for (file, *others), group in by_file.items():
        assert not others, "the halves of a bias lie in one file"
        with opened(file) as tensors:
            for piece in group:
                yield piece.name, _value(piece, tensors)


def resize_positions(table_1LD: Tensor, length: int) -> Tensor:
    """A ViT's table of a class token and a square of patches, [1, 1 + n x n, D], for another square: [1, length, D].

    Bicubic, without aligned corners, as the reference's ``interpolate_pos_embed``.
    """
    old, new = math.isqrt(table_1LD.shape[1] - 1), math.isqrt(length - 1)
    patches = table_1LD[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = interpolate(patches, size=(new, new), mode="bicubic", align_corners=False)
    flat = resized.permute(0, 2, 3, 1).flatten(1, 2).to(table_1LD.dtype)
    return torch.cat([table_1LD[:, :1], flat], dim=1)


def collect(sources: list[WeightSource], config: ModelYaml) -> tuple[dict[str, Piece], list[SourceReport]]:
    """Pieces by our names, later sources winning, and what each source gave."""
    pieces: dict[str, Piece] = {}
    reports: list[SourceReport] = []
    owners: dict[str, SourceReport] = {}
    for source in sources:
        report, own = _read_names(source, config)
        for name, piece in own.items():
            if name in pieces:
                owners[name].replaced += piece.parts
        owners |= dict.fromkeys(own, report)
        pieces |= own
        reports.append(report)
    return pieces, reports


def _read_names(source: WeightSource, config: ModelYaml) -> tuple[SourceReport, dict[str, Piece]]:
    role, report = ROLES[source.role], SourceReport(source)
    stored = {role.name(own): tensor for own, tensor in scan(source.path).items()}
    taken = {name: tensor for name, tensor in stored.items() if role.is_taken(name)}
    report.leftovers.update(owner_of(name) for name in stored if role.is_leftover(name))
    report.unexpected += [name for name in stored if name not in taken and not role.is_leftover(name)]
    meta = {name: torch.empty(part.shape, dtype=part.dtype, device="meta") for name, part in taken.items()}
    ours, ignored, unknown = convert_state_dict(meta, include=lambda name: is_wanted(name, config))
    report.leftovers.update(map(owner_of, ignored))
    report.unexpected += unknown
    pieces = {}
    for name, tensor in ours.items():
        parts = {theirs: taken[theirs] for theirs in reference_names(name)}
        pieces[name] = Piece(name, source, parts, tuple(tensor.shape), tensor.dtype)
        report.num_taken += len(parts)
    return report, pieces


def is_wanted(name: str, config: ModelYaml) -> bool:
    """Whether the model that ``config`` describes has the part of this name of ours."""
    if name.startswith("model.imagebind_vision."):
        return bool(config.model.config.get("with_imagebind_vision", False))
    if name.startswith(("model.imagebind_audio.", "model.audio_qformer.")):
        return config.model.equip_audio_branch
    return True


def owner_of(name: str) -> str:
    """What a leftover is counted under: the module that it belongs to, an ImageBind modality with its name."""
    first, _, rest = name.partition(".")
    if first == "audio_encoder":
        return f"{first}.{rest.split('.')[1]}"
    return first if not name.endswith(("inv_freq", "position_ids")) else name.rpartition(".")[2]


def _leave_surplus(pieces: dict[str, Piece], reports: list[SourceReport], expected: Mapping[str, Shape]) -> None:
    """Take tensors that the model has no place for out of the plan; they are unexpected ones of their source."""
    for name in [name for name in pieces if name not in expected]:
        piece = pieces.pop(name)
        report = next(report for report in reports if report.source == piece.source)
        report.num_taken -= len(piece.parts)
        if name == "lm_head.weight":  # tied: the embedding's own tensor, stored once more
            report.leftovers.update(piece.parts)
        else:
            report.unexpected += piece.parts


def _value(piece: Piece, tensors: Mapping[str, Tensor]) -> Tensor:
    stored = {theirs: tensors[part.name] for theirs, part in piece.parts.items()}
    value = convert_state_dict(stored)[0][piece.name]
    if piece.name == POSITIONS and value.shape != piece.shape:
        value = resize_positions(value, piece.shape[1])
    return value


def _is_resizable(stored: Shape, wanted: Shape) -> bool:
    """Whether two position tables are of one width and each of a class token and a square of patches."""
    lengths = [shape[1] - 1 for shape in (stored, wanted)]
    return stored[-1] == wanted[-1] and all(math.isqrt(length) ** 2 == length for length in lengths)


def _dtype_name(embedding: torch.dtype) -> str:
    """What the model computes in unless asked otherwise: a half-precision decoder ran as bfloat16 in the reference."""
    return "bfloat16" if embedding.itemsize == 2 else "float32"


def _merged(first: Mapping[str, dict[str, int]], second: Mapping[str, object]) -> dict[str, object]:
    merged: dict[str, object] = {**first, **second}
    for key in first.keys() & second.keys():
        section = second[key]
        merged[key] = {**first[key], **section} if isinstance(section, Mapping) else section
    return merged


def _agreed_model_type(config: ModelYaml, asked: ModelType | None, where: str) -> ModelType | None:
    own = config.model_type
    if own is not None and asked is not None and own != asked:
        raise ConfigError(f"--model_type is {asked} and {where} has model.model_type {own}. Correct one of them.")
    return asked or own


def _asked_counts(config: ModelYaml, drawn: Sequence[str]) -> dict[str, int]:
    """What the configuration says of parts that no file tells anything of; arguments of VideoLlamaConfig."""
    keys = {
        "model.video_qformer.query_tokens": ("num_video_query_token", "num_video_query_tokens"),
        "model.audio_qformer.query_tokens": ("num_audio_query_token", "num_audio_query_tokens"),
        "model.video_qformer.position_embeddings.": ("max_frame_pos", "max_frame_pos"),
        "model.video_qformer.qformer.": ("fusion_head_layers", "fusion_head_layers"),
    }
    asked = {ours: getattr(config.model, key) for part, (key, ours) in keys.items() if part in drawn}
    return {ours: value for ours, value in asked.items() if value is not None}


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
            raise CheckpointError(f"{where}: model.{key} is {given}, and the files are of a model with {value}.")


def _settings(config: ModelYaml, model: VideoLlamaConfig, decoder: Decoder) -> ProcessorSettings:
    num_mel_bins, target_length = model.imagebind_audio_config.input_size
    return ProcessorSettings(
        image_size=int(model.vision_config.image_size),  # type: ignore[arg-type]  # one number in every ViT of ours
        num_frames=config.num_frames,
        num_mel_bins=num_mel_bins,
        target_length=target_length,
        num_clips=model.max_audio_pos,
        pad_token=decoder.pad_token,
    )


def _some(names: list[str]) -> str:
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
