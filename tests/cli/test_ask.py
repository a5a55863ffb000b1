"""``video-llama ask``: its outputs, its options, and the error for each kind of unusable input."""

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest

from tests.cli.conftest import QUESTION, assert_one_line, corrupt_audio, invoke
from tests.factories.familiarity import WARNING, warn_about_pictures
from tests.factories.media import write_video, write_wav
from tests.factories.models import NOTICE

TONE = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)


class TestAsk:
    def test_answer_alone_is_on_stdout(self, ask, clip, model_path):
        result = ask(clip, QUESTION)
        assert result.exit_code == 0, result.output
        record = json.loads(ask(clip, QUESTION, "--json").stdout)
        assert result.stdout == record["answer"] + "\n"
        rests, notice = result.stderr.splitlines()
        assert rests == "(weights: tiny; 4 frames at 0, 0.7, 1.5, 2.2 s, 3.0 s of audio in 3 clips)"
        assert notice == NOTICE

    def test_warning_precedes_the_answer(self, clip, model_path, tmp_path):
        folder = shutil.copytree(model_path, tmp_path / "model")
        warn_about_pictures(folder)
        options = (clip, QUESTION, "--model", folder, "--device", "cpu", "--max-new-tokens", 8)
        result = invoke("ask", *options)
        assert result.stderr.splitlines()[0] == WARNING
        assert result.output.startswith(WARNING)
        record = invoke("ask", *options, "--json")
        assert json.loads(record.stdout)["warnings"] == [WARNING]
        assert record.stderr == ""
        lines = invoke("chat", clip, "--model", folder, "--device", "cpu", "--max-new-tokens", 8, stdin=QUESTION)
        assert WARNING in lines.stderr.splitlines()

    def test_json_is_the_only_output(self, ask, clip):
        result = ask(clip, QUESTION, "--json")
        assert json.loads(result.stdout)["question"] == QUESTION
        assert result.stderr == ""

    def test_options_reach_the_record(self, ask, clip):
        result = ask(
            *(clip, QUESTION, "--json", "--times", "0.5,2", "--no-audio"),
            *("--temperature", 0.7, "--top-p", 0.9, "--top-k", 40, "--seed", 11, "--repetition-penalty", 1.1),
        )
        record = json.loads(result.stdout)
        assert record["media"][0]["frames"]["indices"] == [5, 20]
        assert record["modalities"]["audio"] == "not asked for"
        assert record["decoding"] == {
            "max_new_tokens": 8,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "seed": 11,
            "num_beams": 1,
            "repetition_penalty": 1.1,
            "length_penalty": 1.0,
        }

    @pytest.mark.parametrize(
        ("options", "indices"),
        [
            (("--frames", 3), [0, 10, 20]),
            (("--fps", 2, "--start", 1, "--end", 2.5), [10, 15, 20]),
            ((), [0, 7, 15, 22]),
        ],
    )
    def test_frames(self, ask, clip, options, indices):
        record = json.loads(ask(clip, QUESTION, "--json", *options).stdout)
        assert record["media"][0]["frames"]["indices"] == indices

    @pytest.mark.parametrize(
        ("media", "options", "message"),
        [
            ("sound", ("--frames", 4), "--frames is 4, but no file is a video. Remove the option"),
            ("sound", ("--times", "0.5,2"), "--times is 0.5,2, but no file is a video"),
            ("image", ("--fps", 1.5), "--fps is 1.5, but no file is a video"),
            ("image", ("--end", 2), "--end is 2, but no file is a video or audio. Remove the option"),
            (None, ("--start", 1), "--start is 1, but no file is a video or audio"),
        ],
    )
    def test_options_that_apply_to_no_file(self, ask, clips, media, options, message):
        files = [] if media is None else [clips[media]]
        assert_one_line(ask(*files, QUESTION, *options), message)

    def test_options_that_apply_to_one_of_the_files(self, ask, clips):
        heard = json.loads(ask(clips["sound"], QUESTION, "--json", "--start", 0.5).stdout)["media"][0]
        assert heard["sound"]["start_seconds"][0] == 0.5
        both = json.loads(ask(clips["image"], clips["video"], QUESTION, "--json", "--frames", 2).stdout)["media"]
        assert [len(medium["frames"]["indices"]) for medium in both] == [1, 2]

    def test_several_files_and_beams(self, ask, clip, tmp_path):
        sound = write_wav(tmp_path / "tone.wav", TONE)
        record = json.loads(ask(sound, clip, QUESTION, "--json", "--beams", 2).stdout)
        assert [medium["kind"] for medium in record["media"]] == ["audio", "video"]
        assert record["decoding"]["num_beams"] == 2

    def test_without_media(self, ask):
        result = ask(QUESTION)
        assert result.exit_code == 0
        assert "no media" in result.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--frames", 9), "ValueError: 9 frames are requested, but the limit is 8 (max_frame_pos)"),
            (("--frames", 0), "num_frames is 0. Use 1 or more"),
            (("--frames", 2, "--fps", 1), "--frames and --fps cannot be combined. Give one of them"),
            (("--times", "1;2"), "--times is '1;2'. Give seconds separated by commas"),
            (("--start", 9), "MediaError: "),
            (("--no-audio", "--require-audio"), "Both no_audio and require_audio are set. Use one of them."),
            (("--start", 2.99), "from 2.99 s to 3.008 s has 288 audio samples"),
            (("--temperature", -1), "temperature is -1.0. Give 0, or 1e-20 to 1e+20"),
            (("--temperature", 1e-300), "temperature is 1e-300. Give 0, or"),
            (("--repetition-penalty", 1e-300), "repetition_penalty is 1e-300. Give 1e-20 to"),
            (("--device", "abacus"), "device 'abacus' is not available"),
            (("--device", "meta"), "device 'meta' is not available"),
            (("--dtype", "int3"), "dtype is 'int3'. Choose float32"),
        ],
    )
    def test_bad_option(self, model_path, clip, options, message):
        assert_one_line(invoke("ask", clip, QUESTION, "--model", model_path, "--device", "cpu", *options), message)

    def test_missing_question(self, ask, clip):
        assert_one_line(ask(clip), "The last argument must be the question")

    def test_no_such_model(self, clip, tmp_path):
        result = invoke("ask", clip, QUESTION, "--model", tmp_path / "none")
        assert_one_line(result, "CheckpointError: ")


