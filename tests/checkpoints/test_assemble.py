import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from tests.factories.published_weights import (
    OPTIONS,
    golden_weights,
    trainer_checkpoint,
    with_prefix,
    write_decoder,
    write_published,
    write_yaml,
)
from video_llama.checkpoints.assemble import Assembly, read_pieces, resize_positions
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.checkpoints.loading import load_yaml_model, plan
from video_llama.checkpoints.published_files import VIT_FILE, list_sources, read_eval_config
from video_llama.errors import CheckpointError, ConfigError
from video_llama.models.modeling_llama import is_packed
from video_llama.models.placement import LoadOptions


@pytest.fixture
def published(tmp_path) -> Path:
    return write_published(tmp_path / "published")


@pytest.fixture
def published_yaml(tmp_path, published) -> Path:
    return write_yaml(tmp_path / "eval.yaml", published)


def planned(source: Path, *options: str, model_type=None) -> Assembly:
    return plan(read_eval_config(source, [*OPTIONS, *options]), str(source), model_type)


def refuses(source: Path, message: str, *options: str, kind=CheckpointError, model_type=None) -> str:
    with pytest.raises(kind, match=message) as caught:
        planned(source, *options, model_type=model_type)
    return str(caught.value)


def values(assembly: Assembly) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in read_pieces(assembly.pieces.values())}


def change(path: Path, edit, key: str | None = "model") -> None:
    """Load a .pth, change its tensors, write it again."""
    content = torch.load(path, weights_only=True)
    edit(content if key is None else content[key])
    torch.save(content, path)


class TestWhole:
    def test_every_value_is_golden_s_from_the_folder_and_from_the_yaml(self, published, published_yaml):
        expected, _, _ = convert_state_dict(golden_weights())
        for source in (published, published_yaml):
            found = values(planned(source))
            vision = {name for name in expected if name.startswith("model.imagebind_vision.")}
            assert found.keys() == expected.keys() - vision
            for name, tensor in found.items():
                wanted = expected[name]
                if name.startswith(("model.language_model.", "lm_head.")):
                    wanted = wanted[: tensor.shape[0]].half()
                assert tensor.dtype == wanted.dtype, name
                assert torch.equal(tensor, wanted), name

    def test_all_is_counted(self, published):
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

    def test_without_sound_nothing_of_it_is_taken(self, published_yaml):
        assembly = planned(published_yaml, "model.equip_audio_branch=false")
        assert not assembly.config.with_audio_branch
        assert not any("audio" in name or "imagebind" in name for name in assembly.pieces)

    def test_imagebind_s_vision_trunk_for_training(self, published):
        assembly = planned(published, "model.config.with_imagebind_vision=true")
        assert sum(name.startswith("model.imagebind_vision.") for name in assembly.pieces) == 32

    def test_shards_of_bin_files(self, tmp_path, published):
        folder = write_published(tmp_path / "bin", is_bin=True)
        found, wanted = values(planned(folder)), values(planned(published))
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())

    def test_39_of_the_vit_s_40_blocks(self, tmp_path):
        folder = write_published(tmp_path / "deep", deep_vit=True)
        assembly = planned(folder)
        assert assembly.config.vision_config.num_hidden_layers == 39
        assert assembly.reports[0].leftovers == {"visual_encoder": 16}  # a block's 13 tensors, and three of training
        stored = torch.load(folder / VIT_FILE, weights_only=True)
        last = values(assembly)["model.frame_encoder.vision_model.encoder.layers.38.mlp.fc2.weight"]
        assert torch.equal(last, stored["blocks.38.mlp.fc2.weight"])

    def test_the_branch_file_may_hold_everything_but_the_decoder(self, published):
        """As a whole model's checkpoint: nothing lies beside it, and what it says wins."""
        everything = {n: t for n, t in golden_weights().items() if not n.startswith(("llama_model.", "audio_"))}
        everything["ln_vision.bias"] = torch.full((48,), 7.0)
        torch.save({"model": everything}, published / "VL_LLaMA_2_7B_Finetuned.pth")
        found = values(planned(published))
        assert found["model.frame_encoder.vision_model.post_layernorm.bias"].eq(7).all()
        (published / VIT_FILE).unlink()
        (published / "blip2_pretrained_flant5xxl.pth").unlink()
        again = values(planned(published))
        assert all(torch.equal(found[name], tensor) for name, tensor in again.items())


