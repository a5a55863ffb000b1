"""Read and write model folders; errors name the file and its keys or tensors."""

import json
import shutil
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.factories.models import SETTINGS, make_folder, tiny_config
from video_llama.chat import Manifest, ProcessorSettings, read_model_folder, write_model_folder
from video_llama.errors import CheckpointError
from video_llama.models.placement import LoadOptions


@pytest.fixture
def folder(model_path, tmp_path):
    """A copy of a model folder that a test may change."""
    return shutil.copytree(model_path, tmp_path / "copy")


def change_json(path, **changes):
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "REMOVE"}))


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_round_trip(model_path, tmp_path):
    read = read_model_folder(model_path)
    again = tmp_path / "again"
    write_model_folder(
        again,
        read.model,
        tokenizer_path=model_path / "tokenizer.model",
        settings=read.settings,
        manifest=read.manifest,
    )
    second = read_model_folder(again)
    assert second.settings == read.settings == SETTINGS
    assert second.manifest == read.manifest
    assert not second.model.training
    for (name, one), (_, two) in zip(read.model.state_dict().items(), second.model.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


def test_shards(model_path, folder):
    whole = read_model_folder(model_path)
    (folder / "model.safetensors").unlink()
    whole.model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    sharded = read_model_folder(folder)
    assert all(map(torch.equal, whole.model.state_dict().values(), sharded.model.state_dict().values()))
    shard = min(folder.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {shard.name}"):
        read_model_folder(folder)


def test_tied_embeddings(tmp_path):
    text = {**tiny_config(300).text_config.to_dict(), "tie_word_embeddings": True, "vocab_size": 382}
    read = read_model_folder(make_folder(tmp_path / "tied", text_config=text))
    assert read.model.lm_head.weight is read.model.get_input_embeddings().weight


def test_float16_becomes_float32_on_a_cpu(model_path, tmp_path):
    read = read_model_folder(model_path, LoadOptions(dtype=torch.float16))
    write_model_folder(
        tmp_path / "half",
        read.model,
        tokenizer_path=model_path / "tokenizer.model",
        settings=read.settings,
        manifest=read.manifest,
    )
    assert read_model_folder(tmp_path / "half").model.dtype == torch.float32
    assert read_model_folder(tmp_path / "half", LoadOptions(dtype=torch.float16)).model.dtype == torch.float16


class TestWeights:
    def test_missing(self, folder):
        change_weights(folder, lambda tensors: tensors.pop("model.video_qformer.query_tokens"))
        with pytest.raises(CheckpointError, match=r"missing tensors \(1\): model\.video_qformer\.query_tokens"):
            read_model_folder(folder)

    def test_unexpected(self, folder):
        change_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(2)))
        with pytest.raises(CheckpointError, match=r"unexpected tensors \(1\): extra"):
            read_model_folder(folder)

    def test_wrong_shape(self, folder):
        change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(2, 3)}))
        with pytest.raises(CheckpointError, match=r"lm_head\.weight is \[2, 3\] and must be \[382, 32\]"):
            read_model_folder(folder)

    def test_many_names_are_counted(self, folder):
        change_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "imagebind" in name])
        with pytest.raises(CheckpointError, match=r"and [0-9]+ more"):
            read_model_folder(folder)

    def test_a_truncated_file(self, folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="is truncated or not a safetensors file"):
            read_model_folder(folder)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"contains none of model\.safetensors"):
            read_model_folder(folder)


class TestFiles:
    @pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
    def test_missing(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"has no {name}, so it is not a complete model folder"):
            read_model_folder(folder)

    def test_without_a_manifest(self, folder):
        """As written by save_pretrained."""
        (folder / "manifest.json").unlink()
        manifest = read_model_folder(folder).manifest
        assert (manifest.name, manifest.notice.split(":")[0]) == (folder.name, "no manifest")

    @pytest.mark.parametrize(("key", "value"), [("num_video_query_tokens", 7), ("prompt_template", "llama2")])
    def test_numbers_of_another_model(self, folder, key, value):
        file = folder / "processor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        with pytest.raises(CheckpointError, match=rf"{key} is {value!r}, but .* in config\.json"):
            read_model_folder(folder)

    def test_settings_of_an_earlier_folder(self, folder):
        """Without the numbers of the model and the name of the processor's class."""
        file = folder / "processor_config.json"
        known = {each.name for each in fields(ProcessorSettings)}
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k in known}))
        assert read_model_folder(folder).settings.image_size == 28

    @pytest.mark.parametrize("text", ["{", "[1]"])
    def test_invalid_json(self, folder, text):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"manifest\.json (is not valid JSON|contains a list)"):
            read_model_folder(folder)

    @pytest.mark.parametrize("value", ["", [""], ["a" * 101], [1], {"a": "b"}, ["a"] * 101, 3])
    def test_stop_strings_that_are_none(self, folder, value):
        (folder / "generation_config.json").write_text(json.dumps({"stop_strings": value}))
        with pytest.raises(
            CheckpointError, match=r"generation_config\.json: stop_strings is .*, not a list of strings"
        ):
            read_model_folder(folder)

    def test_stop_strings(self, folder):
        (folder / "generation_config.json").write_text(json.dumps({"stop_strings": ["###"]}))
        assert read_model_folder(folder).model.generation_config.stop_strings == ["###"]

    def test_no_folder(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"is not a folder\. Give a model folder, an evaluation YAML, or"):
            read_model_folder(tmp_path / "none")

    def test_unknown_and_missing_keys(self, folder):
        change_json(folder / "processor_config.json", num_framse=8, num_frames="REMOVE")
        with pytest.raises(CheckpointError, match="unknown key num_framse, missing key num_frames"):
            read_model_folder(folder)

    def test_another_model_type(self, folder):
        change_json(folder / "config.json", model_type="llama")
        with pytest.raises(CheckpointError, match="describes a model of type 'llama'"):
            read_model_folder(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 32}, "image_size is 32, but the model's vision_config.image_size is 28"),
            ({"target_length": 100}, r"\(num_mel_bins, target_length\) is \(16, 100\)"),
            ({"num_frames": 9}, "num_frames is 9, but the model has 8 positions"),
            ({"pad_token": "[PAD]"}, "the tokenizer's video_token_id is 381"),
        ],
    )
    def test_settings_that_do_not_fit(self, folder, changes, message):
        change_json(folder / "processor_config.json", **changes)
        with pytest.raises(CheckpointError, match=message):
            read_model_folder(folder)

    @pytest.mark.parametrize(
        ("name", "changes", "message"),
        [
            ("processor_config.json", {"num_frames": 0}, r"num_frames is 0\. It must be positive"),
            ("processor_config.json", {"num_frames": "4"}, r"num_frames: Input should be a valid integer"),
            ("processor_config.json", {"image_std": 3}, r"image_std: Input should be a valid array"),
            ("manifest.json", {"untrained_parts": "model."}, r"untrained_parts: Input should be a valid array"),
            ("manifest.json", {"sources": []}, r"sources: Input should be an object"),
        ],
    )
    def test_invalid_values_name_the_file(self, folder, name, changes, message):
        change_json(folder / name, **changes)
        with pytest.raises(CheckpointError, match=rf"{name}: {message}.*Correct the file"):
            read_model_folder(folder)

    def test_untrained_part_without_a_parameter(self, folder):
        change_json(folder / "manifest.json", untrained_parts=["model.video_qfromer."])
        with pytest.raises(CheckpointError, match=r"'model.video_qfromer.', which matches no parameter"):
            read_model_folder(folder)

    def test_unknown_template(self, folder):
        change_json(folder / "config.json", prompt_template="vicuna")
        with pytest.raises(CheckpointError, match=r"prompt_template is 'vicuna'. Set one of default, llama2"):
            read_model_folder(folder)


