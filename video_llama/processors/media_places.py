"""The places of media in prompts: which medium stands where, and the text after they are expanded.

A place is ``<video>``, for a video or an image (a video of one frame), or ``<audio>``. It is replaced by as many places
as the medium has tokens. After ``<Video><video></Video> `` stands the sentence about the times of the frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from video_llama.conversation import AUDIO_PLACE, VIDEO_PLACE
from video_llama.processors.nested_inputs import GivenMedia

PlaceKind = Literal["image", "video", "audio"]

PLACE = re.compile(f"{VIDEO_PLACE}|{AUDIO_PLACE}")
IMAGE_TAG, VIDEO_TAG = "<Image>", "<Video>"
AFTER_VIDEO = "</Video> "
SENTENCE_START = "The video contains "


@dataclass(frozen=True)
class Place:
    """A place in a text: its position, and the medium that stands there, as an index into the media of its modality."""

    start: int
    end: int
    modality: PlaceKind
    index: int


@dataclass(frozen=True)
class Replacement:
    """A place and its replacement: spans of characters before and after, as transformers' processors report them."""

    modality: PlaceKind
    span: tuple[int, int]
    new_span: tuple[int, int]
    text: str
    replacement: str

    def as_dict(self) -> dict[str, object]:
        """Return the entry of ``text_replacement_offsets``."""
        return {
            "type": self.modality,
            "span": self.span,
            "new_span": self.new_span,
            "text": self.text,
            "replacement": self.replacement,
        }


def assign_media(texts: Sequence[str], images: GivenMedia, videos: GivenMedia, audio: GivenMedia) -> list[list[Place]]:
    """Return the places of each text with their media, in order.

    If both images and videos are given, ``<Image>`` and ``<Video>`` before a place decide; without them, the images of
    a prompt come first.

    Raises ValueError if the numbers of places and media differ, or if it is not clear which places are images.
    """
    found = [list(PLACE.finditer(text)) for text in texts]
    visual = [[match for match in row if match.group() == VIDEO_PLACE] for row in found]
    heard = [[match for match in row if match.group() == AUDIO_PLACE] for row in found]
    _check_count(VIDEO_PLACE, "images and videos", visual, [images, videos])
    _check_count(AUDIO_PLACE, "audio inputs", heard, [audio])
    counters = {"image": 0, "video": 0, "audio": 0}
    assigned = []
    for row, text in enumerate(texts):
        modalities = _visual_modalities(row, text, visual, images, videos)
        places = []
        for match in found[row]:
            modality: PlaceKind = "audio" if match.group() == AUDIO_PLACE else modalities.pop(0)
            places.append(Place(match.start(), match.end(), modality, counters[modality]))
            counters[modality] += 1
        assigned.append(places)
    if (counters["image"], counters["video"]) != (len(images.items), len(videos.items)):
        raise ValueError(
            f"The prompts have {counters['image']} places of images and {counters['video']} of videos, but "
            f"{len(images.items)} images and {len(videos.items)} videos are given. An image stands after {IMAGE_TAG}, "
            f"a video after {VIDEO_TAG}."
        )
    return assigned


def _check_count(place: str, name: str, found: list[list[re.Match[str]]], given: list[GivenMedia]) -> None:
    num_places, num_media = sum(map(len, found)), sum(len(each.items) for each in given)
    if num_places != num_media:
        raise ValueError(
            f"The total number of {place} tokens in the prompts should be the same as the number of {name}. Found "
            f"{num_places} {place} tokens and {num_media} {name}."
        )
    counts = [each.counts for each in given if each.items]
    if not counts or any(each is None or len(each) != len(found) for each in counts):
        return
    for row, matches in enumerate(found):
        num_row = sum(each[row] for each in counts if each is not None)
        if num_row != len(matches):
            raise ValueError(
                f"Prompt {row} has {len(matches)} {place} tokens, but {num_row} {name}. Give as many media as places."
            )


def _visual_modalities(
    row: int, text: str, visual: list[list[re.Match[str]]], images: GivenMedia, videos: GivenMedia
) -> list[PlaceKind]:
    """Return, for each ``<video>`` of a text, whether an image or a video stands there."""
    places = visual[row]
    if not images.items or not videos.items:
        return ["image" if images.items else "video"] * len(places)
    tags = [_tag(text, match.start()) for match in places]
    untagged = tags.count(None)
    if not untagged:
        return [tag for tag in tags if tag is not None]
    if images.counts is not None and len(images.counts) == len(visual):
        num_images = images.counts[row]
    elif len(visual) == 1:
        num_images = len(images.items)
    else:
        raise ValueError(
            f"Images and videos are given, and it is not clear which {VIDEO_PLACE} tokens are images. Write "
            f"{IMAGE_TAG} or {VIDEO_TAG} before each, or give a list of media for each prompt."
        )
    left = num_images - tags.count("image")
    modalities: list[PlaceKind] = []
    for tag in tags:
        if tag is None:
            tag = "image" if left > 0 else "video"
            left -= 1
        modalities.append(tag)
    return modalities


def _tag(text: str, position: int) -> PlaceKind | None:
    if text.endswith(IMAGE_TAG, 0, position):
        return "image"
    return "video" if text.endswith(VIDEO_TAG, 0, position) else None


def insert_sentences(text: str, places: Sequence[Place], sentence_of: Callable[[Place], str]) -> list[tuple[int, str]]:
    """Return the sentences about frames that a text lacks, as (position, sentence)."""
    missing = []
    for place in places:
        end = place.end + len(AFTER_VIDEO)
        is_video = place.modality == "video" and _tag(text, place.start) == "video"
        if is_video and text.startswith(AFTER_VIDEO, place.end) and not text.startswith(SENTENCE_START, end):
            sentence = sentence_of(place)
            if sentence:
                missing.append((end, sentence))
    return missing


def with_insertions(text: str, insertions: Sequence[tuple[int, str]]) -> str:
    """Return a text with strings inserted at positions (ascending)."""
    parts, last = [], 0
    for position, inserted in insertions:
        parts += [text[last:position], inserted]
        last = position
    return "".join([*parts, text[last:]])


def shifted(position: int, insertions: Sequence[tuple[int, str]]) -> int:
    """Return the position of a character after the insertions."""
    return position + sum(len(inserted) for at, inserted in insertions if at <= position)


def expanded(text: str, places: Sequence[Place], replacements: Sequence[str]) -> tuple[str, list[Replacement]]:
    """Return a text with its places replaced, and what was replaced."""
    parts, edits, last, gained = [], [], 0, 0
    for place, replacement in zip(places, replacements, strict=True):
        parts += [text[last : place.start], replacement]
        start = place.start + gained
        span, new_span = (place.start, place.end), (start, start + len(replacement))
        edits.append(Replacement(place.modality, span, new_span, text[place.start : place.end], replacement))
        gained += len(replacement) - (place.end - place.start)
        last = place.end
    return "".join([*parts, text[last:]]), edits
