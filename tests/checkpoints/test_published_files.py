"""Find the published files that a YAML names, or that a folder contains."""

import shutil
from pathlib import Path

import pytest

from tests.factories.models import make_folder
from tests.factories.published_weights import write_yaml
from video_llama.checkpoints.keys import to_ours
from video_llama.checkpoints.published_files import (
    ROLES,
    absent_paths,
    find_sources,
    is_published,
    list_sources,
    read_eval_config,
    remedy_for,
)
from video_llama.errors import CheckpointError, ConfigError

FILES = {
    "ViT": "eva_vit_g.pth",
    "BLIP-2": "blip2_pretrained_flant5xxl.pth",
    "decoder": "llama-2-7b-chat-hf",
    "ImageBind": "imagebind_huge.pth",
    "video branch": "VL_LLaMA_2_7B_Finetuned.pth",
    "audio branch": "AL_LLaMA_2_7B_Finetuned.pth",
}


def sources(path: Path, *overrides: str) -> dict[str, str]:
    config = read_eval_config(path, overrides)
    return {source.role: source.path.name for source in list_sources(config, str(path))}


class TestSources:
    def test_in_the_order_of_loading(self, published, eval_yaml):
        for path in (published, eval_yaml):
            assert list(sources(path).items()) == list(FILES.items())

    def test_without_the_audio_branch(self, eval_yaml):
        assert sources(eval_yaml, "model.equip_audio_branch=false").keys() == FILES.keys() - {
            "ImageBind",
            "audio branch",
        }

    def test_a_folder_without_the_audio_branch(self, published, tmp_path):
        folder = shutil.copytree(published, tmp_path / "copy")
        (folder / FILES["audio branch"]).unlink()
        assert not read_eval_config(folder).model.equip_audio_branch
        assert sources(folder).keys() == FILES.keys() - {"ImageBind", "audio branch"}

    def test_the_file_of_imagebind_and_the_url_of_blip2(self, published, eval_yaml):
        """The reference downloads BLIP-2; here the file next to the others is used."""
        url = "https://storage.googleapis.com/x/blip2_pretrained_flant5xxl.pth"
        imagebind = f"model.imagebind_ckpt_path={published / 'imagebind_huge.pth'}"
        assert sources(eval_yaml, imagebind, f"model.q_former_model={url}") == FILES

    def test_paths_that_are_set_come_first(self, published, eval_yaml, tmp_path):
        shutil.copy(published / FILES["ViT"], tmp_path / "vit.pth")
        assert sources(eval_yaml, f"model.vit_ckpt_path={tmp_path / 'vit.pth'}")["ViT"] == "vit.pth"

    @pytest.mark.parametrize(
        ("override", "kind", "message"),
        [
            ("model.ckpt_2=none.pth", CheckpointError, r"model\.ckpt_2 is none\.pth, which does not exist\. Correct"),
            ("model.imagebind_ckpt_path=/tmp", CheckpointError, r"imagebind_huge\.pth does not exist\. Put imagebind"),
            ('model.llama_model=""', ConfigError, r"model\.llama_model is empty\. Give the decoder's folder"),
            ("model.lama_model=x", ConfigError, r"model\.lama_model=x: unknown key\. Did you mean llama_model\?"),
        ],
    )
    def test_errors(self, eval_yaml, override, kind, message):
        with pytest.raises(kind, match=message):
            sources(eval_yaml, override)

    @pytest.mark.parametrize("name", ["video_llama_eval_withaudio", "video_llama_eval_only_vl"])
    def test_the_shipped_yamls_contain_placeholders(self, repository, name):
        path = repository / "eval_configs" / f"{name}.yaml"
        config = read_eval_config(path)
        assert (config.num_frames, config.image_size, config.model_type) == (8, 224, None)
        with pytest.raises(ConfigError, match=r"model\.ckpt \(path/pretrained_visual_branch_ckpt\).*placeholder"):
            list_sources(config, str(path))


class TestFolder:
    def test_two_files_of_a_branch(self, published, tmp_path):
        folder = shutil.copytree(published, tmp_path / "copy")
        shutil.copy(folder / FILES["video branch"], folder / "VL_LLaMA_2_7B_Pretrained.pth")
        with pytest.raises(CheckpointError, match=r"several files for model\.ckpt.*Choose one: --set model\.ckpt="):
            read_eval_config(folder)

    def test_no_decoder(self, tmp_path):
        with pytest.raises(
            CheckpointError, match=r"must contain one decoder.*this one contains none.*see eval_configs/"
        ):
            read_eval_config(tmp_path)


def test_absent_paths(published, tmp_path):
    path = write_yaml(tmp_path / "eval.yaml", published, ckpt="path/visual_branch", vit_ckpt_path="none.pth")
    config = read_eval_config(path)
    assert absent_paths(config) == {"ckpt": "path/visual_branch", "vit_ckpt_path": "none.pth"}
    without = read_eval_config(path, ['model.ckpt=""', 'model.vit_ckpt_path=""', 'model.llama_model=""'])
    assert {source.role for source in find_sources(without, "x")} == FILES.keys() - {"decoder", "video branch"}


def test_what_is_published(published, eval_yaml, tmp_path):
    assert is_published(published)
    assert is_published(eval_yaml)
    assert not is_published(make_folder(tmp_path / "model"))
    assert not is_published(tmp_path / "missing")


@pytest.mark.parametrize(
    ("role", "name", "is_taken", "is_leftover"),
    [
        ("ViT", "visual_encoder.blocks.38.mlp.fc1.weight", True, False),
        ("ViT", "visual_encoder.blocks.39.mlp.fc1.weight", False, True),
        ("BLIP-2", "Qformer.cls.predictions.bias", False, True),
        ("BLIP-2", "opt_proj.weight", False, True),
        ("BLIP-2", "extra", False, False),
        ("projection", "llama_proj.weight", True, False),
        ("projection", "Qformer.bert.embeddings.LayerNorm.weight", False, True),
        ("decoder", "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq", False, True),
    ],
)
def test_roles(role, name, is_taken, is_leftover):
    assert (ROLES[role].is_taken(name), ROLES[role].is_leftover(name)) == (is_taken, is_leftover)
    assert ROLES[role].name(name.removeprefix(ROLES[role].prefix)) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("visual_encoder.cls_token", "model.vit_ckpt_path"),
        ("ln_vision.weight", "model.q_former_model"),
        ("video_query_tokens", "model.ckpt "),
        ("audio_query_tokens", "model.ckpt_2"),
        ("llama_model.lm_head.weight", "model.llama_model"),
    ],
)
def test_remedies_name_the_key_to_set(name, key):
    ours = to_ours(name)
    assert ours is not None
    assert key in remedy_for(ours)
