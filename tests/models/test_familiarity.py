"""Distances of features, and the warning about media outside their limits."""

from threading import Thread

import pytest
import torch

from tests.factories.models import IMAGE_SIZE
from video_llama.models.familiarity import Familiarity, FeatureRecorder, FeatureTest, blocks_of, pooled

# Hidden states: 2 frames, 1 class token and 4 patches, width 3
HIDDEN = torch.arange(30, dtype=torch.float32).view(2, 5, 3)


def make_test(pooling="class_and_mean", size=6, limits=(0.0, 2.0), one=(0.0, 3.0)) -> FeatureTest:
    return FeatureTest("test", "frames", 0, pooling, limits, one, torch.zeros(size), torch.eye(size))


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [("class_and_mean", (2, 6)), ("tokens", (2, 4, 3))],
)
def test_pooled_features_have_their_size(pooling, shape):
    assert pooled(HIDDEN, pooling).shape == shape


def test_distance_is_the_mean_over_frames():
    features = torch.stack([torch.full((6,), 1.0), torch.full((6,), 3.0)])
    assert make_test().distance_of(features) == pytest.approx(2.0)


def test_distance_of_tokens_is_that_of_the_farthest_patch():
    tokens = torch.zeros(1, 4, 3)
    tokens[0, 2] = 5.0
    assert make_test("tokens", 3).distance_of(tokens) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("value", "count", "is_passed"), [(1.0, 2, True), (2.5, 2, False), (2.5, 1, True), (4.0, 1, False)]
)
def test_one_frame_has_limits_of_its_own(value, count, is_passed):
    hidden = torch.full((count, 5, 3), value)
    assert make_test().is_passed(hidden) is is_passed
    assert Familiarity("unlike", (make_test(),)).warnings({("frames", 0): hidden}) == ([] if is_passed else ["unlike"])


def test_values_that_are_not_numbers_are_unfamiliar():
    assert not make_test().is_passed(torch.full((2, 5, 3), float("nan")))


def test_parts_that_a_medium_lacks_are_not_tested():
    assert Familiarity("unlike", (make_test(),)).warnings({}) == []


def test_recorder_keeps_the_states_of_its_own_thread(assistant):
    body = assistant.engine.model.model
    pixels = torch.zeros(1, 2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad(), FeatureRecorder(body, [("frames", 0)]) as recorder, recorder.recording() as features:
        assert len(blocks_of(body, "frames")[0]._forward_hooks) > 0
        other = Thread(target=lambda: body.encode_frames(pixels[:, :1]))
        other.start()
        other.join()
        assert not features
        body.encode_frames(pixels)
        assert features["frames", 0].shape[0] == 2
