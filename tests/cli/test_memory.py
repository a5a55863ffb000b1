"""``video-llama inspect --memory``: a table or JSON. The prediction itself is tested with models/memory.py."""

import json

from tests.cli.conftest import assert_one_line, invoke
from video_llama.checkpoints.convert import convert


def test_table_and_json(model_path):
    arguments = ["inspect", "--memory", model_path, "--audio", "--frames", 4]
    table = invoke(*arguments)
    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[-1].startswith("total ")
    report = json.loads(invoke(*arguments, "--json").stdout)
    assert report["total"] == sum(report["weights"].values()) + report["cache"] + report["activations"]


def test_published_size():
    reports = [
        json.loads(invoke("inspect", "--memory", "--size", "7b", "--json", *more).stdout)
        for more in ((), ("--quantization", "int4"))
    ]
    assert 5e9 < reports[1]["total"] < reports[0]["total"] < 25e9


def test_neither_model_nor_size(model_path):
    message = "--memory needs either a model or --size (7b or 13b)"
    assert_one_line(invoke("inspect", "--memory"), message)
    assert_one_line(invoke("inspect", "--memory", model_path, "--size", "7b"), message)


def test_evaluation_yaml_and_its_converted_folder(tmp_path, eval_yaml):
    convert(eval_yaml, tmp_path / "model")
    reports = [invoke("inspect", "--memory", path, "--json") for path in (eval_yaml, tmp_path / "model")]
    assert reports[0].exit_code == 0, reports[0].output
    assert json.loads(reports[0].stdout) == json.loads(reports[1].stdout)
