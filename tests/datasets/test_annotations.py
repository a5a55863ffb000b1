"""Each annotation format, with a few rows as published, and the errors for invalid rows."""

import json
from pathlib import Path

import pytest

from video_llama.datasets.annotations import READERS, excluded_ids, read_samples
from video_llama.datasets.config import BuildInfo
from video_llama.errors import DataError


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_webvid_tables(tmp_path: Path, suffix: str, separator: str) -> None:
    rows = [["videoid", "contentUrl", "duration", "page_dir", "name"], ["3", "u", "PT5S", "000001_000050", "A dog"]]
    (tmp_path / f"part.{suffix}").write_text("".join(separator.join(row) + "\n" for row in rows))
    (tmp_path / "README.md").write_text("not a table")
    for place in (tmp_path, tmp_path / f"part.{suffix}"):
        [sample] = read_samples("webvid", BuildInfo(anno_dir=place, videos_dir=tmp_path), where="datasets.webvid")
        assert sample.path == tmp_path / "000001_000050" / "3.mp4"
        assert (sample.kind, sample.caption, sample.uses_caption_rules) == ("video", "A dog", True)
        assert sample.id == f"{tmp_path}/part.{suffix}:2"


@pytest.mark.parametrize("name", ["cc_sbu_align", "llava_pretrain"])
def test_image_captions_are_not_preprocessed(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "filter_cap.json", {"annotations": [{"image_id": "7", "caption": "The image shows."}]})
    [sample] = read_samples(name, BuildInfo(storage=tmp_path), where="datasets.x")
    assert sample.path == tmp_path / "image" / "7.jpg"
    assert (sample.kind, sample.caption, sample.uses_caption_rules) == ("image", "The image shows.", False)


def test_llavas_own_caption_file_is_read_if_the_references_is_missing(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "olive oil is poured"}]
    write_json(tmp_path / "chat.json", [{"id": "1", "image": "1.jpg", "conversations": said}])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    [sample] = read_samples("llava_pretrain", BuildInfo(storage=tmp_path), where="datasets.x")
    assert sample.path == tmp_path / "images" / "1.jpg"
    assert (sample.kind, sample.caption, sample.turns) == ("image", "olive oil is poured", ())


def test_llava_rows_and_cocos_file_names(tmp_path: Path) -> None:
    said = [
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Hi"},
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "A cat."},
    ]
    rows = [{"id": "1", "image": f"{name}.jpg", "conversations": said} for name in ("0033", "0044")]
    path = write_json(tmp_path / "llava.json", rows)
    (tmp_path / "COCO_train2014_0033.jpg").touch()
    first, second = read_samples("llava_instruct", BuildInfo(anno_dir=path, videos_dir=tmp_path), where="datasets.x")
    assert first.path.name == "COCO_train2014_0033.jpg"
    assert second.path.name == "0044.jpg"
    assert [bool(turn.media) for turn in first.turns] == [False, True]
    assert first.text_length == len("HelloHi<image>\nWhat?A cat.")


def test_videochat_rows_with_a_description_of_the_other_medium(tmp_path: Path) -> None:
    turns = [{"i": "", "q": "What?", "a": "A dog."}, {"i": "", "q": "Colour?", "a": "Brown."}]
    rows = [{"video": "a/1.mp4", "QA": turns}, {"video": "2.mp4", "QA": turns, "audio_words": "a low hum"}]
    path = write_json(tmp_path / "chat.json", rows)
    first, second = read_samples("webvid_instruct", BuildInfo(anno_dir=path, videos_dir=tmp_path), where="datasets.x")
    assert first.path == tmp_path / "a" / "1.mp4"
    assert [(turn.question, turn.answer, bool(turn.media)) for turn in first.turns] == [
        ("What?", "A dog.", True),
        ("Colour?", "Brown.", False),
    ]
    assert (first.audio_words, second.audio_words, second.video_words) == (None, "a low hum", None)


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"unknown format 'webvidd'. Set format to one of {', '.join(READERS)}"):
        read_samples("webvidd", BuildInfo(), where="datasets.webvidd")


