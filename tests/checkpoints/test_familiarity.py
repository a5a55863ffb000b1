"""The optional file of a model folder: read back as written, and refused if it is damaged or of another model."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

import video_llama
from tests.factories.familiarity import WARNING, warn_about_pictures
from video_llama.checkpoints.familiarity import FAMILIARITY_FILE, METADATA_KEY, read_familiarity
from video_llama.checkpoints.folder import read_config, read_model_folder
from video_llama.errors import CheckpointError


@pytest.fixture
def folder(model_path, tmp_path):
    """A copy of a model folder with the file."""
    copy = shutil.copytree(model_path, tmp_path / "copy")
    warn_about_pictures(copy)
    return copy


def change(folder, settings=None, tensors=None, **test):
    """Write the file again with other settings of its test or other tensors."""
    path = folder / FAMILIARITY_FILE
    stored = load_file(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    data = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"][METADATA_KEY])
    data["tests"][0] |= test
    save_file(stored | (tensors or {}), path, metadata={METADATA_KEY: json.dumps(data | (settings or {}))})


def test_round_trip(folder):
    familiarity = read_model_folder(folder).familiarity
    assert familiarity is not None
    assert familiarity.warning == WARNING
    [test] = familiarity.tests
    assert (test.name, test.part, test.block, test.limits) == ("picture", "frames", 0, (0.0, 1e-9))
    assert test.whitening.shape == (40, 40)


def test_folder_without_the_file_has_no_tests(model_path):
    assert read_model_folder(model_path).familiarity is None


@pytest.mark.parametrize("keep", [0, 7, 100, 2000])
def test_truncated_file_is_named(folder, keep):
    path = folder / FAMILIARITY_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"familiarity\.safetensors"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    "changes",
    [
        dict(block=1),
        dict(block=-1),
        dict(block=True),
        dict(part="text"),
        dict(pooling="median"),
        dict(pooling="tokens"),
        dict(limits=[2.0, 1.0]),
        dict(limits=[0.0, float("inf")]),
        dict(limits="wide"),
        dict(part="sound"),
        dict(unknown=1),
        dict(name="other"),
        dict(settings={"warning": " "}),
        dict(settings={"warning": 3}),
        dict(settings={"more": 3}),
        dict(settings={"tests": []}),
        dict(settings={"tests": "none"}),
        dict(settings={"tests": [None]}),
    ],
)
def test_invalid_settings_are_one_error(folder, changes):
    change(folder, **changes)
    with pytest.raises(CheckpointError, match=r"familiarity\.safetensors is damaged or does not belong to this model"):
        read_familiarity(folder, read_config(folder))


@pytest.mark.parametrize("kind", ["shape", "dtype", "nan", "unknown"])
def test_invalid_tensors_are_one_error(folder, kind):
    mean = load_file(folder / FAMILIARITY_FILE)["picture.mean"]
    tensors = {
        "shape": {"picture.mean": mean[1:].clone()},
        "dtype": {"picture.mean": mean.double()},
        "nan": {"picture.mean": mean + float("nan")},
        "unknown": {"extra": mean.clone()},
    }
    change(folder, tensors=tensors[kind])
    with pytest.raises(CheckpointError, match="Copy it again, or remove it"):
        read_familiarity(folder, read_config(folder))


def test_answers_do_not_depend_on_the_file(folder, assistant, clips):
    question = "What do you see?"
    warned = video_llama.load(folder, device="cpu").chat(clips["video"]).ask(question, max_new_tokens=8)
    plain = assistant.chat(clips["video"]).ask(question, max_new_tokens=8)
    assert warned.text == plain.text
    assert (warned.record.warnings, plain.record.warnings) == ([WARNING], [])
