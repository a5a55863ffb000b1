"""The package's logger, progress bars and activities."""

import io
import logging
import time
from contextlib import redirect_stderr

import pytest

from video_llama import log
from video_llama.log import activity, configure, logger, progress, shown_activities


@pytest.fixture
def restored():
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_configured_twice_a_message_appears_once_on_standard_error(restored, capsys):
    configure()
    configure(logging.WARNING)
    logger.info("hidden")
    logger.warning("shown")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "W shown\n")


def test_progress_yields_the_items_and_is_silent_without_a_terminal(capsys):
    assert list(progress(iter("abc"), "Reading", total=3)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_progress_shows_a_status_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    done = []
    for item in progress("abc", "Reading", status=lambda: f"{len(done)} rows"):
        done.append(item)
    assert done == ["a", "b", "c"]
    assert "3 rows" in capsys.readouterr().err


def test_activities_are_not_shown_without_a_terminal(capsys):
    with shown_activities(), activity("encoding", 3) as advance:
        assert advance is None
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestActivitiesOnATerminal:
    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("TERM", "xterm")

    def test_one_is_shown_with_its_share(self, monkeypatch):
        monkeypatch.setattr(log, "SHOW_AFTER_SECONDS", 0.0)
        with redirect_stderr(Terminal()) as terminal, shown_activities():
            with activity("encoding", 4) as advance:
                time.sleep(0.2)
                advance()
            with activity("generating"):
                time.sleep(0.2)
        shown = terminal.getvalue()
        assert shown.index("encoding") < shown.index("generating")
        assert "25%" in shown
        assert log._display is None

    def test_a_short_one_is_not_shown(self):
        with redirect_stderr(Terminal()) as terminal, shown_activities(), activity("encoding", 1) as advance:
            advance()
        assert "encoding" not in terminal.getvalue()

    def test_outside_of_the_context(self):
        with redirect_stderr(Terminal()), activity("encoding") as advance:
            assert advance is None
