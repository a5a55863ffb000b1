"""Write a data set of clips, with annotations in the formats of the reference, for the readers and the trainer of this
package.

```
videos/{page_dir}/{videoid}.mp4
captions/captions.csv               WebVid columns videoid, name, page_dir; name = "a red circle moves left"
sound_captions/captions.csv         the same clips; name = "a circle", the shape that would sound
questions_seeing.json               VideoChat rows {"video", "QA": [{"i", "q", "a"}]} about the video; some have
                                    "audio_words", a description of a sound
questions_hearing.json              the same rows about sound, with the visible shapes as its sources, because the audio
                                    branch is trained on video frames; some have "video_words", a description of a video
pictures/{videoid}.png              a frame from the first half of every fourth clip
questions_pictures.json             LLaVA rows {"image", "conversations"} about the pictures
scenes.jsonl                        the scene of every clip, one per line
```
The contents depend only on the arguments of ``write_dataset``. A second call adds what is missing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_llama.errors import DataError
from video_llama.files import replace_text
from video_llama.log import progress
from video_llama.miniature.captions import caption, choose, plain_caption, sound_caption
from video_llama.miniature.questions import HARD_KINDS, HEARING_KINDS, JOINT_KINDS, SEEING_KINDS, Visual, question
from video_llama.miniature.world import (
    TWO_PART_SHARE,
    Scene,
    ScenePart,
    SoundRelation,
    Split,
    is_held_out,
    render_frames,
    sample_scene,
    sample_sounds,
    write_clip,
)

CLIPS_PER_FOLDER = 500
DIALOGUES_SEEING = {1: 2, 2: 6}  # number of shapes -> dialogues per clip
DIALOGUES_HEARING = {1: 3, 2: 5}
MAX_TURNS = 3
LATE_KINDS = (*HARD_KINDS, "desc")  # kinds of question that are learned last
LATE_SHARE = 0.5  # share of questions that are of these kinds only
CLIPS_PER_PICTURE = 4
LATEST_STILL = 0.45  # latest time of a picture, relative to the duration: before the second of two shapes
OTHER_WORDS_SHARE = 0.5  # share of dialogues with a description of the other medium
KindShares = Sequence[tuple[Sequence[str], float]]
SEEING_ALONE: KindShares = ((SEEING_KINDS, 0.9), (HEARING_KINDS, 0.1))
# With a description of the other medium, some questions are about it. Otherwise the model mistakes the tokens of one
# branch for those of the other.
SEEING_WITH_SOUND: KindShares = ((SEEING_KINDS, 0.65), (HEARING_KINDS, 0.15), (JOINT_KINDS, 0.2))
PICTURE_ALONE: KindShares = ((SEEING_KINDS, 0.95), (HEARING_KINDS, 0.05))
HEARING_ALONE: KindShares = ((HEARING_KINDS, 0.9), (SEEING_KINDS, 0.1))
HEARING_WITH_VIDEO: KindShares = ((HEARING_KINDS, 0.5), (SEEING_KINDS, 0.25), (JOINT_KINDS, 0.25))
SEEDS_OF_SPLITS: dict[Split, int] = {"train": 0, "test": 1, "any": 2}
SETTINGS_FILE = "settings.json"
NUM_TRAINING_CLIPS = 6000
TRAINING_TWO_PART_SHARE = 0.4
WORLD_VERSION = 1  # increase it when the rendering of scenes changes, so that old and new clips are not mixed


def scene_of(index: int, *, seed: int, split: Split, two_part_share: float, sounds: Sequence[SoundRelation]) -> Scene:
    """Return the scene of one clip. It depends only on the arguments, so clips can be written in any order."""
    rng = np.random.default_rng([seed, SEEDS_OF_SPLITS[split], index])
    return sample_scene(rng, split, sound=sounds[index % len(sounds)], two_part_share=two_part_share)


def clip_path(index: int) -> str:
    """Return the path of a clip below ``videos``, in the style of WebVid: "000000_000499/42.mp4".

    Neither name is a number with leading zeros, because readers of tables may remove them.
    """
    first = index // CLIPS_PER_FOLDER * CLIPS_PER_FOLDER
    return f"{first:06d}_{first + CLIPS_PER_FOLDER - 1:06d}/{index}.mp4"


def _captions(names: Sequence[str]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("videoid", "name", "page_dir"))
    for index, name in enumerate(names):
        path = Path(clip_path(index))
        rows.writerow((path.stem, name, path.parent.as_posix()))
    return text.getvalue()


def sound_name(scene: Scene) -> str:
    """Return the sources of the matching sound: "a circle", "a circle and then a square"."""
    return " and then ".join(f"a {shape}" for shape in scene.shapes)


def _questions(
    scene: Scene, rng: np.random.Generator, shares: KindShares, *, visual: Visual, has_audio: bool
) -> list[dict[str, str]]:
    rows = []
    for _ in range(int(rng.integers(1, MAX_TURNS + 1))):
        groups = [kinds for kinds, _ in shares]
        kinds = groups[int(rng.choice(len(groups), p=[share for _, share in shares]))]
        late = [kind for kind in kinds if kind in LATE_KINDS]
        kind = choose(rng, late if late and rng.random() < LATE_SHARE else kinds)
        qa = question(scene, kind, rng, visual=visual, has_audio=has_audio, named_share=0)
        rows.append({"i": "", "q": qa.question, "a": qa.answer})
    return rows


def _seeing_row(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """Return questions about the video, alone or with the description of a sound (matching or not)."""
    if rng.random() >= OTHER_WORDS_SHARE:
        return {"QA": _questions(scene, rng, SEEING_ALONE, visual="video", has_audio=False)}
    relation: SoundRelation = "matched" if rng.random() < 0.5 else "mismatched"
    described = replace(scene, sounds=sample_sounds(rng, scene.shapes, relation))
    words = sound_caption(described.sounds, rng)
    return {"audio_words": words, "QA": _questions(described, rng, SEEING_WITH_SOUND, visual="video", has_audio=True)}


def _hearing_row(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """Return questions about the sound, alone or with the description of a video (matching or not)."""
    heard = replace(scene, sounds=scene.shapes)
    if rng.random() >= OTHER_WORDS_SHARE:
        return {"QA": _questions(heard, rng, HEARING_ALONE, visual="nothing", has_audio=True)}
    is_matched = rng.random() < 0.5
    seen = sample_scene(rng, "any", two_part=scene.is_two_part if is_matched else None)
    while (seen.shapes == scene.shapes) != is_matched:
        seen = sample_scene(rng, "any", two_part=scene.is_two_part if is_matched else None)
    described = replace(seen, sounds=scene.shapes)
    return {
        "video_words": caption(seen, rng),
        "QA": _questions(described, rng, HEARING_WITH_VIDEO, visual="video", has_audio=True),
    }


def _annotations(scenes: Sequence[Scene], seed: int, *, about_sound: bool) -> str:
    """Return VideoChat rows with several short dialogues about each clip."""
    rng = np.random.default_rng([seed, 10 + about_sound])
    row_of, num_dialogues = (_hearing_row, DIALOGUES_HEARING) if about_sound else (_seeing_row, DIALOGUES_SEEING)
    rows = [
        {"video": clip_path(index), **row_of(scene, rng)}
        for index, scene in enumerate(scenes)
        for _ in range(num_dialogues[len(scene.parts)])
    ]
    return json.dumps(rows, indent=0)


def _write_pictures(folder: Path, scenes: Sequence[Scene], seed: int) -> str:
    """Write the missing pictures, and return LLaVA rows about all pictures."""
    rng = np.random.default_rng([seed, 12])
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(0, len(scenes), CLIPS_PER_PICTURE):
        scene, path = scenes[index], pictures / f"{index}.png"
        second = float(rng.uniform(0, LATEST_STILL)) * scene.duration
        if not path.exists():
            Image.fromarray(render_frames(scene, [second])[0]).save(path)
        asked = _questions(scene, rng, PICTURE_ALONE, visual="image", has_audio=False)
        rows.append({"image": path.name, "conversations": _llava_turns(asked)})
    return json.dumps(rows, indent=0)


def _llava_turns(asked: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    mark = "<image>\n"  # position of the picture in the first question, as in LLaVA
    return [
        {"from": side, "value": f"{mark if side == 'human' and index == 0 else ''}{turn[key]}"}
        for index, turn in enumerate(asked)
        for side, key in (("human", "q"), ("gpt", "a"))
    ]


def _write_one(job: tuple[Scene, Path]) -> None:
    scene, path = job
    write_clip(scene, path)


def _write_clips(jobs: Sequence[tuple[Scene, Path]], workers: int) -> Iterator[None]:
    if workers <= 1 or len(jobs) < 2 * workers:
        yield from map(_write_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_one, jobs, chunksize=8)


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise DataError for a folder that was written with other settings."""
    path = folder / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise DataError(
                f"{folder} contains clips written with {found}, not {settings}. Delete it or use another folder."
            )
    replace_text(path, json.dumps(settings))


