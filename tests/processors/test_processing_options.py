"""Options of the processor's call."""

import pytest
import torch

from tests.processors.prompts import READY, new_conversation, our_ids, read, user
from video_llama.chat.messages import message_for
from video_llama.processors.sampling import FrameSampling


@pytest.mark.parametrize("options", [dict(num_frames=2), dict(fps=2.0), dict(frames=FrameSampling(2, start=0.5))])
def test_of_sampled_frames(processor, ours, clips, options):
    sampling = options.get("frames") or FrameSampling(options.get("num_frames", 4), options.get("fps"))
    said = new_conversation(ours, "default")
    said.add_media(message_for(read(ours, clips["silent"], frames=sampling)))
    said.ask("What?")
    messages = [user({"type": "video", "url": clips["silent"].as_uri()}, "What?")]
    inputs = processor.apply_chat_template(messages, processor_kwargs=options, **READY)
    assert inputs["input_ids"][0].tolist() == our_ids(ours, said)
    again = processor.apply_chat_template(messages, **options, **READY)
    assert torch.equal(again["pixel_values_videos"], inputs["pixel_values_videos"])


def test_steps_that_cannot_be_switched(processor, clips):
    with pytest.raises(ValueError, match="do_resize=False is not supported"):
        processor(text="<video>", images=[clips["image"]], do_resize=False)


def test_truncation_that_cuts_a_medium(processor, clips):
    with pytest.raises(ValueError, match=r"Mismatch in <video> token count.*Raise max_length"):
        processor(text="<video>", images=[clips["image"]], truncation=True, max_length=3)
    assert processor(text="a b c d e f", truncation=True, max_length=3)["input_ids"].shape == (1, 3)
