"""Every row of a training YAML's data sets, checked as training would read it: findings as JSONL, and their counts.

Problems: ``row`` (the annotation cannot be used, or its marks do not agree with its media), ``missing`` and
``unreadable`` (a medium), ``text`` (nothing to learn, or the medium is beyond the cut), ``long`` (cut text, or more
than the decoder's context), ``short`` (fewer frames than asked for). ``long`` text that is only cut, and ``short``, are
warnings; everything else is an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from video_llama.checkpoints.folder import (
    TOKENIZER_FILE,
    ModelFolder,
    read_config,
    read_manifest,
    read_settings,
)
from video_llama.checkpoints.folder import check_fit as check_folder
from video_llama.conversation import Tokenizer
from video_llama.datasets.annotations import format_of
from video_llama.datasets.config import DatasetConfig
from video_llama.datasets.media import FileReader
from video_llama.datasets.rows import RowBuilder
from video_llama.datasets.sample import Sample, SampleFile, SampleKind, SampleMedium
from video_llama.errors import DataError, MediaError
from video_llama.log import progress
from video_llama.training.config import TrainConfig
from video_llama.training.encoding import Readers, file_readers
from video_llama.training.mixture import check_fit, check_model, text_rules
from video_llama.training.stages import stage_of
from video_llama.training.starting_model import folder_without_weights, pretrained_folder

ROWS_PER_ROUND = 1024
UNCUT = 1_000_000
"""A length in tokens that no row reaches."""

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a sample."""

    dataset: str
    sample: str
    level: Level
    problem: Literal["row", "missing", "unreadable", "text", "long", "short"]
    message: str


@dataclass(frozen=True)
class Counts:
    """Rows of a data set, and how many findings there are of each problem."""

    dataset: str
    num_rows: int
    problems: dict[str, int]
    num_errors: int


def validate_data(config: TrainConfig, source: str, report: Path, *, workers: int) -> list[Counts]:
    """Check every row with ``workers`` threads, write the findings to ``report`` and return their counts.

    ``source`` names the settings in errors. Raises ConfigError for settings, DataError for an annotation file, that
    cannot be used at all.
    """
    pretrained = pretrained_folder(config.model)
    folder = folder_without_weights(config, source) if pretrained is None else read_folder_without_weights(pretrained)
    check_model(config.model, folder)
    report.parent.mkdir(parents=True, exist_ok=True)
    counts = []
    with report.open("w", encoding="utf-8") as file, ThreadPoolExecutor(workers) as pool:
        named = [("datasets", *item) for item in config.datasets.items()]
        named += [("valid", *item) for item in config.valid.items()]
        for section, name, dataset in named:
            findings, num_rows = _check_dataset(f"{section}.{name}", name, dataset, config, folder, pool)
            file.writelines(json.dumps(asdict(finding), ensure_ascii=False) + "\n" for finding in findings)
            problems = Counter(str(finding.problem) for finding in findings)
            num_errors = sum(finding.level == "error" for finding in findings)
            counts.append(Counts(name, num_rows, dict(problems), num_errors))
    return counts


def read_folder_without_weights(path: Path) -> ModelFolder:
    """A model folder whose tensors have shapes and no numbers. Raises CheckpointError as ``read_model_folder``."""
    from video_llama.models.placement import meta_model

    config, settings = read_config(path), read_settings(path)
    tokenizer = Tokenizer(path / TOKENIZER_FILE, pad_token=settings.pad_token)
    check_folder(config, settings, tokenizer)
    return ModelFolder(path, meta_model(config), tokenizer, settings, read_manifest(path))


def _check_dataset(
    where: str, name: str, dataset: DatasetConfig, config: TrainConfig, folder: ModelFolder, pool: ThreadPoolExecutor
) -> tuple[list[Finding], int]:
    check_fit(dataset, folder, where)
    branch = stage_of(config.model).branch_of(dataset, where)
    samples, findings = _read_rows(name, dataset, where)
    num_rows = len(samples) + len(findings)
    checker = Checker(
        name,
        RowBuilder(text_rules(config.model, folder), dataset, branch),
        file_readers(where, name, dataset, folder, branch, samples),
        folder.model.config.text_config.max_position_embeddings,
    )
    rounds = [samples[start : start + ROWS_PER_ROUND] for start in range(0, len(samples), ROWS_PER_ROUND)]
    for part in progress(rounds, f"checking {name}"):
        findings += [finding for found in pool.map(checker.check, part) for finding in found]
    return findings, num_rows