def test_missing_paths_name_their_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"datasets.w.build_info.anno_dir is not set"):
        read_samples("webvid", BuildInfo(), where="datasets.w")
    with pytest.raises(DataError, match=r"videos_dir: .*nowhere does not exist"):
        read_samples("webvid", BuildInfo(anno_dir=tmp_path, videos_dir=tmp_path / "nowhere"), where="datasets.w")
    with pytest.raises(DataError, match="no rows"):
        read_samples("webvid", BuildInfo(anno_dir=tmp_path, videos_dir=tmp_path), where="datasets.w")
    with pytest.raises(DataError, match=r"filter_cap\.json is missing"):
        read_samples("cc_sbu_align", BuildInfo(storage=tmp_path), where="datasets.c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"a": 1}', "contains a dict, not a list of rows"),
        ('[{"QA": []}]', ":0: the row has no 'video'"),
        ('[{"video": "a.mp4"}]', ":0: the row has no 'QA'"),
        ('[{"video": "a.mp4", "QA": [{"q": "What?"}]}]', ":0: A QA row has no 'a'"),
        ('["a.mp4"]', ":0: the row has no 'video'"),
    ],
)
def test_errors_name_the_row(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_samples("webvid_instruct", BuildInfo(anno_dir=path, videos_dir=tmp_path), where="datasets.v")


def test_turns_that_do_not_alternate_are_named(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "conversations": [{"from": "gpt", "value": "Hi"}]}]
    path = write_json(tmp_path / "llava.json", rows)
    with pytest.raises(DataError, match=r"llava.json:0: .*does not alternate"):
        read_samples("llava_instruct", BuildInfo(anno_dir=path, videos_dir=tmp_path), where="datasets.l")


def test_captions_of_sounds_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"audio": "rain.wav", "caption": "Rain."}\n\n{"audio": "sea.wav", "caption": "The sea."}\n')
    samples = read_samples("captions", BuildInfo(anno_dir=path), where="datasets.own")
    assert [(sample.id, sample.path, sample.kind, sample.caption) for sample in samples] == [
        (f"{path}:1", tmp_path / "rain.wav", "audio", "Rain."),
        (f"{path}:3", tmp_path / "sea.wav", "audio", "The sea."),
    ]
    path.write_text('{"audio": "rain.wav"\n')
    with pytest.raises(DataError, match="one JSON object per line"):
        read_samples("captions", BuildInfo(anno_dir=path), where="datasets.own")


def test_samples_with_errors_in_a_report_are_excluded(tmp_path: Path) -> None:
    path, report = tmp_path / "own.json", tmp_path / "report.jsonl"
    path.write_text(json.dumps([{"audio": f"{index}.wav", "caption": "Rain."} for index in range(3)]))
    rows = [{"sample": f"{path}:0", "level": "warning"}, {"sample": f"{path}:1", "level": "error"}]
    report.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = read_samples("captions", BuildInfo(anno_dir=path), where="x", excluded=excluded_ids(report))
    assert [sample.id for sample in samples] == [f"{path}:0", f"{path}:2"]
    report.write_text("no report")
    with pytest.raises(DataError, match="is not a validate-data report"):
        excluded_ids(report)


def test_errors_name_the_line_of_invalid_json(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"video": "a.mp4", "caption": "A clip."}) + "\n{oops\n")
    with pytest.raises(DataError, match=r"own.jsonl:2 is not one JSON object per line"):
        read_samples("captions", BuildInfo(anno_dir=path), where="x")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, encoding: str) -> None:
    """Spreadsheets and Windows editors write one."""
    (tmp_path / "a.csv").write_text("videoid,page_dir,name\n3,x,café\n", encoding=encoding)
    [sample] = read_samples("webvid", BuildInfo(anno_dir=tmp_path / "a.csv", videos_dir=tmp_path), where="datasets.x")
    assert sample.caption == "café"
    row = json.dumps({"audio": "a.wav", "caption": "café"}, ensure_ascii=False)
    for name, text in (("a.jsonl", row), ("a.json", f"[{row}]")):
        (tmp_path / name).write_text(text, encoding=encoding)
        [sample] = read_samples("captions", BuildInfo(anno_dir=tmp_path / name), where="datasets.x")
        assert sample.caption == "café"
    (tmp_path / "report.jsonl").write_text(json.dumps({"sample": "x:1", "level": "error"}), encoding=encoding)
    assert excluded_ids(tmp_path / "report.jsonl") == {"x:1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"videoid,page_dir,name\n1,x,ok\n2,x,\xe9\n", "cannot be read as a table after row"),
        (
            "a.csv",
            b"videoid,page_dir,name\n1,x," + b"y" * 200_000,
            "cannot be read as a table after row 1: field larger",
        ),
        ("a.json", b"[" * 100_000, "a.json cannot be read as JSON: more than 100 lists"),
        ("a.json", b"[" * 500 + b"]" * 500, "a.json cannot be read as JSON: more than 100 lists"),
        ("a.jsonl", b"\n" + b"[" * 100_000, "a.jsonl:2 is not one JSON object per line: more than 100 lists"),
        ("a.jsonl", b'{"audio": "a.wav", "caption": "\\ud800"}', "a.jsonl:1: a text contains half of a surrogate pair"),
    ],
)
def test_unusual_files_are_errors_that_name_the_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    kind = "webvid" if name == "a.csv" else "captions"
    with pytest.raises(DataError, match=message):
        read_samples(kind, BuildInfo(anno_dir=path, videos_dir=tmp_path), where="datasets.x")
