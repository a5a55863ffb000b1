"""The package's logger and progress bar."""

import logging

import pytest

from video_llama.log import configure, logger, progress


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
