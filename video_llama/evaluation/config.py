"""The settings of an evaluation: which data, which prompts, which frames, how answers are generated.

They are the keys of a benchmark YAML and the options of ``video-llama evaluate``. Everything here can change an answer
or a figure and is stored with the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from video_llama.chat import Decoding, MediaOptions
from video_llama.config import Config
from video_llama.datasets.question_rows import LETTERS, QuestionRow
from video_llama.errors import DataError
from video_llama.processors.sampling import FrameSampling

ChoiceMethod = Literal["likelihood", "letter"]


class PromptSettings(Config):
    """How a row becomes a question for the model."""

    question: str = "{question}"
    """Question of a row without choices; {question} is that of the row."""
    choices: str = "{question}\n{choices}\nAnswer with the letter of the correct choice."
    """Question of a row with choices that is answered by letter; {choices} has one line "(A) text" for each choice."""
    caption: str = "Describe the video."
    """Question of a row that has captions and no question."""

    @field_validator("question", "choices")
    @classmethod
    def _has_the_question(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("should contain {question}")
        return value


class MediaSettings(Config):
    """Which frames of the videos are sampled, and whether their sound is used."""

    num_frames: int | None = Field(default=None, ge=1)
    """Number of frames, uniformly over the segment of the row (default: the model's)."""
    fps: float | None = Field(default=None, gt=0)
    """Frames per second, instead of a number of frames."""
    no_audio: bool = False
    """Ignore the sound."""

    def options(self, row: QuestionRow, default_frames: int) -> MediaOptions:
        """Return how the media of a row are read. Raises ValueError for an invalid segment."""
        sampling = FrameSampling(self.num_frames or default_frames, self.fps, start=row.start, end=row.end)
        return MediaOptions(sampling, no_audio=self.no_audio)


class AnswerSettings(Config):
    """How answers are generated: greedy decoding, or beam search."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Maximum length of an answer, in tokens."""
    num_beams: int = Field(default=1, ge=1, le=64)
    """Number of beams; 1 is greedy decoding."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Values above 1 discourage repetition."""

    def decoding(self) -> Decoding:
        """Return the decoding settings."""
        return Decoding(**self.model_dump())


class BenchmarkConfig(Config):
    """A data set with the settings of its evaluation."""

    data: Path
    """Annotation file; in a YAML, relative to the folder of the YAML."""
    layout: str = "rows"
    """Layout of the annotation file: rows, or the name of a published layout (docs/evaluation.md)."""
    media_dir: Path | None = None
    """Folder of the media (default: the folder of the annotation file)."""
    limit: int | None = Field(default=None, ge=1)
    """Use the first rows only."""
    choice_methods: tuple[ChoiceMethod, ...] = ("likelihood", "letter")
    """How choices are made: by the likelihood of each choice after the question, and by the letter that the model
    generates."""
    batch_size: int = Field(default=8, ge=1)
    """Number of rows that are answered together. Batches are cut from all rows, so that they do not depend on the
    number of workers or on interruptions."""
    max_bad_share: float = Field(default=0.0, ge=0, le=1)
    """Largest share of rows whose media cannot be read. Such rows have an error in place of an answer, and count as
    wrong. With 0, the first one ends the evaluation."""
    prompts: PromptSettings = PromptSettings()
    frames: MediaSettings = MediaSettings()
    answers: AnswerSettings = AnswerSettings()

    def letter_question(self, row: QuestionRow) -> str:
        """Return the question with the lettered choices. Raises DataError for more than 26."""
        if len(row.choices) > len(LETTERS):
            raise DataError(f"Row {row.id} has {len(row.choices)} choices; at most {len(LETTERS)} are supported.")
        lines = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, row.choices, strict=False)]
        return self._filled(self.prompts.choices, row).replace("{choices}", "\n".join(lines))

    def open_question(self, row: QuestionRow) -> str:
        """Return the question without choices. Raises DataError for a row without a question."""
        if row.question is None and row.captions:
            return self.prompts.caption
        return self._filled(self.prompts.question, row)

    @staticmethod
    def _filled(template: str, row: QuestionRow) -> str:
        if row.question is None:
            raise DataError(f"Row {row.id} has no question. Add one, or captions.")
        return template.replace("{question}", row.question)