class TestYaml:
    def test_the_projection_alone_is_taken_of_minigpt4_s_file(self, tmp_path, published, published_yaml):
        path = tmp_path / "pretrained_minigpt4_7b.pth"
        weights = {"llama_proj.weight": torch.ones(24, 40), "llama_proj.bias": torch.ones(24)}
        torch.save({"model": weights | {"Qformer.bert.embeddings.LayerNorm.weight": torch.zeros(40)}}, path)
        change(published / "VL_LLaMA_2_7B_Finetuned.pth", lambda own: own.pop("llama_proj.weight"))
        assembly = planned(published_yaml, f"model.llama_proj_model={path}")
        found = values(assembly)
        assert found["model.video_qformer.language_projection.weight"].eq(1).all()
        assert not found["model.video_qformer.language_projection.bias"].eq(1).all()  # the branch is read later
        assert found["model.frame_encoder.qformer.layernorm.weight"].any()

    def test_imagebind_as_a_file_and_the_reference_s_address_of_blip2(self, published, published_yaml):
        address = "https://storage.googleapis.com/x/blip2_pretrained_flant5xxl.pth"
        imagebind = f"model.imagebind_ckpt_path={published / 'imagebind_huge.pth'}"
        config = read_eval_config(published_yaml, [imagebind, f"model.q_former_model={address}"])
        assert {source.role: source.path.name for source in list_sources(config, "x")}["BLIP-2"] == (
            "blip2_pretrained_flant5xxl.pth"
        )
        assert planned(published_yaml, imagebind).missing == []

    @pytest.mark.parametrize("name", ["video_llama_eval_withaudio", "video_llama_eval_only_vl"])
    def test_what_is_shipped_is_read_and_names_its_placeholders(self, repository, name):
        path = repository / "eval_configs" / f"{name}.yaml"
        config = read_eval_config(path)
        assert (config.num_frames, config.image_size, config.model_type) == (8, 224, None)
        with pytest.raises(ConfigError, match=r"model\.ckpt \(path/pretrained_visual_branch_ckpt\).*placeholder"):
            plan(config, str(path))

    def test_unknown_keys_wrong_numbers_and_missing_files(self, published_yaml):
        with pytest.raises(ConfigError, match=r"model\.lama_model=x: unknown key\. Did you mean llama_model\?"):
            planned(published_yaml, "model.lama_model=x")
        refuses(published_yaml, r"model\.max_frame_pos is 32, and the files are of a model with 10", *FRAMES_32)
        refuses(published_yaml, r"model\.ckpt_2 is none\.pth, which does not exist", "model.ckpt_2=none.pth")
        refuses(published_yaml, r"imagebind_huge\.pth does not exist", "model.imagebind_ckpt_path=/tmp")
        refuses(published_yaml, r"model\.llama_model is empty", 'model.llama_model=""', kind=ConfigError)

    def test_heads_have_to_be_said_of_widths_that_nobody_published(self, published):
        with pytest.raises(CheckpointError, match=r"ViT is 48 wide.*Set model\.config\.vision_config\.num_attention_h"):
            plan(read_eval_config(published), str(published))

    def test_low_resource_packs_the_decoder(self, published_yaml):
        assert is_packed(load_yaml_model(published_yaml, overrides=["model.low_resource=true"]).model)
        assert not is_packed(load_yaml_model(published_yaml).model)


FRAMES_32 = ("model.max_frame_pos=32",)


