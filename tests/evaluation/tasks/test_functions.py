"""The functions of the YAML tasks, and the tasks themselves."""

import pytest
import yaml

from tests.evaluation.conftest import write_rows
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import DataError
from video_llama.evaluation.tasks import functions

DOC = {
    "id": "1",
    "media": ["a.mp4", "b.wav", "c.png", "d.gif"],
    "question": "Where?",
    "answers": ["right"],
    "choices": ["left", "right"],
    "captions": [],
    "start": 1.0,
    "end": None,
    "category": None,
}


def test_messages_have_media_times_and_the_question():
    [message] = functions.messages(DOC)
    *media, text = message["content"]
    assert [part["type"] for part in media] == ["video", "audio", "image", "video"]
    assert (media[0]["start_time"], media[0]["end_time"]) == (1.0, None)
    assert text["text"] == "Where?\n(A) left\n(B) right\nAnswer with the letter of the correct choice."
    assert functions.question({**DOC, "choices": []}) == "Where?"
    assert functions.media(DOC) == DOC["media"]


def test_results_and_targets():
    assert functions.results(DOC, ["(B)"]) == {"choice_letter": 1.0}
    assert functions.results({**DOC, "choices": None}, ["to the right"]) == {"exact_match": 0.0, "contains": 1.0}
    assert functions.target(DOC) == "right"
    assert functions.row_of(DOC) == QuestionRow(
        "1", tuple(DOC["media"]), "Where?", ("right",), ("left", "right"), start=1.0
    )


def test_every_task_has_its_functions(repository):
    folder = repository / "video_llama" / "evaluation" / "tasks"
    names = [path.stem for path in folder.glob("*.yaml")]
    assert {"msvd_qa", "msrvtt_qa", "tgif_qa", "music_avqa", "avsd"} <= set(names)

    class Loader(yaml.SafeLoader):
        """Reads ``!function functions.name`` as the function."""

    Loader.add_constructor("!function", lambda loader, node: getattr(functions, node.value.partition(".")[2]))
    for name in names:
        content = yaml.load((folder / f"{name}.yaml").read_text(), Loader)
        assert content["task"] == name
        assert content["process_docs"].args[0] == name
    template = yaml.load((folder / content["include"]).read_text(), Loader)
    assert (folder / template["dataset_kwargs"]["data_files"]["test"]).exists()
    assert callable(template["doc_to_messages"])


def test_rows_are_those_of_the_annotation_file(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="VIDEO_LLAMA_QUESTION_ROWS is not set"):
        functions.question_rows_docs(None)
    rows = [{"media": "a.mp4", "question": "What?", "answer": "x"}, {"media": "b.mp4", "captions": ["y"], "start": 2}]
    monkeypatch.setenv("VIDEO_LLAMA_QUESTION_ROWS", str(write_rows(tmp_path / "rows.jsonl", rows)))
    first, second = functions.question_rows_docs(None)
    assert functions.row_of(first) == QuestionRow("1", (str(tmp_path / "a.mp4"),), "What?", ("x",))
    assert functions.row_of(second) == QuestionRow("2", (str(tmp_path / "b.mp4"),), captions=("y",), start=2.0)
    monkeypatch.setenv("VIDEO_LLAMA_QUESTION_ROWS_MEDIA", "/media")
    assert functions.question_rows_docs(None)[0]["media"] == ["/media/a.mp4"]
