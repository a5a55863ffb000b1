"""Training from the published files: small files with the real layout, the reference's keys, and two steps."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from tests.factories.published_weights import HEADS, golden_weights, write_published
from tests.training.conftest import Write, yaml_writer
from video_llama.checkpoints.folder import read_model_folder, write_model_folder
from video_llama.checkpoints.initialization import INITIALIZABLE_PARTS
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.config import load_config
from video_llama.conversation import TOKENIZER_MODEL
from video_llama.errors import CheckpointError, ConfigError
from video_llama.models import cpu as cpu_module
from video_llama.models.cpu import Processor
from video_llama.models.placement import LoadOptions
from video_llama.training.checkpoint import newest_checkpoint
from video_llama.training.config import TrainConfig
from video_llama.training.run import train_from_config
from video_llama.training.starting_model import load_published, load_starting_model, plan_published

RUN = {"batch_size_train": 2, "iters_per_epoch": 2, "save_every_steps": None, "init_lr": 1e-3, "cache_features": False}
COUNTS = {"num_query_token": 6, "num_video_query_token": 5, "num_audio_query_token": 3, "max_frame_pos": 10}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published(tmp_path / "published")


@pytest.fixture
def write_published_yaml(tmp_path: Path, clips: Path, published: Path) -> Write:
    """Return a function that writes a training YAML with the reference's keys and without a model folder."""
    write = yaml_writer(tmp_path, clips, tmp_path)

    def write_yaml(branch: str, stage: int, *, model: dict[str, Any] | None = None, **more: Any) -> Path:
        files: dict[str, Any] = {
            "pretrained": None,
            "llama_model": str(published / "llama-2-7b-chat-hf"),
            "imagebind_ckpt_path": str(published),
            "q_former_model": "https://storage.googleapis.com/x/blip2_pretrained_flant5xxl.pth",
            "equip_audio_branch": branch == "audio",
            "config": HEADS,
            "max_txt_len": 64,
            **COUNTS,
        }
        return write(branch, stage, model=files | (model or {}), run=RUN, frames="alpro_video_train", **more)

    return write_yaml


def golden() -> dict[str, Tensor]:
    return convert_state_dict(golden_weights())[0]


def train_by_command(path: Path) -> tuple[Path, str]:
    """Train and return the run folder and the log."""
    from video_llama.cli import app

    result = CliRunner().invoke(app, ["train", str(path)])
    assert result.exit_code == 0, result.output
    return Path(result.stdout.splitlines()[-1]), " ".join(result.stderr.split())


def test_vision_stage_1_from_the_frozen_parts(
    write_published_yaml: Write, losses: Callable[[Path], list[float]]
) -> None:
    path = write_published_yaml("vision", 1)
    folder = load_published(load_config(TrainConfig, path), str(path), LoadOptions(dtype=torch.float32))
    start, stored = folder.model.state_dict(), golden()
    parts = ("model.frame_encoder.", "model.language_model.layers.")
    assert {name for name in start if name.startswith(parts)} == {name for name in stored if name.startswith(parts)}
    for name in (name for name in start if name.startswith(parts)):
        wanted = stored[name].half().float() if "language_model" in name else stored[name]
        assert torch.equal(start[name], wanted), name
    assert not any("audio" in name or "imagebind" in name for name in start)
    assert folder.manifest.untrained_parts == INITIALIZABLE_PARTS[:4]
    run, log = train_by_command(path)
    assert len(losses(run)) == 2
    for part in INITIALIZABLE_PARTS[:4]:
        assert f"{part} starts from random values" in log
    trained = load_file(newest_checkpoint(run) / "trained.safetensors")  # type: ignore[operator]
    assert trained.keys() == {name for name in start if name.startswith("model.video_qformer.")}
    assert any(not torch.equal(tensor, start[name]) for name, tensor in trained.items())


def test_audio_stage_2_from_the_files_of_both_branches(
    write_published_yaml: Write, published: Path, losses: Callable[[Path], list[float]]
) -> None:
    branches = {
        "ckpt": str(published / "VL_LLaMA_2_7B_Finetuned.pth"),
        "ckpt_2": str(published / "AL_LLaMA_2_7B_Finetuned.pth"),
    }
    path = write_published_yaml("audio", 2, model=branches)
    folder = load_published(load_config(TrainConfig, path), str(path), LoadOptions(dtype=torch.float32))
    start, stored = folder.model.state_dict(), golden()
    parts = ("model.audio_qformer.", "model.video_qformer.", "model.imagebind_vision.", "model.imagebind_audio.")
    assert {name for name in start if name.startswith(parts)} == {name for name in stored if name.startswith(parts)}
    assert all(torch.equal(start[name], stored[name]) for name in start if name.startswith(parts))
    assert folder.manifest.untrained_parts == ()
    run, log = train_by_command(path)
    assert len(losses(run)) == 2
    assert "random" not in log


