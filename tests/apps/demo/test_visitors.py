"""Visitors share only the model; stop, leave, clear chat, start over and audio off."""

import threading
from itertools import pairwise, zip_longest

import pytest

from video_llama.apps.demo.visitors import MAX_ABSENT, MAX_VISITORS, Uploads, Visitors
from video_llama.chat import Decoding
from video_llama.errors import MediaError

QUESTION = "What do you see?"


@pytest.fixture
def visitors(talkative, reader) -> Visitors:
    return Visitors(talkative, reader, with_audio=True)


def text_of(pieces) -> str:
    return [*pieces][-1]


def test_answers_are_streamed_and_equal_those_of_the_chat(visitors, talkative, media):
    visitors["a"].add(media["first"])
    texts = [*visitors["a"].answer(QUESTION, Decoding(max_new_tokens=20))]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert len(texts) > 3
    expected = talkative.chat(media["first"]).ask(QUESTION, max_new_tokens=20)
    assert texts[-1] == expected.text == visitors["a"].last_answer.text


def test_concurrent_answers_equal_separate_answers(visitors, media):
    questions = {"first": QUESTION, "silent": "Describe the sound."}
    separate = []
    for name, question in questions.items():
        visitors[name].add(media[name])
        separate.append(text_of(visitors[name].answer(question, Decoding(max_new_tokens=20))))
        visitors[name].clear_chat()
    concurrent = [visitors[name].answer(question, Decoding(max_new_tokens=20)) for name, question in questions.items()]
    for _ in zip_longest(*concurrent):
        pass
    assert [visitors[name].last_answer.text for name in questions] == separate
    assert separate[0] != separate[1]


def test_stop_keeps_the_partial_answer(visitors, media):
    visitor = visitors["a"]
    visitor.add(media["silent"])
    pieces = visitor.answer(QUESTION, Decoding(max_new_tokens=4000))
    for _ in range(5):
        said = next(pieces)
    visitor.stop()
    assert [*pieces] == []
    assert visitor.last_answer.text.startswith(said)
    assert visitor.last_answer.record.stop_reason == "closed"
    assert visitor.last_answer.record.tokens["generated"] < 100


def test_a_new_question_stops_the_previous_answer(visitors):
    visitor = visitors["a"]
    old = visitor.answer(QUESTION, Decoding(max_new_tokens=4000))
    next(old)
    new = visitor.answer("And now?", Decoding(max_new_tokens=10))
    next(new)
    assert [*old] == []
    assert [*new] != []


def test_leaving_during_an_answer_frees_the_model(visitors, media):
    visitors["gone"].add(media["silent"])
    abandoned = visitors["gone"].answer(QUESTION, Decoding(max_new_tokens=4000))
    next(abandoned)
    visitors.leave("gone")
    assert len(visitors) == 0

    answered = []
    other = threading.Thread(target=lambda: answered.extend(visitors["b"].answer(QUESTION, Decoding(max_new_tokens=5))))
    other.start()
    other.join(timeout=60)
    assert answered
    assert [*abandoned] == []


def test_attention_is_computed_once_per_medium(visitors, media):
    visitor = visitors["a"]
    visitor.add(media["first"])
    visitor.compute_attention()
    first = visitor.media[0].attention
    visitor.add(media["silent"])
    visitor.compute_attention()
    assert visitor.media[0].attention is first
    assert visitor.media[1].attention.clips_QS is None


def test_a_broken_file_leaves_the_conversation_unchanged(visitors, media):
    visitor = visitors["a"]
    visitor.add(media["silent"])
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        visitor.add(media["broken"])
    assert [medium.path for medium in visitor.media] == [media["silent"]]


def test_a_file_that_needs_too_much_memory_leaves_the_conversation_unchanged(visitors, media):
    visitor = visitors["a"]
    with pytest.raises(MediaError, match=r"^bomb\.png cannot be decoded: it requires more memory"):
        visitor.add(media["bomb"])
    visitor.add(media["silent"])
    assert [medium.path for medium in visitor.media] == [media["silent"]]