class TestWriting:
    def write(self, model_path, target, **changes):
        read = read_model_folder(model_path)
        given = dict(tokenizer_path=model_path / "tokenizer.model", settings=read.settings, manifest=read.manifest)
        write_model_folder(target, read.model, **{**given, **changes})

    def test_replaces_a_model_folder(self, model_path, folder):
        (folder / "left over").write_text("from before")
        self.write(model_path, folder, manifest=Manifest("second"))
        assert read_model_folder(folder).manifest.name == "second"
        assert not (folder / "left over").exists()
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def test_another_folder_is_not_replaced(self, model_path, tmp_path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "letter.txt").write_text("dear")
        with pytest.raises(CheckpointError, match="exists and is not a model folder"):
            self.write(model_path, tmp_path / "home")
        assert (tmp_path / "home" / "letter.txt").read_text() == "dear"

    def test_writing_is_atomic(self, model_path, tmp_path):
        target = tmp_path / "new"
        with pytest.raises(TypeError):
            self.write(model_path, target, manifest=Manifest("bad", {"not JSON": object()}))
        assert list(tmp_path.iterdir()) == []

    def test_parts_that_do_not_fit(self, model_path, tmp_path):
        with pytest.raises(CheckpointError, match="image_size is 224"):
            self.write(model_path, tmp_path / "new", settings=ProcessorSettings())
        assert not (tmp_path / "new").exists()


class TestHostileFolders:
    """A model folder is data from elsewhere: every fault is one short line, and no code is loaded."""

    @pytest.mark.parametrize(
        ("file", "changes", "message"),
        [
            ("config.json", {"attn_implementation": "kernels-community/flash-attn"}, "other names can load code"),
            ("config.json", {"text_config": {"num_attention_heads": 0}}, r"text_config\.num_attention_heads is 0"),
            ("config.json", {"max_audio_pos": "8"}, "max_audio_pos is '8', but it must be a whole number"),
            ("config.json", {"vision_post_norm_eps": float("nan")}, "vision_post_norm_eps is nan"),
            ("config.json", {"dtype": "evil"}, "config.json"),
            ("processor_config.json", {"image_std": [0, 0, 0]}, "image_std"),
            ("processor_config.json", {"image_mean": [float("nan")] * 3}, "image_mean is \\[nan, nan, nan\\]"),
            ("processor_config.json", {"audio_std": float("inf")}, "audio_std is inf"),
            ("processor_config.json", {"num_frames": "4"}, "num_frames"),
            ("processor_config.json", {"clip_seconds": 1e12}, "clip_seconds is 1000000000000.0"),
            ("generation_config.json", {"assistant_model": "evil/model"}, "unsupported key assistant_model"),
            ("generation_config.json", {"temperature": float("nan")}, "temperature is nan"),
            ("generation_config.json", {"num_beams": "x"}, "num_beams is 'x'"),
        ],
    )
    def test_values(self, folder, file, changes, message):
        change_json(folder / file, **changes)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_model_folder(folder)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 800

    @pytest.mark.parametrize("name", ["config.json", "processor_config.json", "manifest.json"])
    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, " " * 5_000_000])
    def test_deep_and_long_files(self, folder, name, text):
        (folder / name).write_text(text)
        with pytest.raises(CheckpointError, match="is not valid JSON") as caught:
            read_model_folder(folder)
        assert len(str(caught.value)) < 400

    def test_a_byte_order_mark_is_skipped(self, folder):
        path = folder / "config.json"
        path.write_text(path.read_text(), encoding="utf-8-sig")
        read_model_folder(folder)