@pytest.mark.slow
def test_stage_2_starts_from_a_run_of_ours(write_published_yaml: Write, caplog: pytest.LogCaptureFixture) -> None:
    first = train_from_config(write_published_yaml("audio", 1, name="first"))
    trained = load_file(newest_checkpoint(first) / "trained.safetensors")  # type: ignore[operator]
    with caplog.at_level(logging.INFO, logger="video_llama"):
        second = train_from_config(
            write_published_yaml("audio", 2, name="second", model={"ckpt_2": str(first)}), max_steps=1
        )
    assert f"{len(trained)} tensors from {first}" in caplog.text
    assert "random" not in caplog.text.partition(f"tensors from {first}")[2]
    assert (second / "checkpoints").is_dir()


@pytest.mark.slow
def test_resuming_gives_the_same_losses(write_published_yaml: Write, losses: Callable[[Path], list[float]]) -> None:
    whole = train_from_config(write_published_yaml("vision", 1, name="whole"))
    cut = write_published_yaml("vision", 1, name="cut")
    train_from_config(cut, max_steps=1)
    assert losses(train_from_config(cut, resume="auto")) == losses(whole)


@pytest.mark.parametrize(
    ("branch", "model", "missing", "message"),
    [
        ("vision", {}, "eva_vit_g.pth", r"do not contain visual_encoder\.\S+,.*eva_vit_g\.pth"),
        ("vision", {"frozen_video_Qformer": True}, None, r"do not contain video_Qformer\.bert\.\S+,.* set model\.ckpt"),
        (
            "audio",
            {"imagebind_ckpt_path": ""},
            "imagebind_huge.pth",
            r"do not contain audio_encoder\S+,.*imagebind_huge",
        ),
        ("vision", {"llama_model": ""}, None, "neither model.pretrained nor model.llama_model is set"),
        ("vision", {"ckpt": "nowhere.pth"}, None, r"model\.ckpt is nowhere\.pth, which does not exist"),
        ("vision", {"pretrained": "x", "ckpt": "a.pth"}, None, r"a\.pth is a file of the reference, and model\.pre"),
    ],
)
def test_errors_for_missing_parts_name_the_file(
    write_published_yaml: Write, published: Path, branch: str, model: dict[str, Any], missing: str | None, message: str
) -> None:
    if missing is not None:
        (published / missing).unlink()
    path = write_published_yaml(branch, 1, model=model)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        plan_published(load_config(TrainConfig, path), str(path))


def test_an_incomplete_part_is_an_error(write_published_yaml: Write, published: Path) -> None:
    branch = published / "VL_LLaMA_2_7B_Finetuned.pth"
    content = torch.load(branch, weights_only=True)
    del content["model"]["llama_proj.bias"]
    torch.save(content, branch)
    path = write_published_yaml("vision", 2, model={"ckpt": str(branch)})
    with pytest.raises(CheckpointError, match=r"missing tensors \(1\): llama_proj\.bias"):
        plan_published(load_config(TrainConfig, path), str(path))


def test_validate_data_works_without_a_model_folder(write_published_yaml: Write) -> None:
    from video_llama.cli import app

    result = CliRunner().invoke(app, ["validate-data", str(write_published_yaml("vision", 1))])
    assert (result.exit_code, "12 rows, no problems" in result.stdout) == (0, True), result.output


@pytest.mark.parametrize(
    ("has_bfloat16", "run_dtype", "expected"),
    [
        (False, None, torch.float32),
        (True, None, torch.bfloat16),
        (False, "bf16", torch.bfloat16),
        (True, "fp32", torch.float32),
    ],
)
def test_frozen_half_precision_weights_become_float32_where_bfloat16_is_emulated(
    write_yaml: Write,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_bfloat16: bool,
    run_dtype: str | None,
    expected: torch.dtype,
) -> None:
    cpu = Processor("test", ("avx2",), has_bfloat16=has_bfloat16, has_fbgemm=True)
    monkeypatch.setattr(cpu_module, "processor", lambda: cpu)
    half = read_model_folder(base, LoadOptions(dtype="bfloat16"))
    rest = {"settings": half.settings, "manifest": half.manifest}
    folder = tmp_path / "half"
    write_model_folder(folder, half.model, tokenizer_path=base / TOKENIZER_MODEL, **rest)
    path = write_yaml(model={"pretrained": str(folder)}, run={"dtype": run_dtype})
    config = load_config(TrainConfig, path)
    model = load_starting_model(config, str(path), torch.device("cpu")).model
    assert model.model.language_model.layers[0].mlp.up_proj.weight.dtype is expected
    assert model.model.frame_encoder.vision_model.post_layernorm.weight.dtype is expected