class TestStrict:
    """Each fault names the file or the tensors, and what helps."""

    def test_missing_files(self, published):
        (published / VIT_FILE).rename(published / "away.pth")
        refuses(published, r"visual_encoder\.patch_embed\.proj\.weight is in none of the files")

    def test_missing_tensors(self, published, published_yaml):
        change(published / "VL_LLaMA_2_7B_Finetuned.pth", lambda own: own.pop("llama_proj.bias"))
        change(published / VIT_FILE, lambda own: own.pop("blocks.1.mlp.fc1.bias"), key=None)
        message = refuses(
            published_yaml, r"1 tensors are in none of the files, such as llama_proj\.bias \(set model\.ckpt"
        )
        assert "visual_encoder.blocks.1.mlp.fc1.bias (put eva_vit_g.pth beside, or set model.vit_ckpt_path)" in message

    def test_half_a_bias(self, published):
        change(published / VIT_FILE, lambda own: own.pop("blocks.1.attn.q_bias"), key=None)
        message = refuses(published, r"blocks\.1\.attn\.q_bias and visual_encoder\.blocks\.1\.attn\.v_bias")
        assert "holds 1 tensors that are no part of this model: visual_encoder.blocks.1.attn.v_bias" in message

    def test_a_tensor_of_the_wrong_shape(self, published):
        def shorten(own):
            own["llama_proj.bias"] = own["llama_proj.bias"][:-1]

        change(published / "VL_LLaMA_2_7B_Finetuned.pth", shorten)
        refuses(
            published, r"1 tensors are of the wrong shape: llama_proj\.bias is \[23\] and must be \[24\] \(.*VL_LLaMA"
        )

    def test_a_stranger_in_a_file(self, published):
        change(published / "AL_LLaMA_2_7B_Finetuned.pth", lambda own: own.update(stranger=torch.ones(2)))
        refuses(published, r"AL_LLaMA_2_7B_Finetuned\.pth holds 1 tensors that are no part of this model: stranger")

    def test_the_wrong_file_in_the_place_of_a_branch(self, published, published_yaml):
        refuses(
            published_yaml,
            r"video_Qformer\..* is in none of the files.*set model\.ckpt to the video branch's file",
            f"model.ckpt={published / 'AL_LLaMA_2_7B_Finetuned.pth'}",
        )

    def test_a_branch_of_another_size(self, published):
        def widen(own):
            own["llama_proj.weight"] = torch.ones(32, 40)

        change(published / "VL_LLaMA_2_7B_Finetuned.pth", widen)
        refuses(published, r"llama_proj\.weight is \[32, 40\] and must be \[24, 40\]")

    def test_sound_is_wanted_and_not_there(self, published_yaml):
        refuses(published_yaml, "audio_query_tokens is in none of the files|audio_Qformer", 'model.ckpt_2=""')

    def test_a_folder_with_two_branches_of_a_kind(self, published):
        second = published / "VL_LLaMA_2_7B_Pretrained.pth"
        second.write_bytes((published / "VL_LLaMA_2_7B_Finetuned.pth").read_bytes())
        with pytest.raises(CheckpointError, match=r"Say which: --set model\.ckpt="):
            planned(published)

    def test_a_folder_without_a_decoder(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"one folder with a decoder.*it has none"):
            planned(tmp_path)


