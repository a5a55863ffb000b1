"""Every shipped training YAML loads, has the documented values, and is refused because of its placeholders."""

from pathlib import Path

import pytest

from video_llama.config import dump_yaml, load_config, placeholders
from video_llama.errors import ConfigError
from video_llama.training.config import TrainConfig
from video_llama.training.run import train_from_config

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted((ROOT / "train_configs").glob("*.yaml"))
MINIATURE = sorted((ROOT / "train_configs" / "miniature").glob("*.yaml"))
PUBLISHED_NUMBERS = {
    # peak, end and start of the learning rate; steps per epoch, epochs, warm-up, rows per process
    "visionbranch_stage1_pretrain": (1e-4, 8e-5, 1e-6, 2500, 5, 2500, 32),
    "audiobranch_stage1_pretrain": (1e-4, 8e-5, 1e-6, 5000, 5, 5000, 32),
    "visionbranch_stage2_finetune": (3e-5, 1e-5, 1e-6, 1000, 3, 1000, 4),
    "audiobranch_stage2_finetune": (3e-5, 1e-5, 1e-6, 1000, 3, 400, 4),
}


def test_four_recipes_and_four_small_ones() -> None:
    assert [path.stem for path in PUBLISHED] == [path.stem for path in MINIATURE] == sorted(PUBLISHED_NUMBERS)


@pytest.mark.parametrize("path", PUBLISHED + MINIATURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_loads_and_reads_back(path: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, path)
    (tmp_path / "again.yaml").write_text(dump_yaml(config))
    assert load_config(TrainConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_recipes_have_the_published_numbers(path: Path) -> None:
    run = load_config(TrainConfig, path).run
    numbers = (run.init_lr, run.min_lr, run.warmup_lr, run.iters_per_epoch, run.max_epoch, run.warmup_steps)
    assert (*numbers, run.batch_size_train) == PUBLISHED_NUMBERS[path.stem]
    assert (run.weight_decay, run.betas, run.grad_clip) == (0.05, (0.9, 0.999), None)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_recipes_require_paths_before_anything_is_loaded(path: Path) -> None:
    found = placeholders(load_config(TrainConfig, path))
    assert ("model.ckpt" in found) == ("stage2" in path.stem)
    assert any(key.startswith("datasets.") for key in found)
    with pytest.raises(ConfigError, match=r"datasets\.\S+ \(path/to/\S+\).* are still placeholders"):
        train_from_config(path)


@pytest.mark.parametrize("path", MINIATURE, ids=lambda path: path.stem)
def test_the_miniature_is_trained_with_the_prompts_for_inference(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert placeholders(config) == {}
    assert all(dataset.labels == "serving" for dataset in config.datasets.values())
    assert config.run.min_lr == pytest.approx(0.03 * config.run.init_lr)
    assert config.model.clip_noise == {"audiobranch_stage1_pretrain": 0.3, "audiobranch_stage2_finetune": 0.5}.get(
        path.stem, 0.0
    )


def test_the_error_for_an_unknown_key_suggests_a_similar_one(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(PUBLISHED[0].read_text().replace("frozen_video_Qformer", "frozen_video_qformer"))
    with pytest.raises(
        ConfigError, match=r"model.frozen_video_qformer: unknown key. Did you mean frozen_video_Qformer\?"
    ):
        load_config(TrainConfig, path)


@pytest.mark.parametrize("override", ["model.low_resource=true", "run.init_lr=0", "run.dtype=fp8"])
def test_errors_name_the_key_of_an_invalid_value(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        load_config(TrainConfig, PUBLISHED[0], [override])


def test_every_instruction_has_a_place_for_the_image() -> None:
    lines = (ROOT / "prompts" / "alignment_image.txt").read_text().splitlines()
    assert len(lines) == 4
    assert all(line.count("<Image><ImageHere></Image>") == 1 for line in lines)
