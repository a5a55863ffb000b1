"""The command line as a user meets it: what goes to which stream, every bad input, every way to end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.factories.models import NOTICE, make_folder, write_media, write_video, write_wav

TONE = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)
QUESTION = "What do you see?"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "tiny", seed=3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_video(path, np.random.default_rng(0), seconds=3, tone=TONE)


def invoke(*arguments, stdin: str | None = None):
    from video_llama.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    return write_media(tmp_path_factory.mktemp("media"), np.random.default_rng(1))


@pytest.fixture
def ask(model):
    def run(*arguments):
        return invoke("ask", *arguments, "--model", model, "--device", "cpu", "--max-new-tokens", 8)

    return run


def assert_one_line(result, message: str):
    """Exit code 2, one line that has ``message``, and nothing that could be taken for an answer."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr


class TestAsk:
    def test_answer_alone_is_on_stdout(self, ask, clip, model):
        result = ask(clip, QUESTION)
        assert result.exit_code == 0, result.output
        record = json.loads(ask(clip, QUESTION, "--json").stdout)
        assert result.stdout == record["answer"] + "\n"
        rests, notice = result.stderr.splitlines()
        assert rests == "(weights: tiny; 4 frames at 0, 0.7, 1.5, 2.2 s, sound of 3.0 s in 3 clips)"
        assert notice == NOTICE

    def test_json_is_all_there_is(self, ask, clip):
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
            ("sound", ("--frames", 4), "--frames is 4, and there is no video among the files. Leave it out"),
            ("sound", ("--times", "0.5,2"), "--times is 0.5,2, and there is no video among the files"),
            ("image", ("--fps", 1.5), "--fps is 1.5, and there is no video among the files"),
            ("image", ("--end", 2), "--end is 2, and nothing that is given lasts. Leave it out, or add a video"),
            (None, ("--start", 1), "--start is 1, and nothing that is given lasts"),
        ],
    )
    def test_options_that_no_file_has_a_use_for(self, ask, clips, media, options, message):
        files = [] if media is None else [clips[media]]
        assert_one_line(ask(*files, QUESTION, *options), message)

    def test_options_that_one_of_the_files_has_a_use_for(self, ask, clips):
        heard = json.loads(ask(clips["sound"], QUESTION, "--json", "--start", 0.5).stdout)["media"][0]
        assert heard["sound"]["start_seconds"][0] == 0.5
        both = json.loads(ask(clips["image"], clips["video"], QUESTION, "--json", "--frames", 2).stdout)["media"]
        assert [len(medium["frames"]["indices"]) for medium in both] == [1, 2]

    def test_several_files_and_beams(self, ask, clip, tmp_path):
        sound = write_wav(tmp_path / "tone.wav", TONE)
        record = json.loads(ask(sound, clip, QUESTION, "--json", "--beams", 2).stdout)
        assert [medium["kind"] for medium in record["media"]] == ["audio", "video"]
        assert record["decoding"]["num_beams"] == 2

    def test_words_alone(self, ask):
        result = ask(QUESTION)
        assert result.exit_code == 0
        assert "no media" in result.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--frames", 9), "ValueError: 9 frames are asked for, the limit is 8 (max_frame_pos)"),
            (("--frames", 0), "num_frames is 0. Ask for 1 frame or more"),
            (("--frames", 2, "--fps", 1), "--frames and --fps are given. Give one of them"),
            (("--times", "1;2"), "--times is '1;2'. Give seconds with commas between"),
            (("--start", 9), "MediaError: "),
            (("--no-audio", "--require-audio"), "Give one of them"),
            (("--start", 2.99), "from 2.99 s to 3.008 s has 288 sound samples"),
            (("--temperature", -1), "temperature is -1.0. Give 0, or 1e-20 to 1e+20"),
            (("--temperature", 1e-300), "temperature is 1e-300. Give 0, or"),
            (("--repetition-penalty", 1e-300), "repetition_penalty is 1e-300. Give 1e-20 to"),
            (("--device", "abacus"), "device 'abacus' cannot be used here"),
            (("--device", "meta"), "device 'meta' cannot be used here"),
            (("--dtype", "int3"), "dtype is 'int3'. Choose float32"),
        ],
    )
    def test_bad_option(self, model, clip, options, message):
        assert_one_line(invoke("ask", clip, QUESTION, "--model", model, "--device", "cpu", *options), message)

    def test_forgotten_question(self, ask, clip):
        assert_one_line(ask(clip), "The last argument is the question")

    def test_no_such_model(self, clip, tmp_path):
        result = invoke("ask", clip, QUESTION, "--model", tmp_path / "none")
        assert_one_line(result, "CheckpointError: ")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("ask",), "UsageError: Missing argument 'FILE... QUESTION'. See: "),
            (("ask", "x", "--frames", "many"), "Invalid value for '--frames'"),
            (("ask", "--colour"), "No such option: --colour"),
            (("--colour",), "No such option: --colour"),
            (("answer",), "No such command 'answer'."),
            (("miniature", "evaluate", "--num-clips", 0), "Invalid value for '--num-clips'"),
        ],
    )
    def test_bad_usage(self, arguments, message):
        assert_one_line(invoke(*arguments), message)

    def test_debug_shows_the_trace(self, ask, tmp_path):
        result = ask(tmp_path / "none.mp4", QUESTION, "--debug")
        assert result.exit_code == 2
        assert "Traceback (most recent call last)" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("MediaError: ")

    def test_debug_in_front(self, model, tmp_path):
        result = invoke("--debug", "ask", tmp_path / "none.mp4", QUESTION, "--model", model)
        assert "Traceback (most recent call last)" in result.stderr


