"""A batch run: rows in, one result per row in a JSONL or Parquet file, each exactly once.

A run that was interrupted, also by ``kill -9``, continues with the same command. Batches are cut from all rows; one
that is not complete in the file is computed again as a whole, and its missing rows are written. So the results equal
those of a run without interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import video_llama
from video_llama.apps.batch.bulk_answering import load_bulk_answerer
from video_llama.apps.batch.engines import (
    BatchResult,
    BulkEngine,
    BulkLoader,
    EngineOptions,
    ModelDescription,
    make_engine,
)
from video_llama.apps.batch.inputs import BatchInput
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.parquet import require_pyarrow, write_parquet
from video_llama.apps.batch.reading import BatchReader
from video_llama.apps.batch.windows import WindowedRows
from video_llama.chat import Assistant, Decoding, MediaOptions
from video_llama.datasets.question_rows import QuestionRow
from video_llama.datasets.row_file import RowFile, complete_rows, keep_settings
from video_llama.errors import DataError
from video_llama.files import sha256
from video_llama.log import logger, progress
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.windows import WindowPlan

PARQUET = ".parquet"
SECONDS_PER_LOG = 60.0
"""Time between two lines of the log about the progress of a run."""


@dataclass(frozen=True)
class BatchRunConfig:
    """The settings of a run."""

    data: BatchInput
    output: Path
    """File of the results, ``.jsonl`` or ``.parquet``."""
    media: Callable[[int], MediaOptions]
    """Returns how media are read; the argument is the model's number of frames."""
    decoding: Decoding = field(default_factory=Decoding)
    batch_size: int = 8
    """Number of rows that are answered together."""
    workers: int = 1
    """Number of processes, each with a model of its own."""
    max_bad_share: float = 1.0
    """Largest share of rows with errors."""
    limits: BatchLimits = field(default_factory=BatchLimits)
    engine: EngineOptions = field(default_factory=EngineOptions)
    windows: WindowPlan | ScenePlan | None = None
    """Divide each medium into windows, which are answered one by one."""
    endings: ClassVar[tuple[str, ...]] = (".jsonl", PARQUET)
    """Endings of the output."""

    def check(self) -> None:
        """Raise ValueError for values out of range, MissingExtraError for Parquet without pyarrow."""
        if ":/" in str(self.output):
            raise ValueError(
                f"The results are to be written to the address {self.output}, but they are appended row by row, which "
                "object stores do not offer. Write to a local file, and copy it afterwards."
            )
        if self.output.suffix not in self.endings:
            raise ValueError(
                f"The results are to be written to {self.output}. Give a name that ends in {' or '.join(self.endings)}."
            )
        if self.output.suffix == PARQUET:
            require_pyarrow()
        self.engine.check(self.workers)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}. Give 1 or more.")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {self.max_bad_share}. Give a share between 0 and 1.")
        if self.data.question is not None and not self.data.question.strip():
            raise ValueError("The question is empty. Enter a question.")

    def worker(self, load: Callable[[int | None], Assistant]) -> BulkLoader:
        """Return the function that loads the model of a worker."""
        return partial(load_bulk_answerer, load, self.decoding)

    def settings(self, media: MediaOptions, model: ModelDescription) -> dict[str, Any]:
        """Return what determines the results."""
        return {
            "question": self.data.question,
            "data_sha256": None if (table := self.data.table) is None else sha256(table),
            "media": asdict(media),
            "decoding": asdict(self.decoding),
            "batch_size": self.batch_size,
            "weights": model.weights,
            "version": video_llama.__version__,
            **({} if self.windows is None else {"windows": self.windows.as_dict()}),
        }

    def write(self, rows: Iterator[dict[str, Any]]) -> None:
        """Write the output from the rows of a finished run."""
        write_parquet(rows, self.output, with_timeline=self.windows is not None)


@dataclass
class _Counts:
    """What happened in this run, and the rows with errors of the whole file."""

    started: float
    new_rows: int = 0
    errors: int = 0
    encode: float = 0.0
    generate: float = 0.0
    logged: float = 0.0


