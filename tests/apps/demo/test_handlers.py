"""Event handlers without a browser: decoding settings, messages, records without paths of the server."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")

from video_llama.apps.demo.handlers import (
    GREEDY,
    SAMPLING,
    Handlers,
    PageState,
    alert_html,
    answer_message,
    decoding_of,
    error_text,
    public_record,
    status_html,
    summary,
    text_message,
    throttled,
)
from video_llama.apps.demo.visitors import Visitors
from video_llama.chat import Decoding
from video_llama.errors import MediaError

CONTROLS = (1.0, 0.9, 50.0, 1.0, 300.0)
VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture
def visitors(talkative, reader) -> Visitors:
    return Visitors(talkative, reader, with_audio=True)


def ask(handlers: Handlers, question: str, max_new_tokens: int):
    content = {"text": question, "files": []}
    return handlers.ask(VISITOR, content, GREEDY, *CONTROLS[:-1], max_new_tokens, "")


def test_warning_precedes_the_answer():
    assert answer_message("A < B.", [])["content"] == "A &lt; B."
    assert answer_message("A circle.", ["Unlike."])["content"] == "Unlike.\n\nA circle."


def test_sampling_has_the_settings_of_the_reference():
    assert decoding_of(SAMPLING, *CONTROLS, "") == Decoding.reference()


def test_greedy_ignores_the_sampling_settings():
    assert decoding_of(GREEDY, *CONTROLS, "not a number") == Decoding(max_new_tokens=300)


def test_seed():
    assert decoding_of(SAMPLING, *CONTROLS, " 7 ").seed == 7
    with pytest.raises(ValueError, match=r"seed is '1\.5'. Enter an integer"):
        decoding_of(SAMPLING, *CONTROLS, "1.5")


def test_integers_are_valid_temperatures(talkative):
    """A browser sends 1.0 as 1."""
    decoding = decoding_of(SAMPLING, 1, 1, 50, 1, 3, "5")
    answer = talkative.chat().ask("What do you see?", decoding)
    assert answer.record.decoding["temperature"] == 1
    assert answer.text == talkative.chat().ask("What do you see?", decoding).text


def test_an_example_replaces_the_conversation(visitors, media):
    handlers = Handlers(visitors)
    assert [*ask(handlers, "What do you see?", 3)][-2].messages != []
    for name in ("first", "silent"):
        *_, view = handlers.show_example(VISITOR, str(media[name]), "What happens?")
        assert [message["content"]["alt_text"] for message in view.messages] == [media[name].name]
        assert view.box == {"text": "What happens?", "files": []}
        assert view.record is None
    assert [medium.path for medium in visitors["visitor"].media] == [media["silent"]]


@pytest.mark.parametrize("button", ["clear_chat", "start_over"])
def test_clearing_during_an_answer_is_not_undone_by_it(visitors, media, button):
    handlers = Handlers(visitors)
    [*_, shown] = handlers.show_example(VISITOR, str(media["silent"]), "")
    views = ask(handlers, "What do you see?", 4000)
    assert [next(views) for _ in range(4)][-1].messages[-1]["role"] == "assistant"
    cleared = getattr(handlers, button)(VISITOR)
    assert cleared.messages == (shown.messages if button == "clear_chat" else [])
    [last] = views
    assert last.messages == cleared.messages
    assert last.stop["interactive"] is False
    assert last.box == last.status == PageState().messages  # unchanged


def test_stop_is_enabled_only_during_an_answer(visitors):
    handlers = Handlers(visitors)
    updates = [view.stop for view in ask(handlers, "What do you see?", 20)]
    updates = [update["interactive"] for update in updates if "interactive" in update]
    assert updates == [True, False]


def test_an_unexpected_error_disables_stop():
    view = Handlers(visitors=None).fail()
    assert view.stop["interactive"] is False
    assert "See the log of the server" in view.status


def test_error_messages_contain_the_file_name_without_its_folder():
    path = Path("/tmp/secret/1234/clip.mp4")
    error = MediaError(f"{path} is too short. Ask without audio (--no-audio) or give a longer sound.")
    assert error_text(error, path) == (
        "clip.mp4 is too short. Ask without audio (turn off audio in the settings) or give a longer sound."
    )


def test_an_audio_file_with_audio_turned_off(visitors, media):
    handlers = Handlers(visitors)
    [*_, _] = handlers.show_example(VISITOR, str(media["tone"]), "")
    assert "tone.wav is a sound file, but audio is turned off. Turn it on in the settings." in (
        handlers.set_audio(VISITOR, False).status
    )


def test_many_references_to_one_file(visitors, media):
    handlers = Handlers(visitors)
    content = {"text": "What do you see?", "files": [str(media["image"])] * 100}
    *_, last = handlers.ask(VISITOR, content, GREEDY, *CONTROLS, "")
    assert "The message has 100 files. Attach at most 8 at once." in last.status
    assert last.box == {"text": "What do you see?", "files": []}
    assert visitors["visitor"].media == []


def test_answer_to_a_visitor_who_has_left_keeps_nothing(visitors):
    handlers = Handlers(visitors)
    states = ask(handlers, "What do you see?", 4000)
    for _ in range(4):
        next(states)
    handlers.leave(VISITOR)
    assert [*states] != []
    assert len(visitors) == 0


def test_texts_are_escaped():
    assert text_message("assistant", "<s> a < b")["content"] == "&lt;s&gt; a &lt; b"
    assert "<b>" not in status_html("<b>") + alert_html(["<b>"])


def test_throttled_skips_texts_that_come_too_soon():
    assert [*throttled(iter("abc"), 60)] == ["a"]
    assert [*throttled(iter("abc"), 0)] == ["a", "b", "c"]


def test_record_and_summary(talkative, media):
    answer = talkative.chat(media["first"]).ask("What do you see?", max_new_tokens=5, temperature=1.0, seed=3)
    record = public_record(answer)
    assert record["media"][0]["source"] == "first.mp4"
    assert "path" not in record["weights"]
    assert str(media["first"].parent) not in str(record)
    assert summary(answer).startswith("5 tokens in ")
    assert summary(answer).endswith("; maximum length reached; seed 3")
