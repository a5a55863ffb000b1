"""``video-llama validate-data``: counts, report and exit code. What it finds is tested with training/check_data.py."""

import json

from tests.cli.conftest import assert_one_line, invoke


def test_data_without_problems(training_yaml, tmp_path):
    result = invoke("validate-data", training_yaml, "--report", tmp_path / "report.jsonl", "--workers", 1)
    assert result.exit_code == 0, result.output
    summary, path = result.stdout.splitlines()
    assert summary.endswith("rows, no problems")
    assert (path, (tmp_path / "report.jsonl").read_text()) == (str(tmp_path / "report.jsonl"), "")


def test_missing_files(training_yaml, tmp_path):
    override = f"datasets.webvid_instruct.build_info.videos_dir={tmp_path}"
    result = invoke("validate-data", training_yaml, "--set", override)
    assert result.exit_code == 1, result.output
    summary, path = result.stdout.splitlines()
    assert summary.endswith(" missing")
    assert path == str(training_yaml.parent / "run" / "validation.jsonl")
    rows = [json.loads(line) for line in (training_yaml.parent / "run" / "validation.jsonl").read_text().splitlines()]
    assert {row["problem"] for row in rows} == {"missing"}


def test_missing_config(tmp_path):
    assert_one_line(invoke("validate-data", tmp_path / "none.yaml"), "ConfigError: ")
