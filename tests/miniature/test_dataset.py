"""The data set: files in the reference's formats, resumable, the same for the same seed, refused when mixed."""

import csv
import json
from pathlib import Path

import pytest

from video_llama.errors import DataError
from video_llama.miniature import dataset
from video_llama.miniature.dataset import read_scenes, write_dataset
from video_llama.miniature.world import is_held_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "train"
    write_dataset(folder, num_clips=6, seed=1, workers=1, two_part_share=0.5)
    return folder


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


def test_questions_are_videochat_rows(folder: Path) -> None:
    for name, marks in (
        ("questions_seeing.json", ("It", "A ", "First", "The", "They")),
        ("questions_hearing.json", ()),
    ):
        rows = json.loads((folder / name).read_text())
        assert len(rows) == 6 * dataset.DIALOGUES_PER_CLIP
        for row in rows:
            assert (folder / "videos" / row["video"]).is_file()
            assert 1 <= len(row["QA"]) <= dataset.MAX_TURNS
            for turn in row["QA"]:
                assert set(turn) == {"i", "q", "a"}
                assert turn["q"]
                assert "I see no" not in turn["a"]
                assert not marks or turn["a"].startswith(marks)
                assert marks or "sound" in turn["a"]


def test_the_truth_is_read_back_and_keeps_the_split(folder: Path) -> None:
    truth = read_scenes(folder)
    again = [dataset.scene_of(i, seed=1, split="train", two_part_share=0.5, sounds=("matched",)) for i in range(6)]
    assert [scene for _, scene in truth] == again
    assert all(path.is_file() and not is_held_out(scene.parts) for path, scene in truth)


def test_a_second_call_keeps_what_is_there_and_adds_the_rest(tmp_path: Path) -> None:
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
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()
    assert (tmp_path / "questions_seeing.json").read_text() == (folder / "questions_seeing.json").read_text()


def test_mixing_settings_in_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="Name another folder or delete it"):
        write_dataset(folder, num_clips=6, seed=2, workers=1, two_part_share=0.5)


def test_a_folder_without_scenes_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write_dataset first"):
        read_scenes(tmp_path)
    (tmp_path / "scenes.jsonl").write_text('{"video": "x"}\n')
    with pytest.raises(DataError, match=r"scenes.jsonl:1: not a scene"):
        read_scenes(tmp_path)


def test_no_clips_is_a_bad_argument(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_dataset(tmp_path, num_clips=0, seed=0)
