"""Write a folder of the miniature's clips with annotations in the reference's own formats, so that the real readers
and the real trainer use it unchanged.

```
videos/{page_dir}/{videoid}.mp4
captions/captions.csv               WebVid columns videoid, name, page_dir; name = "a red circle moves left"
sound_captions/captions.csv         the same clips; name = "a circle", what would sound
questions_seeing.json               VideoChat rows {"video", "QA": [{"i", "q", "a"}]}, about the picture
questions_hearing.json              the same, about the sound, as if what is seen sounded: the audio branch is
                                    trained on pictures in the place of sound
scenes.jsonl                        the truth, one scene per line
```
Everything follows from seed and split. A second call goes on where the first was cut off.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.errors import DataError
from video_llama.log import progress
from video_llama.miniature.language import HARD_KINDS, HEARING_KINDS, SEEING_KINDS, question
from video_llama.miniature.wording import choose, plain_caption
from video_llama.miniature.world import (
    TWO_PART_SHARE,
    Part,
    Scene,
    SoundSort,
    Split,
    is_held_out,
    sample_scene,
    write_clip,
)

CLIPS_PER_FOLDER = 500
DIALOGUES_PER_CLIP = 3
MAX_TURNS = 3
HARD_SHARE = 0.4
SEEDS_OF_SPLITS: dict[Split, int] = {"train": 0, "test": 1, "any": 2}
SETTINGS_FILE = "settings.json"
WORLD_VERSION = 1  # raise it when the same scene looks or sounds otherwise, so that old clips are not mixed in


def scene_of(index: int, *, seed: int, split: Split, two_part_share: float, sounds: Sequence[SoundSort]) -> Scene:
    """The scene of one clip; it depends on nothing but these, so clips can be made in any order."""
    rng = np.random.default_rng([seed, SEEDS_OF_SPLITS[split], index])
    return sample_scene(rng, split, sound=sounds[index % len(sounds)], two_part_share=two_part_share)


def clip_path(index: int) -> str:
    """Where a clip lies below ``videos``, named as WebVid names its own: "000000_000499/42.mp4".

    Neither name is a number with leading zeros, which a reader of tables would lose.
    """
    first = index // CLIPS_PER_FOLDER * CLIPS_PER_FOLDER
    return f"{first:06d}_{first + CLIPS_PER_FOLDER - 1:06d}/{index}.mp4"


def _write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _captions(names: Sequence[str]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("videoid", "name", "page_dir"))
    for index, name in enumerate(names):
        path = Path(clip_path(index))
        rows.writerow((path.stem, name, path.parent.as_posix()))
    return text.getvalue()


def sound_name(scene: Scene) -> str:
    """What would sound if every visible shape did: "a circle", "a circle and then a square"."""
    return " and then ".join(f"a {shape}" for shape in scene.shapes)


def _questions(scene: Scene, rng: np.random.Generator, kinds: Sequence[str], *, hears: bool) -> list[dict[str, str]]:
    hard = [kind for kind in kinds if kind in HARD_KINDS]
    rows = []
    for _ in range(int(rng.integers(1, MAX_TURNS + 1))):
        kind = choose(rng, hard if hard and rng.random() < HARD_SHARE else kinds)
        qa = question(scene, kind, rng, sees="nothing" if hears else "video", hears=hears)
        rows.append({"i": "", "q": qa.question, "a": qa.answer})
    return rows


def _annotations(scenes: Sequence[Scene], seed: int, *, hears: bool) -> str:
    """VideoChat rows for all clips: several short dialogues about each."""
    rng = np.random.default_rng([seed, 10 + hears])
    rows: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes):
        told = replace(scene, sounds=scene.shapes) if hears else scene
        kinds = HEARING_KINDS if hears else SEEING_KINDS
        for _ in range(DIALOGUES_PER_CLIP):
            rows.append({"video": clip_path(index), "QA": _questions(told, rng, kinds, hears=hears)})
    return json.dumps(rows, indent=0)


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
    """Refuse to go on in a folder that was begun with other settings; its clips would not be those of the scenes."""
    path = folder / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise DataError(
                f"{folder} holds clips made with {found}, not {settings}. Name another folder or delete it."
            )
    _write_text(path, json.dumps(settings))


def write_dataset(
    folder: str | Path,
    *,
    num_clips: int,
    seed: int,
    split: Split = "train",
    workers: int = 2,
    two_part_share: float = TWO_PART_SHARE,
    sounds: Sequence[SoundSort] = ("matched",),
) -> list[Scene]:
    """Write ``num_clips`` clips and their annotations; clips that are there already are kept.

    Args:
        folder: made where missing; a folder begun with another seed, split or mixture is refused.
        num_clips: how many; more than at first adds to what is there.
        seed: of the whole set.
        split: "train", "test" (held-out combinations only) or "any".
        workers: processes that write clips.
        two_part_share: how many clips show two shapes one after the other.
        sounds: sorts of sound that the clips take in turn.

    Returns:
        the scenes, in the order of the clips.

    Raises:
        ValueError: fewer than one clip, or no sort of sound.
        DataError: the folder was begun with other settings.
    """
    if num_clips < 1 or not sounds:
        raise ValueError(f"num_clips={num_clips}, sounds={sounds!r}: at least one of each is needed")
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
    _write_text(folder / "captions/captions.csv", _captions([plain_caption(scene) for scene in scenes]))
    _write_text(folder / "sound_captions/captions.csv", _captions([sound_name(scene) for scene in scenes]))
    _write_text(folder / "questions_seeing.json", _annotations(scenes, seed, hears=False))
    _write_text(folder / "questions_hearing.json", _annotations(scenes, seed, hears=True))
    _write_text(folder / "scenes.jsonl", "".join(_scene_row(index, scene) for index, scene in enumerate(scenes)))
    return scenes


def _scene_row(index: int, scene: Scene) -> str:
    row = {"video": clip_path(index), **asdict(scene), "is_held_out": is_held_out(scene.parts)}
    return json.dumps(row) + "\n"


def read_scenes(folder: str | Path) -> list[tuple[Path, Scene]]:
    """The clips of a folder that ``write_dataset`` wrote, each with the truth about it.

    Raises:
        DataError: the folder has no scenes.jsonl, or a line of it is not a scene.
    """
    folder = Path(folder)
    path = folder / "scenes.jsonl"
    if not path.is_file():
        raise DataError(f"{path} is missing. Write the clips with video_llama.miniature.dataset.write_dataset first.")
    scenes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            parts = tuple(Part(**part) for part in row["parts"])
            scene = Scene(parts, tuple(row["sounds"]), int(row["seed"]), float(row["duration"]))
            scenes.append((folder / "videos" / row["video"], scene))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}:{number}: not a scene ({error}). Delete the folder and write it again.") from error
    return scenes
