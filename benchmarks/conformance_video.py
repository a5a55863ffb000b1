"""Frames and images compared with the reference: everything in video.json and video.safetensors.

Indices, sentences and pixels must be equal, and so must the float stage of the training crop. The reference's crop then
overflows in uint8 and ours is clamped: the stored uint8 is compared after an overflow of ours, and with our own result
where the float stage is inside 0..255. Rows of unavailable files are skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.conformance_row import Row, guarded
from video_llama.processors.augmentation import crop_and_resize, random_crop, to_uint8
from video_llama.processors.sampling import FrameSampling, frame_indices
from video_llama.processors.video_processor import (
    SampledVideo,
    VideoProcessor,
    frames_message,
    read_image,
    read_video,
)

FLOAT_LIMIT = 1e-6  # float32 rounding of (x / 255 - mean) / std
CROP_LIMIT = 1e-6  # of 255: bicubic in float32
NUM_PLACES = 64  # candidates for the position of a patch
STATISTICS_LIMIT = 1e-5  # the golden statistics were computed in float32

Tensors = dict[str, np.ndarray]
Case = dict[str, Any]


def rows(folder: Path, media_dir: Path | None = None) -> Iterator[Row]:
    """Yield a row for each item of video.json. Media files are read from ``media_dir``."""
    golden = json.loads((folder / "video.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "video.safetensors")
    if "index_rules" in golden:
        yield from guarded("video index rules", lambda: [_index_row(golden["index_rules"])])
    if "random_resized_crop_params" in golden:
        yield from guarded("video random crop boxes", lambda: [_crop_row(golden)])
    for number, case in enumerate(golden.get("train_transform", [])):
        yield from guarded(f"video crop {number}", lambda number=number, case=case: _train_rows(number, case, tensors))
    for section, make in (("videos", _video_rows), ("images", _image_rows)):
        for name, case in golden.get(section, {}).items():
            yield from _file_rows(
                name, media_dir, lambda path, name=name, case=case, make=make: make(name, case, path, tensors)
            )
    if "train_processor_seeded" in golden:
        seeded = golden["train_processor_seeded"]
        yield from _file_rows(seeded["video"], media_dir, lambda path: [_seeded_row(golden, seeded, path)])


def _file_rows(name: str, media_dir: Path | None, make: Callable[[Path], Iterable[Row]]) -> Iterator[Row]:
    """Yield the rows of a media file, or one row for a missing file."""
    path = media_dir / name if media_dir else None
    if path is None or not path.is_file():
        yield Row(f"video {name}", None, note="the file is not in the media folder")
    else:
        yield from guarded(f"video {name}", lambda: make(path))


def _index_row(cases: list[Case]) -> Row:
    wrong = 0
    for case in cases:
        indices = frame_indices(case["vlen"], case["n_frms"], case["sampling"], case["seed"])
        wrong += indices != case["indices"] or frames_message(indices, case["fps"]) != case["msg"]
    return Row("video index rules", wrong, note=f"{len(cases)} cases")


def _frame_size(golden: Case) -> tuple[int, int]:
    """Return the size (height, width) of the frames before the reference's crop."""
    video = next(iter(golden["videos"].values()))
    height, width = video["load_video_shape"][-2:]
    return height, width


def _crop_row(golden: Case) -> Row:
    import torch

    height, width = _frame_size(golden)
    cases = golden["random_resized_crop_params"]
    wrong = 0
    for case in cases:
        rng = torch.Generator().manual_seed(case["torch_seed"])
        wrong += list(random_crop(height, width, VideoProcessor().crop_scale, rng=rng)) != case["ijhw"]
    return Row("video random crop boxes", wrong, note=f"{len(cases)} seeds")


def _wrapped(values: np.ndarray) -> np.ndarray:
    """Truncate to integers with overflow, as the reference's cast to uint8 does on x86."""
    return np.trunc(values).astype(np.int64).astype(np.uint8)


