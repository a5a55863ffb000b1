"""The wordings of the miniature's questions."""

from video_llama.miniature import question_wordings

WORDINGS = {
    name: value for name, value in vars(question_wordings).items() if name.isupper() and isinstance(value, tuple)
}


def test_wordings_of_a_kind_differ():
    assert WORDINGS
    for name, wordings in WORDINGS.items():
        assert len(set(wordings)) == len(wordings), name
