"""Compare this project with the reference: run every case of a folder in the golden format, one row each.

    python benchmarks/conformance.py DIR [--media DIR] [--tokenizer FILE]

Runs those of config.json, weights, cases, text, video and audio that DIR contains. Cases about media files need the
folder with these files (--media), cases about tokenised text need LLaMA's tokenizer.model (--tokenizer). Without them
they are reported as skipped and never counted as passed. Exit code 0: at least one case passed and none failed; 1:
otherwise; 2: a path does not exist.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from benchmarks.conformance_row import Row, guarded

MODEL_FILES = ("cases.json", "cases.safetensors", "weights.safetensors")
CASE_WIDTH, VALUE_WIDTH, LIMIT_WIDTH, STATUS_WIDTH = 72, 12, 7, 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report and return the exit code."""
    options = _parser().parse_args(arguments)
    for path, is_there in (
        (options.folder, Path.is_dir),
        (options.media, Path.is_dir),
        (options.tokenizer, Path.is_file),
    ):
        if path is not None and not is_there(path):
            print(f"{path}: not there. Give a path that exists.", file=sys.stderr)
            return 2
    counts: Counter[str] = Counter()
    print(_line("case", "value", "limit", "result", "note"))
    for row in rows(options.folder, options.media, options.tokenizer):
        counts[_status(row)] += 1
        print(_line(row.case, _value(row), f"{row.limit:g}" if row.limit else "", _status(row), row.note), flush=True)
    print(f"{counts['pass']} passed, {counts['FAIL']} failed, {counts['skipped']} skipped")
    return 0 if counts["pass"] and not counts["FAIL"] else 1


def rows(folder: Path, media_dir: Path | None = None, tokenizer_path: Path | None = None) -> Iterator[Row]:
    """Yield every row of the folder. The parts are imported only if their files exist."""
    if any((folder / name).exists() for name in MODEL_FILES):
        yield from guarded("model", lambda: _model_rows(folder, tokenizer_path))
    if (folder / "text.json").exists():
        yield from guarded("text", lambda: _text_rows(folder, tokenizer_path))
    if (folder / "video.json").exists():
        yield from guarded("video", lambda: _video_rows(folder, media_dir))
    if (folder / "audio.json").exists():
        yield from guarded("audio", lambda: _audio_rows(folder, media_dir))


def _model_rows(folder: Path, tokenizer_path: Path | None) -> Iterator[Row]:
    from benchmarks import conformance_model

    return conformance_model.rows(folder, tokenizer_path)


def _text_rows(folder: Path, tokenizer_path: Path | None) -> Iterator[Row]:
    from benchmarks import conformance_text

    return conformance_text.rows(folder, tokenizer_path)


def _video_rows(folder: Path, media_dir: Path | None) -> Iterator[Row]:
    from benchmarks import conformance_video

    return conformance_video.rows(folder, media_dir)


def _audio_rows(folder: Path, media_dir: Path | None) -> Iterator[Row]:
    from benchmarks import conformance_audio

    return conformance_audio.rows(folder, media_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="conformance.py"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder in the golden format")
    parser.add_argument(
        "--media", type=Path, metavar="DIR", help="folder of the media files named in video.json and audio.json"
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="LLaMA's tokenizer.model")
    return parser


def _status(row: Row) -> str:
    if row.skipped:
        return "skipped"
    return "pass" if row.passed else "FAIL"


def _value(row: Row) -> str:
    if row.value is None:
        return "-"
    if row.limit is not None:
        return f"{row.value:.1e}"
    return "exact" if row.passed else f"{row.value:g} differ"


def _line(case: str, value: str, limit: str, status: str, note: str) -> str:
    columns = f"{case:<{CASE_WIDTH}} {value:>{VALUE_WIDTH}} {limit:>{LIMIT_WIDTH}}  {status:<{STATUS_WIDTH}}  {note}"
    return columns.rstrip()


if __name__ == "__main__":
    sys.exit(main())
