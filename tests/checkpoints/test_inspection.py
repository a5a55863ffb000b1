"""Inspect published files and lists of the reference's names."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.factories.published_weights import BRANCHES, OPTIONS, golden_weights, with_prefix, write_published
from video_llama.checkpoints.inspection import inspect_file, inspect_names, inspect_sources
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.errors import DataError
from video_llama.files import sha256

PARTS = {
    "ViT": (42, {"eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"}),  # its last norm is in the file of BLIP-2
    "frame Q-Former": (87, {"blip2_pretrained_flant5xxl.pth"}),
    "video Q-Former": (56, {"VL_LLaMA_2_7B_Finetuned.pth"}),
    "video projection": (2, {"VL_LLaMA_2_7B_Finetuned.pth"}),
    "audio Q-Former": (56, {"AL_LLaMA_2_7B_Finetuned.pth"}),
    "audio projection": (2, {"AL_LLaMA_2_7B_Finetuned.pth"}),
    "ImageBind audio": (51, {"imagebind_huge.pth", "AL_LLaMA_2_7B_Finetuned.pth"}),  # the scale is a buffer
    "decoder": (21, {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}),
}


@pytest.fixture
def published(tmp_path) -> Path:
    return write_published(tmp_path / "published")


def rows(report) -> dict:
    return {part.part: part for part in report.parts}


class TestSources:
    def test_a_row_per_part(self, published):
        report = inspect_sources(published, OPTIONS)
        assert report.problem is None
        assert {name: (part.tensors, set(part.files)) for name, part in rows(report).items()} == PARTS
        branch = rows(report)["video projection"]
        assert branch.files == {"VL_LLaMA_2_7B_Finetuned.pth": sha256(published / "VL_LLaMA_2_7B_Finetuned.pth")}
        assert (branch.parameters, branch.bytes, branch.dtypes) == (24 * 40 + 24, 4 * (24 * 40 + 24), ["F32"])
        assert report.leftovers["imagebind_huge.pth"]["audio_encoder.thermal"] == 23
        assert report.leftovers["imagebind_huge.pth"]["replaced by a later file"] == 1

    def test_errors_are_in_their_rows_and_in_the_problem(self, published):
        path = published / "VL_LLaMA_2_7B_Finetuned.pth"
        content = torch.load(path, weights_only=True)
        own = content["model"]
        own["llama_proj.bias"] = own["llama_proj.bias"][:-1]
        own["llama_proj.weight"][:] = 0
        own["video_query_tokens"][0, 0, 0] = float("nan")
        own["extra"] = torch.ones(2)
        del own["video_frame_position_embedding.weight"]
        own["video_frame_position_embedding.weight"] = torch.ones(10, 40)
        del own["video_Qformer.bert.encoder.layer.1.attention.self.query.bias"]
        torch.save(content, path)
        report = inspect_sources(published, OPTIONS)
        projection, qformer = rows(report)["video projection"], rows(report)["video Q-Former"]
        assert projection.mismatched == ["model.video_qformer.language_projection.bias"]
        assert projection.zero == ["model.video_qformer.language_projection.weight"]
        assert qformer.not_finite == ["model.video_qformer.query_tokens"]
        assert qformer.missing == ["model.video_qformer.qformer.encoder.layer.1.attention.attention.query.bias"]
        assert rows(report)["unknown (video branch)"].unexpected == ["extra"]
        for expected in ("extra", "llama_proj.bias is [23] and must be [24]", "layer.1.attention.self.query.bias"):
            assert expected in report.problem

    def test_values_that_are_not_finite_are_a_problem(self, published):
        path = published / "AL_LLaMA_2_7B_Finetuned.pth"
        content = torch.load(path, weights_only=True)
        content["model"]["audio_llama_proj.bias"][0] = float("inf")
        torch.save(content, path)
        assert (
            "tensors with NaN or infinity (1): model.audio_qformer.language_projection.bias"
            in inspect_sources(published, OPTIONS).problem
        )

    def test_paths_that_do_not_exist(self, published, tmp_path):
        yaml = tmp_path / "mine.yaml"
        branch = published / "VL_LLaMA_2_7B_Finetuned.pth"  # ViT, BLIP-2 and ImageBind are found next to it
        yaml.write_text(f"model:\n  llama_model: ckpt/none\n  ckpt: {branch}\n  ckpt_2: path/audio_branch_ckpt\n")
        report = inspect_sources(yaml, OPTIONS)
        assert {name for name, part in rows(report).items() if part.files} == {
            *("ViT", "frame Q-Former", "video Q-Former", "video projection", "ImageBind audio")
        }
        assert {name for name, part in rows(report).items() if not part.files} == {
            *("audio Q-Former", "audio projection", "decoder")
        }
        assert (rows(report)["video Q-Former"].tensors, rows(report)["decoder"].tensors) == (56, 0)
        assert "model.llama_model (ckpt/none), model.ckpt_2 (path/audio_branch_ckpt) do not exist" in report.problem

    @pytest.mark.parametrize(
        ("name", "parts"),
        [("withaudio", set(PARTS)), ("only_vl", {part for part in PARTS if "audio" not in part})],
    )
    def test_the_shipped_yamls_have_a_row_for_every_part(self, repository, name, parts):
        report = inspect_sources(repository / f"eval_configs/video_llama_eval_{name}.yaml")
        assert {part.part for part in report.parts if not part.files} == parts
        assert "model.ckpt (path/pretrained_visual_branch_ckpt)" in report.problem
        assert "Correct the YAML, or override the path: --set model.llama_model=/data/..." in report.problem


class TestFile:
    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("VL_LLaMA_2_7B_Finetuned.pth", {"video Q-Former": 56, "video projection": 2}),
            ("eva_vit_g.pth", {"ViT": 40}),
            ("blip2_pretrained_flant5xxl.pth", {"frame Q-Former": 87, "ViT": 2}),
            ("imagebind_huge.pth", {"ImageBind audio": 51, "ImageBind vision": 32}),
            ("llama-2-7b-chat-hf/model-00001-of-00002.safetensors", {"decoder": 10}),
        ],
    )
    def test_contents_of_a_published_file(self, published, name, parts):
        report = inspect_file(published / name)
        assert {name: part.tensors for name, part in rows(report).items()} == parts
        assert not any(part.missing or part.mismatched for part in report.parts)

    def test_our_names_and_unexpected_ones(self, tmp_path):
        branch = convert_state_dict(with_prefix(golden_weights(), *BRANCHES["AL"]))[0]
        save_file(branch | {"extra": torch.zeros(3)}, tmp_path / "trained.safetensors")
        found = rows(inspect_file(tmp_path / "trained.safetensors"))
        assert (found["audio Q-Former"].tensors, found["extra"].zero) == (56, ["extra"])


class TestNames:
    def test_every_name_of_the_published_sizes_is_mapped(self, repository):
        reports = inspect_names(repository / "tests" / "golden" / "full_keys.json.gz")
        assert len(reports) == 2 + 4 * 2
        assert [report.left_over for report in reports] == [[]] * len(reports)
        sizes = {report.name: (report.num_keys, report.num_ours) for report in reports}
        assert sizes["model llama_7b"] == (2521, 1705)

    def test_names_and_shapes_that_do_not_fit(self, tmp_path, repository):
        packed = (repository / "tests" / "golden" / "full_keys.json.gz").read_bytes()
        model = json.loads(gzip.decompress(packed))["models"]["llama_7b"]
        keys = model["keys"]
        keys["extra.weight"] = [[2], "float32", "param"]
        keys["llama_proj.bias"] = [[5], "float32", "param"]
        del keys["visual_encoder.blocks.3.mlp.fc2.bias"]
        (tmp_path / "names.json").write_text(json.dumps({"models": {"odd": model}}))
        (report,) = inspect_names(tmp_path / "names.json")
        listed = "\n".join(report.left_over)
        assert len(report.left_over) == 3
        assert "extra.weight: unknown" in listed
        assert "language_projection.bias: (5,); the model has (4096,)" in listed
        assert "layers.3.mlp.fc2.bias: missing; the model has (1408,)" in listed

    @pytest.mark.parametrize("text", ["[1]", "{", '{"models": {"a": {"keys": {}}}}', '{"names": 3}'])
    def test_another_file_is_refused(self, tmp_path, text):
        (tmp_path / "names.json").write_text(text)
        with pytest.raises(DataError, match=r"full_keys\.json"):
            inspect_names(tmp_path / "names.json")
