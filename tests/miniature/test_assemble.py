"""The base folder: frozen parts as given, random branches, and a manifest that lists them as untrained."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from video_llama.checkpoints.folder import ModelFolder, read_model_folder
from video_llama.miniature.assemble import BRANCHES, NOTICE, Backbones, write_base
from video_llama.miniature.configuration import miniature_config, processor_settings
from video_llama.miniature.pretrain_vision import FrameLearner, TowerLearner
from video_llama.models.imagebind import ImageBindTower


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    torch.manual_seed(1)
    config = miniature_config()
    sound = ImageBindTower(config.imagebind_audio_config)
    sound.reset_parameters(0.5)
    return Backbones(LlamaForCausalLM(config.text_config), FrameLearner().encoder, TowerLearner().tower, sound)


@pytest.fixture(scope="module")
def base(backbones: Backbones, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("assemble") / "base"
    write_base(path, backbones, tokenizer_path, seed=0)
    return read_model_folder(path)


def test_frozen_parts_are_copied(base: ModelFolder, backbones: Backbones) -> None:
    body = base.model.model
    pairs = [
        (body.frame_encoder, backbones.frames),
        (body.imagebind_vision, backbones.imagebind_vision),
        (body.imagebind_audio, backbones.imagebind_audio),
        (body.language_model, backbones.language.model),
        (base.model.lm_head, backbones.language.lm_head),
    ]
    for part, given in pairs:
        state = part.state_dict()
        assert all(torch.equal(state[name][: len(tensor)], tensor) for name, tensor in given.state_dict().items())


def test_the_media_places_have_rows(base: ModelFolder) -> None:
    num_tokens = base.tokenizer.vocab_size
    for table in (base.model.get_input_embeddings().weight, base.model.lm_head.weight):
        assert len(table) == num_tokens + 2
        assert torch.allclose(table[num_tokens], table[:num_tokens].mean(dim=0), atol=1e-6)


def test_the_manifest_lists_the_branches_as_untrained(base: ModelFolder) -> None:
    assert tuple(base.manifest.untrained_parts) == BRANCHES
    assert base.manifest.notice == NOTICE
    assert base.settings == processor_settings()


def test_branch_outputs_are_as_large_as_word_embeddings(base: ModelFolder) -> None:
    word_std = base.model.get_input_embeddings().weight.std().item()
    for branch in (base.model.model.video_qformer, base.model.model.audio_qformer):
        width = branch.language_projection.weight.shape[1]
        assert branch.language_projection.weight.std().item() == pytest.approx(word_std * width**-0.5, rel=0.05)
        assert branch.position_embeddings.weight.std().item() == pytest.approx(1.0, rel=0.2)
