"""Spans of a track that is decoded in order, or by seeking in one container."""

from contextlib import ExitStack

import numpy as np
import pytest

from tests.processors.test_sound_index import RATE, write
from video_llama.processors.audio_decode import open_track
from video_llama.processors.media_file import MediaFile
from video_llama.processors.sound_index import sound_index
from video_llama.processors.window_sound import WindowSound, open_window_track

SPANS = [[(0, RATE), (10, 3 * RATE)], [(2 * RATE, 5 * RATE)], [], [(30 * RATE, 31 * RATE), (40 * RATE, 40 * RATE)]]


@pytest.mark.parametrize("seeks", [True, False])
def test_spans(tmp_path, seeks):
    path = write(tmp_path / "a.m4a", "aac")
    whole = open_track(path, seeks=False).samples
    with MediaFile(path) as media, WindowSound(sound_index(media) if seeks else None) as reader:
        opened = media.num_containers
        for spans in SPANS:
            for (first, last), part in zip(spans, reader.read(media, spans), strict=True):
                assert np.array_equal(part, whole[:, first:last])
        assert media.num_containers - opened <= (4 if seeks else 1)
        again = reader.read(media, [(0, 100)])[0]
        assert np.array_equal(again, whole[:, :100])


def test_memory_is_that_of_the_window(tmp_path):
    path = write(tmp_path / "a.m4a", "aac")
    with MediaFile(path) as media, WindowSound(None) as reader:
        for second in range(0, 60, 5):
            reader.read(media, [(second * RATE, (second + 5) * RATE)])
            assert sum(block.shape[1] for block in reader._held) < 6 * RATE


def test_short_track_stays_in_memory(clips):
    with MediaFile(clips["sound"]) as media, ExitStack() as stack:
        assert open_window_track(media, stack).index is None
