"""``video-llama convert``: to a model folder and back, and arguments that are refused."""

from tests.cli.conftest import assert_one_line, invoke


def test_to_a_model_folder_and_back(tmp_path, eval_yaml):
    result = invoke("convert", eval_yaml, tmp_path / "model", "--model_type", "llama_v2", "--shard-gb", "0.001")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'model'}\n"), result.output
    table = invoke("inspect", tmp_path / "model").stdout
    assert "ViT " in table
    assert "model-00001-of-00002.safetensors" in table
    result = invoke("convert", tmp_path / "model", tmp_path / "back", "--to-reference")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'back'}\n"), result.output
    assert (tmp_path / "back" / "VL_LLaMA_2_7B_Finetuned.pth").is_file()


def test_arguments_that_are_refused(tmp_path, eval_yaml):
    assert_one_line(invoke("convert", eval_yaml), "Expected SOURCE and OUT (or --from hub:OWNER/NAME and OUT)")
    assert_one_line(
        invoke("convert", eval_yaml, tmp_path / "x", "--model-type", "gpt"),
        "Choose vicuna or llama_v2 or chat",
    )
    assert_one_line(
        invoke("convert", eval_yaml, tmp_path / "x", "--to-reference", "--dtype", "float16"),
        "--to-reference takes only SOURCE and OUT.",
    )
    assert_one_line(
        invoke("convert", eval_yaml, tmp_path / "x", "--model-type", "vicuna"), "CheckpointError: model_type is"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("!")
    assert_one_line(invoke("convert", eval_yaml, tmp_path / "mine"), "exists and is not a model folder")
    assert_one_line(invoke("convert", "--from", "hub:nobody/nothing", tmp_path / "x"), "cannot be downloaded")
