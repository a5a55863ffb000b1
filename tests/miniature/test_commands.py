"""``video-llama miniature``: scenes from options, errors, written clips and evaluations."""

import json
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from video_llama.cli import app
from video_llama.errors import ConfigError
from video_llama.miniature.commands import make_scene
from video_llama.miniature.dataset import NUM_TRAINING_CLIPS
from video_llama.miniature.world import ScenePart
from video_llama.processors.audio_decode import read_waveform
from video_llama.processors.video_processor import read_video


def test_a_scene_has_the_given_contents() -> None:
    scene = make_scene(["red circle still", "blue star still"], ["square"], seed=0)
    assert scene.parts == (ScenePart("red", "circle", "still"), ScenePart("blue", "star", "still"))
    assert scene.sounds == ("square",)


def test_the_seed_decides_what_is_not_given() -> None:
    assert make_scene([], None, 1) == make_scene([], None, 1) != make_scene([], None, 2)
    assert make_scene(["red circle left"], None, 0).sounds == ("circle",)
    assert make_scene([], ["none"], 0).sounds == ()


@pytest.mark.parametrize(
    ("shows", "sounds", "message"),
    [
        (["red circle sideways"], None, "unknown word sideways. Use one of left, right"),
        (["red circle"], None, "give a colour, a shape and a motion"),
        (["red circle left", "blue star still"], None, "End each --shows with still"),
        (["red circle still"] * 3, None, "given 3 times"),
        (["red circle left"], ["bell"], "unknown sound. Use one of circle"),
    ],
)
def test_impossible_contents_are_errors(shows: list[str], sounds: list[str] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_scene(shows, sounds, 0)


def test_clip_writes_an_mp4(tmp_path: Path) -> None:
    path = tmp_path / "a clip.mp4"
    run = CliRunner().invoke(app, ["miniature", "clip", str(path), "--shows", "green star down", "--seed", "4"])
    assert run.exit_code == 0, run.output
    assert "green star down; sound: star" in run.output
    assert read_video(path, size=(84, 84)).frames.shape == (8, 3, 84, 84)
    assert read_waveform(path)[1] == 16000


@pytest.mark.parametrize("name", ["two_shapes", "square_with_hum", "silent_star"])
def test_shipped_examples_equal_those_of_the_commands_in_the_readme(
    name: str, repository: Path, tmp_path: Path
) -> None:
    readme = (repository / "examples" / "README.md").read_text(encoding="utf-8")
    [command] = [part for part in readme.split("`") if part.startswith(f"video-llama miniature clip examples/{name}")]
    arguments = shlex.split(command)[4:]
    run = CliRunner().invoke(app, ["miniature", "clip", str(tmp_path / "again.mp4"), *arguments])
    assert run.exit_code == 0, run.output
    again = read_video(tmp_path / "again.mp4", size=(84, 84))
    shipped = read_video(repository / "examples" / f"{name}.mp4", size=(84, 84))
    assert shipped.duration == again.duration
    # Other builds of the encoder give other bits; the frames remain similar.
    assert abs(shipped.frames.astype(int) - again.frames.astype(int)).mean() < 4


def test_evaluate_prints_json(tmp_path: Path) -> None:
    arguments = ["--num-clips", "3", "--seed", "5", "--json", "--answers", str(tmp_path / "answers.jsonl")]
    run = CliRunner().invoke(app, ["miniature", "evaluate", *arguments])
    assert run.exit_code == 0, run.output
    data = json.loads(run.stdout)
    assert (data["seed"], data["num_clips"], data["weights"]) == (5, 3, "miniature")
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) > 20


def test_clips_writes_the_training_clips(tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path), "--num-clips", "2", "--workers", "1"]
    run = CliRunner().invoke(app, ["miniature", "clips", *arguments])
    assert run.exit_code == 0, run.output
    assert run.stdout == f"{tmp_path / 'data'}\n"
    assert len(list((tmp_path / "data/videos").rglob("*.mp4"))) == 2


def test_clips_writes_as_many_as_training_uses() -> None:
    command = get_command(app).commands["miniature"].commands["clips"]
    [num_clips] = [option for option in command.params if option.name == "num_clips"]
    assert num_clips.default == NUM_TRAINING_CLIPS
