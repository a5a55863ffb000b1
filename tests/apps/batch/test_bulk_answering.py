"""Answers of a batch equal single answers; errors stay with their rows."""

import pytest

from video_llama.apps.batch.bulk_answering import BulkAnswerer, load_bulk_answerer
from video_llama.apps.batch.reading import ReadBatch
from video_llama.chat import Decoding
from video_llama.datasets.question_rows import QuestionRow

KEY = ("a.mp4", None, None)


@pytest.fixture
def answerer(assistant):
    return BulkAnswerer(assistant, Decoding(max_new_tokens=6))


def test_rows(answerer, assistant, clips):
    read = assistant.read(clips["video"])
    rows = [
        QuestionRow("1", ("a.mp4",), "What do you see?"),
        QuestionRow("2", ("b.mp4",), "What do you see?"),
        QuestionRow("3", ("a.mp4",), "word " * 5000),
        QuestionRow("4", ("a.mp4",), "What moves?"),
    ]
    result = answerer(ReadBatch(rows, {KEY: read, ("b.mp4", None, None): "MediaError: bad"}))
    first, second, third, fourth = result.rows
    assert [row["id"] for row in result.rows] == ["1", "2", "3", "4"]
    assert first.keys() == {"id", "media", "question", "answer", "error", "record"}
    for row in (first, fourth):
        expected = assistant.chat(read).ask(row["question"], Decoding(max_new_tokens=6))
        assert (row["answer"], row["error"]) == (expected.text, None)
        assert row["record"]["prompt_sha256"] == expected.record.prompt_sha256
    assert fourth["record"]["tokens"]["reused"] > 0, "the second question about a medium shares its prompt"
    assert (second["answer"], second["error"], second["record"]) == (None, "MediaError: bad", None)
    assert third["answer"] is None
    assert third["error"].startswith("ContextLengthError: ")
    assert result.encode > 0
    assert result.generate > 0


def test_a_medium_of_consecutive_batches_is_encoded_once(answerer, assistant, clips):
    read = assistant.read(clips["video"])
    batch = ReadBatch([QuestionRow("1", ("a.mp4",), "What?")], {KEY: read})
    answerer(batch)
    encoded = answerer._encoded[KEY]
    answerer(batch)
    assert answerer._encoded[KEY] is encoded
    answerer(ReadBatch([QuestionRow("1", ("b.mp4",), "What?")], {("b.mp4", None, None): "MediaError: bad"}))
    assert answerer._encoded == {}


def test_loading(load, assistant):
    answerer = load_bulk_answerer(load, Decoding(), None)
    description = answerer.description()
    assert description.needs.settings == assistant.settings
    assert description.weights["name"] == assistant.name
