"""Video files of many formats, and the comparison of sampled frames with a sequential decode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from tests.factories.media import Clip
from video_llama.processors.sampling import FrameSampling, frame_indices
from video_llama.processors.video_processor import read_video

SIZE = (56, 64)


CLIPS = {
    "h264_b_frames_one_keyframe": Clip(options={"g": "250", "bf": "3"}),
    "h264_many_keyframes": Clip(options={"g": "8", "bf": "2"}),
    "h264_open_groups": Clip(options={"x264-params": "keyint=10:min-keyint=5:open-gop=1:bframes=3"}),
    "h264_intra_refresh": Clip(options={"x264-params": "intra-refresh=1:keyint=12"}),
    "h264_444_odd_size": Clip(size=(75, 99), pixels="yuv444p"),
    "h264_mkv": Clip("mkv", options={"g": "12"}),
    "h264_open_groups_mkv": Clip("mkv", options={"x264-params": "keyint=10:min-keyint=5:open-gop=1:bframes=3"}),
    "h264_ts": Clip("ts", options={"g": "12", "bf": "2"}),
    "h264_ts_one_keyframe": Clip("ts", options={"g": "250", "bf": "2"}),
    "h264_flv": Clip("flv", options={"g": "12"}),
    "h264_raw": Clip("h264", options={"g": "12"}),
    "h264_mov": Clip("mov", options={"g": "12"}),
    "h264_fragmented": Clip(options={"g": "12"}, container={"movflags": "frag_keyframe+empty_moov"}),
    "h264_fragmented_index": Clip(options={"g": "12"}, container={"movflags": "frag_keyframe+global_sidx+dash"}),
    "hevc": Clip(codec="libx265", options={"x265-params": "log-level=none:keyint=16:bframes=3"}),
    "hevc_one_keyframe": Clip(codec="libx265", options={"x265-params": "log-level=none:keyint=250:bframes=3"}),
    "hevc_ts": Clip("ts", codec="libx265", options={"x265-params": "log-level=none:keyint=16:bframes=3"}),
    "vp9": Clip("webm", codec="libvpx-vp9", options={"g": "20", "deadline": "realtime", "cpu-used": "8"}),
    "vp9_mp4": Clip(codec="libvpx-vp9", options={"g": "20", "deadline": "realtime", "cpu-used": "8"}),
    "vp8_hidden_frames": Clip(
        "webm", codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}
    ),
    "av1": Clip("webm", codec="libsvtav1", options={"g": "20"}),
    "av1_mp4": Clip(codec="libsvtav1", options={"g": "20"}),
    "mpeg4_avi": Clip("avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg2_mpg": Clip("mpg", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "mjpeg_avi": Clip("avi", codec="mjpeg", pixels="yuvj420p"),
    "gif": Clip("gif", codec="gif", pixels="rgb8", num_frames=20),
    "png_in_mov": Clip("mov", codec="png", pixels="rgb24", size=(31, 17), num_frames=20),
    "variable_rate_mp4": Clip(pts=lambda k: 40 * k + 10 * (k % 3), options={"bf": "3"}),
    "variable_rate_mkv": Clip("mkv", pts=lambda k: 40 * k + 300 * (k // 20), options={"bf": "3"}),
    "pause_in_mp4": Clip(pts=lambda k: 40 * k + 2000 * (k > 30), options={"bf": "3"}),
    "pause_before_the_last_mp4": Clip(pts=lambda k: 40 * k + 400 * (k == 59), options={"bf": "3"}),
    "gap_near_the_end_mp4": Clip(pts=lambda k: 40 * k + 40 * (k >= 58), options={"bf": "3"}),
    "one_frame": Clip(num_frames=1),
    "two_frames": Clip(num_frames=2),
    "one_pixel": Clip("mkv", codec="ffv1", size=(1, 1), pixels="bgr0", num_frames=5),
    "one_row": Clip("mkv", codec="ffv1", size=(1, 300), pixels="bgr0", num_frames=5),
}


SAMPLINGS = {
    "uniform 8": FrameSampling(8),
    "uniform 5": FrameSampling(5),
    "headtail": FrameSampling(8, rule="headtail", seed=3),
    "as many as the limit": FrameSampling(32),
}


def check(path: Path | io.BytesIO, frames: list[np.ndarray], sampling: FrameSampling) -> None:
    """The indices are the rule's over all frames that are shown, and the pictures are those frames."""
    if sampling.rule == "headtail" and len(frames) < 2:
        return
    video = read_video(path, size=SIZE, sampling=sampling)
    assert video.total_frames == len(frames)
    assert video.indices == frame_indices(len(frames), sampling.num_frames, sampling.rule, sampling.seed)
    assert [bool(np.array_equal(a, frames[i])) for a, i in zip(video.frames, video.indices, strict=True)] == [
        True
    ] * len(video.indices)
