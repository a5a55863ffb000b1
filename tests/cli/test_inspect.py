"""``video-llama inspect``: reports of media files, models and published weights."""

import json
import shutil

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.conftest import assert_one_line, corrupt_audio, invoke
from tests.factories.models import NOTICE
from tests.factories.published_weights import OPTIONS


class TestInspect:
    def test_video(self, clip):
        report = json.loads(invoke("inspect", clip, "--json").stdout)
        video, audio = report["streams"]
        assert (video["codec"], video["width"], video["height"], video["fps"]) == ("h264", 64, 48, 10.0)
        assert (audio["codec"], audio["sampling_rate"], audio["channels"]) == ("aac", 16000, 1)
        assert report["rotation"] == 0
        assert report["sampled"]["frames"]["indices"] == [0, 3, 7, 11, 15, 18, 22, 26]
        assert len(report["sampled"]["sound"]["start_seconds"]) == 8
        text = invoke("inspect", clip).stdout
        assert "video: codec h264, width 64, height 48, fps 10, frames 30" in text
        assert "sampled frames: indices 0 3 7 11" in text

    def test_audio_that_cannot_be_read(self, clip, tmp_path):
        result = invoke("inspect", corrupt_audio(clip, tmp_path / "corrupt.mp4"))
        assert result.exit_code == 0
        assert "audio cannot be read: " in result.stdout

    def test_frames(self, tmp_path):
        for number in range(3):
            Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
        report = json.loads(invoke("inspect", tmp_path, "--json").stdout)
        assert report["kind"] == "frames"
        assert report["sampled"]["frames"]["indices"] == [0, 1, 2]

    def test_no_media(self, tmp_path):
        assert_one_line(invoke("inspect", tmp_path / "none"), "MediaError: ")

    def test_yaml_as_shipped(self, repository):
        result = invoke("inspect", repository / "eval_configs/video_llama_eval_withaudio.yaml")
        assert result.exit_code == 2
        assert [line.split()[-1] for line in result.stdout.splitlines()[2:-1]] == ["missing"] * 8
        assert "Correct the YAML, or override the path" in result.stderr

    def test_model(self, model_path):
        report = json.loads(invoke("inspect", model_path, "--json").stdout)
        assert report["problem"] is None
        assert {part["part"] for part in report["parts"]} >= {"ViT", "frame Q-Former", "audio projection", "decoder"}
        assert all(part["dtypes"] == ["F32"] and part["bytes"] == 4 * part["parameters"] for part in report["parts"])
        text = invoke("inspect", model_path).stdout
        assert text.startswith(f"tiny ({model_path})\npart")
        assert NOTICE in text

    def test_damaged_model(self, model_path, tmp_path):
        folder = shutil.copytree(model_path, tmp_path / "copy")
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.video_qformer.query_tokens"]
        tensors["lm_head.weight"][0] = float("nan")
        tensors["stray"] = torch.zeros(3)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        result = invoke("inspect", folder, "--json")
        parts = {part["part"]: part for part in json.loads(result.stdout)["parts"]}
        assert parts["video Q-Former"]["missing"] == ["model.video_qformer.query_tokens"]
        assert parts["decoder"]["not_finite"] == ["lm_head.weight"]
        assert parts["stray"]["unexpected"] == parts["stray"]["zero"] == ["stray"]
        assert result.exit_code == 2
        assert result.stderr.startswith("CheckpointError: ")


def test_inspect_a_yaml_with_a_fault(tmp_path, published, eval_yaml):
    result = invoke(
        "inspect", eval_yaml, "--json", "--set", f"model.ckpt_2={published / 'VL_LLaMA_2_7B_Finetuned.pth'}"
    )
    assert_one_line(result, "set model.ckpt_2 to the file of the audio branch")
    result = invoke("inspect", eval_yaml, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["sources"]["video branch"] == str(published / "VL_LLaMA_2_7B_Finetuned.pth")
    assert "known and not needed: Qformer 2, position_ids 1, t5_proj 1" in invoke("inspect", eval_yaml).stdout


def test_inspect_one_file_and_one_that_is_none(tmp_path, published):
    result = invoke("inspect", published / "AL_LLaMA_2_7B_Finetuned.pth")
    assert "audio Q-Former" in result.stdout
    (tmp_path / "page.pth").write_text("<html>")
    assert_one_line(invoke("inspect", tmp_path / "page.pth"), "CheckpointError: ")
    assert_one_line(invoke("inspect"), "Nothing to inspect.")
    assert invoke("inspect", published, "--set", OPTIONS[0]).exit_code == 0


def test_names(tmp_path, repository):
    result = invoke("inspect", "--names", repository / "tests" / "golden" / "full_keys.json.gz")
    assert result.exit_code == 0
    assert "model llama_13b: 2601 names, 1777 mapped tensors, 785 known and not needed, 0 unmapped" in result.stdout
    keys = {"head.weight": [[2, 3], "float32", "param"]}
    (tmp_path / "odd.json").write_text(json.dumps({"models": {"odd": {"llama_config": {}, "keys": keys}}}))
    result = invoke("inspect", "--names", tmp_path / "odd.json")
    assert result.exit_code == 1
    assert "  head.weight: unknown" in result.stdout