@pytest.mark.slow
def test_a_terminal_shows_what_takes_long(clip, model_path):
    code = "import video_llama.log as log; log.SHOW_AFTER_SECONDS = 0.0; from video_llama.cli import main; main()"
    command = [sys.executable, "-c", code, "ask", str(clip), QUESTION, "--model", str(model_path)]
    controller, terminal = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed when the process ends
        while part := os.read(controller, 65536):
            shown += part
    os.close(controller)
    answer, _ = process.communicate()
    assert process.returncode == 0
    assert b"\x1b" not in answer
    steps = ("importing libraries", "reading weights", "decoding media", "encoding media", "reading the prompt")
    found = [shown.find(step.encode()) for step in (*steps, "generating", "(weights: tiny;")]
    assert -1 not in found
    assert found == sorted(found)


class TestBadInput:
    """Files, folders and prompts that cannot be used."""

    def test_missing_file(self, ask, tmp_path):
        assert_one_line(ask(tmp_path / "none.mp4", QUESTION), "does not exist or cannot be read. Check the path")

    def test_empty_file(self, ask, tmp_path):
        (tmp_path / "empty.mp4").touch()
        assert_one_line(ask(tmp_path / "empty.mp4", QUESTION), "is empty (0 bytes)")

    def test_text_named_mp4(self, ask, tmp_path):
        (tmp_path / "text.mp4").write_text("not a video\n" * 100)
        assert_one_line(ask(tmp_path / "text.mp4", QUESTION), "cannot be read as video or sound")

    def test_truncated(self, ask, tmp_path, clip):
        (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-2000])
        assert_one_line(ask(tmp_path / "cut.mp4", QUESTION), "MediaError: ")

    def test_truncated_after_the_index(self, ask, tmp_path):
        """The index comes first, so that the file opens; most frames are missing."""
        whole = write_video(
            tmp_path / "whole.mp4", np.random.default_rng(0), seconds=3, options={"movflags": "+faststart"}
        )
        (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
        assert_one_line(ask(tmp_path / "cut.mp4", QUESTION), "is truncated or damaged")

    def test_no_frames(self, ask, tmp_path):
        path = tmp_path / "none.mp4"
        with av.open(str(path), "w", format="mp4") as container:
            video = container.add_stream("libx264", rate=10)
            video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
            container.start_encoding()
        assert_one_line(ask(path, QUESTION), "MediaError: ")

    def test_one_frame(self, ask, tmp_path):
        path = write_video(tmp_path / "one.mp4", np.random.default_rng(0), num_frames=1)
        record = json.loads(ask(path, QUESTION, "--json").stdout)
        assert record["media"][0]["frames"]["indices"] == [0]

    def test_header_of_ten_hours(self, ask, tmp_path, clip):
        data = bytearray(clip.read_bytes())
        header = data.index(b"mvhd")
        rate = int.from_bytes(data[header + 16 : header + 20], "big")
        data[header + 20 : header + 24] = (36_000 * rate).to_bytes(4, "big")
        (tmp_path / "long.mp4").write_bytes(data)
        result = ask(tmp_path / "long.mp4", QUESTION, "--json")
        assert result.exit_code == 0
        assert max(json.loads(result.stdout)["media"][0]["frames"]["seconds"]) < 3

    @pytest.mark.parametrize(("width", "height"), [(1, 1), pytest.param(8192, 4320, marks=pytest.mark.slow)])
    def test_sizes(self, ask, tmp_path, width, height):
        path = tmp_path / "size.mkv"
        with av.open(str(path), "w") as container:
            video = container.add_stream("ffv1", rate=10)
            video.height, video.width, video.pix_fmt = height, width, "bgr0"
            frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), dtype=np.uint8), format="rgb24")
            frame.pts = 0
            container.mux(video.encode(frame))
            container.mux(video.encode(None))
        assert ask(path, QUESTION).exit_code == 0

    def test_audio_without_samples(self, ask, tmp_path):
        path = write_wav(tmp_path / "silent.wav", TONE[:0])
        assert_one_line(ask(path, QUESTION), "MediaError: ")

    def test_audio_shorter_than_a_window(self, ask, tmp_path):
        path = write_wav(tmp_path / "click.wav", TONE[:100])
        assert_one_line(ask(path, QUESTION), "at least 400 (25 ms) are required")

    def test_audio_with_nan(self, ask, tmp_path):
        path = tmp_path / "nan.wav"
        samples = np.full(16000, np.nan, dtype="<f4").tobytes()
        form = (
            (16).to_bytes(4, "little") + b"\x03\0\1\0" + (16000).to_bytes(4, "little") + (64000).to_bytes(4, "little")
        )
        chunks = b"WAVEfmt " + form + b"\4\0\x20\0" + b"data" + len(samples).to_bytes(4, "little") + samples
        path.write_bytes(b"RIFF" + len(chunks).to_bytes(4, "little") + chunks)
        assert_one_line(ask(path, QUESTION), "are not finite numbers")

    def test_audio_track_that_cannot_be_decoded(self, ask, tmp_path, clip):
        """An error, unlike a file without an audio track, unless --no-audio is given."""
        path = corrupt_audio(clip, tmp_path / "corrupt.mp4")
        assert_one_line(ask(path, QUESTION), "has a sound track (aac) without samples")
        assert ask(path, QUESTION, "--no-audio").exit_code == 0

    def test_missing_track(self, ask, tmp_path):
        path = write_video(tmp_path / "silent.mp4", np.random.default_rng(0))
        result = ask(path, QUESTION)
        assert result.exit_code == 0
        assert "no audio (no audio track)" in result.stderr
        assert_one_line(ask(path, QUESTION, "--require-audio"), "NoAudioTrackError: ")

    def test_unicode_and_spaces(self, ask, tmp_path, clip):
        path = tmp_path / "ein Film – 動画 'x'.mp4"
        path.write_bytes(clip.read_bytes())
        record = json.loads(ask(path, "Was sieht man? 何?", "--json").stdout)
        assert record["media"][0]["source"] == str(path)

    def test_a_file_name_that_is_too_long(self, ask, clip):
        assert_one_line(ask("y" * 300, QUESTION), "MediaError: ")
        assert_one_line(invoke("inspect", "y" * 300), "File name too long")
        assert_one_line(invoke("ask", clip, QUESTION, "--model", "y" * 300), "File name too long")

    def test_start_after_the_end_of_the_audio(self, ask, tmp_path):
        path = write_wav(tmp_path / "tone.wav", TONE)
        assert_one_line(ask(path, QUESTION, "--start", 1e305), "its sound lasts 3.00 s. Choose a start before its end")

    def test_end_after_the_end_of_the_file(self, ask, clip):
        record = json.loads(ask(clip, QUESTION, "--start", 1, "--end", 1e305, "--json").stdout)
        assert record["media"][0]["sound"]["start_seconds"][0] == 1

    def test_directory_without_pictures(self, ask, tmp_path):
        assert_one_line(ask(tmp_path, QUESTION), "contains no images. Give a video file")

    def test_long_prompt(self, ask, clip):
        result = ask(clip, "why " * 25_000)
        assert_one_line(result, "ContextLengthError: The question needs")

    def test_prompt_that_is_not_valid_unicode(self, ask, clip):
        assert_one_line(ask(clip, "a\udcff"), "a lone surrogate. Encode the text as UTF-8")

    def test_empty_prompt(self, ask, clip):
        assert_one_line(ask(clip, ""), "PromptError: The question is empty")


class TestPublishedWeights:
    def test_evaluation_yaml(self, eval_yaml, clip):
        settings = ("--device", "cpu", "--no-audio", "--max-new-tokens", 6, "--quantization", "int8")
        result = invoke("ask", clip, QUESTION, "--model", eval_yaml, *settings, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["weights"]["name"] == "eval"

    def test_override_of_a_folder_of_published_files(self, published, clip):
        result = invoke("ask", clip, QUESTION, "--model", published, "--set", "model.ckpt=none.pth", "--device", "cpu")
        assert_one_line(result, "model.ckpt is none.pth, which does not exist")


def test_interpolated_positions(ask, clip):
    assert_one_line(ask(clip, QUESTION, "--frames", 12), "the limit is 8 (max_frame_pos). Request fewer, or load the")
    result = ask(clip, QUESTION, "--frames", 12, "--interpolate-positions")
    assert "outside of training" in result.stderr.splitlines()[0]
    record = json.loads(ask(clip, QUESTION, "--frames", 12, "--interpolate-positions", "--json").stdout)
    assert "outside of training" in record["warnings"][0]