def write_dataset(
    folder: str | Path,
    *,
    num_clips: int,
    seed: int,
    split: Split = "train",
    workers: int = 2,
    two_part_share: float = TWO_PART_SHARE,
    sounds: Sequence[SoundRelation] = ("matched",),
) -> list[Scene]:
    """Write clips and their annotations. Existing clips are kept.

    Args:
        folder: folder of the data set; created if missing.
        num_clips: number of clips. A larger number than in an earlier call adds clips.
        seed: random seed of the data set.
        split: "train", "test" (held-out combinations only) or "any".
        workers: number of processes that write clips.
        two_part_share: share of clips with two shapes, one after the other.
        sounds: relations of the sound to the picture, used in turn.

    Returns:
        the scenes, in the order of the clips.

    Raises:
        ValueError: ``num_clips`` is below 1, or ``sounds`` is empty.
        DataError: ``folder`` was written with other settings.
    """
    if num_clips < 1 or not sounds:
        raise ValueError(f"num_clips={num_clips}, sounds={sounds!r}: both must be at least one")
    folder = Path(folder)
    settings = {"seed": seed, "split": split, "two_part_share": two_part_share, "sounds": list(sounds)}
    _check_settings(folder, settings | {"version": WORLD_VERSION})
    scenes = [
        scene_of(index, seed=seed, split=split, two_part_share=two_part_share, sounds=sounds)
        for index in range(num_clips)
    ]
    paths = [folder / "videos" / clip_path(index) for index in range(num_clips)]
    for parent in sorted({path.parent for path in paths}):
        parent.mkdir(parents=True, exist_ok=True)
    jobs = [(scene, path) for scene, path in zip(scenes, paths, strict=True) if not path.exists()]
    for _ in progress(_write_clips(jobs, workers), f"writing {split} clips", total=len(jobs)):
        pass
    replace_text(folder / "captions/captions.csv", _captions([plain_caption(scene) for scene in scenes]))
    replace_text(folder / "sound_captions/captions.csv", _captions([sound_name(scene) for scene in scenes]))
    replace_text(folder / "questions_seeing.json", _annotations(scenes, seed, about_sound=False))
    replace_text(folder / "questions_hearing.json", _annotations(scenes, seed, about_sound=True))
    replace_text(folder / "questions_pictures.json", _write_pictures(folder, scenes, seed))
    replace_text(folder / "scenes.jsonl", "".join(_scene_row(index, scene) for index, scene in enumerate(scenes)))
    return scenes