def run_batch(config: BatchRunConfig, load: Callable[[int | None], Assistant]) -> dict[str, Any]:
    """Answer all rows that are not in the output yet, and return the summary of the run.

    ``load`` loads the model of a worker; picklable if there are several.

    Raises:
        DataError: rows that cannot be used, too many rows with errors, or results of other settings.
        WorkerError: a worker process ended unexpectedly.
    """
    config.check()
    lines = (
        config.output if config.output.suffix == ".jsonl" else config.output.with_name(f"{config.output.name}.jsonl")
    )
    with RowFile(lines) as file:
        num_rows = sum(1 for _ in config.data.rows())
        if num_rows == 0:
            raise DataError(f"{config.data.source} has no media. Check the path.")
        num_missing = sum(1 for _ in (_missing(config, file) if config.windows is None else _rows(config, file)))
        worker = config.worker(load)
        with ExitStack() as stack:
            engine = make_engine(config.engine, worker, config.workers, config.limits, config.batch_size)
            stack.enter_context(closing(engine))
            model = engine.description()
            media = config.media(model.needs.settings.num_frames)
            keep_settings(settings_path(config.output), config.settings(media, model), config.output)
            counts = _Counts(time.perf_counter(), errors=sum(1 for row in complete_rows(lines) if row["error"]))
            if file.done:
                logger.info("%d of %d rows are answered already.", len(file.done), num_rows)
            results = stack.enter_context(_results(config, engine, file, media, model))
            _write_all(config, file, results, counts, engine, num_rows, num_missing)
            summary = _summary(config, counts, engine, num_rows, len(file.done))
    if lines != config.output:
        config.write(complete_rows(lines))
    return summary


def settings_path(output: Path) -> Path:
    """Return the file with the settings of a run, next to its results."""
    return output.with_name(f"{output.name}.settings.json")


def _missing(config: BatchRunConfig, file: RowFile) -> Iterator[Sequence[QuestionRow]]:
    """Yield the batches that are not complete in the file."""
    rows = config.data.rows()
    while batch := list(islice(rows, config.batch_size)):
        if not all((row.id,) in file.done for row in batch):
            yield batch


def _rows(config: BatchRunConfig, file: RowFile) -> Iterator[QuestionRow]:
    """Yield the rows that are not in the file."""
    return (row for row in config.data.rows() if (row.id,) not in file.done)


@contextmanager
def _results(
    config: BatchRunConfig, engine: BulkEngine, file: RowFile, media: MediaOptions, model: ModelDescription
) -> Iterator[Iterator[BatchResult]]:
    """Yield the results of the batches that are missing; with windows, one result for each row that is missing."""
    if config.windows is None:
        yield engine.results(_missing(config, file), media)
        return
    with closing(BatchReader(model.needs, config.limits, media, config.batch_size)) as reader:
        windowed = WindowedRows(config.windows, reader, config.batch_size)
        yield windowed.collect(engine.results(windowed.batches(_rows(config, file)), media))


def _write_all(
    config: BatchRunConfig,
    file: RowFile,
    results: Iterator[BatchResult],
    counts: _Counts,
    engine: BulkEngine,
    num_rows: int,
    num_missing: int,
) -> None:
    limit = int(config.max_bad_share * num_rows)
    for result in progress(results, "answering", num_missing, lambda: _status(counts, engine)):
        counts.encode += result.encode
        counts.generate += result.generate
        new = [row for row in result.rows if (row["id"],) not in file.done]
        errors = [row for row in new if row["error"]]
        counts.errors += len(errors)
        if counts.errors > limit:
            raise DataError(
                f"Row {errors[0]['id']}: {errors[0]['error']} ({counts.errors} of {num_rows} rows have errors, and "
                f"max_bad_share allows {limit}.) Correct the media, or allow a larger share, and run the command again."
            )
        file.write(new)
        counts.new_rows += len(new)
        if time.perf_counter() - max(counts.logged, counts.started) > SECONDS_PER_LOG:
            counts.logged = time.perf_counter()
            logger.info("%d of %d rows; %s", len(file.done), num_rows, _status(counts, engine))


def _status(counts: _Counts, engine: BulkEngine) -> str:
    seconds, times = time.perf_counter() - counts.started, engine.times
    return (
        f"{times.num_media / seconds:.2f} media/s, {times.media_seconds / seconds:.1f} s of media/s, "
        f"{counts.errors} errors"
    )


def _summary(
    config: BatchRunConfig, counts: _Counts, engine: BulkEngine, num_rows: int, num_done: int
) -> dict[str, Any]:
    """Return counts of the file, and the speed of this run."""
    seconds, times = time.perf_counter() - counts.started, engine.times
    workers = config.engine.max_workers or config.workers
    stages = {"fetch": times.fetch, "decode": times.decode, "encode": counts.encode, "generate": counts.generate}
    places = {"fetch": config.limits.media_workers, "decode": config.limits.media_workers}
    busy = {name: value / places.get(name, workers) for name, value in stages.items()}
    return {
        "output": str(config.output),
        "rows": num_rows,
        "answers": num_done - counts.errors,
        "errors": counts.errors,
        "new_rows": counts.new_rows,
        "media": times.num_media,
        "media_seconds": round(times.media_seconds, 3),
        "seconds": round(seconds, 3),
        "media_per_second": round(times.num_media / seconds, 3),
        "stages": {name: round(value, 3) for name, value in stages.items()},
        "waited_for_media": round(times.wait, 3),
        "retries": times.retries,
        "engine": config.engine.name,
        "workers": workers,
        "media_workers": config.limits.media_workers,
        "bound": max(busy, key=lambda name: busy[name]) if counts.new_rows else None,
    }
