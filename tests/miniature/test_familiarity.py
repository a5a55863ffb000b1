"""The shipped statistics: clips of the miniature seldom get the warning, other pictures always do."""

import numpy as np
import pytest
from PIL import Image

import video_llama
from video_llama.miniature.dataset import read_scenes
from video_llama.miniature.familiarity import (
    TESTS,
    WARNING,
    count_files,
    fit_familiarity,
    measure_familiarity,
    write_held_out,
)
from video_llama.miniature.other_media import PICTURES, sample_picture, write_other_clip


@pytest.fixture(scope="module")
def miniature():
    return video_llama.load("miniature", device="cpu")


def warnings_of(assistant, path, **options) -> list[str]:
    return list(assistant.encode(path, **options).warnings)


def test_shipped_file_has_all_tests(miniature) -> None:
    familiarity = miniature.engine.familiarity
    assert familiarity.warning == WARNING
    assert [(test.name, test.part, test.block, test.pooling) for test in familiarity.tests] == [
        (test.name, test.part, test.block, test.pooling) for test in TESTS
    ]


def test_held_out_clips_seldom_get_the_warning(miniature, tmp_path) -> None:
    """On a seed of its own. The limits allow 1 %: with that rate 2 or more of 24 have a probability of 2 %."""
    write_held_out(tmp_path, 24, seed=4321)
    paths = [path for path, _ in read_scenes(tmp_path)]
    assert sum(bool(warnings_of(miniature, path)) for path in paths) <= 1
    assert sum(bool(warnings_of(miniature, path, no_audio=True)) for path in paths) <= 1


@pytest.mark.parametrize("kind", PICTURES)
def test_other_clips_and_images_get_the_warning(miniature, tmp_path, kind) -> None:
    rng = np.random.default_rng(97)
    write_other_clip(rng, tmp_path / "clip.mp4", kind, None)
    assert warnings_of(miniature, tmp_path / "clip.mp4") == [WARNING]
    Image.fromarray(sample_picture(rng, kind)[0]).save(tmp_path / "image.png")
    assert warnings_of(miniature, tmp_path / "image.png") == [WARNING]


def test_examples_get_no_warning_and_real_media_do(miniature, repository, media_dir) -> None:
    assert not [path for path in (repository / "examples").glob("*.mp4") if warnings_of(miniature, path)]
    for path in sorted(media_dir.iterdir()):
        assert warnings_of(miniature, path) == [WARNING], path


def test_fitting_and_counting(miniature, tmp_path) -> None:
    familiarity = fit_familiarity(miniature, tmp_path / "clips", num_clips=6, seed=3)
    assert [test.name for test in familiarity.tests] == [test.name for test in TESTS]
    assert all(test.mean.isfinite().all() and test.whitening.isfinite().all() for test in familiarity.tests)
    counts = measure_familiarity(miniature, tmp_path, num_clips=3, num_others=1, seed=9)
    assert counts["miniature: clips"].total == 3
    assert counts["picture: text"].total == 1
    assert count_files(miniature, [tmp_path / "image_0.png"])["file: image_0.png"].total == 1
