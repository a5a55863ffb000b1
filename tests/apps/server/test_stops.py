"""Stop strings: what is sent is the text in front of the first, however it was cut into pieces."""

from hypothesis import example, given
from hypothesis import strategies as st

from video_llama.apps.server.scheduler import StopFilter, cut_at_stop

WORDS = st.text("abc", max_size=12)


@example(pieces=["bc", "c"], stops=["c", "bcc"])  # the second begins first, and is complete when all is over
@given(pieces=st.lists(WORDS, max_size=6), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_pieces_make_up_the_text_before_the_stop(pieces, stops):
    stop_filter, sent = StopFilter(stops), ""
    whole = "".join(pieces)
    for number, piece in enumerate(pieces):
        sent += stop_filter.push(piece, is_last=number == len(pieces) - 1)
        assert cut_at_stop(whole, stops).startswith(sent)
        if stop_filter.is_stopped:
            break
    assert sent == cut_at_stop(whole, stops)
    assert stop_filter.is_stopped == any(stop in whole for stop in stops)


def test_nothing_is_held_that_begins_no_stop():
    assert StopFilter(["###"]).push("a #b") == "a #b"
    assert StopFilter(["###"]).push("a ##") == "a "
    assert StopFilter([]).push("a ##") == "a ##"
