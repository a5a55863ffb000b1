"""Rows of the media places: their values, folders of the earlier layout, and trained parts of either layout."""

import pytest
import torch

from tests.factories.models import SETTINGS, make_folder, tiny_config
from video_llama.checkpoints.export import export_to_reference
from video_llama.checkpoints.files import scan
from video_llama.checkpoints.folder import Manifest, read_model_folder, write_model_folder
from video_llama.checkpoints.place_rows import PLACE_TABLES, add_place_rows, fit_table, with_place_rows
from video_llama.errors import CheckpointError
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import load_trained

NUM_TOKENS = 380
"""Tokens of the test tokenizer."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A folder without rows of the places, as written by earlier versions."""
    path = tmp_path_factory.mktemp("place_rows") / "earlier"
    return make_folder(path, text_config={"vocab_size": NUM_TOKENS})


def test_the_rows_are_means():
    table = torch.randn(9000, 3).half()
    longer = with_place_rows(table)
    assert longer.dtype == table.dtype
    assert torch.equal(longer[:9000], table)
    means = torch.stack([table.float().mean(dim=0), table[:4500].float().mean(dim=0)])
    assert torch.allclose(longer[9000:].float(), means, atol=1e-3)
    assert not torch.equal(longer[9000], longer[9001])
    assert torch.equal(with_place_rows(table, 4)[:4], table[:4])
    assert len(with_place_rows(table, 4)) == 6


def test_the_logit_of_a_place_is_never_the_largest():
    head = with_place_rows(torch.randn(50, 8))
    logits = torch.randn(200, 8) @ head.T
    assert logits[:, 50:].amax(dim=1).lt(logits[:, :50].amax(dim=1)).all()


def test_a_table_fits_either_layout():
    table = torch.randn(6, 2)
    assert torch.equal(fit_table(fit_table(table, 8), 6), table)
    assert fit_table(table, 9) is table


def test_a_folder_of_the_earlier_layout_loads_and_is_written_again(earlier, tmp_path):
    folder = read_model_folder(earlier)
    assert folder.model.config.text_config.vocab_size == NUM_TOKENS == folder.tokenizer.vocab_size
    write_model_folder(
        tmp_path / "again",
        folder.model,
        tokenizer_path=earlier / "tokenizer.model",
        settings=SETTINGS,
        manifest=Manifest("again"),
    )
    assert scan(tmp_path / "again")["lm_head.weight"].shape == (NUM_TOKENS, 32)


@pytest.mark.parametrize("is_tied", [False, True])
def test_rows_can_be_added_to_it(tmp_path, is_tied):
    text = {"vocab_size": NUM_TOKENS, "tie_word_embeddings": is_tied}
    folder = read_model_folder(make_folder(tmp_path / "earlier", text_config=text, tie_word_embeddings=is_tied))
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        before = folder.model(input_ids=ids).logits
        add_place_rows(folder.model)
        add_place_rows(folder.model)  # no effect
        after = folder.model(input_ids=ids).logits
    assert after.shape[-1] == NUM_TOKENS + 2
    assert torch.allclose(after[..., :NUM_TOKENS], before, atol=1e-6)
    write_model_folder(
        tmp_path / "new",
        folder.model,
        tokenizer_path=tmp_path / "earlier" / "tokenizer.model",
        settings=SETTINGS,
        manifest=Manifest("new"),
    )
    again = read_model_folder(tmp_path / "new").model
    assert again.config.text_config.vocab_size == NUM_TOKENS + 2
    assert (again.lm_head.weight is again.get_input_embeddings().weight) is is_tied


def test_a_folder_with_one_row_too_many_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"vocab_size is 380, but the model's text_config\.vocab_size is 381"):
        make_folder(tmp_path / "wrong", text_config={"vocab_size": NUM_TOKENS + 1})


def test_an_exported_decoder_has_no_rows_of_places(tmp_path, earlier):
    new = make_folder(tmp_path / "new")
    for folder in (earlier, new):
        back = export_to_reference(folder, tmp_path / f"{folder.name} back")
        tensors = scan(next(path.parent for path in back.glob("*/config.json")))
        assert tensors["lm_head.weight"].shape == tensors["model.embed_tokens.weight"].shape == (NUM_TOKENS, 32)


def test_trained_decoders_of_either_layout(tmp_path):
    models = [VideoLlamaForConditionalGeneration(tiny_config(NUM_TOKENS, text_config={"vocab_size": NUM_TOKENS}))]
    models.append(VideoLlamaForConditionalGeneration(tiny_config(NUM_TOKENS)))
    for source, target in (models, models[::-1]):
        trained = {name: source.get_parameter(name).detach() + 1 for name in PLACE_TABLES}
        load_trained(target, trained, source="run")
        for name, tensor in trained.items():
            assert torch.equal(target.get_parameter(name)[:NUM_TOKENS], tensor[:NUM_TOKENS])
    wrong = {name: torch.zeros(NUM_TOKENS - 5, 32) for name in PLACE_TABLES}
    with pytest.raises(CheckpointError, match=r"has shape \[375, 32\]"):
        load_trained(models[0], wrong, source="run")
