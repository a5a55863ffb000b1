"""Rows of published annotation files. The samples have the keys of the published files."""

import json

import pytest

from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import DataError
from video_llama.evaluation.layouts import read_layout


@pytest.fixture
def read(tmp_path):
    def rows(layout, content, name="data.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return list(read_layout(layout, path, tmp_path / "media"))

    return rows


@pytest.fixture
def media(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


XU = [{"answer": "cut", "id": 30933, "question": "what does the man do?", "video_id": 1301}]


def test_msvd_and_msrvtt(read, media, tmp_path):
    [row] = read("msrvtt-qa", [{**XU[0], "category_id": 14}])
    assert row == QuestionRow(
        "30933", (str(media / "video1301.mp4"),), "what does the man do?", ("cut",), category="what"
    )
    [row] = read("msvd-qa", XU)
    assert row.media == (str(media / "vid1301.avi"),)
    (media / "vid1301.mp4").touch()
    assert read("msvd-qa", XU)[0].media == (str(media / "vid1301.mp4"),)
    (tmp_path / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1\nabc_1_2 vid1301\n")
    assert read("msvd-qa", XU)[0].media == (str(media / "abc_1_2.avi"),)


def test_activitynet(read, media, tmp_path):
    questions = [{"question_id": "v_abc_0", "video_name": "abc", "question": "is it red"}]
    (tmp_path / "test_a.json").write_text(json.dumps([{"question_id": "v_abc_0", "answer": "yes", "type": 3}]))
    [row] = read("activitynet-qa", questions, "test_q.json")
    assert row == QuestionRow("v_abc_0", (str(media / "abc.mp4"),), "is it red", ("yes",), category="yes/no")
    (media / "v_abc.mkv").touch()
    assert read("activitynet-qa", questions, "test_q.json")[0].media == (str(media / "v_abc.mkv"),)
    (tmp_path / "test_a.json").write_text(json.dumps([{"question_id": "x", "answer": "yes"}]))
    with pytest.raises(DataError, match="has no answer to the question 'v_abc_0'"):
        read("activitynet-qa", questions, "test_q.json")
    with pytest.raises(DataError, match=r"with test_a\.json next to it"):
        read("activitynet-qa", questions, "data.json")


def test_tgif(read, media):
    frameqa = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\ntumblr_a\twhat is it ?\tdog\t0\tID1\t7\n"
    [row] = read("tgif-qa", frameqa, "Test_frameqa_question.csv")
    assert row == QuestionRow("frameqa-2", (str(media / "tumblr_a.gif"),), "what is it ?", ("dog",), category="object")
    action = (
        "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\nx\twhat?\teat\tnod\trun\tsit\twave\t2\tI\t1\n"
    )
    [row] = read("tgif-qa", action, "Test_action_question.csv")
    assert (row.choices, row.correct_choice, row.category) == (("eat", "nod", "run", "sit", "wave"), 2, "action")
    count = "gif_name\tquestion\tanswer\tvid_id\tkey\nx\thow many times?\t5\tI\t1\n"
    [row] = read("tgif-qa", count, "Test_count_question.csv")
    assert (row.answers, row.category) == (("5",), "count")


MUSIC = {
    "video_id": "00000272",
    "question_id": 34,
    "type": '["Audio-Visual", "Location"]',
    "question_content": "Where is the <LR> <Object> played?",
    "templ_values": '["left", "violin"]',
    "question_deleted": 0,
    "anser": "indoor",
}


def test_music_avqa(read, media):
    [row] = read("music-avqa", [MUSIC, {**MUSIC, "question_deleted": 1}])
    assert row == QuestionRow(
        "34",
        (str(media / "00000272.mp4"),),
        "Where is the left violin played?",
        ("indoor",),
        category="Audio-Visual Location",
    )
    [row] = read("music-avqa", [{**MUSIC, "question_content": "How many <Object>?", "templ_values": '["cellos"]'}])
    assert row.question == "How many cellos?"
    with pytest.raises(DataError, match="templ_values has no value for <Object>"):
        read("music-avqa", [{**MUSIC, "templ_values": "[]", "question_content": "How many <Object>?"}])
    with pytest.raises(DataError, match="'type' is 'x', not a list"):
        read("music-avqa", [{**MUSIC, "type": "x"}])


def test_avsd(read, media):
    turns = [{"question": "is it red?", "answer": "yes"}, {"question": "what moves?", "answer": "a man"}]
    [row] = read("avsd", {"dialogs": [{"image_id": "VPSKX", "dialog": turns, "caption": "c", "summary": "s"}]})
    assert row == QuestionRow(
        "VPSKX-0",
        (str(media / "VPSKX.mp4"),),
        "Question: is it red?\nAnswer: yes\nQuestion: what moves?",
        ("a man",),
    )
    [row] = read("avsd", {"dialogs": [{"image_id": "VPSKX", "dialog": turns[:1]}]})
    assert row.question == "is it red?"
    hidden = [{"question": "what moves?", "answer": "__UNDISCLOSED__"}]
    with pytest.raises(DataError, match="Use the labelled file"):
        read("avsd", {"dialogs": [{"image_id": "VPSKX", "dialog": hidden}]})
    with pytest.raises(DataError, match='no list "dialogs"'):
        read("avsd", [])


def test_mvbench_and_video_chatgpt(read, media):
    row = {
        "video": "a.mp4",
        "question": "where?",
        "candidates": ["left", "right"],
        "answer": "right",
        "start": 1,
        "end": 9,
    }
    [found] = read("mvbench", [row], "moving_direction.json")
    assert (found.correct_choice, found.start, found.end, found.category) == (1, 1, 9, "moving_direction")
    [found] = read("videochatgpt", [{"video_name": "v_a", "Q": "what?", "A": "it is red"}], "generic_qa.json")
    assert (found.media, found.question, found.answers) == ((str(media / "v_a.mp4"),), "what?", ("it is red",))
    two = read("videochatgpt", [{"video_name": "v_a", "Q1": "what?", "Q2": "which?", "A": "x"}], "consistency_qa.json")
    assert [each.question for each in two] == ["what?", "which?"]


def test_captions(read, media):
    table = "videoid,contentUrl,duration,page_dir,name\n1060901,https://x,PT00H00M18S,006001_006050,Red circle\n"
    [row] = read("webvid-captions", table, "results_2M_val.csv")
    assert row == QuestionRow("1060901", (str(media / "006001_006050/1060901.mp4"),), captions=("Red circle",))
    msrvtt = {
        "videos": [{"video_id": "video1", "split": "train"}, {"video_id": "video2", "split": "test"}],
        "sentences": [
            {"caption": text, "video_id": name} for name, text in (("video1", "x"), ("video2", "a"), ("video2", "b"))
        ],
    }
    [row] = read("msrvtt-captions", msrvtt)
    assert row == QuestionRow("video2", (str(media / "video2.mp4"),), captions=("a", "b"))
    with pytest.raises(DataError, match='no lists "videos" and "sentences"'):
        read("msrvtt-captions", {"videos": []})


def test_unknown_layout_and_doubled_ids(read):
    with pytest.raises(DataError, match=r"layout is 'x'. Choose rows, msvd-qa"):
        read("x", [])
    with pytest.raises(DataError, match="the id '30933' occurs twice"):
        read("msrvtt-qa", XU * 2)
