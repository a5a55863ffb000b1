"""Stop strings: nothing after them is sent, whatever the pieces of the text."""

from hypothesis import example, given
from hypothesis import strategies as st

from video_llama.apps.server.stop_filter import StopFilter, cut_at_stop

TEXT = st.text("abc", max_size=12)


class TestStopFilter:
    @example(pieces=["bc", "c"], stops=["c", "bcc"])  # the second stop starts first and is complete at the end
    @given(pieces=st.lists(TEXT, max_size=6), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
    def test_pieces_add_up_to_the_text_before_the_stop(self, pieces, stops):
        stop_filter, sent = StopFilter(stops), ""
        whole = "".join(pieces)
        for number, piece in enumerate(pieces):
            sent += stop_filter.push(piece, is_last=number == len(pieces) - 1)
            assert cut_at_stop(whole, stops).startswith(sent)
            if stop_filter.is_stopped:
                break
        assert sent == cut_at_stop(whole, stops)
        assert stop_filter.is_stopped == any(stop in whole for stop in stops)

    def test_holds_back_only_the_start_of_a_stop(self):
        assert StopFilter(["###"]).push("a #b") == "a #b"
        assert StopFilter(["###"]).push("a ##") == "a "
        assert StopFilter([]).push("a ##") == "a ##"
