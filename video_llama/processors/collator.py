"""A data collator for ``transformers.Trainer``: rows with messages or texts and their media to a padded batch.

The labels of messages are those of ``conversation.training_example``: the answers and what ends them.
"""

# B rows, L row length

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from video_llama.conversation import IGNORE_INDEX
from video_llama.errors import DataError
from video_llama.processors.processing import VideoLlamaProcessor

MEDIA_COLUMNS = {"image": ("images", "image"), "video": ("videos", "video"), "audio": ("audios", "audio")}
"""Names of the columns of a row whose media fill the blocks of messages that name no medium."""


class VideoLlamaCollator:
    """Make a batch of rows, padded on the right, with ``labels`` [B, L] (-100 where there is no loss).

    A row has ``messages``, or ``prompt`` and ``completion`` (two lists of messages), or ``text`` (a prompt with the
    places ``<video>`` and ``<audio>``; every token of the text is a label). Media are named in the messages, or are in
    the columns ``images``, ``videos`` and ``audios``, in order.

    Args:
        processor: the model's processor.
        max_length: rows are cut after this many tokens.
        options: options of the processor's call, such as ``num_frames``.

    Raises:
        DataError: a row without messages, text or answer, or one whose medium or only answer is cut.
    """

    def __init__(self, processor: VideoLlamaProcessor, *, max_length: int | None = None, **options: Any) -> None:
        self.processor, self.max_length = processor, max_length
        self.options = {**options, "padding": True, "padding_side": "right", "return_tensors": "pt"}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """Return ``input_ids``, ``attention_mask``, ``labels`` and the media of the rows."""
        if all("text" in row and "messages" not in row for row in rows):
            batch = self._texts(rows)
        else:
            batch = self.processor.apply_chat_template(
                [_messages(row) for row in rows],
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                processor_kwargs=dict(self.options),
            )
            is_label = batch.pop("assistant_masks").bool()
            batch["labels"] = batch["input_ids"].masked_fill(~is_label, IGNORE_INDEX)
        return self._cut(batch)

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> BatchFeature:
        media = {
            "images": [_column(row, "image") for row in rows],
            "videos": [_column(row, "video") for row in rows],
            "audio": [_column(row, "audio") for row in rows],
        }
        given = {name: values if any(map(len, values)) else None for name, values in media.items()}
        batch = self.processor(text=[row["text"] for row in rows], **given, **self.options)
        is_label = batch["attention_mask"].bool() & ~self._is_place(batch["input_ids"])
        batch["labels"] = batch["input_ids"].masked_fill(~is_label, IGNORE_INDEX)
        return batch

    def _is_place(self, ids_BL: Tensor) -> Tensor:
        return torch.isin(ids_BL, torch.tensor([self.processor.video_token_id, self.processor.audio_token_id]))

    def _cut(self, batch: BatchFeature) -> BatchFeature:
        length = batch["input_ids"].shape[1] if self.max_length is None else self.max_length
        if self._is_place(batch["input_ids"][:, length:]).any():
            raise DataError(f"A training row has a medium beyond the first {length} tokens. Raise max_length.")
        for name in ("input_ids", "attention_mask", "labels"):
            batch[name] = batch[name][:, :length]
        without = (batch["labels"] == IGNORE_INDEX).all(dim=1).nonzero().flatten().tolist()
        if without:
            raise DataError(
                f"Row {without[0]} of the batch has no answer within {length} tokens. Drop it, or raise max_length."
            )
        return batch


def _messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a row, with the media of its columns in the blocks that name none."""
    if "messages" in row:
        messages = list(row["messages"])
    elif "prompt" in row and "completion" in row:
        messages = [*row["prompt"], *row["completion"]]
    else:
        raise DataError(f"A row has the columns {', '.join(row)}. Give messages, prompt and completion, or text.")
    waiting = {kind: list(_column(row, kind)) for kind in MEDIA_COLUMNS}
    return [
        {**message, "content": [_filled(block, waiting) for block in message["content"]]}
        if isinstance(message.get("content"), (list, tuple))
        else dict(message)
        for message in messages
    ]


def _filled(block: Any, waiting: dict[str, list[Any]]) -> Any:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind not in waiting or not waiting[kind] or any(block.get(key) is not None for key in (kind, "path", "url")):
        return block
    return {"type": kind, kind: waiting[kind].pop(0)}


def _column(row: Mapping[str, Any], kind: str) -> list[Any]:
    values: Any = next((row[name] for name in MEDIA_COLUMNS[kind] if row.get(name) is not None), [])
    return list(values) if isinstance(values, (list, tuple)) else [values]
