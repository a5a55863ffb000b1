"""Scenes: held-out split, rendered frames and labels, and mp4 files."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.miniature import world
from video_llama.miniature.world import COLOURS, FRAME_SIZE, MOTIONS, PALETTE, SHAPES, Scene, ScenePart, sample_scene

SEEDS = st.integers(0, 2**32 - 1)


def scene_of(shape: str = "circle", motion: str = "left", colour: str = "red", seed: int = 0) -> Scene:
    return Scene((ScenePart(colour, shape, motion),), (shape,), seed, 5.0)


def nearest_colour(pixel: np.ndarray) -> str:
    return min(PALETTE, key=lambda name: float(np.abs(pixel - np.array(PALETTE[name])).sum()))


def test_a_fifth_of_the_single_combinations_is_held_out() -> None:
    combinations = [ScenePart(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    held_out = [part for part in combinations if world.is_held_out([part])]
    assert (len(held_out), len(combinations)) == (16, 80)
    assert {part.colour for part in held_out} == set(COLOURS)
    assert {part.shape for part in held_out} == set(SHAPES)
    assert {part.motion for part in held_out} == set(MOTIONS)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([True, False, None]))
def test_train_and_test_never_share_a_combination(seed: int, two_part: bool | None) -> None:
    rng = np.random.default_rng(seed)
    train = sample_scene(rng, "train", two_part=two_part)
    test = sample_scene(rng, "test", two_part=two_part)
    assert not world.is_held_out(train.parts)
    assert world.is_held_out(test.parts)
    if two_part is not None:
        assert train.is_two_part is test.is_two_part is two_part


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.booleans())
def test_sounds_have_the_requested_relation_to_the_shapes(seed: int, two_part: bool) -> None:
    rng = np.random.default_rng(seed)
    assert sample_scene(rng, two_part=two_part).is_matched
    assert sample_scene(rng, two_part=two_part, sound="silent").sounds == ()
    assert len(sample_scene(rng, two_part=two_part, sound="single").sounds) == 1
    mismatched = sample_scene(rng, two_part=two_part, sound="mismatched")
    assert all(seen != heard for seen, heard in zip(mismatched.shapes, mismatched.sounds, strict=True))
    assert len(set(mismatched.sounds)) == len(set(mismatched.shapes)) == len(mismatched.parts)


def test_one_and_two_shapes_have_the_same_durations() -> None:
    rng = np.random.default_rng(0)
    lengths = [{sample_scene(rng, two_part=two).duration for _ in range(100)} for two in (False, True)]
    assert lengths[0] == lengths[1] == set(world.DURATIONS)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="use train, test or any"):
        sample_scene(np.random.default_rng(0), "dev")  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_frames_depend_only_on_the_scene(seed: int) -> None:
    one, two = (sample_scene(np.random.default_rng(seed)) for _ in range(2))
    assert one == two
    seconds = world.sampled_seconds(one)
    frames = world.render_frames(one, seconds)
    world._appearance.cache_clear()
    assert np.array_equal(frames, world.render_frames(two, seconds))
    assert np.array_equal(frames[3:5], world.render_frames(two, seconds[3:5]))
    assert frames.dtype == np.uint8
    assert frames.shape == (8, FRAME_SIZE, FRAME_SIZE, 3)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(0, 1))
def test_frames_show_the_shape_at_its_position(seed: int, share: float) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    second = share * scene.duration
    state = world.object_state(scene, second)
    frame = world.render_frames(scene, [second])[0].astype(float)
    assert nearest_colour(frame[int(state.y), int(state.x)]) == state.colour
    rows, columns = np.nonzero(np.abs(frame - np.median(frame, axis=(0, 1))).sum(axis=2) > 60)
    middle = ((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2)
    assert abs(middle[0] - state.x) < 7
    assert abs(middle[1] - state.y) < 7
    assert rows.min() > 0
    assert rows.max() < FRAME_SIZE - 1
    assert columns.min() > 0
    assert columns.max() < FRAME_SIZE - 1


@pytest.mark.parametrize("motion", MOTIONS)
def test_shapes_move_in_the_named_direction(motion: str) -> None:
    for seed in range(20):
        states = [world.object_state(scene_of(motion=motion, seed=seed), second) for second in (0.0, 2.5, 5.0)]
        across, down = states[-1].x - states[0].x, states[-1].y - states[0].y
        expected = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}[motion]
        assert (np.sign(across), np.sign(down)) == expected
        assert motion == "still" or abs(across + down) > 15
        assert states[1].x == pytest.approx((states[0].x + states[2].x) / 2)


def test_the_second_part_starts_at_half_time() -> None:
    scene = Scene((ScenePart("red", "circle", "still"), ScenePart("blue", "star", "still")), (), 1, 6.0)
    shapes = [world.object_state(scene, second).shape for second in (0.0, 2.9, 3.0, 6.0)]
    assert shapes == ["circle", "circle", "star", "star"]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_single_frame_matches_its_labels(seed: int) -> None:
    frame, labels = world.sample_frame(np.random.default_rng(seed))
    assert frame.shape == (FRAME_SIZE, FRAME_SIZE, 3)
    assert labels.patch_mask.shape == (6, 6)
    assert labels.patch_mask.any()
    row, column = np.argwhere(labels.patch_mask).mean(axis=0) * world.PATCH_SIZE + world.PATCH_SIZE / 2
    assert abs(np.searchsorted(world.PLACE_EDGES, column) - labels.x_bin) <= 1
    assert abs(np.searchsorted(world.PLACE_EDGES, row) - labels.y_bin) <= 1
    centre = frame[int(row) - 2 : int(row) + 3, int(column) - 2 : int(column) + 3].mean(axis=(0, 1))
    assert nearest_colour(centre) == COLOURS[labels.colour]


def test_single_frames_show_every_class() -> None:
    rng = np.random.default_rng(0)
    labels = [world.sample_frame(rng)[1] for _ in range(300)]
    pairs = {(label.colour, label.shape) for label in labels}
    assert len(pairs) == 16
    assert {label.x_bin for label in labels} == {label.y_bin for label in labels} == set(range(5))
    assert {label.size_bin for label in labels} == {0, 1, 2}


def test_a_clip_survives_the_mp4(tmp_path: Path) -> None:
    scene = Scene((ScenePart("red", "circle", "still"), ScenePart("blue", "star", "still")), ("star", "circle"), 5, 6.0)
    path = tmp_path / "clip.mp4"
    world.write_clip(scene, path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name.startswith("aac")
        decoded = list(container.decode(video=0))
    assert len(decoded) == 60
    assert [round(float(frame.time), 3) for frame in decoded] == [index / 10 for index in range(60)]
    seconds = world.sampled_seconds(scene)
    assert seconds == [0.0, 0.7, 1.5, 2.2, 3.0, 3.7, 4.5, 5.2]
    written = world.render_frames(scene, seconds).astype(int)
    read = np.stack([decoded[round(second * 10)].to_ndarray(format="rgb24") for second in seconds]).astype(int)
    assert np.abs(written - read).mean() < 4  # crf 23 and halved chroma blur the edges
    assert path.stat().st_size < 35_000


def test_a_silent_clip_has_no_audio_track(tmp_path: Path) -> None:
    world.write_clip(sample_scene(np.random.default_rng(0), sound="silent"), tmp_path / "silent.mp4")
    with av.open(str(tmp_path / "silent.mp4")) as container:
        assert not container.streams.audio