class TestDecoder:
    def test_legacy_files_around_vicuna_v0(self, tmp_path):
        folder = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
        assembly = planned(folder)
        assert (assembly.config.prompt_template, assembly.settings.pad_token) == ("default", "[PAD]")
        rows = assembly.expected["model.language_model.embed_tokens.weight"][0]
        assert (assembly.config.video_token_id, assembly.config.text_config.pad_token_id) == (rows, rows - 1)

    def test_minigpt4_s_file_beside_them_gives_the_projection(self, tmp_path):
        folder = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
        own = torch.load(folder / "finetune-vicuna7b-v2.pth", weights_only=True)["model"]
        projection = {name: own.pop(name) for name in ("llama_proj.weight", "llama_proj.bias")}
        torch.save({"model": own}, folder / "finetune-vicuna7b-v2.pth")
        torch.save({"model": projection}, folder / "pretrained_minigpt4_7b.pth")
        bias = values(planned(folder))["model.video_qformer.language_projection.bias"]
        assert torch.equal(bias, projection["llama_proj.bias"])

    def test_a_contradiction_is_an_error(self, tmp_path, published, published_yaml):
        refuses(published, r"model_type is vicuna, and .* is llama_v2: it is called llama-2-7b", model_type="vicuna")
        legacy = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
        refuses(legacy, r"model_type is llama_v2, and .* is vicuna: its vocabulary has Vicuna", model_type="llama_v2")
        option = "model.model_type=pretrain_vicuna"
        refuses(published_yaml, r"model_type is vicuna, and .* is llama_v2", option)
        refuses(published_yaml, r"--model_type is llama_v2 and", option, model_type="llama_v2", kind=ConfigError)

    def test_a_decoder_that_contradicts_itself(self, tmp_path):
        folder = write_published(tmp_path / "odd", pad_row=True)  # called LLaMA-2, with Vicuna's [PAD]
        refuses(folder, "contradicts itself: it is called llama-2-7b-chat-hf, so it is llama_v2, and its vocabulary")

    def test_a_nameless_decoder_needs_the_user_s_word(self, tmp_path):
        folder = write_published(tmp_path / "nameless", kind="decoder")
        refuses(folder, r"does not tell whether it is a LLaMA-2-Chat or a Vicuna.*--model_type llama_v2 or")
        assert planned(folder, model_type="llama_v2").config.prompt_template == "llama2"

    def test_a_chat_template_tells_too(self, tmp_path):
        folder = write_published(tmp_path / "nameless", kind="decoder")
        (folder / "decoder" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<<SYS>>..."}))
        assert planned(folder).config.prompt_template == "llama2"

    def test_vicuna_without_its_pad_is_warned_of(self, tmp_path, caplog):
        folder = write_published(tmp_path / "v11", kind="vicuna-7b")
        with caplog.at_level(logging.WARNING, logger="video_llama"):
            planned(folder)
        assert "has no [PAD]: Vicuna v1.1 has none" in caplog.text

    def test_another_tokenizer_or_another_model(self, tmp_path, published):
        decoder = published / "llama-2-7b-chat-hf"
        config = json.loads((decoder / "config.json").read_text())
        (decoder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
        refuses(published, "holds a 'mistral' model. The decoder has to be a LLaMA")
        weights = golden_weights()
        for name in ("llama_model.model.embed_tokens.weight", "llama_model.lm_head.weight"):
            weights[name] = weights[name][:100]
        write_decoder(tmp_path / "cut" / "llama-2", weights, kind="llama-2")
        refuses(
            published, r"has 100 rows and tokenizer\.model \d+ pieces", f"model.llama_model={tmp_path / 'cut/llama-2'}"
        )


class TestPositions:
    def test_a_larger_image_resizes_the_table(self, published_yaml):
        assembly = planned(published_yaml, "model.image_size=42")
        name = "model.frame_encoder.vision_model.embeddings.position_embedding"
        assert assembly.expected[name] == (1, 1 + 6 * 6, 48)
        table, stored = values(assembly)[name], golden_weights()["visual_encoder.pos_embed"]
        assert torch.equal(table[:, 0], stored[:, 0])
        assert assembly.settings.image_size == 42

    def test_rows_stay_rows_and_the_table_s_own_size_changes_nothing(self):
        columns = torch.tensor([0.0, 1.0, 3.0, 4.0]).repeat(4)  # the same in every row, and symmetric
        table = torch.cat([torch.zeros(1), columns]).reshape(1, 17, 1)
        rows = resize_positions(table, 37)[0, 1:, 0].reshape(6, 6)
        assert torch.allclose(rows, rows[:1].expand(6, 6))
        assert torch.allclose(rows + rows.flip(1), torch.tensor(4.0))
        assert rows[0].diff().gt(0).all()
        drawn = torch.randn(1, 17, 3, dtype=torch.float16)
        assert torch.equal(resize_positions(drawn, 17), drawn)


class TestLoad:
    def test_the_model_answers_as_golden_s(self, published_yaml):
        """Values were compared above; here the whole way to a model that computes, in float32."""
        folder = load_yaml_model(published_yaml, LoadOptions(dtype=torch.float32))
        expected, _, _ = convert_state_dict(golden_weights())
        state = folder.model.state_dict()
        name = "model.video_qformer.qformer.encoder.layer.1.crossattention.attention.key.weight"
        assert torch.equal(state[name], expected[name])
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert not folder.model.training
        with torch.no_grad():
            tokens = folder.model.model.get_video_features(torch.randn(1, 3, 3, 28, 28))
        assert tokens.shape == (1, 5, 24)
        assert tokens.isfinite().all()
        assert folder.tokenizer.video_token_id == folder.model.config.video_token_id
        assert folder.manifest.sources == {"read from": str(published_yaml)}

    def test_half_precision_is_bfloat16_as_in_the_reference(self, published_yaml):
        assert load_yaml_model(published_yaml).model.dtype == torch.bfloat16

    def test_an_assembled_folder_may_stand_in_the_yaml(self, tmp_path):
        from tests.factories.models import make_folder

        path = tmp_path / "eval.yaml"
        path.write_text(yaml.safe_dump({"model": {"pretrained": str(make_folder(tmp_path / "tiny"))}}))
        assert load_yaml_model(path).manifest.name == "tiny"


def test_what_the_reference_s_trainer_saves_is_read_with_its_own_state(tmp_path):
    from video_llama.checkpoints.files import scan

    torch.save(trainer_checkpoint(golden_weights(), "AL"), tmp_path / "checkpoint_3.pth")
    names = scan(tmp_path / "checkpoint_3.pth").keys()
    assert with_prefix(dict.fromkeys(names), "audio_Qformer.", "audio_llama_proj.")
    assert not with_prefix(dict.fromkeys(names), "optimizer", "state", "epoch")
