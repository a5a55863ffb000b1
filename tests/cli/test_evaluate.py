"""``video-llama evaluate``: options, YAML, comparison, errors."""

import json

import pytest

from tests.cli.conftest import assert_one_line, invoke
from video_llama.cli.evaluate import BenchmarkOptions


@pytest.fixture(scope="module")
def questions(clips):
    path = clips["video"].parent / "cli.jsonl"
    rows = [{"media": clips["video"].name, "question": each, "answer": "no"} for each in ("What?", "Who?")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def evaluate(model_path):
    def run(*arguments):
        return invoke("evaluate", *arguments, "--model", model_path, "--device", "cpu")

    return run


def test_figures_and_comparison(evaluate, questions, tmp_path):
    result = evaluate(questions, "--output", tmp_path / "a", "--max-new-tokens", 4)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["category", "figure", "value", "95", "%", "interval", "rows"]
    assert result.stdout.splitlines()[-1] == "2 rows, 0 with errors, 0 not scored"
    second = evaluate(questions, "--output", tmp_path / "b", "--max-new-tokens", 2, "--no-audio", "--json")
    assert json.loads(second.stdout)["rows"] == 2
    compared = invoke("evaluate", "--compare", tmp_path / "a", tmp_path / "b")
    assert "setting frames: " in compared.stdout
    as_json = invoke("evaluate", "--compare", tmp_path / "a", tmp_path / "b", "--json")
    assert json.loads(as_json.stdout)["settings"].keys() == {"answers", "frames"}


def test_a_yaml_names_the_data_and_options_replace_its_values(questions, tmp_path):
    yaml = questions.with_suffix(".yaml")
    yaml.write_text("data: cli.jsonl\nframes: {num_frames: 3, no_audio: true}\nprompts: {question: 'Q {question}'}\n")
    config = BenchmarkOptions(frames=4, choices="letter").config(yaml)
    assert config.data == questions
    assert (config.frames.num_frames, config.frames.no_audio) == (4, True)
    assert config.prompts.question == "Q {question}"
    assert config.choice_methods == ("letter",)
    assert BenchmarkOptions(choices="both").config(questions).choice_methods == ("likelihood", "letter")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ValueError: DATA or --output is missing. Give both"),
        (("x.jsonl",), "ValueError: DATA or --output is missing"),
        (("x.jsonl", "--compare", "a", "b"), "ValueError: --compare takes two folders"),
        (("x.jsonl", "--output", "o", "--layout", "msvd"), "DataError: layout is 'msvd'. Choose rows, msvd-qa"),
        (("x.jsonl", "--output", "o", "--choices", "guess"), "ConfigError: x.jsonl: choice_methods.0"),
        (("absent.jsonl", "--output", "o"), "DataError: absent.jsonl cannot be read"),
        (("--compare", "a", "b"), "DataError: b/answers.jsonl cannot be read"),
        (("absent.yaml", "--output", "o"), "ConfigError: absent.yaml: no such file"),
    ],
)
def test_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(invoke("evaluate", *arguments), message)
