"""Which medium stands at which place."""

import pytest


def test_order_of_images_and_videos(processor, clips):
    text = "<Video><video></Video> and <Image><video></Image>"
    inputs = processor(text=text, images=clips["image"], videos=clips["silent"], return_mm_token_type_ids=True)
    assert [len(each) for each in inputs["pixel_values_videos"]] == [4, 1]
    kinds = [kind for kind in inputs["mm_token_type_ids"][0].tolist() if kind]
    half = len(kinds) // 2
    assert kinds == [2] * half + [1] * half
    untagged = processor(text=["<video> <video>"], images=[[clips["image"]]], videos=[[clips["silent"]]])
    assert [len(each) for each in untagged["pixel_values_videos"]] == [1, 4]
    with pytest.raises(ValueError, match="it is not clear which <video> tokens are images"):
        processor(text=["<video>", "<video>"], images=[clips["image"]], videos=[clips["silent"]])


def test_lists_for_each_prompt(processor, clips):
    texts = ["no medium", "<video>", "<video><video>"]
    inputs = processor(text=texts, images=[[], [clips["image"]], [clips["image"], clips["image"]]])
    assert len(inputs["pixel_values"]) == 3
    with pytest.raises(ValueError, match="Prompt 1 has 1 <video> tokens, but 2 images and videos"):
        processor(text=texts, images=[[], [clips["image"]] * 2, [clips["image"]]])


def test_more_places_than_media(processor, clips):
    text = "<Video><video></Video><Video><video></Video>"
    with pytest.raises(ValueError, match="tokens in the prompts should be the same as the number of images"):
        processor(text=text, videos=[clips["silent"]])


def test_sound_without_a_place(processor, clips):
    with pytest.raises(ValueError, match="tokens in the prompts should be the same as the number of audio"):
        processor(text="What?", audio=[clips["sound"]])


def test_places_without_media_are_left(processor):
    assert processor(text="a <video>")["input_ids"][0].tolist().count(processor.video_token_id) == 1
