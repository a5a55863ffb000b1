"""Captions of scenes and sounds state the facts of the scene."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.miniature import captions
from video_llama.miniature.dialogues import caption_pair
from video_llama.miniature.questions import facts
from video_llama.miniature.world import sample_scene

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_captions_state_the_scene_in_any_wording(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    for field in ("colour", "shape"):
        expected = tuple(getattr(part, field) for part in scene.parts)
        assert facts(captions.caption(scene, rng), field) == expected  # type: ignore[arg-type]
        assert facts(captions.canonical_caption(scene), field) == expected  # type: ignore[arg-type]
        assert facts(captions.image_caption(scene, rng), field) == expected[:1]  # type: ignore[arg-type]
    sound = captions.sound_caption(scene.sounds, rng)
    names = tuple(captions.SOUND_NAMES[shape] for shape in scene.sounds)
    assert facts(sound, "shape") == scene.sounds or facts(sound, "sound") == names
    text, plain = caption_pair(rng)
    assert facts(text, "colour") == facts(plain, "colour")
