"""Vectors of a batch: one result per row, equal to those of a medium alone; errors."""

import numpy as np
import pytest
import torch

from tests.apps.batch.conftest import default_media
from video_llama.apps.batch.embedding import BulkEmbedder, packed, unpacked
from video_llama.apps.batch.reading import ReadBatch
from video_llama.datasets.question_rows import QuestionRow
from video_llama.models.media_vectors import frame_vectors, sound_vectors


@pytest.fixture(scope="module")
def rows(assistant, clips):
    """The results for a video with sound, one without, a sound, a picture, and a medium with an error."""
    options = default_media(assistant.settings.num_frames)
    paths = [str(clips[name]) for name in clips]
    media = {(path, None, None): assistant.engine.read(path, options) for path in paths}
    batch = ReadBatch(
        [QuestionRow(str(number), (path,)) for number, path in enumerate([*paths, "bad"])],
        {**media, ("bad", None, None): "MediaError: bad"},
    )
    results = BulkEmbedder(assistant)(batch)
    assert results.encode > 0
    return dict(zip([*clips, "bad"], results.rows, strict=True))


def test_arrays_as_text():
    array = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    np.testing.assert_array_equal(unpacked(packed(array)), array)


def test_kinds_and_lengths(rows, assistant):
    num_frames = assistant.settings.num_frames
    kinds = {name: (row["kind"], len(row["frame_seconds"]), bool(row["audio_seconds"])) for name, row in rows.items()}
    [sound] = {"audio", "sound"} & kinds.keys()
    assert kinds == {
        "video": ("video", num_frames, True),
        "silent": ("video", num_frames, False),
        sound: ("audio", 0, True),
        "image": ("image", 1, False),
        "bad": (None, 0, False),
    }
    assert (rows[sound]["clip_vector"], rows["silent"]["audio_vectors"]) == (None, None)
    assert rows["bad"]["error"] == "MediaError: bad"
    assert all(row["error"] is None for name, row in rows.items() if name != "bad")


def test_the_vectors_are_those_of_the_medium_alone(rows, assistant, clips):
    body = assistant.engine.model.model
    read = assistant.engine.read(str(clips["video"]), default_media(assistant.settings.num_frames))
    frames, mel = assistant.engine.inputs(read)
    [alone] = frame_vectors(body, frames[None])
    row = rows["video"]
    for name, expected in (("frame_vectors", alone.frames_TH), ("clip_vector", alone.clip_H)):
        torch.testing.assert_close(torch.tensor(unpacked(row[name])), expected, rtol=0, atol=0)
    torch.testing.assert_close(
        torch.tensor(unpacked(row["audio_vectors"])), sound_vectors(body, mel[None])[0], rtol=0, atol=0
    )