def _read_rows(name: str, dataset: DatasetConfig, where: str) -> tuple[list[Sample], list[Finding]]:
    chosen = format_of(dataset.format or name, where)
    samples: list[Sample] = []
    findings: list[Finding] = []
    for row_name, row in chosen.rows(dataset.build_info, where):
        try:
            samples.append(chosen.sample(dataset.build_info, row_name, row))
        except DataError as error:
            findings.append(Finding(name, row_name, "error", "row", str(error)))
    return samples, findings


@dataclass
class Checker:
    """Checks the samples of one data set; threads may share it. A file that several rows show is read once."""

    dataset: str
    builder: RowBuilder
    readers: Readers
    context: int
    """Longest row that the decoder takes, tokens."""
    _media: dict[tuple[SampleFile, SampleKind], tuple[int, str] | Finding] = field(default_factory=dict)

    def check(self, sample: Sample) -> list[Finding]:
        """Everything that is wrong with a sample; its text is looked at only where its media can be read."""
        outcomes = [self._read(medium) for medium in sample.media]
        bad = [
            replace(outcome, sample=sample.id, message=f"{sample.id}: {outcome.message}")
            for outcome in outcomes
            if isinstance(outcome, Finding)
        ]
        if bad:
            return bad
        read = [outcome for outcome in outcomes if not isinstance(outcome, Finding)]
        return [*self._short(sample, [length for length, _ in read]), *self._text(sample, [text for _, text in read])]

    def _read(self, medium: SampleMedium) -> tuple[int, str] | Finding:
        """The medium's length and sentence, or what is wrong with it, whichever sample shows it."""
        key = (medium.path, medium.kind)
        if key not in self._media:
            reader: FileReader | None = self.readers.sounds if medium.kind == "audio" else self.readers.frames
            assert reader is not None
            try:
                tensor, message = reader.read(medium, seed=0)
                self._media[key] = len(tensor), message
            except MediaError as error:
                is_missing = isinstance(medium.path, Path) and not medium.path.exists()
                problem: Any = "missing" if is_missing else "unreadable"
                self._media[key] = Finding(
                    self.dataset, medium.id, "error", problem, str(error).removeprefix(f"{medium.id}: ")
                )
        return self._media[key]

    def _short(self, sample: Sample, lengths: Sequence[int]) -> Iterator[Finding]:
        wanted = self.builder.config.vis_processor.train.n_frms
        for medium, length in zip(sample.media, lengths, strict=True):
            if medium.kind == "video" and length < wanted:
                message = f"{sample.id}: {medium.path} has {length} frames, {wanted} are asked for."
                yield Finding(self.dataset, sample.id, "warning", "short", message)

    def _text(self, sample: Sample, messages: Sequence[str]) -> Iterator[Finding]:
        try:
            used, whole = (len(builder.build(sample, messages).input_ids) for builder in (self.builder, self._uncut))
        except DataError as error:
            yield Finding(self.dataset, sample.id, "error", "text", str(error))
            return
        if used > self.context:
            message = f"{sample.id}: the row has {used} tokens, the decoder's context {self.context}. Set max_length."
            yield Finding(self.dataset, sample.id, "error", "long", message)
        elif used < whole:
            message = f"{sample.id}: the row has {whole} tokens and is cut to {used}. Raise max_length or max_txt_len."
            yield Finding(self.dataset, sample.id, "warning", "long", message)

    @property
    def _uncut(self) -> RowBuilder:
        config = self.builder.config.model_copy(update={"max_length": UNCUT})
        return replace(self.builder, config=config, rules=replace(self.builder.rules, max_txt_len=UNCUT))
