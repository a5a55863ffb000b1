"""``video-llama merge``: a training run and its model folder become a model folder."""

import pytest
import torch

from tests.cli.conftest import assert_one_line, invoke
from video_llama.checkpoints.folder import read_model_folder
from video_llama.training.checkpoint import read_trained


def test_merge(training_run, training_base, tmp_path):
    out = tmp_path / "mine"
    result = invoke("merge", training_run, "--into", training_base, out, "--name", "mine", "--notice", "Only a test.")
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.output
    merged = read_model_folder(out)
    assert (merged.manifest.name, merged.manifest.notice) == ("mine", "Only a test.")
    tensors, trained = merged.model.state_dict(), read_trained(training_run)
    assert trained
    assert all(torch.equal(tensors[name], tensor) for name, tensor in trained.items())


def test_existing_folder_is_not_replaced(training_run, training_base, tmp_path):
    (tmp_path / "thesis.txt").write_text("!")
    assert_one_line(invoke("merge", training_run, "--into", training_base, tmp_path), str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "!"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("OUT", "--into", "BASE"), "Expected RUN... and OUT, got only OUT."),
        (("RUN", "OUT"), "Missing option '--into'"),
        (("RUN", "OUT", "--into", "BASE", "--quantization", "int3"), "--quantization is 'int3'. Choose int8 or int4."),
        (("RUN", "OUT", "--into", "nowhere"), "nowhere"),
    ],
)
def test_arguments_that_are_refused(training_run, training_base, tmp_path, arguments, message):
    paths = {"RUN": training_run, "BASE": training_base}
    assert_one_line(invoke("merge", *(paths.get(each, each) for each in arguments)), message)
