"""Option groups: their fields become options, and the command receives them as one object."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tests.cli.conftest import QUESTION, assert_one_line, invoke
from video_llama.chat import Decoding
from video_llama.cli.options import (
    DecodingOptions,
    ModelOptions,
    SegmentOptions,
    as_model_type,
    expand_groups,
    is_existing,
    opened_media,
)


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(help="Width in pixels.")] = 4
    is_tall: Annotated[bool, typer.Option("--tall")] = False


class TestGroups:
    @pytest.fixture
    def run(self):
        received = []

        def command(name: Annotated[str, typer.Argument()], *, size: Size, times: int = 1) -> None:
            """Do something."""
            received.append((name, size, times))

        app = typer.Typer()
        app.command()(expand_groups(command))

        def run_with(*arguments: str):
            result = CliRunner().invoke(app, list(arguments))
            assert result.exit_code == 0, result.output
            return received[-1] if received else result.stdout

        return run_with

    def test_fields_become_options(self, run):
        assert run("a", "--width", "7", "--tall", "--times", "2") == ("a", Size(7, True), 2)

    def test_defaults_are_those_of_the_group(self, run):
        assert run("a") == ("a", Size(), 1)

    def test_help_and_debug(self, run):
        text = run("--help")
        assert "Do something." in text
        assert "Width in pixels." in text
        assert "--debug" in text

    def test_two_groups_of_a_command_share_no_option(self):
        names = [set(group.__dataclass_fields__) for group in (ModelOptions, SegmentOptions, DecodingOptions)]
        assert len(set.union(*names)) == sum(map(len, names))


@pytest.mark.parametrize("spelling", ["--set", "--options"])
@pytest.mark.parametrize("command", ["ask", "chat", "serve", "demo"])
def test_overrides_need_a_yaml(model_path, command, spelling):
    question = [QUESTION] if command == "ask" else []
    result = invoke(command, *question, "--model", model_path, spelling, "model.ckpt=x")
    assert_one_line(result, "model.ckpt=x")


def test_overrides_are_repeatable(published):
    result = invoke("inspect", published, "--set", "model.image_size=28", "--set", "model.ckptt=x")
    assert_one_line(result, "Did you mean ckpt?")


def test_decoding_settings():
    assert DecodingOptions().settings() == Decoding()
    assert DecodingOptions(temperature=0.5, seed=3).settings() == Decoding(temperature=0.5, seed=3)
    with pytest.raises(ValueError, match="top_p is 2"):
        DecodingOptions(top_p=2).settings()


class TestSegment:
    def test_frames(self):
        frames = SegmentOptions(times="0.5, 2", start=0.1).media_fields(8)["frames"]
        assert (frames.times, frames.start) == ((0.5, 2.0), 0.1)
        assert SegmentOptions().media_fields(8)["frames"].num_frames == 8
        assert SegmentOptions(frames=3).media_fields(8)["frames"].num_frames == 3

    def test_audio(self):
        fields = SegmentOptions(no_audio=True).media_fields(8)
        assert (fields["no_audio"], fields["require_audio"]) == (True, False)

    def test_options_that_exclude_each_other(self):
        with pytest.raises(ValueError, match="--frames and --times cannot be combined"):
            SegmentOptions(frames=3, times="1").media_fields(8)

    def test_options_that_apply_to_no_file(self, clips):
        SegmentOptions(start=1).check_applicable([str(clips["sound"])])
        with pytest.raises(ValueError, match="--frames is 2, but no file is a video"):
            SegmentOptions(frames=2).check_applicable([str(clips["sound"])])

    def test_files_are_opened_once(self, assistant, clips):
        with opened_media([str(clips["video"]), str(clips["frames"])]) as (video, frames):
            SegmentOptions(frames=2).check_applicable([video, frames])
            assistant.chat(video, frames, **SegmentOptions(frames=2).media_fields(8))
            assert (video.num_opened, frames) == (1, str(clips["frames"]))


def test_existing_path(tmp_path):
    assert is_existing(str(tmp_path))
    assert not any(map(is_existing, ("", "y" * 300, "What is this?\0")))


def test_model_type():
    assert (as_model_type(None), as_model_type("llama_v2")) == (None, "llama_v2")
    with pytest.raises(ValueError, match="Choose vicuna or llama_v2"):
        as_model_type("gpt")