def write_training_clips(root: str | Path, *, seed: int, num_clips: int = NUM_TRAINING_CLIPS, workers: int = 2) -> Path:
    """Write the data set of ``train_configs/miniature/*.yaml`` to ``root/data``, and return that folder.

    Existing clips are kept. Raises the errors of :func:`write_dataset`.
    """
    folder = Path(root) / "data"
    write_dataset(folder, num_clips=num_clips, seed=seed, workers=workers, two_part_share=TRAINING_TWO_PART_SHARE)
    return folder


def _scene_row(index: int, scene: Scene) -> str:
    row = {"video": clip_path(index), **asdict(scene), "is_held_out": is_held_out(scene.parts)}
    return json.dumps(row) + "\n"


def read_scenes(folder: str | Path) -> list[tuple[Path, Scene]]:
    """Return the clips of a data set with their scenes.

    Raises:
        DataError: the folder has no valid scenes.jsonl.
    """
    folder = Path(folder)
    path = folder / "scenes.jsonl"
    if not path.is_file():
        raise DataError(f"{path} does not exist. Write the clips with video_llama.miniature.dataset.write_dataset.")
    scenes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            parts = tuple(ScenePart(**part) for part in row["parts"])
            scene = Scene(parts, tuple(row["sounds"]), int(row["seed"]), float(row["duration"]))
            scenes.append((folder / "videos" / row["video"], scene))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{number}: not a scene ({error}). Delete the folder and write the clips again."
            ) from error
    return scenes
