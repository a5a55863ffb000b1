"""Settings of an evaluation, and the questions that they make."""

import pytest

from video_llama.config import parse_config
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import ConfigError, DataError
from video_llama.evaluation.config import BenchmarkConfig, MediaSettings

ROW = QuestionRow("7", ("a.mp4",), "What is it?", ("b",), choices=("a {question}", "b"), start=1.0, end=3.0)


def test_questions():
    config = BenchmarkConfig(data="x.jsonl", prompts={"question": "Q: {question}"})
    assert config.open_question(ROW) == "Q: What is it?"
    assert config.letter_question(ROW) == (
        "What is it?\n(A) a {question}\n(B) b\nAnswer with the letter of the correct choice."
    )
    assert config.open_question(QuestionRow("8", ("a.mp4",), captions=("x",))) == "Describe the video."
    with pytest.raises(DataError, match="Row 9 has no question"):
        config.open_question(QuestionRow("9", ("a.mp4",)))
    many = QuestionRow("10", ("a.mp4",), "?", choices=tuple(map(str, range(27))))
    with pytest.raises(DataError, match="27 choices; at most 26"):
        config.letter_question(many)


def test_frames_of_a_segment():
    options = MediaSettings(fps=2, no_audio=True).options(ROW, 8)
    assert (options.frames.num_frames, options.frames.fps, options.frames.start, options.frames.end) == (8, 2, 1.0, 3.0)
    assert options.no_audio
    assert MediaSettings(num_frames=4).options(ROW, 8).frames.num_frames == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": {"question": "What?"}}, "prompts.question: should contain {question}"),
        ({"batch_size": 0}, "batch_size"),
        ({"choice_methods": ["guess"]}, "choice_methods.0"),
        ({"frames": {"num_frame": 3}}, "Did you mean num_frames"),
    ],
)
def test_wrong_settings(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(BenchmarkConfig, {"data": "x.jsonl", **values}, source="x.yaml")
