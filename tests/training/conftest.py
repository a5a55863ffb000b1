"""A tiny model folder, a few clips with annotations, and a configuration that trains on them in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.factories.models import SETTINGS, tiny_config
from tests.factories.tokenizers import train_tokenizer
from video_llama.checkpoints.folder import Manifest, read_model_folder, write_model_folder
from video_llama.conversation import Tokenizer
from video_llama.miniature.dataset import write_dataset
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import read_trained
from video_llama.training.run import train_from_config

UNTRAINED = ("model.video_qformer.", "model.audio_qformer.")
FRAMES = {"train": {"name": "alpro_video_eval", "n_frms": 4}}
ROLES = {"user": "q", "assistant": "a"}

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips with captions and questions in the reference's formats."""
    folder = tmp_path_factory.mktemp("clips") / "data"
    write_dataset(folder, num_clips=12, seed=4, workers=1)
    return folder


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    rows = [*json.loads((clips / "questions_seeing.json").read_text())]
    sentences = [f"###Human: {turn['q']}###Assistant: {turn['a']}###" for row in rows for turn in row["QA"]]
    sentences.append("The video contains 4 frames sampled at 0.0, 0.5 seconds.")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(path, sentences, num_pieces=360, symbols=["###"])


def write_base(path: Path, tokenizer_path: Path, dropout: float, decoder_width: int = 48) -> Path:
    """Write a tiny model folder whose fusion Q-Formers are untrained."""
    torch.manual_seed(6)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    text = {"intermediate_size": decoder_width, "max_position_embeddings": 512, "initializer_range": 0.02}
    config = tiny_config(
        Tokenizer(tokenizer_path).vocab_size,
        qformer_config=drop,
        video_qformer_config=drop,
        audio_qformer_config=drop,
        text_config=text,
        with_imagebind_vision=True,
    )
    model = VideoLlamaForConditionalGeneration(config)
    manifest = Manifest("tiny", untrained_parts=UNTRAINED)
    write_model_folder(path, model, tokenizer_path=tokenizer_path, settings=SETTINGS, manifest=manifest)
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Path:
    """A model folder with the dropout of the published models."""
    return write_base(tmp_path_factory.mktemp("base") / "model", tokenizer_path, dropout=0.1)


@pytest.fixture(scope="session")
def base_without_dropout(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "steady", tokenizer_path, dropout=0.0)


@pytest.fixture(scope="session")
def packable(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Path:
    """A base folder whose decoder matrices can be stored in 4 bits: they have 32 and 64 inputs."""
    return write_base(tmp_path_factory.mktemp("packable") / "model", tokenizer_path, dropout=0.0, decoder_width=64)


def moved_by(run: Path, base: Path) -> set[str]:
    """Return the names of the tensors that a run changed."""
    before = read_model_folder(base).model.state_dict()
    return {name for name, tensor in read_trained(run).items() if not torch.equal(tensor, before[name])}


def yaml_writer(tmp_path: Path, clips: Path, base: Path) -> Write:
    """Return a function that writes a training YAML. ``branch`` and ``stage`` select the recipe, ``model`` and ``run``
    override keys of it, and ``datasets`` replaces its data sets."""

    def write(
        branch: str = "vision",
        stage: int = 2,
        *,
        name: str = "run",
        model: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        frames: str = "alpro_video_eval",
        datasets: dict[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        is_vision = branch == "vision"
        captions = clips / ("captions" if is_vision else "sound_captions")
        questions = clips / ("questions_seeing.json" if is_vision else "questions_hearing.json")
        content = {
            "model": {
                "pretrained": str(base),
                "frozen_llama_proj": not is_vision,
                "frozen_video_Qformer": not is_vision,
                "frozen_audio_Qformer": is_vision,
                "end_sym": "###",
                **(model or {}),
            },
            "datasets": datasets
            or {
                "webvid" if stage == 1 else "webvid_instruct": {
                    "build_info": {
                        "anno_dir": str(captions if stage == 1 else questions),
                        "videos_dir": str(clips / "videos"),
                    },
                    "vis_processor": {"train": {"name": frames, "n_frms": 4}},
                }
            },
            "run": {
                "output_dir": str(tmp_path / name),
                "init_lr": 1e-2,
                "batch_size_train": 4,
                "iters_per_epoch": 12,
                "warmup_steps": 2,
                "warmup_lr": 1e-4,
                "save_every_steps": 3,
                "device": "cpu",
                "cache_features": True,
                "features_dir": str(tmp_path / "features"),
                **(run or {}),
            },
            **more,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def write_yaml(tmp_path: Path, clips: Path, base: Path) -> Write:
    """See :func:`yaml_writer`; all files are written to the folder of the test."""
    return yaml_writer(tmp_path, clips, base)


@pytest.fixture
def gain() -> Callable[..., float]:
    def of(path: Path, overrides: Sequence[str] = ()) -> float:
        """Return by how much a finished run reduced the loss on its training data, without dropout or noise."""
        content = yaml.safe_load(path.read_text())
        evaluation = path.with_name(f"{path.stem}_evaluation.yaml")
        evaluation.write_text(yaml.safe_dump({**content, "valid": content["datasets"]}))
        valid = [override.replace("datasets.", "valid.", 1) for override in overrides]
        for resume in (None, "auto"):
            train_from_config(evaluation, [*overrides, *valid, "run.evaluate=true"], resume=resume)
        lines = (Path(content["run"]["output_dir"]) / "evaluation.jsonl").read_text().splitlines()
        before, after = (float(json.loads(line)["loss"]) for line in lines)
        return before - after

    return of


@pytest.fixture
def losses() -> Callable[[Path], list[float]]:
    def read(run_folder: Path) -> list[float]:
        """Return the loss of each step; the steps must be 1, 2, 3, ..."""
        rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["loss"] for row in rows]

    return read


@pytest.fixture
def own(tmp_path: Path, clips: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that writes a data set in the messages format; each row has the media in ``keys``."""

    def write(*keys: str, bad: int = 0, name: str = "own", **config: Any) -> dict[str, Any]:
        rows = []
        for row in json.loads((clips / "questions_hearing.json").read_text()):
            turns = [{"role": role, "content": qa[key]} for qa in row["QA"] for role, key in ROLES.items()]
            rows.append({**dict.fromkeys(keys, row["video"]), "messages": turns})
        for row in rows[:bad]:
            row.update(dict.fromkeys(keys, "lost.mp4"))
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        build_info = {"anno_dir": str(path), "videos_dir": str(clips / "videos")}
        return {"format": "messages", "build_info": build_info, "vis_processor": FRAMES, **config}

    return write
