"""The data set: file formats, resuming, reproducibility and errors."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from video_llama.errors import DataError
from video_llama.miniature import dataset
from video_llama.miniature.dataset import read_scenes, write_dataset
from video_llama.miniature.world import is_held_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "train"
    write_dataset(folder, num_clips=6, seed=1, workers=1, two_part_share=0.5)
    return folder


def decoded(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        return frames, np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def test_captions_are_webvid_rows(folder: Path) -> None:
    for name, words in (("captions", "appears|moves|stays"), ("sound_captions", "a ")):
        with open(folder / name / "captions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["videoid", "name", "page_dir"]
        assert len(rows) == 6
        for row in rows:
            assert (folder / "videos" / row["page_dir"] / f"{row['videoid']}.mp4").is_file()
            assert any(word in row["name"] for word in words.split("|"))
            assert row["name"] == row["name"].lower().rstrip(".")


@pytest.mark.parametrize(("name", "other"), [("seeing", "audio_words"), ("hearing", "video_words")])
def test_questions_are_videochat_rows(folder: Path, name: str, other: str) -> None:
    rows = json.loads((folder / f"questions_{name}.json").read_text())
    per_clip = {"seeing": dataset.DIALOGUES_SEEING, "hearing": dataset.DIALOGUES_HEARING}[name]
    assert len(rows) == sum(per_clip[len(scene.parts)] for _, scene in read_scenes(folder))
    for row in rows:
        assert (folder / "videos" / row["video"]).is_file()
        assert set(row) - {other} == {"video", "QA"}
        assert 1 <= len(row["QA"]) <= dataset.MAX_TURNS
        for turn in row["QA"]:
            assert set(turn) == {"i", "q", "a"}
            assert turn["q"]
    assert 0 < sum(other in row for row in rows) < len(rows)


def test_answers_are_about_the_medium_of_the_row(folder: Path) -> None:
    truth = {path.relative_to(folder / "videos").as_posix(): scene for path, scene in read_scenes(folder)}
    heard: set[tuple[bool, bool]] = set()
    for row in json.loads((folder / "questions_seeing.json").read_text()):
        shapes = truth[row["video"]].shapes
        assert all("I see no" not in turn["a"] for turn in row["QA"])
        assert all(f"I see a {shapes[0]}" in turn["a"] for turn in row["QA"] if turn["a"].startswith("I see a"))
        answers = [turn["a"] for turn in row["QA"] if turn["a"].startswith("I hear")]
        heard |= {("audio_words" in row, answer != "I hear no sound.") for answer in answers}
    assert heard == {(False, False), (True, True)}
    for row in json.loads((folder / "questions_hearing.json").read_text()):
        shapes = truth[row["video"]].shapes
        assert all("I hear no" not in turn["a"] for turn in row["QA"])
        assert "video_words" not in row or all("I see no" not in turn["a"] for turn in row["QA"])
        for turn in row["QA"]:
            if "the sound of" in turn["a"]:
                assert f"the sound of a {shapes[0]}" in turn["a"]


def test_pictures_are_llava_rows(folder: Path) -> None:
    rows = json.loads((folder / "questions_pictures.json").read_text())
    assert len(rows) == 2  # of six clips
    for row in rows:
        assert (folder / "pictures" / row["image"]).is_file()
        sides = [turn["from"] for turn in row["conversations"]]
        assert sides == ["human", "gpt"] * (len(sides) // 2)
        assert [turn["value"].startswith("<image>\n") for turn in row["conversations"]] == [
            True,
            *[False] * (len(sides) - 1),
        ]


def test_scenes_are_read_back_and_belong_to_the_split(folder: Path) -> None:
    truth = read_scenes(folder)
    again = [dataset.scene_of(i, seed=1, split="train", two_part_share=0.5, sounds=("matched",)) for i in range(6)]
    assert [scene for _, scene in truth] == again
    assert all(path.is_file() and not is_held_out(scene.parts) for path, scene in truth)


def test_a_second_call_keeps_existing_clips_and_adds_missing_ones(tmp_path: Path) -> None:
    first = write_dataset(tmp_path, num_clips=2, seed=2, split="test", workers=1, sounds=("silent", "mismatched"))
    kept = tmp_path / "videos" / dataset.clip_path(0)
    kept.write_bytes(b"kept")
    (tmp_path / "videos" / dataset.clip_path(1)).unlink()
    more = write_dataset(tmp_path, num_clips=3, seed=2, split="test", workers=1, sounds=("silent", "mismatched"))
    assert more[:2] == first
    assert all(is_held_out(scene.parts) for scene in more)
    assert kept.read_bytes() == b"kept"
    assert all(path.is_file() for path, _ in read_scenes(tmp_path))
    assert [bool(scene.sounds) for scene in more] == [False, True, False]
    assert not list(tmp_path.rglob("*.part"))


def test_two_processes_write_the_same_clips(tmp_path: Path, folder: Path) -> None:
    write_dataset(tmp_path, num_clips=6, seed=1, workers=2, two_part_share=0.5)
    for path, _ in read_scenes(folder):
        (frames, sound), (its_frames, its_sound) = (
            decoded(clip) for clip in (path, tmp_path / path.relative_to(folder))
        )
        # The encoder reads uninitialised memory: in about one of a hundred clips a few pixels differ by 2 of 255.
        assert np.abs(frames.astype(int) - its_frames).max() <= 4
        assert (frames != its_frames).mean() < 0.01
        assert np.array_equal(sound, its_sound)
    assert (tmp_path / "questions_seeing.json").read_text() == (folder / "questions_seeing.json").read_text()


def test_other_settings_in_the_same_folder_are_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="Delete it or use another folder"):
        write_dataset(folder, num_clips=6, seed=2, workers=1, two_part_share=0.5)


def test_a_folder_without_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Write the clips with"):
        read_scenes(tmp_path)
    (tmp_path / "scenes.jsonl").write_text('{"video": "x"}\n')
    with pytest.raises(DataError, match=r"scenes.jsonl:1: not a scene"):
        read_scenes(tmp_path)


def test_fewer_than_one_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_dataset(tmp_path, num_clips=0, seed=0)
