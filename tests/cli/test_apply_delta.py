"""``video-llama apply-delta``."""

from tests.cli.conftest import assert_one_line, invoke
from tests.factories.published_weights import golden_weights, write_decoder


def test_apply_delta(tmp_path):
    weights = golden_weights()
    write_decoder(tmp_path / "llama", weights, kind="llama")
    write_decoder(tmp_path / "delta", weights, kind="delta", pad_row=True)
    result = invoke("apply-delta", tmp_path / "llama", tmp_path / "delta", tmp_path / "vicuna")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'vicuna'}\n"), result.output
    assert_one_line(invoke("apply-delta", tmp_path / "llama", tmp_path / "none", tmp_path / "x"), "does not exist")
