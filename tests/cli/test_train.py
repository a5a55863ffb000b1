"""``video-llama train``: prints the folder of the run."""

import json

from tests.cli.conftest import assert_one_line, invoke


def test_run_and_resume(training_yaml):
    folder = training_yaml.parent / "run"
    for spelling, num_steps in (("--set", 3), ("--options", 4)):
        result = invoke("train", training_yaml, spelling, "run.seed=3", "--max-steps", num_steps, "--resume", "auto")
        assert (result.exit_code, result.stdout) == (0, f"{folder}\n"), result.output
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_missing_config(tmp_path):
    assert_one_line(invoke("train", tmp_path / "none.yaml"), "ConfigError: ")


def test_unknown_key(training_yaml):
    assert_one_line(invoke("train", training_yaml, "--set", "run.init_lrr=1"), "Did you mean init_lr?")
