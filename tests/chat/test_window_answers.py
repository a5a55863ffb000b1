"""Questions about the windows of a medium: equal to questions about the segments; records, summaries, errors."""

import json

import numpy as np
import pytest
import torch

import video_llama
from tests.factories.media import write_long_video
from video_llama.chat import Timeline, WindowPlan
from video_llama.chat.window_answers import SUMMARY_REQUEST, summary_prompt
from video_llama.errors import ContextLengthError, MediaError, PromptError
from video_llama.processors.medium import MediaOptions
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.subtitles import Cue, Subtitles

QUESTION = "What do you see?"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video of 70 seconds with sound, which is long enough to be read by seeking."""
    return write_long_video(tmp_path_factory.mktemp("film") / "film.mp4", 70)


@pytest.fixture(scope="module")
def timeline(assistant, film) -> Timeline:
    return assistant.timeline(film, QUESTION, window=20, stride=15, batch_size=3, max_new_tokens=8)


def test_answers_equal_those_about_segments(assistant, film, timeline):
    """With the same frames, sound and prompt ids."""
    assert len(timeline.windows) == 5
    for each in timeline.windows:
        segment = FrameSampling(4, start=each.window.start, end=each.window.end)
        answer = assistant.chat(film, frames=segment).ask(QUESTION, max_new_tokens=8)
        assert each.answer.text == answer.text
        assert each.answer.record.prompt_sha256 == answer.record.prompt_sha256
        assert each.answer.record.media[0]["frames"] == answer.record.media[0]["frames"]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_give_the_same_answers(assistant, film, timeline, batch_size):
    other = assistant.timeline(film, QUESTION, window=20, stride=15, batch_size=batch_size, max_new_tokens=8)
    assert [each.answer.text for each in other.windows] == [each.answer.text for each in timeline.windows]


def test_batched_encoding_equals_single(assistant, film):
    """The form of GPUs, here on a CPU."""
    engine = assistant.engine
    reads = [engine.read(film, MediaOptions(FrameSampling(4, start=s, end=s + 5))) for s in (0, 30)]
    reads.append(engine.read(film, MediaOptions(FrameSampling(2, start=50), no_audio=True)))
    for batched, read in zip(engine._encode_batch(reads), reads, strict=True):
        single = engine.encode(read, MediaOptions())
        torch.testing.assert_close(batched.video_tokens, single.video_tokens)
        assert (batched.audio_tokens is None) == (single.audio_tokens is None)
        if single.audio_tokens is not None:
            torch.testing.assert_close(batched.audio_tokens, single.audio_tokens)


def test_record_lists_each_window(timeline):
    record = json.loads(timeline.render("json"))
    assert (record["window"], record["stride"], record["duration"]) == (20, 15, pytest.approx(70, abs=0.2))
    assert record["decoding"]["max_new_tokens"] == 8
    assert record["weights"]["name"] == "tiny"
    windows = record["windows"]
    assert [(each["start"], each["end"]) for each in windows][:2] == [(0.0, 20.0), (15.0, 35.0)]
    frames = windows[1]["media"][0]["frames"]
    assert frames["seconds"] == [15.0, 20.0, 25.0, 30.0]
    assert frames["indices"] == [150, 200, 250, 300]
    assert windows[1]["media"][0]["sound"]["start_seconds"][0] == 15.0
    assert windows[1]["seconds"]["decode_media"] > 0
    assert "weights" not in windows[0]


def test_summary_is_written_from_the_texts(assistant, timeline):
    summarized = assistant.summarized(timeline, max_new_tokens=5)
    record = summarized.summary.record
    assert record.media == []
    assert record.question == summary_prompt(timeline)
    assert record.question.endswith(SUMMARY_REQUEST)
    for entry in timeline.entries:
        assert entry.text in record.question
    assert json.loads(summarized.render("json"))["summary"] == summarized.summary.text


def test_summary_that_does_not_fit(assistant, film):
    with pytest.raises(ContextLengthError, match=r"The summary does not fit .* use longer windows"):
        assistant.timeline(film, QUESTION, window=2, summary=True, max_new_tokens=8)


def test_save(timeline, tmp_path):
    timeline.save(tmp_path / "a.vtt")
    assert (tmp_path / "a.vtt").read_text(encoding="utf-8").startswith("WEBVTT")
    with pytest.raises(ValueError, match="does not end in"):
        timeline.save(tmp_path / "a.doc")


def test_closing_early_closes_the_file(assistant, film):
    answers = assistant.ask_windows(film, QUESTION, plan=WindowPlan(10), batch_size=1, max_new_tokens=4)
    first = next(answers)
    assert first.window.end == 10
    answers.close()
    assert list(answers) == []
    partial = answers.timeline([first])
    assert [entry.windows for entry in partial.entries] == [(0,)]


def test_sound_and_folder(assistant, clips):
    sound = assistant.timeline(clips["sound"], QUESTION, window=1, max_new_tokens=4)
    assert [each.answer.record.modalities["audio"] for each in sound.windows] == ["used"] * 3
    frames = assistant.timeline(clips["frames"], QUESTION, window=2, max_new_tokens=4)
    assert [each.answer.record.media[0]["frames"]["indices"] for each in frames.windows] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"window": 0}, ValueError, "window is 0. Give a positive number of seconds"),
        ({"window": -3}, ValueError, "window is -3"),
        ({"window": 5, "stride": 0}, ValueError, "stride is 0"),
        ({"batch_size": 0}, ValueError, "batch_size is 0. Give 1 or more"),
        ({"frames": FrameSampling(times=(1.0,))}, ValueError, "times cannot be combined with windows"),
        ({"frames": FrameSampling(9)}, ValueError, "max_frame_pos"),
        ({"frames": FrameSampling(start=99)}, MediaError, "start is 99 s, but it lasts 70.00 s"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens is 0"),
    ],
)
def test_invalid_arguments(assistant, film, fields, error, message):
    with pytest.raises(error, match=message):
        assistant.timeline(film, QUESTION, **fields)


def test_images_and_empty_questions(assistant, clips, film):
    with pytest.raises(MediaError, match="is an image, and windows divide a video or a sound"):
        assistant.timeline(clips["image"], QUESTION)
    with pytest.raises(PromptError, match="The question is empty"):
        assistant.timeline(film, " ")


def test_duration_is_measured_if_the_header_has_none(assistant, tmp_path):
    """A raw stream has no header."""
    import av

    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index in range(40):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    timeline = assistant.timeline(path, QUESTION, window=1, max_new_tokens=4)
    assert timeline.duration > 0
    assert sum(len(each.answer.record.media[0]["frames"]["indices"]) for each in timeline.windows) >= 4


def test_miniature_describes_each_window(repository):
    assistant = video_llama.load("miniature", device="cpu")
    timeline = assistant.timeline(
        repository / "examples" / "two_shapes.mp4", "What happens in the video?", window=2.5, no_audio=True
    )
    texts = [entry.text for entry in timeline.entries]
    assert "red circle" in texts[0]
    assert "blue square" in texts[-1]


def test_windows_get_their_subtitles(assistant, film):
    subtitles = Subtitles("a.srt", (Cue(5, 6, "One."), Cue(19, 21, "Two.</s>"), Cue(50, 51, "Three.")))
    timeline = assistant.timeline(film, QUESTION, window=20, subtitles=subtitles, max_new_tokens=4)
    records = [each.answer.record for each in timeline.windows]
    assert [record.subtitles["num_cues"] for record in records] == [2, 1, 1, 0]
    assert "5.0 to 6.0 seconds: One.\n19.0 to 21.0 seconds: Two." in records[0].prompt
    assert "One." not in records[1].prompt
    assert records[0].neutralized == ["</s>"]
    assert records[0].question == QUESTION
    assert json.loads(timeline.render("json"))["windows"][2]["subtitles"]["source"] == "a.srt"
    plain = assistant.timeline(film, QUESTION, window=20, max_new_tokens=4)
    assert plain.windows[3].answer.record.prompt_sha256 == records[3].prompt_sha256
    assert plain.windows[0].answer.record.subtitles is None