def test_audio_off_reads_the_media_again(visitors, media):
    visitor = visitors["a"]
    visitor.add(media["first"])
    visitor.add(media["tone"])
    assert text_of(visitor.answer(QUESTION, Decoding(max_new_tokens=5)))
    [(path, error)] = visitor.set_audio(False)
    assert path == media["tone"]
    assert str(error).startswith("tone.wav is a sound file, but no_audio ignores sound.")
    assert [medium.read.why_no_sound for medium in visitor.media] == ["not asked for"]
    assert visitor.last_answer is None
    assert visitor.set_audio(True) == []
    assert visitor.media[0].read.sound is not None


def test_clear_chat_keeps_the_media_and_start_over_removes_them(visitors, media):
    visitor = visitors["a"]
    visitor.add(media["silent"])
    assert text_of(visitor.answer(QUESTION, Decoding(max_new_tokens=5)))
    visitor.clear_chat()
    assert (visitor.last_answer, len(visitor.media)) == (None, 1)
    visitor.start_over()
    assert visitor.media == []


def test_an_upload_replaced_by_another_visitor_is_kept(tmp_path):
    path, again = tmp_path / "clip" / "clip.mp4", tmp_path / "again"
    path.parent.mkdir()
    path.write_bytes(b"x")
    again.write_bytes(b"x")
    uploads = Uploads()
    uploads.hold(path, "a")
    again.replace(path)
    uploads.release("a")
    assert path.exists()
    uploads.hold(path, "b")
    uploads.release("b")
    assert [*tmp_path.iterdir()] == []


def test_an_upload_is_deleted_with_its_last_holder(tmp_path):
    shared, own = tmp_path / "shared" / "clip.mp4", tmp_path / "own" / "clip.mp4"
    for file in (shared, own):
        file.parent.mkdir()
        file.write_bytes(b"x")
    uploads = Uploads()
    uploads.hold(shared, "a")
    uploads.hold(shared, "b")
    uploads.hold(own, "a")
    uploads.release("a")
    assert (shared.exists(), own.parent.exists()) == (True, False)
    uploads.release("b")
    assert [*tmp_path.iterdir()] == []


class TestLimits:
    def test_media_of_a_conversation(self, visitors, media, monkeypatch):
        monkeypatch.setattr("video_llama.apps.demo.visitors.MAX_MEDIA", 1)
        visitors["a"].add(media["image"])
        with pytest.raises(MediaError, match=r"already has 1 media\. Remove them"):
            visitors["a"].add(media["image"])
        assert len(visitors["a"].media) == 1

    def test_long_question(self, visitors):
        with pytest.raises(ValueError, match="100,001 characters; the limit is 100,000"):
            next(visitors["a"].answer("x" * 100_001))

    def test_visitors_without_an_open_page(self, visitors, tmp_path):
        upload = tmp_path / "folder" / "upload.mp4"
        upload.parent.mkdir()
        upload.touch()
        visitors.page_opened("page")
        page, first = visitors["page"], visitors["0"]
        visitors.hold("0", upload)
        for number in range(1, 100):
            assert visitors[str(number)] is visitors[str(number)]
        assert len(visitors) == MAX_ABSENT + 1
        assert visitors["page"] is page
        assert visitors["0"] is not first
        assert not upload.exists()

    def test_visitors_with_an_open_page(self, visitors):
        for number in range(MAX_VISITORS):
            visitors.page_opened(str(number))
        kept = [visitors[str(number)] for number in range(MAX_VISITORS)]
        assert visitors["0"] is kept[0]  # used again: "1" is now the least recently used
        visitors.page_opened("new")
        assert visitors["new"] is visitors["new"]
        assert len(visitors) == MAX_VISITORS
        assert visitors["0"] is kept[0]
        assert visitors["1"] is not kept[1]

    def test_closed_pages(self, visitors):
        visitors.page_opened("a")
        visitors.page_opened("a")
        visitors.page_closed("a")
        page = visitors["a"]
        for number in range(2 * MAX_ABSENT):
            visitors[str(number)]
        assert visitors["a"] is page
        visitors.page_closed("a")
        for number in range(2 * MAX_ABSENT):
            visitors[f"other {number}"]
        assert visitors["a"] is not page
