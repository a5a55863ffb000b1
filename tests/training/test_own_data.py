"""People's own data in whole runs: real sound, videos with their sound, and files that cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import moved_by
from video_llama.errors import ConfigError, DataError, MediaError
from video_llama.training.checkpoint import newest_checkpoint
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]
FRAMES = {"train": {"name": "alpro_video_eval", "n_frms": 4}}


@pytest.fixture
def own(tmp_path: Path, clips: Path) -> Callable[..., dict[str, Any]]:
    """A data set of rows made from the clips' own questions: ``keys`` are the media that each row shows."""

    def write(*keys: str, bad: int = 0, name: str = "own", **config: Any) -> dict[str, Any]:
        rows = []
        for row in json.loads((clips / "questions_hearing.json").read_text()):
            said = [{"q": "user", "a": "assistant"}[side] for side in ("q", "a")]
            turns = [{"role": said[i], "content": qa["qa"[i]]} for qa in row["QA"] for i in (0, 1)]
            rows.append({**dict.fromkeys(keys, row["video"]), "messages": turns})
        for row in rows[:bad]:
            row.update(dict.fromkeys(keys, "lost.mp4"))
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        build_info = {"anno_dir": str(path), "videos_dir": str(clips / "videos")}
        return {"format": "messages", "build_info": build_info, "vis_processor": FRAMES, **config}

    return write


@pytest.mark.slow
def test_the_audio_branch_learns_from_real_sound_alone_and_mixed(
    write_yaml: Write, losses: Losses, own: Callable[..., dict[str, Any]], base: Path
) -> None:
    heard = own("audio")
    for name, datasets in (("alone", {"heard": heard}), ("mixed", {"heard": heard, "seen": own("video", name="seen")})):
        runs = [
            train_from_config(
                write_yaml(
                    "audio",
                    name=f"{name}{cached}",
                    datasets=datasets,
                    run={"cache_features": cached, "weight_decay": 0},  # nothing but a gradient moves a weight
                )
            )
            for cached in (True, False)
        ]
        assert losses(runs[0]) == losses(runs[1])
        rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
        assert {each for row in rows for each in row["datasets"]} == set(datasets)
        assert "model.audio_qformer.query_tokens" in moved_by(runs[0], base)


def test_noise_is_for_frames_in_the_place_of_sound(
    write_yaml: Write, losses: Losses, own: Callable[..., dict[str, Any]]
) -> None:
    runs = [
        train_from_config(
            write_yaml("audio", name=f"noise{noise}", datasets={"own": own("audio")}, model={"clip_noise": noise}),
            max_steps=3,
        )
        for noise in (0.0, 0.5)
    ]
    assert losses(runs[0]) == losses(runs[1])


def test_a_video_with_its_sound_trains_the_vision_branch(
    write_yaml: Write, own: Callable[..., dict[str, Any]], base: Path
) -> None:
    own_rows = {"own": own("video", "audio")}
    run = train_from_config(write_yaml("vision", datasets=own_rows, run={"weight_decay": 0}), max_steps=2)
    assert "model.video_qformer.query_tokens" in moved_by(run, base)


def test_sound_and_its_stand_in_are_two_data_sets(write_yaml: Write, own: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"datasets.own shows the audio branch both sound and video. Make two"):
        train_from_config(write_yaml("audio", datasets={"own": own("video", "audio")}))


@pytest.mark.parametrize("cached", [True, False])
def test_bad_media_stop_or_are_left_out_and_counted(
    write_yaml: Write,
    losses: Losses,
    own: Callable[..., dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    cached: bool,
) -> None:
    run = {"cache_features": cached, "batch_size_train": 12, "iters_per_epoch": 4}
    with pytest.raises(MediaError, match=r"own.json:\d: .*lost.mp4"):
        train_from_config(write_yaml(name="stops", datasets={"own": own("video", bad=2)}, run=run))
    skipping = own("video", bad=2, on_bad_media="skip", max_bad_share=0.2)
    folders = [
        train_from_config(write_yaml(name=name, datasets={"own": skipping}, run=run)) for name in ("one", "again")
    ]
    assert losses(folders[0]) == losses(folders[1])
    assert "lost.mp4" in caplog.text
    if not cached:
        rows = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
        reported = [json.loads(line) for line in (folders[0] / "left_out.jsonl").read_text().splitlines()]
        assert sum(row["left_out"] for row in rows) == len(reported) > 0
        assert all(row["dataset"] == "own" and "lost.mp4" in row["reason"] for row in reported)


def test_an_evaluation_counts_what_it_cannot_read(write_yaml: Write, own: Callable[..., dict[str, Any]]) -> None:
    skipping = own("video", bad=2, on_bad_media="skip")
    run = train_from_config(write_yaml(valid={"held_out": skipping}, run={"cache_features": False, "evaluate": True}))
    assert json.loads((run / "evaluation.jsonl").read_text())["left_out"] == 2


@pytest.mark.parametrize("cached", [True, False])
def test_too_many_bad_media_stop_the_run(write_yaml: Write, own: Callable[..., dict[str, Any]], cached: bool) -> None:
    skipping = own("video", bad=12, on_bad_media="skip", max_bad_share=0.01)
    path = write_yaml(datasets={"own": skipping}, run={"cache_features": cached, "batch_size_train": 12})
    with pytest.raises(DataError, match=r"datasets.own: \d+ of .*cannot be read, more than max_bad_share 0.01"):
        train_from_config(path)


def test_the_count_of_bad_media_goes_on_after_a_resume(
    write_yaml: Write, own: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    skipping = own("video", bad=3, on_bad_media="skip", max_bad_share=1.0)
    num_rows = len(json.loads((tmp_path / "own.json").read_text()))
    run = {"cache_features": False, "batch_size_train": num_rows}  # each step draws every row
    folder = train_from_config(write_yaml(datasets={"own": skipping}, run=run), max_steps=1)
    state = json.loads((newest_checkpoint(folder) / "state.json").read_text())  # type: ignore[operator]
    assert state["left_out"] == {"drawn": {"own": num_rows}, "bad": {"own": 3}}
    strict = write_yaml(
        datasets={"own": {**skipping, "max_bad_share": 0.03}}, run=run
    )  # the first step's 3 were let pass
    with pytest.raises(DataError, match=rf"6 of the {2 * num_rows} samples drawn so far .* max_bad_share 0.03"):
        train_from_config(strict, resume="auto")
    train_from_config(write_yaml(datasets={"own": skipping}, run=run), resume="auto", max_steps=2)
    reported = [json.loads(line)["step"] for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert reported == [1, 1, 1, 2, 2, 2]  # what the stopped run wrote of step 2 is gone


def test_a_share_without_any_readable_sample_names_the_way_out(
    write_yaml: Write, own: Callable[..., dict[str, Any]]
) -> None:
    skipping = own("video", bad=1000, on_bad_media="skip", max_bad_share=1.0)
    path = write_yaml(datasets={"own": skipping}, run={"cache_features": False})
    with pytest.raises(DataError, match=r"No sample of a process's 4 in batch \d+ can be read .*own.exclude"):
        train_from_config(path)
