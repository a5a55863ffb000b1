"""The conformance report as its users see it: its rows, its count and its exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.conformance import CASE_WIDTH, main
from benchmarks.conformance_row import Row, guarded

DEV = Path(__file__).resolve().parent.parent / "golden" / "dev"
SMALL_CASES = ("in.image_2", "out.visual_encoder.out")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with golden's weights and one case, which runs in a second."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("config.json", "weights.safetensors"):
        shutil.copy(DEV / name, folder)
    describe = json.loads((DEV / "cases.json").read_text(encoding="utf-8"))["describe"]
    (folder / "cases.json").write_text(json.dumps({"describe": describe}), encoding="utf-8")
    cases = load_file(DEV / "cases.safetensors")
    save_file({name: cases[name] for name in SMALL_CASES}, folder / "cases.safetensors")
    return folder


def spoil(path: Path, name: str, by: float) -> None:
    tensors = load_file(path)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] += by
    save_file(tensors, path)


def words_of(output: str, case: str) -> list[str]:
    """The words of a case's line: its name, value, limit, result and note."""
    (line,) = [line for line in output.splitlines() if line[:CASE_WIDTH].rstrip() == case]
    return line.split()


@pytest.mark.slow
def test_golden_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Media and tokenizer as the environment names them; what is missing is shown as skipped, and nothing fails."""
    named = {"--media": "VIDEO_LLAMA_MEDIA", "--tokenizer": "VIDEO_LLAMA_TOKENIZER"}
    options = [part for flag, name in named.items() if name in os.environ for part in (flag, os.environ[name])]
    assert main([str(DEV), *options]) == 0
    output = capsys.readouterr().out
    for part in ("visual_encoder", "loss.multi_vicuna_flag0: loss", "gen_truncated: ids", "warp: scores after_warpers"):
        assert "pass" in words_of(output, part)
    for part in ("text.templates", "video index rules", "audio clip times", "model: outputs not compared"):
        assert "pass" in words_of(output, part)
    assert " 0 failed" in output.splitlines()[-1]


def test_it_runs_from_anywhere_as_a_script(small: Path, tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "conformance.py"), str(small)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "5 passed, 0 failed, 0 skipped"


def test_a_spoilt_output_fails(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(small / "cases.safetensors", "out.visual_encoder.out", by=1e-2)
    assert main([str(small)]) == 1
    assert "FAIL" in words_of(capsys.readouterr().out, "visual_encoder")


def test_a_spoilt_weight_fails(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(small / "weights.safetensors", "visual_encoder.cls_token", by=1e-1)
    assert main([str(small)]) == 1
    assert "FAIL" in words_of(capsys.readouterr().out, "visual_encoder")


def test_a_weight_of_another_shape_fails_and_the_run_goes_on(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(small / "weights.safetensors")
    tensors["llama_proj.bias"] = torch.zeros(3)
    save_file(tensors, small / "weights.safetensors")
    assert main([str(small)]) == 1
    output = capsys.readouterr().out
    assert "size mismatch for model.video_qformer.language_projection.bias" in output
    assert output.splitlines()[-1].endswith("0 skipped")


def test_an_output_that_no_case_looks_at_fails(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(small / "cases.safetensors")
    save_file({**tensors, "out.something_new": torch.zeros(1)}, small / "cases.safetensors")
    assert main([str(small)]) == 1
    assert "out.something_new" in words_of(capsys.readouterr().out, "model: outputs not compared")


def test_missing_weights_are_a_failed_row(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "weights.safetensors").unlink()
    assert main([str(small)]) == 1
    assert "FileNotFoundError:" in words_of(capsys.readouterr().out, "model")


def test_a_template_of_another_name_is_rendered_by_its_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    templates = json.loads((DEV / "text.json").read_text(encoding="utf-8"))["templates"]
    mine = {**templates["conv_llava_llama_2"], "system": "Be brief."}
    (tmp_path / "text.json").write_text(json.dumps({"templates": {**templates, "mine": mine}}), encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    assert "pass" in words_of(capsys.readouterr().out, "text.templates.other names")
    unknown = {**mine, "style": "THREE"}
    (tmp_path / "text.json").write_text(json.dumps({"templates": {**templates, "mine": unknown}}), encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "FAIL" in words_of(output, "text.templates.other names")
    assert "pass" in words_of(output, "text.templates")


def test_nothing_to_run_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"


def test_only_skipped_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = json.loads((DEV / "video.json").read_text(encoding="utf-8"))
    (tmp_path / "video.json").write_text(json.dumps({"videos": video["videos"]}), encoding="utf-8")
    shutil.copy(DEV / "video.safetensors", tmp_path)
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"0 passed, 0 failed, {len(video['videos'])} skipped"
    assert all(" skipped " in line for line in lines[1:-1])


@pytest.mark.parametrize("flags", [["{}/none"], [str(DEV), "--media", "{}/none"], [str(DEV), "--tokenizer", "{}/none"]])
def test_a_path_that_is_not_there_is_one_line(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag.format(tmp_path) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"{tmp_path}/none: not there. Give a path that exists."]
    assert captured.out == ""


def test_a_row_passes_up_to_its_limit_and_not_without_a_number() -> None:
    assert Row("a", 1e-5, 1e-5).passed
    assert Row("a", float("nan"), 1e-5).failed
    assert Row("a", 0).passed
    assert Row("a", 1).failed
    skipped = Row("a", None)
    assert (skipped.passed, skipped.failed, skipped.skipped) == (False, False, True)


def test_a_case_that_raises_is_a_failed_row_after_those_it_gave() -> None:
    def case() -> list[Row]:
        raise OSError("no such\nthing")

    assert list(guarded("x", case)) == [Row("x", 1, note="OSError: no such thing")]
