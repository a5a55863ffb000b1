"""Visitors share a model and nothing else; stopping, leaving and switching sound off do what they say."""

import threading
from itertools import pairwise, zip_longest

import pytest

from video_llama.apps.demo.visitors import Uploads, Visitors
from video_llama.errors import MediaError

QUESTION = "What do you see?"


@pytest.fixture
def visitors(talkative, reader) -> Visitors:
    return Visitors(talkative, reader, with_sound=True)


def text_of(pieces) -> str:
    return [*pieces][-1]


def test_answers_grow_and_equal_the_chat(visitors, talkative, media):
    visitors["a"].show(media["first"])
    texts = [*visitors["a"].answer(QUESTION, max_new_tokens=20)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert len(texts) > 3
    expected = talkative.chat(media["first"]).ask(QUESTION, max_new_tokens=20)
    assert texts[-1] == expected.text == visitors["a"].last_answer.text


def test_two_answers_side_by_side_equal_two_alone(visitors, media):
    questions = {"first": QUESTION, "silent": "Describe the sound."}
    alone = []
    for name, question in questions.items():
        visitors[name].show(media[name])
        alone.append(text_of(visitors[name].answer(question, max_new_tokens=20)))
        visitors[name].forget()
    side_by_side = [visitors[name].answer(question, max_new_tokens=20) for name, question in questions.items()]
    for _ in zip_longest(*side_by_side):
        pass
    assert [visitors[name].last_answer.text for name in questions] == alone
    assert alone[0] != alone[1]


def test_stop_keeps_what_was_said(visitors, media):
    visitor = visitors["a"]
    visitor.show(media["silent"])
    pieces = visitor.answer(QUESTION, max_new_tokens=4000)
    for _ in range(5):
        said = next(pieces)
    visitor.stop()
    assert [*pieces] == []
    assert visitor.last_answer.text.startswith(said)
    assert visitor.last_answer.record.stop_reason == "closed"
    assert visitor.last_answer.record.tokens["generated"] < 100


def test_a_new_question_ends_the_old_answer(visitors):
    visitor = visitors["a"]
    old = visitor.answer(QUESTION, max_new_tokens=4000)
    next(old)
    new = visitor.answer("And now?", max_new_tokens=10)
    next(new)
    assert [*old] == []
    assert [*new] != []


def test_who_leaves_in_the_middle_of_an_answer_frees_the_model(visitors, media):
    visitors["gone"].show(media["silent"])
    abandoned = visitors["gone"].answer(QUESTION, max_new_tokens=4000)
    next(abandoned)
    visitors.leave("gone")
    assert len(visitors) == 0

    answered = []
    other = threading.Thread(target=lambda: answered.extend(visitors["b"].answer(QUESTION, max_new_tokens=5)))
    other.start()
    other.join(timeout=60)
    assert answered
    assert [*abandoned] == []


def test_look_tells_every_medium_once(visitors, media):
    visitor = visitors["a"]
    visitor.show(media["first"])
    visitor.look()
    first = visitor.media[0].attention
    visitor.show(media["silent"])
    visitor.look()
    assert visitor.media[0].attention is first
    assert visitor.media[1].attention.clips_QS is None


def test_a_broken_file_changes_nothing(visitors, media):
    visitor = visitors["a"]
    visitor.show(media["silent"])
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        visitor.show(media["broken"])
    assert [medium.path for medium in visitor.media] == [media["silent"]]


def test_a_file_that_ends_its_process_changes_nothing(visitors, media):
    visitor = visitors["a"]
    with pytest.raises(MediaError, match=r"^bomb\.png cannot be decoded: it needs more memory"):
        visitor.show(media["bomb"])
    visitor.show(media["silent"])
    assert [medium.path for medium in visitor.media] == [media["silent"]]


def test_sound_off_shows_the_media_anew(visitors, media):
    visitor = visitors["a"]
    visitor.show(media["first"])
    visitor.show(media["tone"])
    assert text_of(visitor.answer(QUESTION, max_new_tokens=5))
    [(path, error)] = visitor.set_sound(False)
    assert path == media["tone"]
    assert "no_audio leaves sound out" in str(error)
    assert [medium.read.why_no_sound for medium in visitor.media] == ["not asked for"]
    assert visitor.last_answer is None
    assert visitor.set_sound(True) == []
    assert visitor.media[0].read.sound is not None


def test_forget_keeps_the_media_and_start_over_does_not(visitors, media):
    visitor = visitors["a"]
    visitor.show(media["silent"])
    assert text_of(visitor.answer(QUESTION, max_new_tokens=5))
    visitor.forget()
    assert (visitor.last_answer, len(visitor.media)) == (None, 1)
    visitor.start_over()
    assert visitor.media == []


def test_an_upload_that_another_has_put_in_the_same_place_stays(tmp_path):
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


def test_an_upload_goes_with_its_last_holder(tmp_path):
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
