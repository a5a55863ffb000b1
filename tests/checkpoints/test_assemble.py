"""The plan of a model from published files: every tensor is read, ignored for a known reason, or an error."""

from pathlib import Path

import pytest
import torch

from tests.checkpoints.conftest import assert_refused, planned
from tests.factories.published_weights import golden_weights, write_published, write_yaml
from video_llama.checkpoints.assemble import Assembly, read_planned, resize_positions
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.checkpoints.place_rows import PLACE_TABLES
from video_llama.checkpoints.published_files import VIT_FILE
from video_llama.errors import ConfigError


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder of published files that a test may change."""
    return write_published(tmp_path / "published")


@pytest.fixture
def published_yaml(tmp_path, published) -> Path:
    return write_yaml(tmp_path / "eval.yaml", published)


def values(assembly: Assembly) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in read_planned(assembly.tensors.values())}


def change(path: Path, edit, key: str | None = "model") -> None:
    """Load a .pth, change its tensors, write it again."""
    content = torch.load(path, weights_only=True)
    edit(content if key is None else content[key])
    torch.save(content, path)


class TestComplete:
    def test_values_from_a_folder_and_from_a_yaml_are_those_of_golden(self, published, published_yaml):
        expected, _, _ = convert_state_dict(golden_weights())
        for source in (published, published_yaml):
            assembly = planned(source)
            found, num_tokens = values(assembly), assembly.config.video_token_id
            vision = {name for name in expected if name.startswith("model.imagebind_vision.")}
            assert found.keys() == expected.keys() - vision
            for name, tensor in found.items():
                value = expected[name]
                if name.startswith(("model.language_model.", "lm_head.")):
                    value = value[:num_tokens].half() if name in PLACE_TABLES else value.half()
                if name in PLACE_TABLES:
                    mean = value.float().mean(dim=0).half()
                    assert torch.allclose(tensor[num_tokens], mean, rtol=0, atol=1e-3)
                    assert len(tensor) == num_tokens + 2
                    tensor = tensor[:num_tokens]
                assert tensor.dtype == value.dtype, name
                assert torch.equal(tensor, value), name

    def test_every_tensor_is_counted(self, published):
        reports = {report.source.role: report for report in planned(published).reports}
        assert list(reports) == ["ViT", "BLIP-2", "decoder", "ImageBind", "video branch", "audio branch"]
        assert reports["BLIP-2"].leftovers == {"Qformer": 2, "t5_proj": 1, "position_ids": 1}
        assert reports["ImageBind"].leftovers["audio_encoder.vision"] == 32
        assert reports["ImageBind"].replaced == ["audio_encoder.modality_postprocessors.audio.1.log_logit_scale"]
        assert reports["video branch"].num_taken == 58
        assert not any(report.unexpected for report in reports.values())

    def test_settings_come_from_the_files_and_the_yaml(self, published, published_yaml):
        assembly = planned(published_yaml)
        assert (assembly.settings.num_frames, assembly.settings.image_size) == (4, 28)
        assert (assembly.settings.num_mel_bins, assembly.settings.target_length) == (36, 50)
        config = assembly.config
        assert (config.prompt_template, config.dtype) == ("llama2", torch.bfloat16)
        assert (config.qformer_config.num_hidden_layers, config.qformer_config.cross_attention_frequency) == (4, 2)
        assert (config.video_qformer_config.num_hidden_layers, config.num_video_query_tokens) == (2, 5)
        assert (config.num_audio_query_tokens, config.max_audio_pos, config.max_frame_pos) == (3, 8, 10)
        assert config.text_config.bos_token_id == 1
        assert planned(published).settings.num_frames == 8

    def test_without_the_audio_branch_no_audio_tensor_is_read(self, published_yaml):
        assembly = planned(published_yaml, "model.equip_audio_branch=false")
        assert not assembly.config.with_audio_branch
        assert not any("audio" in name or "imagebind" in name for name in assembly.tensors)

    def test_imagebind_s_vision_trunk_for_training(self, published):
        assembly = planned(published, "model.config.with_imagebind_vision=true")
        assert sum(name.startswith("model.imagebind_vision.") for name in assembly.tensors) == 32

    def test_shards_of_bin_files(self, tmp_path, published):
        folder = write_published(tmp_path / "bin", is_bin=True)
        found, expected = values(planned(folder)), values(planned(published))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    def test_39_of_the_vit_s_40_blocks(self, tmp_path):
        folder = write_published(tmp_path / "deep", deep_vit=True)
        assembly = planned(folder)
        assert assembly.config.vision_config.num_hidden_layers == 39
        assert assembly.reports[0].leftovers == {
            "visual_encoder": 16
        }  # 13 tensors of a block, and three used only in training
        stored = torch.load(folder / VIT_FILE, weights_only=True)
        last = values(assembly)["model.frame_encoder.vision_model.encoder.layers.38.mlp.fc2.weight"]
        assert torch.equal(last, stored["blocks.38.mlp.fc2.weight"])

    def test_a_branch_file_may_contain_everything_but_the_decoder(self, published):
        """Its values replace those of other files, which may then be missing."""
        everything = {n: t for n, t in golden_weights().items() if not n.startswith(("llama_model.", "audio_"))}
        everything["ln_vision.bias"] = torch.full((48,), 7.0)
        torch.save({"model": everything}, published / "VL_LLaMA_2_7B_Finetuned.pth")
        found = values(planned(published))
        assert found["model.frame_encoder.vision_model.post_layernorm.bias"].eq(7).all()
        (published / VIT_FILE).unlink()
        (published / "blip2_pretrained_flant5xxl.pth").unlink()
        again = values(planned(published))
        assert all(torch.equal(found[name], tensor) for name, tensor in again.items())


class TestProjection:
    def test_only_the_projection_is_read_from_the_file_of_minigpt4(self, tmp_path, published, published_yaml):
        path = tmp_path / "pretrained_minigpt4_7b.pth"
        weights = {"llama_proj.weight": torch.ones(24, 40), "llama_proj.bias": torch.ones(24)}
        torch.save({"model": weights | {"Qformer.bert.embeddings.LayerNorm.weight": torch.zeros(40)}}, path)
        change(published / "VL_LLaMA_2_7B_Finetuned.pth", lambda own: own.pop("llama_proj.weight"))
        assembly = planned(published_yaml, f"model.llama_proj_model={path}")
        found = values(assembly)
        assert found["model.video_qformer.language_projection.weight"].eq(1).all()
        assert (
            not found["model.video_qformer.language_projection.bias"].eq(1).all()
        )  # replaced by that of the branch file
        assert found["model.frame_encoder.qformer.layernorm.weight"].any()

    def test_in_a_folder_of_legacy_files(self, tmp_path):
        folder = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
        own = torch.load(folder / "finetune-vicuna7b-v2.pth", weights_only=True)["model"]
        projection = {name: own.pop(name) for name in ("llama_proj.weight", "llama_proj.bias")}
        torch.save({"model": own}, folder / "finetune-vicuna7b-v2.pth")
        torch.save({"model": projection}, folder / "pretrained_minigpt4_7b.pth")
        bias = values(planned(folder))["model.video_qformer.language_projection.bias"]
        assert torch.equal(bias, projection["llama_proj.bias"])


class TestModelType:
    def test_legacy_files_with_vicuna_v0(self, tmp_path):
        folder = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
        assembly = planned(folder)
        assert (assembly.config.prompt_template, assembly.settings.pad_token) == ("default", "[PAD]")
        rows = assembly.expected["model.language_model.embed_tokens.weight"][0]
        assert (assembly.config.video_token_id, assembly.config.text_config.pad_token_id) == (rows - 2, rows - 3)
        assert assembly.config.text_config.vocab_size == rows

    def test_contradictions(self, published_yaml):
        option = "model.model_type=pretrain_vicuna"
        assert_refused(published_yaml, r"model_type is vicuna, but .* is llama_v2: its name", model_type="vicuna")
        assert_refused(published_yaml, r"model_type is vicuna, but .* is llama_v2: its name", option)
        message = r"--model_type is llama_v2, but model\.model_type in .* is vicuna\. Correct one of them"
        assert_refused(published_yaml, message, option, model_type="llama_v2", kind=ConfigError)


class TestStrict:
    """Every error names the file or the tensors, and the remedy."""

    def test_missing_files(self, published):
        (published / VIT_FILE).rename(published / "away.pth")
        assert_refused(
            published, r"The files do not contain visual_encoder\.patch_embed\.proj\.weight.*put eva_vit_g\.pth next to"
        )

    def test_missing_tensors(self, published, published_yaml):
        change(published / "VL_LLaMA_2_7B_Finetuned.pth", lambda own: own.pop("llama_proj.bias"))
        change(published / VIT_FILE, lambda own: own.pop("blocks.1.mlp.fc1.bias"), key=None)
        message = assert_refused(
            published_yaml, r"missing tensors \(1\): llama_proj\.bias; set model\.ckpt to the file of the video branch"
        )
        assert (
            "visual_encoder.blocks.1.mlp.fc1.bias; put eva_vit_g.pth next to the other files, or set model.vit_ck"
            in message
        )

    def test_half_a_bias(self, published):
        change(published / VIT_FILE, lambda own: own.pop("blocks.1.attn.q_bias"), key=None)
        message = assert_refused(published, r"blocks\.1\.attn\.q_bias and visual_encoder\.blocks\.1\.attn\.v_bias")
        assert "contains unexpected tensors (1): visual_encoder.blocks.1.attn.v_bias" in message

    def test_a_tensor_of_the_wrong_shape(self, published):
        def shorten(own):
            own["llama_proj.bias"] = own["llama_proj.bias"][:-1]

        change(published / "VL_LLaMA_2_7B_Finetuned.pth", shorten)
        assert_refused(published, r"wrong shapes \(1\): llama_proj\.bias is \[23\] and must be \[24\] \(.*VL_LLaMA")

    def test_an_unexpected_tensor(self, published):
        change(published / "AL_LLaMA_2_7B_Finetuned.pth", lambda own: own.update(extra=torch.ones(2)))
        assert_refused(published, r"AL_LLaMA_2_7B_Finetuned\.pth contains unexpected tensors \(1\): extra")

    def test_the_file_of_the_other_branch(self, published, published_yaml):
        assert_refused(
            published_yaml,
            r"do not contain video_Qformer\..*set model\.ckpt to the file of the video branch",
            f"model.ckpt={published / 'AL_LLaMA_2_7B_Finetuned.pth'}",
        )

    def test_a_branch_of_another_size(self, published):
        def widen(own):
            own["llama_proj.weight"] = torch.ones(32, 40)

        change(published / "VL_LLaMA_2_7B_Finetuned.pth", widen)
        assert_refused(published, r"llama_proj\.weight is \[32, 40\] and must be \[24, 40\]")

    def test_dimensions_of_the_yaml_that_differ(self, published_yaml):
        message = r"model\.max_frame_pos is 32, but the weights have 10\. Correct or remove it"
        assert_refused(published_yaml, message, "model.max_frame_pos=32")

    def test_a_missing_audio_branch(self, published_yaml):
        assert_refused(
            published_yaml,
            "do not contain audio_.*set model.ckpt_2 to the file of the audio branch, or model.equip_audio_branch to",
            'model.ckpt_2=""',
        )


class TestPositions:
    def test_a_larger_image_resizes_the_table(self, published_yaml):
        assembly = planned(published_yaml, "model.image_size=42")
        name = "model.frame_encoder.vision_model.embeddings.position_embedding"
        assert assembly.expected[name] == (1, 1 + 6 * 6, 48)
        table, stored = values(assembly)[name], golden_weights()["visual_encoder.pos_embed"]
        assert torch.equal(table[:, 0], stored[:, 0])
        assert assembly.settings.image_size == 42

    def test_resizing_keeps_rows_and_a_table_of_the_same_size(self):
        columns = torch.tensor([0.0, 1.0, 3.0, 4.0]).repeat(4)  # the same in every row, and symmetric
        table = torch.cat([torch.zeros(1), columns]).reshape(1, 17, 1)
        rows = resize_positions(table, 37)[0, 1:, 0].reshape(6, 6)
        assert torch.allclose(rows, rows[:1].expand(6, 6))
        assert torch.allclose(rows + rows.flip(1), torch.tensor(4.0))
        assert rows[0].diff().gt(0).all()
        table = torch.randn(1, 17, 3, dtype=torch.float16)
        assert torch.equal(resize_positions(table, 17), table)