def _train_rows(number: int, case: Case, tensors: Tensors) -> Iterator[Row]:
    source = tensors[f"{case['video']}.frames_uint8"].transpose(0, 3, 1, 2)
    floats = crop_and_resize(source, (case["i"], case["j"], case["h"], case["w"]), tuple(case["size"]))
    name = f"video crop {number}"
    patch = tensors[f"train_crop{number}.float_patch"].transpose(1, 0, 2, 3)
    error = max(
        _patch_error(floats, patch),
        abs(float(floats.min()) - case["float_min"]),
        abs(float(floats.max()) - case["float_max"]),
    )
    yield Row(f"{name}: float stage", error / 255, CROP_LIMIT)
    counts = (int((floats < 0).sum()), int((floats <= -1).sum()), int((floats >= 256).sum()), floats.size)
    yield Row(f"{name}: overshoot", sum(a != case[k] for a, k in zip(counts, OVERSHOOT_KEYS, strict=True)))
    stored = tensors[f"train_crop{number}.uint8"].transpose(0, 3, 1, 2)
    frame = case["frame_positions"].index(case["stored_uint8_frame"])
    yield Row(f"{name}: uint8 if wrapped", int((_wrapped(floats[frame]) != stored[0]).sum()))
    inside = (floats[frame] >= 0) & (floats[frame] <= 255)
    apart = np.abs(to_uint8(floats)[frame].astype(int) - stored[0].astype(int))[inside]
    yield Row(f"{name}: uint8 of ours", int((apart > 1).sum()), note="rounded, not cut: 1 apart is right")
    means = VideoProcessor()(_wrapped(floats)).astype(np.float64).mean(axis=(2, 3))
    error = float(np.abs(means - np.asarray(case["out_mean_per_frame_channel"])).max())
    yield Row(f"{name}: normalised means if wrapped", error, STATISTICS_LIMIT)


OVERSHOOT_KEYS = ("n_below0", "n_le_minus1", "n_ge_256", "n_values")


