"""Check every row of a training YAML's data sets as training would read it, and write the findings as JSONL.

Problems: ``row`` (invalid annotation, or placeholders that do not match the media), ``missing`` and ``unreadable``
(media files), ``text`` (no token with a label, or a truncated medium), ``long`` (truncated text, or longer than the
decoder's context), ``short`` (fewer frames than requested). Truncated text and ``short`` are warnings, all others are
errors.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from video_llama.checkpoints.folder import ModelFolder
from video_llama.datasets.annotations import format_of
from video_llama.datasets.config import DatasetConfig
from video_llama.datasets.media import FileReader
from video_llama.datasets.rows import RowBuilder
from video_llama.datasets.sample import Sample, SampleFile, SampleKind, SampleMedium
from video_llama.errors import DataError, MediaError
from video_llama.log import progress
from video_llama.training.config import TrainConfig
from video_llama.training.data import (
    MediaReaders,
    check_dataset_settings,
    check_model_settings,
    file_readers,
    text_rules,
)
from video_llama.training.stages import stage_of
from video_llama.training.starting_model import model_without_weights

ROWS_PER_ROUND = 1024
UNLIMITED_LENGTH = 1_000_000
"""A length in tokens that no row reaches."""

FindingLevel = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A problem of a sample."""

    dataset: str
    sample: str
    level: FindingLevel
    problem: Literal["row", "missing", "unreadable", "text", "long", "short"]
    message: str


@dataclass(frozen=True)
class DatasetCounts:
    """Number of rows of a data set, findings by problem, and errors."""

    dataset: str
    num_rows: int
    problems: dict[str, int]
    num_errors: int


def validate_data(config: TrainConfig, source: str, report: Path, *, workers: int) -> list[DatasetCounts]:
    """Check every row with ``workers`` threads, write the findings to ``report``, and return their counts.

    ``source`` names the settings in errors. Raises ConfigError for invalid settings and DataError for an unreadable
    annotation file.
    """
    folder = model_without_weights(config, source)
    check_model_settings(config.model, folder)
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
            counts.append(DatasetCounts(name, num_rows, dict(problems), num_errors))
    return counts


def _check_dataset(
    where: str, name: str, dataset: DatasetConfig, config: TrainConfig, folder: ModelFolder, pool: ThreadPoolExecutor
) -> tuple[list[Finding], int]:
    check_dataset_settings(dataset, folder, where)
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
    """Checks the samples of one data set, in several threads. Media used by several rows are normally read once."""

    dataset: str
    builder: RowBuilder
    readers: MediaReaders
    context: int
    """Maximum length of a row in tokens: the context of the decoder."""
    _media: dict[tuple[SampleFile, SampleKind], tuple[int, str] | Finding] = field(default_factory=dict)

    def check(self, sample: Sample) -> list[Finding]:
        """Return the findings of a sample. Its text is checked only if all its media are readable."""
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
        """Return the length of a medium and the sentence about its frame times, or a finding."""
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
                message = f"{sample.id}: {medium.path} has {length} frames, fewer than the {wanted} requested."
                yield Finding(self.dataset, sample.id, "warning", "short", message)

    def _text(self, sample: Sample, messages: Sequence[str]) -> Iterator[Finding]:
        try:
            used, whole = (
                len(builder.build(sample, messages).input_ids) for builder in (self.builder, self._unlimited)
            )
        except DataError as error:
            yield Finding(self.dataset, sample.id, "error", "text", str(error))
            return
        if used > self.context:
            message = (
                f"{sample.id}: the row has {used} tokens, but the decoder's context is {self.context}. Set max_length."
            )
            yield Finding(self.dataset, sample.id, "error", "long", message)
        elif used < whole:
            message = (
                f"{sample.id}: the row has {whole} tokens and is truncated to {used}. Raise max_length or max_txt_len."
            )
            yield Finding(self.dataset, sample.id, "warning", "long", message)

    @property
    def _unlimited(self) -> RowBuilder:
        config = self.builder.config.model_copy(update={"max_length": UNLIMITED_LENGTH})
        return replace(self.builder, config=config, rules=replace(self.builder.rules, max_txt_len=UNLIMITED_LENGTH))