class TestBadInput:
    """The list of the issue, through the command."""

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

    def test_truncated_in_the_picture(self, ask, tmp_path):
        """The table of contents comes first, so that the file opens; its frames are gone."""
        whole = write_video(
            tmp_path / "whole.mp4", np.random.default_rng(0), seconds=3, options={"movflags": "+faststart"}
        )
        (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
        assert_one_line(ask(tmp_path / "cut.mp4", QUESTION), "is cut short or damaged")

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

    def test_sound_without_samples(self, ask, tmp_path):
        path = write_wav(tmp_path / "silent.wav", TONE[:0])
        assert_one_line(ask(path, QUESTION), "MediaError: ")

    def test_sound_shorter_than_a_window(self, ask, tmp_path):
        path = write_wav(tmp_path / "click.wav", TONE[:100])
        assert_one_line(ask(path, QUESTION), "at least 400 (25 ms) are needed")

    def test_sound_that_is_no_numbers(self, ask, tmp_path):
        path = tmp_path / "nan.wav"
        samples = np.full(16000, np.nan, dtype="<f4").tobytes()
        form = (
            (16).to_bytes(4, "little") + b"\x03\0\1\0" + (16000).to_bytes(4, "little") + (64000).to_bytes(4, "little")
        )
        chunks = b"WAVEfmt " + form + b"\4\0\x20\0" + b"data" + len(samples).to_bytes(4, "little") + samples
        path.write_bytes(b"RIFF" + len(chunks).to_bytes(4, "little") + chunks)
        assert_one_line(ask(path, QUESTION), "are not finite numbers")

    def test_unreadable_track_is_no_missing_track(self, ask, tmp_path, clip):
        """Samples overwritten with noise: the file has a track, and it is an error until sound is left out."""
        path = spoil_sound(clip, tmp_path / "spoilt.mp4")
        assert_one_line(ask(path, QUESTION), "has a sound track (aac) that gives no sample")
        assert ask(path, QUESTION, "--no-audio").exit_code == 0

    def test_missing_track(self, ask, tmp_path):
        path = write_video(tmp_path / "silent.mp4", np.random.default_rng(0))
        result = ask(path, QUESTION)
        assert result.exit_code == 0
        assert "no sound (no audio track)" in result.stderr
        assert_one_line(ask(path, QUESTION, "--require-audio"), "NoAudioTrackError: ")

    def test_unicode_and_spaces(self, ask, tmp_path, clip):
        path = tmp_path / "ein Film – 動画 'x'.mp4"
        path.write_bytes(clip.read_bytes())
        record = json.loads(ask(path, "Was sieht man? 何?", "--json").stdout)
        assert record["media"][0]["source"] == str(path)

    def test_a_name_that_no_file_system_has(self, ask, clip):
        assert_one_line(ask("y" * 300, QUESTION), "MediaError: ")
        assert_one_line(invoke("inspect", "y" * 300), "File name too long")
        assert_one_line(invoke("ask", clip, QUESTION, "--model", "y" * 300), "File name too long")

    def test_a_start_behind_the_sound(self, ask, tmp_path):
        path = write_wav(tmp_path / "tone.wav", TONE)
        assert_one_line(ask(path, QUESTION, "--start", 1e305), "its sound lasts 3.00 s. Choose a start before its end")

    def test_an_end_behind_everything(self, ask, clip):
        record = json.loads(ask(clip, QUESTION, "--start", 1, "--end", 1e305, "--json").stdout)
        assert record["media"][0]["sound"]["start_seconds"][0] == 1

    def test_directory_without_pictures(self, ask, tmp_path):
        assert_one_line(ask(tmp_path, QUESTION), "is a folder without pictures. Give a video file")

    def test_long_prompt(self, ask, clip):
        result = ask(clip, "why " * 25_000)
        assert_one_line(result, "PromptError: The question needs")

    def test_a_prompt_that_is_no_text(self, ask, clip):
        assert_one_line(ask(clip, "a\udcff"), "which is no character by itself. Write the text in UTF-8")

    def test_empty_prompt(self, ask, clip):
        assert_one_line(ask(clip, ""), "PromptError: The question is empty")


def spoil_sound(source: Path, target: Path) -> Path:
    """A copy with every byte of the sound's packets set to 255, which is no AAC."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                start = packet.pos
                data[start : start + packet.size] = b"\xff" * packet.size
    target.write_bytes(data)
    return target


class TestChat:
    @pytest.fixture
    def chat(self, model):
        def run(lines, *files):
            settings = ("--model", model, "--device", "cpu", "--max-new-tokens", 8)
            return invoke("chat", *files, *settings, stdin="\n".join(lines) + "\n")

        return run

    def test_turns_through_a_pipe(self, chat, clip, ask):
        result = chat([QUESTION, "", "What do you hear?", "/quit", "never read"], clip)
        assert result.exit_code == 0
        assert result.stdout.startswith(ask(clip, QUESTION).stdout)
        assert result.stderr.count("(weights: tiny;") == 2
        assert result.stderr.startswith(NOTICE)

    def test_commands(self, chat, clip, tmp_path):
        saved = tmp_path / "talk.json"
        sound = write_wav(tmp_path / "tone.wav", TONE)
        lines = [
            "/help",
            f"/video {clip}",
            f"/audio {sound}",
            QUESTION,
            "/record",
            "/reset",
            QUESTION,
            f"/save {saved}",
        ]
        result = chat(lines)
        assert result.exit_code == 0, result.output
        assert "/save FILE" in result.stdout
        [answer] = json.loads(saved.read_text(encoding="utf-8"))
        assert [medium["kind"] for medium in answer["media"]] == ["video", "audio"]
        assert f'"source": "{sound}"' in result.stdout

    def test_image_command(self, chat, tmp_path):
        Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
        result = chat([f"/image {tmp_path / 'red.png'}", QUESTION])
        assert "an image" in result.stderr

    def test_errors_do_not_end_it(self, chat, clip):
        result = chat(["/record", "/dance", "/video", "/video none.mp4", "/save /no/such/folder/x", QUESTION], clip)
        assert result.exit_code == 2
        kinds = [line.partition(":")[0] for line in result.stderr.splitlines()[1:-1]]
        assert kinds == ["ValueError", "ValueError", "ValueError", "MediaError", "FileNotFoundError"]
        assert result.stderr.splitlines()[-1].startswith("(weights: tiny;")


class TestInspect:
    def test_video(self, clip):
        report = json.loads(invoke("inspect", clip, "--json").stdout)
        video, audio = report["streams"]
        assert (video["codec"], video["width"], video["height"], video["fps"]) == ("h264", 64, 48, 10.0)
        assert (audio["codec"], audio["sampling_rate"], audio["channels"]) == ("aac", 16000, 1)
        assert report["rotation"] == 0
        assert report["sampled"]["frames"]["indices"] == [0, 3, 7, 11, 15, 18, 22, 26]
        assert len(report["sampled"]["sound"]["start_seconds"]) == 8
        text = invoke("inspect", clip).stdout
        assert "video: codec h264, width 64, height 48, fps 10, frames 30" in text
        assert "sampled frames: indices 0 3 7 11" in text

    def test_unreadable_sound_is_told(self, clip, tmp_path):
        result = invoke("inspect", spoil_sound(clip, tmp_path / "spoilt.mp4"))
        assert result.exit_code == 0
        assert "sound unreadable: " in result.stdout

    def test_frames(self, tmp_path):
        for number in range(3):
            Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
        report = json.loads(invoke("inspect", tmp_path, "--json").stdout)
        assert report["kind"] == "frames"
        assert report["sampled"]["frames"]["indices"] == [0, 1, 2]

    def test_no_media(self, tmp_path):
        assert_one_line(invoke("inspect", tmp_path / "none"), "MediaError: ")

    def test_yaml_as_shipped(self, repository):
        result = invoke("inspect", repository / "eval_configs/video_llama_eval_withaudio.yaml")
        assert result.exit_code == 2
        assert [line.split()[-1] for line in result.stdout.splitlines()[2:-1]] == ["missing"] * 8
        assert "Put your own path there, or override it" in result.stderr

    def test_model(self, model):
        report = json.loads(invoke("inspect", model, "--json").stdout)
        assert report["problem"] is None
        assert {part["part"] for part in report["parts"]} >= {"ViT", "frame Q-Former", "audio projection", "decoder"}
        assert all(part["dtypes"] == ["F32"] and part["bytes"] == 4 * part["parameters"] for part in report["parts"])
        text = invoke("inspect", model).stdout
        assert text.startswith(f"tiny ({model})\npart")
        assert NOTICE in text

    def test_damaged_model(self, model, tmp_path):
        import shutil

        import torch
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(model, tmp_path / "copy")
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.video_qformer.query_tokens"]
        tensors["lm_head.weight"][0] = float("nan")
        tensors["stray"] = torch.zeros(3)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        result = invoke("inspect", folder, "--json")
        parts = {part["part"]: part for part in json.loads(result.stdout)["parts"]}
        assert parts["video Q-Former"]["missing"] == ["model.video_qformer.query_tokens"]
        assert parts["decoder"]["not_finite"] == ["lm_head.weight"]
        assert parts["stray"]["unexpected"] == parts["stray"]["zero"] == ["stray"]
        assert result.exit_code == 2
        assert result.stderr.startswith("CheckpointError: ")


def start(*arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "video_llama", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell that runs the tests in the background has them ignore SIGINT, which a child would inherit.
    return subprocess.Popen(command, text=True, preexec_fn=hear_interrupts, **pipes, **options)


def hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow  # each starts Python and loads torch
class TestEnds:
    """In a process of its own."""

    def test_interrupt_is_quiet(self, model):
        process = start("chat", "--model", model, "--device", "cpu", stdin=subprocess.PIPE)
        assert NOTICE in process.stderr.readline()  # it is loaded and waits for a line
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=240)
        assert (process.returncode, stdout, stderr) == (130, "", "")

    def test_broken_pipe_is_quiet(self, clip):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "video_llama", "inspect", str(clip)]
        process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=240)
        os.close(writer)
        assert (process.returncode, process.stderr) == (141, "")

    def test_whole_command_is_clean(self, model, clip):
        """No bar, warning or notice of a library on either stream."""
        process = start("ask", clip, QUESTION, "--model", model, "--device", "cpu", "--json", "--max-new-tokens", 4)
        stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0
        assert json.loads(stdout)["question"] == QUESTION
        assert stderr == ""


@pytest.mark.parametrize("command", ["ask", "chat", "inspect", "train", "convert", "apply-delta", "miniature"])
def test_help(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_version():
    from video_llama import __version__

    assert invoke("--version").stdout == f"video-llama {__version__}\n"


def test_train_needs_its_file(tmp_path):
    assert_one_line(invoke("train", tmp_path / "none.yaml"), "ConfigError: ")
