"""The warning about clips unlike those of the miniature: fit its statistics and limits, and count it.

``fit_familiarity`` takes the statistics from new clips of the training combinations, and the limits from new clips of
held-out combinations. ``measure_familiarity`` counts the warnings about clips of another seed and about other media.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from video_llama.chat import Assistant, MediaOptions
from video_llama.checkpoints.familiarity import write_familiarity
from video_llama.checkpoints.folder import read_model_folder
from video_llama.evaluation.statistics import Count
from video_llama.log import progress
from video_llama.miniature.dataset import read_scenes, write_dataset
from video_llama.miniature.evaluation import TEST_SOUNDS
from video_llama.miniature.other_media import PICTURES, SOUNDS, write_other_clip, write_other_sound, write_sound
from video_llama.miniature.world import Scene, render_audio, render_frames
from video_llama.models.familiarity import Familiarity, FeatureRecorder, FeatureTest, Part, Pooling, pooled

# N frames or clips, P patches, W width, F feature size

WARNING = "This clip is unlike anything the miniature was trained on; its answer is meaningless."
NUM_FITTED_CLIPS = 400
FALSE_ALARMS = 0.0025
"""Share of the held-out clips outside the limits of each test."""
SHRINKAGE = 1e-3
"""Added to the variances, relative to their mean, so that directions almost without variance do not dominate."""
LARGEST_DISTANCE = 1e6
"""Upper limit of a test that uses the lower one."""
SEEDS_APART = 1000
"""Added to the seeds of clips, which differ from those of the training and the evaluation."""


@dataclass(frozen=True)
class TestSettings:
    """Features of one test, and whether small or large distances are unfamiliar. docs/log.md compares others."""

    name: str
    part: Part
    block: int
    pooling: Pooling
    is_lower: bool = False


TESTS = (
    TestSettings("picture", "frames", 1, "class_and_mean"),
    # In a frame without any shape, no patch differs much from the mean patch.
    TestSettings("shape", "frames", 0, "tokens", is_lower=True),
)


def fit_familiarity(
    assistant: Assistant, clips_dir: Path, *, num_clips: int = NUM_FITTED_CLIPS, seed: int = 0
) -> Familiarity:
    """Return the tests of a trained miniature.

    Args:
        assistant: the miniature.
        clips_dir: folder of the clips. Existing clips are kept.
        num_clips: number of clips for the statistics, and of clips for the limits.
        seed: random seed of the clips.
    """
    write_dataset(clips_dir / "train", num_clips=num_clips, seed=SEEDS_APART + seed, split="train", workers=1)
    write_held_out(clips_dir / "held_out", num_clips, SEEDS_APART + seed)
    train, held_out = (
        list(_hidden_states(assistant, [path for path, _ in read_scenes(clips_dir / name)]))
        for name in ("train", "held_out")
    )
    return Familiarity(
        WARNING,
        tuple(
            _fit(
                test,
                [clip[test.name] for clip in train],
                [clip[test.name] for clip in held_out],
            )
            for test in TESTS
        ),
    )


def write_familiarity_of(folder: Path, *, num_clips: int = NUM_FITTED_CLIPS, seed: int = 0) -> Path:
    """Fit the tests of the model in a folder, write their file there and return its path."""
    assistant = Assistant(read_model_folder(folder))
    with tempfile.TemporaryDirectory(prefix="video-llama-familiarity-") as clips_dir:
        tests = fit_familiarity(assistant, Path(clips_dir), num_clips=num_clips, seed=seed)
    return write_familiarity(folder, tests)


def write_held_out(folder: Path, num_clips: int, seed: int) -> None:
    """Write clips of held-out combinations: a third each with matching, other and no sound."""
    write_dataset(
        folder,
        num_clips=num_clips,
        seed=seed,
        split="test",
        workers=1,
        sounds=TEST_SOUNDS,
    )


def _hidden_states(assistant: Assistant, paths: Sequence[Path]) -> Iterator[dict[str, Tensor]]:
    """Yield the pooled features of each clip, by the name of the test."""
    recorder = FeatureRecorder(assistant.engine.model.model, [(test.part, test.block) for test in TESTS])
    with recorder:
        for path in progress(paths, "encoding"):
            with recorder.recording() as hidden:
                assistant.encode(path)
            yield {test.name: pooled(hidden[test.part, test.block], test.pooling) for test in TESTS}


def _fit(settings: TestSettings, train: Sequence[Tensor], held_out: Sequence[Tensor]) -> FeatureTest:
    """Return a test from the features of training and held-out clips, each [N, F] or [N, P, W]."""
    features_MF = torch.cat([clip.flatten(0, -2) for clip in train]).double()
    mean = features_MF.mean(dim=0)
    variances, directions = torch.linalg.eigh((features_MF - mean).T.cov())
    whitening = directions / (variances.clamp(min=0) + SHRINKAGE * variances.mean()).sqrt()
    test = FeatureTest(
        name=settings.name,
        part=settings.part,
        block=settings.block,
        pooling=settings.pooling,
        limits=(0.0, LARGEST_DISTANCE),
        limits_of_one=(0.0, LARGEST_DISTANCE),
        mean=mean.float(),
        whitening=whitening.float(),
    )
    several = [test.distance_of(clip) for clip in held_out]
    single = [test.distance_of(step[None]) for clip in held_out for step in clip]
    return replace(test, limits=_limits(settings, several), limits_of_one=_limits(settings, single))


def _limits(settings: TestSettings, distances: Sequence[float]) -> tuple[float, float]:
    if settings.is_lower:
        return float(np.quantile(distances, FALSE_ALARMS)), LARGEST_DISTANCE
    return 0.0, float(np.quantile(distances, 1 - FALSE_ALARMS))


def measure_familiarity(
    assistant: Assistant, folder: Path, *, num_clips: int = 300, num_others: int = 8, seed: int = 1
) -> dict[str, Count]:
    """Count the media with a warning. ``Count.right`` is the number of media with a warning.

    Args:
        assistant: the model.
        folder: folder for the media.
        num_clips: number of held-out clips. Each is tested as a clip, its first frame as an image, its sound alone.
        num_others: number of other clips of each kind of picture, and of other sounds of each kind.
        seed: random seed of all media.
    """
    write_held_out(folder / "held_out", num_clips, 2 * SEEDS_APART + seed)
    scenes = read_scenes(folder / "held_out")
    counts = {
        "miniature: clips": _count(assistant, [path for path, _ in scenes]),
        "miniature: images": _count(assistant, _images(folder, scenes)),
        "miniature: sounds": _count(assistant, _sounds(folder, scenes)),
    }
    for kind in PICTURES:
        counts[f"picture: {kind}"] = _count(assistant, _other_clips(folder, kind, num_others, seed))
    for kind in SOUNDS:
        counts[f"sound: {kind}"] = _count(assistant, _other_sounds(folder, kind, num_others, seed))
    return counts


def count_files(assistant: Assistant, paths: Iterable[Path]) -> dict[str, Count]:
    """Count the warnings about media files, each on its own."""
    return {f"file: {path.name}": _count(assistant, [path]) for path in paths}


def _count(assistant: Assistant, paths: Iterable[Path]) -> Count:
    warned = [bool(assistant.engine.encode(path, MediaOptions()).warnings) for path in paths]
    return Count(sum(warned), len(warned))


def _images(folder: Path, scenes: Sequence[tuple[Path, Scene]]) -> Iterator[Path]:
    for index, (_, scene) in enumerate(scenes):
        path = folder / f"image_{index}.png"
        Image.fromarray(render_frames(scene, [0.0])[0]).save(path)
        yield path


def _sounds(folder: Path, scenes: Sequence[tuple[Path, Scene]]) -> Iterator[Path]:
    for index, (_, scene) in enumerate(scenes):
        if scene.sounds:
            path = folder / f"sound_{index}.wav"
            write_sound(render_audio(scene), path)
            yield path


def _other_clips(folder: Path, kind: str, count: int, seed: int) -> Iterator[Path]:
    """Yield clips with other pictures; every second one has another sound, the rest none."""
    for index in range(count):
        rng = np.random.default_rng([seed, 51, list(PICTURES).index(kind), index])
        path = folder / f"picture_{kind.replace(' ', '_')}_{index}.mp4"
        write_other_clip(rng, path, kind, list(SOUNDS)[index % len(SOUNDS)] if index % 2 else None)
        yield path


def _other_sounds(folder: Path, kind: str, count: int, seed: int) -> Iterator[Path]:
    for index in range(count):
        path = folder / f"sound_{kind.replace(' ', '_')}_{index}.wav"
        write_other_sound(np.random.default_rng([seed, 52, list(SOUNDS).index(kind), index]), path, kind)
        yield path
