"""The commands around weights, as a user types them."""

import json

from typer.testing import CliRunner

from tests.factories.published import OPTIONS, golden_weights, write_decoder


def invoke(*arguments):
    from video_llama.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr


def test_convert_inspect_and_back(tmp_path, eval_yaml):
    result = invoke("convert", eval_yaml, tmp_path / "model", "--model_type", "llama_v2", "--shard-gb", "0.001")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'model'}\n"), result.output
    table = invoke("inspect", tmp_path / "model").stdout
    assert "ViT " in table
    assert "model-00001-of-00002.safetensors" in table
    result = invoke("convert", tmp_path / "model", tmp_path / "back", "--to-reference")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'back'}\n"), result.output
    assert (tmp_path / "back" / "VL_LLaMA_2_7B_Finetuned.pth").is_file()


def test_convert_s_arguments(tmp_path, eval_yaml):
    assert_one_line(invoke("convert", eval_yaml), "ValueError: 1 paths are given. Give SOURCE and TARGET, or --from")
    assert_one_line(invoke("convert", eval_yaml, tmp_path / "x", "--model-type", "gpt"), "Choose vicuna or llama_v2.")
    assert_one_line(
        invoke("convert", eval_yaml, tmp_path / "x", "--to-reference", "--dtype", "float16"),
        "--to-reference takes SOURCE and TARGET alone.",
    )
    assert_one_line(
        invoke("convert", eval_yaml, tmp_path / "x", "--model-type", "vicuna"), "CheckpointError: model_type is"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("!")
    assert_one_line(invoke("convert", eval_yaml, tmp_path / "mine"), "exists and is no model folder")
    assert_one_line(invoke("convert", "--from", "hub:nobody/nothing", tmp_path / "x"), "cannot be downloaded")


def test_inspect_a_yaml_with_a_fault(tmp_path, published, eval_yaml):
    result = invoke(
        "inspect", eval_yaml, "--json", "--options", f"model.ckpt_2={published / 'VL_LLaMA_2_7B_Finetuned.pth'}"
    )
    assert_one_line(result, "set model.ckpt_2 to the audio branch's file")
    result = invoke("inspect", eval_yaml, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["sources"]["video branch"] == str(published / "VL_LLaMA_2_7B_Finetuned.pth")
    assert "known and not needed: Qformer 2, position_ids 1, t5_proj 1" in invoke("inspect", eval_yaml).stdout


def test_inspect_one_file_and_one_that_is_none(tmp_path, published):
    result = invoke("inspect", published / "AL_LLaMA_2_7B_Finetuned.pth")
    assert "audio Q-Former" in result.stdout
    (tmp_path / "page.pth").write_text("<html>")
    assert_one_line(invoke("inspect", tmp_path / "page.pth"), "CheckpointError: ")
    assert_one_line(invoke("inspect"), "There is nothing to inspect.")
    assert invoke("inspect", published, "--options", OPTIONS[0]).exit_code == 0


def test_names(tmp_path, repository):
    result = invoke("inspect", "--names", repository / "tests" / "golden" / "full_keys.json.gz")
    assert result.exit_code == 0
    assert "model llama_13b: 2601 names, 1777 tensors of ours, 785 known and not needed, 0 left over" in result.stdout
    keys = {"head.weight": [[2, 3], "float32", "param"]}
    (tmp_path / "odd.json").write_text(json.dumps({"models": {"odd": {"llama_config": {}, "keys": keys}}}))
    result = invoke("inspect", "--names", tmp_path / "odd.json")
    assert result.exit_code == 1
    assert "  head.weight: unknown" in result.stdout


def test_apply_delta(tmp_path):
    weights = golden_weights()
    write_decoder(tmp_path / "llama", weights, kind="llama")
    write_decoder(tmp_path / "delta", weights, kind="delta", pad_row=True)
    result = invoke("apply-delta", tmp_path / "llama", tmp_path / "delta", tmp_path / "vicuna")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'vicuna'}\n"), result.output
    assert_one_line(invoke("apply-delta", tmp_path / "llama", tmp_path / "none", tmp_path / "x"), "does not exist")