def _patch_error(whole: np.ndarray, patch: np.ndarray) -> float:
    """Return the largest difference at the position where ``patch`` fits ``whole`` [..., H, W] best.

    Golden does not say where its patches were cut; the place is looked for by nine pixels (one alone fits anywhere in
    an even wall).
    """
    height, width = patch.shape[-2:]
    num_tops, num_lefts = whole.shape[-2] - height + 1, whole.shape[-1] - width + 1
    apart = np.zeros((num_tops, num_lefts))
    for down, right in product((0, height // 2, height - 1), (0, width // 2, width - 1)):
        shifted = whole[..., down : down + num_tops, right : right + num_lefts]
        distance = np.abs(shifted - patch[..., down, right][..., None, None])
        apart = np.maximum(apart, distance.reshape(-1, num_tops, num_lefts).max(axis=0))
    places = np.argsort(apart, axis=None)[:NUM_PLACES]
    errors = []
    for top, left in zip(*np.unravel_index(places, apart.shape), strict=True):
        errors.append(float(np.abs(whole[..., top : top + height, left : left + width] - patch).max()))
    return min(errors)


def _video_rows(name: str, case: Case, path: Path, tensors: Tensors) -> Iterator[Row]:
    height, width = case["load_video_shape"][-2:]
    count = len(case["indices"])
    video = read_video(path, size=(height, width), sampling=FrameSampling(num_frames=count), max_frames=count)
    facts = (
        video.indices != case["indices"],
        video.message != case["msg"],
        video.total_frames != case["vlen"],
        video.fps != case["avg_fps"],
        list(video.frames.transpose(1, 0, 2, 3).shape) != case["load_video_shape"],
    )
    yield Row(f"video {name}: indices, sentence, length, rate", sum(facts))
    digests = [hashlib.sha256(frame.tobytes()).hexdigest() for frame in video.frames]
    yield Row(f"video {name}: pixels", sum(a != b for a, b in zip(digests, case["sha256_uint8_TCHW"], strict=True)))
    saved = tensors[f"{name}.frames_uint8"].transpose(0, 3, 1, 2)
    yield Row(f"video {name}: saved frames", int((video.frames[case["saved_frame_positions"]] != saved).sum()))
    outputs = VideoProcessor((height, width))(video.frames)
    wrong_shape = list(outputs.transpose(1, 0, 2, 3).shape) != case["eval_out_shape"]
    yield Row(f"video {name}: normalised statistics", _statistics(video, outputs, case) + wrong_shape, STATISTICS_LIMIT)
    if f"{name}.eval_out_patch" in tensors:
        yield _patch_row(name, outputs, tensors[f"{name}.eval_out_patch"])
    for frames, other in case["other_n_frms"].items():
        yield _other_count_row(name, path, int(frames), other)


def _statistics(video: SampledVideo, outputs: np.ndarray, case: Case) -> float:
    """Return the largest relative difference of mean and deviation per frame and channel, in both stages."""
    error = 0.0
    for prefix, values, scale in (("uint8", video.frames, 255.0), ("eval_out", outputs, 1.0)):
        flat = values.astype(np.float64).reshape(*values.shape[:2], -1)
        for key, ours in (("mean", flat.mean(axis=2)), ("std", flat.std(axis=2, ddof=0))):
            expected = np.asarray(case[f"{prefix}_{key}_per_frame_channel"])
            error = max(error, float(np.abs(ours - expected).max()) / scale)
    return error


def _patch_row(name: str, outputs: np.ndarray, patch: np.ndarray) -> Row:
    error = min(_patch_error(frame, patch) for frame in outputs)
    return Row(f"video {name}: normalised pixels", error, FLOAT_LIMIT)


def _other_count_row(name: str, path: Path, frames: int, case: Case) -> Row:
    """Compare the sentence, and the means of the frames at 32 x 32 pixels."""
    video = read_video(path, size=(32, 32), sampling=FrameSampling(num_frames=frames), max_frames=frames)
    wrong = (video.message != case["msg"]) + (len(video.indices) != case["n"])
    means = video.frames.astype(np.float64).mean(axis=(2, 3))
    apart = float(np.abs(means - np.asarray(case["mean32"])).max()) / 255
    return Row(f"video {name}: {frames} frames", wrong + apart, STATISTICS_LIMIT)


def _image_rows(name: str, case: Case, path: Path, tensors: Tensors) -> Iterator[Row]:
    from PIL import Image

    stored = tensors[f"{name}.resized_uint8"]
    video = read_image(path, size=(stored.shape[0], stored.shape[1]))
    picture = np.ascontiguousarray(video.frames[0].transpose(1, 2, 0))
    with Image.open(path) as image:
        decoded = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()
        wrong = (list(image.size) != case["size_wh"]) + (decoded != case["sha256_decoded"])
    wrong += hashlib.sha256(picture.tobytes()).hexdigest() != case["sha256_resized_uint8_HWC"]
    yield Row(f"video {name}: pixels", wrong + int((picture != stored).sum()))
    outputs = VideoProcessor()(video.frames)
    yield _patch_row(name, outputs, tensors[f"{name}.out_patch"])
    flat = outputs[0].astype(np.float64).reshape(3, -1)
    error = max(
        float(np.abs(flat.mean(axis=1) - np.asarray(case["out_mean"])).max()),
        float(np.abs(flat.std(axis=1) - np.asarray(case["out_std"])).max()),
    )
    yield Row(f"video {name}: normalised statistics", error, STATISTICS_LIMIT)


def _seeded_row(golden: Case, case: Case, path: Path) -> Row:
    """Repeat the reference's training transform, including its overflow, with its seed."""
    import torch

    height, width = _frame_size(golden)
    sampling = FrameSampling(case["out_shape"][1], rule="headtail", seed=case["seed"])  # as the reference trains
    video = read_video(path, size=(height, width), sampling=sampling)
    rng = torch.Generator().manual_seed(case["seed"])
    box = random_crop(height, width, VideoProcessor().crop_scale, rng=rng)
    outputs = VideoProcessor()(_wrapped(crop_and_resize(video.frames, box, tuple(case["out_shape"][-2:]))))
    flat = outputs.astype(np.float64).reshape(*outputs.shape[:2], -1)
    error = max(
        float(np.abs(flat.mean(axis=2) - np.asarray(case["mean_per_frame_channel"])).max()),
        float(np.abs(flat.std(axis=2) - np.asarray(case["std_per_frame_channel"])).max()),
    )
    digest = hashlib.sha256(np.ascontiguousarray(outputs.transpose(1, 0, 2, 3)).tobytes()).hexdigest()
    note = "sha256 equal" if digest == case["sha256"] else "sha256 differs (float rounding)"
    return Row("video training transform, seeded, if wrapped", error, STATISTICS_LIMIT, note)
