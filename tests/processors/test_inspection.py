"""The description of a media file."""

from video_llama.processors.inspection import inspect_media


def test_a_video_with_sound(clips):
    report = inspect_media(clips["video"])
    assert (report["kind"], report["bytes"]) == ("video", clips["video"].stat().st_size)
    assert [stream["type"] for stream in report["streams"]] == ["video", "audio"]
    assert (report["streams"][0]["width"], report["streams"][0]["height"]) == (64, 48)
    assert report["sampled"]["frames"]["total_frames"] == 30
    assert len(report["sampled"]["sound"]["start_seconds"]) == 8


def test_pictures_have_no_streams(clips):
    assert "streams" not in inspect_media(clips["image"])
    frames = inspect_media(clips["frames"])
    assert (frames["kind"], frames["sampled"]["why_no_sound"]) == ("frames", "no audio track")


def test_a_sound_track_that_cannot_be_read_is_reported(clips, tmp_path):
    path = tmp_path / "unknown sound.mp4"
    path.write_bytes(clips["video"].read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    report = inspect_media(path)
    assert "sound track that cannot be decoded" in report["sound_error"]
    assert report["sampled"]["frames"] is not None
