"""Convert a Sample to a row of token ids and labels.

The text around a medium depends on the branch (kind of slot and number of tokens), on the dialect of the data set
(``labels``), and on the frame times, which are part of the prompt for inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from video_llama.conversation import (
    IGNORE_INDEX,
    MediaMessage,
    Prompt,
    Slot,
    Template,
    Tokenizer,
    TrainingExample,
    caption_example,
    caption_prompt,
    media_message,
    training_example,
)
from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.datasets.sample import Sample, SampleKind, SampleMedium
from video_llama.errors import DataError
from video_llama.processors.text_processor import caption as clean_caption


@dataclass(frozen=True)
class TextRules:
    """Text settings of a run, for all data sets: the decoder's tokenizer and template, and the caption settings."""

    tokenizer: Tokenizer
    template: Template | str
    num_video_tokens: int
    num_audio_tokens: int
    end_sym: str
    max_txt_len: int
    prompts: tuple[str, ...] = ()
    """Instructions for captions, each with one ``<ImageHere>`` for the medium. Empty: no instruction."""
    prompt_template: str = "{}"


@dataclass(frozen=True)
class RowBuilder:
    """Builds the rows of one data set for one branch."""

    rules: TextRules
    config: DatasetConfig
    branch: Branch

    @property
    def num_choices(self) -> int:
        """Number of instructions to choose from for a caption."""
        return max(1, len(self.rules.prompts))

    def build(self, sample: Sample, message: str | Sequence[str], choice: int = 0) -> TrainingExample:
        """Return the token ids and labels of a sample.

        Args:
            message: The sentence about the frame times; a sequence with one per medium if there are several.
            choice: Index of the instruction for a caption.

        Raises DataError, with the sample's id, if no token has a label or the branch gets no medium.
        """
        try:
            messages = (message,) if isinstance(message, str) else message
            example = self._conversation(sample, messages) if sample.turns else self._caption(sample, choice)
        except DataError as error:
            raise DataError(f"{sample.id}: {error}") from error
        if all(label == IGNORE_INDEX for label in example.labels[1:]):
            raise DataError(f"{sample.id}: no token of the row has a label. Remove the row, or raise max_length.")
        self._check_media(sample, example)
        return example

    def _check_media(self, sample: Sample, example: TrainingExample) -> None:
        kinds = [self._slot(medium.kind).kind for medium in sample.media]
        if ("video" if self.branch == "vision" else "audio") not in kinds:
            raise DataError(
                f"{sample.id}: the row has no medium for the {self.branch} branch. Set branch, or remove the row."
            )
        lengths = {"video": self.rules.num_video_tokens, "audio": self.rules.num_audio_tokens}
        wanted = sum(lengths[kind] for kind in kinds)
        if sum(span.length for span in example.spans) != wanted:  # the reference may truncate within a medium
            raise DataError(f"{sample.id}: the medium is truncated. Remove the row, or raise max_length.")

    def _conversation(self, sample: Sample, messages: Sequence[str]) -> TrainingExample:
        media = iter(zip(sample.media, messages, strict=True))
        turns = [
            replace(turn, media=self._messages(sample, list(islice(media, len(turn.media))))) for turn in sample.turns
        ]
        return training_example(
            self.rules.tokenizer,
            turns,
            num_video_tokens=self.rules.num_video_tokens,
            num_audio_tokens=self.rules.num_audio_tokens,
            template=self.rules.template,
            system=sample.system,
            dialect=self.config.labels,
            max_length=self.config.max_length,
        )

    def _caption(self, sample: Sample, choice: int) -> TrainingExample:
        slot = self._slot(sample.kind)
        prompt: Prompt = [slot]
        if self.rules.prompts:
            prompt = caption_prompt(self.rules.prompts[choice], self.rules.prompt_template, slot.kind)
        return caption_example(
            self.rules.tokenizer,
            clean_caption(sample.caption) if sample.uses_caption_rules else sample.caption,
            prompt=prompt,
            end_sym=self.rules.end_sym,
            max_text_tokens=self.rules.max_txt_len,
            num_video_tokens=self.rules.num_video_tokens,
            num_audio_tokens=self.rules.num_audio_tokens,
            dialect=self.config.labels,
        )

    def _slot(self, kind: SampleKind) -> Slot:
        """Return an audio slot for sound and for frames in the audio branch, else a video slot."""
        slot: Literal["video", "audio"] = "audio" if self.branch == "audio" or kind == "audio" else "video"
        return Slot(slot)

    def _messages(self, sample: Sample, media: Sequence[tuple[SampleMedium, str]]) -> tuple[MediaMessage, ...]:
        """Return the media messages of a turn. One video and one sound become a video with sound, as for inference."""
        kinds = sorted(medium.kind for medium, _ in media)
        if kinds == ["audio", "video"] and self.branch == "vision" and self.config.labels == "serving":
            return (media_message(video=Slot("video"), audio=Slot("audio")),)
        return tuple(self._message(replace(sample, kind=medium.kind), message) for medium, message in media)

    def _message(self, sample: Sample, message: str) -> MediaMessage:
        if self.config.labels == "reference" and (sample.kind == "audio" or sample.more_media):
            raise DataError("labels: reference supports neither sound nor several media. Set labels to serving.")
        if sample.kind == "audio" or (self.branch == "audio" and self.config.labels == "serving"):
            return media_message(audio=Slot("audio"), video=sample.video_words)
        if self.branch == "audio":  # the reference keeps the video prompt around the audio tokens
            around = ("<Image>", "</Image> ") if sample.kind == "image" else ("<Video>", f"</Video> {message}")
            return MediaMessage((around[0], Slot("audio"), around[1]), is_image=sample.kind == "image")
        if sample.kind == "image":
            return media_message(image=Slot("video"))
        return media_message(video=Slot("video"), audio=sample.audio_words, sentence=message)
