import pytest
import torch

from video_llama.models.media_tokens import as_videos, encode_by_length, place_tokens, tokens_of


def test_media_of_different_lengths_keep_their_order() -> None:
    media = [torch.full((length, 2), float(length)) for length in (3, 1, 3, 2)]
    encoded = encode_by_length(media, lambda batch: batch.mean(dim=1))
    assert encoded.tolist() == [[3, 3], [1, 1], [3, 3], [2, 2]]


def test_images_become_videos_of_one_frame() -> None:
    images = torch.zeros(4, 3, 8, 8)
    assert as_videos(images).shape == (4, 1, 3, 8, 8)
    videos = torch.zeros(4, 2, 3, 8, 8)
    assert as_videos(videos) is videos


def test_tokens_are_placed_in_row_major_order() -> None:
    embeds, places = torch.zeros(2, 3, 1), torch.tensor([[True, False, True], [False, True, True]])
    placed = place_tokens(embeds, places, torch.arange(1.0, 5.0).view(2, 2, 1), "video")
    assert placed[..., 0].tolist() == [[1, 0, 2], [0, 3, 4]]


def test_numbers_and_widths_must_agree() -> None:
    embeds, places = torch.zeros(1, 3, 4), torch.tensor([[True, True, False]])
    with pytest.raises(ValueError, match="2 sound placeholders, but the media given have 3 tokens"):
        place_tokens(embeds, places, torch.zeros(1, 3, 4), "sound")
    with pytest.raises(ValueError, match="have width 5, but the decoder has width 4"):
        place_tokens(embeds, places, torch.zeros(1, 2, 5), "sound")


def test_a_modality_has_one_form() -> None:
    double = (lambda media: media * 2, torch.ones(1))
    assert tokens_of(None, double) == 2
    assert tokens_of(None, (abs, [])) is None
    with pytest.raises(ValueError, match="in one form"):
        tokens_of(torch.ones(1), double)
