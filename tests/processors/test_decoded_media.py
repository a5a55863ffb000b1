"""Media in memory and at addresses equal the files that they were read from."""

import base64
import http.server
import io
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tests.processors.prompts import READY, new_conversation, our_ids, read, user
from video_llama.chat.messages import message_for
from video_llama.errors import MediaError
from video_llama.processors.video_processor import VideoProcessor


class TestForms:
    """Media in memory and at addresses equal the files that they were read from."""

    @pytest.fixture
    def expected(self, processor, clips):
        return processor(images=[clips["image"]])["pixel_values"]

    def test_of_an_image(self, processor, clips, expected):
        content = clips["image"].read_bytes()
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        values = np.array(picture)
        text = base64.b64encode(content).decode()
        forms = [
            *(content, io.BytesIO(content), picture, values, values.transpose(2, 0, 1), torch.from_numpy(values)),
            *(values / 255, f"data:image/png;base64,{text}", clips["image"].as_uri(), str(clips["image"])),
            *({"bytes": content, "path": None}, {"path": str(clips["image"])}),
        ]
        for form in forms:
            assert torch.equal(processor(images=[form])["pixel_values"], expected)
        blocks = [{"type": "image", "image": form} for form in forms if not isinstance(form, io.BytesIO)]
        blocks += [
            {"type": "image", "base64": text},
            {"type": "image_url", "image_url": {"url": clips["image"].as_uri()}},
        ]
        for block in blocks:
            inputs = processor.apply_chat_template([user(block, "What?")], **READY)
            assert torch.equal(inputs["pixel_values"], expected)

    def test_of_frames(self, processor, ours, clips):
        paths = sorted(clips["frames"].iterdir())
        pictures = [Image.open(path).convert("RGB") for path in paths]
        values = np.stack([np.array(picture) for picture in pictures])
        forms = [clips["frames"], paths, pictures, values, torch.from_numpy(values).permute(0, 3, 1, 2), list(values)]
        said = new_conversation(ours, "default")
        said.add_media(message_for(read(ours, clips["frames"])))
        said.ask("What?")
        for form in forms:
            inputs = processor.apply_chat_template([user({"type": "video", "video": form}, "What?")], **READY)
            assert inputs["input_ids"][0].tolist() == our_ids(ours, said)
            assert np.array_equal(
                inputs["pixel_values_videos"][0].numpy(),
                VideoProcessor.from_settings(ours.settings)(read(ours, clips["frames"]).frames.frames),
            )
            assert torch.equal(processor(videos=form)["pixel_values_videos"], inputs["pixel_values_videos"])
        kept = processor(videos=[values], do_sample_frames=False)
        assert kept["pixel_values_videos"].shape[1] == 5

    def test_of_the_times_of_frames(self, processor, clips):
        values = np.zeros((3, 40, 60, 3), dtype=np.uint8)
        metadata = {"fps": 10.0, "frames_indices": [5, 15, 25]}
        text = "<Video><video></Video> What?"
        inputs = processor(text=text, videos=[values], video_metadata=[metadata], return_metadata=True)
        assert "3 frames sampled at 0.5, 1.5, 2.5 seconds. " in processor.decode(inputs["input_ids"][0])
        assert inputs["video_metadata"][0]["frames_indices"] == [5, 15, 25]
        with pytest.raises(ValueError, match="has 3 frames and 1 frames_indices"):
            processor(videos=[values], video_metadata=[{"fps": 1, "frames_indices": [0]}])

    def test_of_a_sound(self, processor):
        samples = np.random.default_rng(0).uniform(-1, 1, 16000).astype(np.float32)
        expected = processor(audio=[samples])["input_features"]
        for form in (samples[None], torch.from_numpy(samples), (samples, 16000), samples.tolist()):
            assert torch.equal(processor(audio=[form])["input_features"], expected)
        row = {"array": samples, "sampling_rate": 8000}
        assert not torch.equal(processor(audio=[row])["input_features"], expected)
        assert torch.equal(
            processor(audio=[row])["input_features"], processor(audio=samples, sampling_rate=8000)["input_features"]
        )
        messages = [user({"type": "audio", "audio": samples}, "What?")]
        assert torch.equal(processor.apply_chat_template(messages, **READY)["input_features"], expected)

    def test_of_values_that_are_no_picture(self, processor):
        for values, message in (
            (np.full((4, 4, 3), -1.0), "values from -1 to -1"),
            (np.full((4, 4, 3), np.nan), "values from nan"),
            (np.zeros((6, 6, 5), dtype=np.uint8), r"shape \[6, 6, 5\]"),
        ):
            with pytest.raises(ValueError, match=message):
                processor(images=[values])

    def test_addresses_are_refused(self, processor):
        for address in ("https://example.com/a.mp4", "http://127.0.0.1:1/a.png", "s3://bucket/a.mp4"):
            with pytest.raises(MediaError, match="Download the file"):
                processor(videos=[address])
        with pytest.raises(MediaError, match="cannot be downloaded"):
            processor(videos=["http://127.0.0.1:1/a.mp4"], allow_urls=True)

    def test_an_allowed_address(self, processor, clips, expected):
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=clips["image"].parent)
        handler.func.log_message = lambda *_: None
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/{clips['image'].name}"
            inputs = processor(images=[address], allow_urls=True)
            server.shutdown()
        assert torch.equal(inputs["pixel_values"], expected)
