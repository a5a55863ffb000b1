"""What the page sends and shows, apart from the browser: settings, messages, records without the server's paths."""

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")

from video_llama.apps.demo.handlers import (
    GREEDY,
    SAMPLING,
    alert,
    decoding,
    note,
    paced,
    plain,
    public_record,
    said,
    summary,
)
from video_llama.chat import Decoding
from video_llama.errors import MediaError

CONTROLS = (1.0, 0.9, 50.0, 1.0, 300.0)


def test_sampling_is_the_references():
    assert Decoding(**decoding(SAMPLING, *CONTROLS, "")) == Decoding.reference()


def test_greedy_takes_no_sampling_settings():
    assert decoding(GREEDY, *CONTROLS, "no number") == {"num_beams": 1, "max_new_tokens": 300}


def test_seed():
    assert decoding(SAMPLING, *CONTROLS, " 7 ")["seed"] == 7
    with pytest.raises(ValueError, match=r"seed is '1\.5'. Give a whole number"):
        decoding(SAMPLING, *CONTROLS, "1.5")


def test_whole_numbers_are_numbers(talkative):
    """A browser sends 1.0 as 1."""
    settings = decoding(SAMPLING, 1, 1, 50, 1, 3, "5")
    answer = talkative.chat().ask("What do you see?", **settings)
    assert answer.record.decoding["temperature"] == 1
    assert answer.text == talkative.chat().ask("What do you see?", **settings).text


def test_errors_name_the_file_and_not_its_folder():
    path = Path("/tmp/secret/1234/clip.mp4")
    error = MediaError(f"{path} is too short. Ask without audio (--no-audio) or give a longer sound.")
    assert (
        plain(error, path) == "clip.mp4 is too short. Ask without audio (switch the sound off) or give a longer sound."
    )


def test_texts_are_no_html():
    assert said("assistant", "<s> a < b")["content"] == "&lt;s&gt; a &lt; b"
    assert "<b>" not in note("<b>") + alert(["<b>"])


def test_paced_leaves_out_what_comes_too_soon():
    assert [*paced(iter("abc"), 60)] == ["a"]
    assert [*paced(iter("abc"), 0)] == ["a", "b", "c"]


def test_record_and_summary(talkative, media):
    answer = talkative.chat(media["first"]).ask("What do you see?", max_new_tokens=5, temperature=1.0, seed=3)
    record = public_record(answer)
    assert record["media"][0]["source"] == "first.mp4"
    assert "path" not in record["weights"]
    assert str(media["first"].parent) not in str(record)
    assert summary(answer).startswith("5 tokens in ")
    assert summary(answer).endswith("; cut: the longest answer allowed; seed 3")
