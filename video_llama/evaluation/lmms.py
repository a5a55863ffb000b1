"""The model of this package for lmms-eval 0.7, as ``--model video_llama``.

Media and time ranges come from the messages of a task; prompts, frames and decoding are those of ``Chat``. As in the
HTTP server, the media of a message come before its text, in order, and its texts are on separate lines. Tasks of type
``multiple_choice`` need ``--force_simple``: lmms-eval gives messages to generating tasks only.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from PIL import Image

from video_llama.chat import Answer, Decoding
from video_llama.chat.engine import EncodedMedium, PreparedTurn
from video_llama.chat.likelihood import answer_scores
from video_llama.chat.loading import load, usable_device
from video_llama.chat.messages import message_for
from video_llama.errors import DataError
from video_llama.evaluation.config import MediaSettings
from video_llama.log import progress
from video_llama.processors.medium import MediaOptions
from video_llama.processors.sampling import FrameSampling

PCM_MAX = 32767


class VideoLlamaChat(lmms):  # type: ignore[misc]
    """A model folder, a published folder or ``miniature``, asked through messages.

    Args (``--model_args``):
        pretrained: the model, as for ``video_llama.load``.
        device, dtype, quantization: how it is loaded.
        num_frames, fps, no_audio: which frames are sampled, and whether sound is used.
        batch_size: number of questions that are answered together.
        record_file: a JSONL file to which the record of each answer is appended.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "miniature",
        device: str | None = None,
        dtype: str | None = None,
        quantization: str | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        no_audio: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        record_file: str | None = None,
    ) -> None:
        super().__init__()
        del max_batch_size  # given by lmms-eval; batches have a fixed size
        self.assistant = load(pretrained, device=usable_device(device), dtype=dtype, quantization=quantization)
        self._media = MediaSettings(num_frames=num_frames, fps=fps, no_audio=no_audio)
        self._batch_size = int(batch_size)
        self._record_file = None if record_file is None else Path(record_file)
        self._encoded: dict[tuple[str, float | None, float | None], EncodedMedium] = {}

    # --- the interface of lmms-eval

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return the answers, cut at the first of the task's stop strings."""
        results: list[GenerationResult | None] = [None] * len(requests)
        settings = [_generation_arguments(request)[1] for request in requests]
        order = sorted(range(len(requests)), key=lambda index: repr(settings[index]))
        same_settings = [list(group) for _, group in groupby(order, key=lambda index: repr(settings[index]))]
        batches = [batch for group in same_settings for batch in _batched(group, self._batch_size)]
        for batch in progress(batches, "answering"):
            turns = [self._turn(self._messages(requests[index]), settings[index]) for index in batch]
            for index, answer in zip(batch, self.assistant.answer(turns), strict=True):
                results[index] = self._result(requests[index], answer)
        return [result for result in results if result is not None]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and whether greedy decoding begins with it.

        Continuations of the same question share its media and its prompt.
        """
        results: list[tuple[float, bool]] = []
        for _, same in groupby(progress(requests, "scoring", len(requests)), key=_question_key):
            group = list(same)
            texts = [str(_continuation(self, request)).strip() for request in group]
            turn = self._turn(self._messages(group[0]), {"max_new_tokens": 1})
            scores = answer_scores(self.assistant.engine, turn, texts)
            results += [(score.sum, score.is_greedy) for score in scores]
        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Return the answers of all rounds of each request; the task makes the messages of the next round."""
        return [self._rounds(request) for request in progress(requests, "answering", len(requests))]

    # --- one request

    def _rounds(self, request: Instance) -> list[str]:
        _, doc_to_messages, settings, doc_id, task, split = request.arguments
        doc, answers, previous = self.task_dict[task][split][doc_id], [], None
        messages: Any = doc_to_messages(doc)
        while True:
            [answer] = self.assistant.answer([self._turn(messages, settings)])
            answers.append(self._result(request, answer).text)
            reply = doc_to_messages(
                doc, round_idx=len(answers), previous_output=list(answers), previous_round_info=previous
            )
            if not (isinstance(reply, tuple) and len(reply) == 4):  # the task has a single round
                return answers
            messages, is_last, _, previous = reply
            if is_last:
                return answers

    def _messages(self, request: Instance) -> Any:
        """Return the messages of a request, also of those that lmms-eval makes for simple models."""
        arguments = request.arguments
        if request.request_type != "loglikelihood" and callable(arguments[1]):
            _, doc_to_messages, _, doc_id, task, split = arguments
            return doc_to_messages(self.task_dict[task][split][doc_id])
        if len(arguments) < 6:
            raise DataError("The task scores answers without a question (acc_mutual_info), which is not supported.")
        context, _, doc_to_visual, doc_id, task, split = arguments
        media = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        content = [{"type": _kind(medium), "url": medium} for medium in media]
        return [{"role": "user", "content": [*content, {"type": "text", "text": context}]}]

    def _turn(self, messages: Any, settings: dict[str, Any]) -> PreparedTurn:
        """Return the last question with its conversation. Raises DataError if the last message is no question."""
        chat = ChatMessages(messages=messages).messages
        system = "\n".join(_text(message) for message in chat if message.role == "system") or None
        conversation, media = self.assistant.engine.conversation(system), []
        turns = [message for message in chat if message.role != "system"]
        if not turns or turns[-1].role != "user":
            raise DataError("The last message of a task is not of the user. Correct the task's doc_to_messages.")
        for message in turns:
            for content in message.content:
                if content.type != "text":
                    media.append(self._encode(content))
                    conversation.add_media(message_for(media[-1].read))
            if message is turns[-1]:
                break
            (conversation.ask if message.role == "user" else conversation.answer)(_text(message))
        return self.assistant.engine.turn(conversation, media, _text(turns[-1]), decoding_of(settings))

    def _encode(self, content: Any) -> EncodedMedium:
        """Read and encode a medium. The media of the last few questions are kept."""
        start, end = getattr(content, "start_time", None), getattr(content, "end_time", None)
        sampling = FrameSampling(
            self._media.num_frames or self.assistant.settings.num_frames, self._media.fps, start=start, end=end
        )
        options = MediaOptions(sampling, no_audio=self._media.no_audio)
        source = media_source(content.url)
        if not isinstance(source, str):
            return self.assistant.engine.encode(source, options)
        key = (source, start, end)
        if key not in self._encoded:
            while len(self._encoded) >= max(1, self._batch_size):
                del self._encoded[next(iter(self._encoded))]
            self._encoded[key] = self.assistant.engine.encode(source, options)
        return self._encoded[key]

    def _result(self, request: Instance, answer: Answer) -> GenerationResult:
        settings, tokens = _generation_arguments(request)[1], answer.record.tokens
        text = answer.text
        for stop in settings.get("until") or ():
            text = text.split(stop)[0] if stop else text
        if self._record_file is not None:
            row = {"task": request.task_name, "doc_id": request.doc_id, **answer.as_dict()}
            with self._record_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.cache_hook.add_partial("generate_until", (answer.record.prompt, settings), text)
        return GenerationResult(text, TokenCounts(tokens["prompt"], tokens["generated"]))


class VideoLlamaSimple(VideoLlamaChat):
    """The same model for ``--force_simple``, which tasks of the type ``multiple_choice`` need."""

    is_simple = True


def decoding_of(settings: dict[str, Any]) -> Decoding:
    """Return the decoding settings of a task's ``generation_kwargs``: greedy without ``do_sample`` or temperature."""
    temperature = float(settings.get("temperature") or 0)
    is_sampling = bool(settings.get("do_sample", temperature > 0)) and temperature > 0
    return Decoding(
        max_new_tokens=settings.get("max_new_tokens"),
        temperature=temperature if is_sampling else None,
        top_p=settings.get("top_p") if is_sampling else None,
        num_beams=int(settings.get("num_beams") or 1),
        seed=settings.get("seed") if is_sampling else None,
    )


def media_source(medium: Any) -> Any:
    """Return a medium of lmms-eval as a path, bytes, or a list of frames' bytes.

    Accepts paths, PIL images, lists of PIL images, and the dictionaries of Hugging Face data sets for audio
    (``array`` and ``sampling_rate``) and files (``bytes`` or ``path``). Raises DataError for others.
    """
    if isinstance(medium, (str, Path)):
        return str(medium)
    if isinstance(medium, Image.Image):
        return _png(medium)
    if isinstance(medium, dict):
        if medium.get("array") is not None:
            return _wav(np.asarray(medium["array"]), int(medium["sampling_rate"]))
        if medium.get("bytes") is not None:
            return medium["bytes"]
        if medium.get("path"):
            return str(medium["path"])
    raise DataError(f"The task gives a medium as {type(medium).__name__}. Give a path, an image or an audio array.")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _wav(samples: np.ndarray, rate: int) -> bytes:
    """Return samples -1 to 1, [samples] or [channels, samples], as a WAV file of 16 bits."""
    channels = np.atleast_2d(samples)
    values = (np.clip(channels, -1, 1) * PCM_MAX).round().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(values))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.T.tobytes())
    return buffer.getvalue()


def _kind(medium: Any) -> str:
    if isinstance(medium, Image.Image):
        return "image"
    return "audio" if isinstance(medium, dict) else "video"


def _text(message: Any) -> str:
    return "\n".join(content.text for content in message.content if content.type == "text")


def _generation_arguments(request: Instance) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the function that makes the media or messages, and the generation settings; simple tasks swap them."""
    second, third = request.arguments[1:3]
    return (second, third) if callable(second) else (third, second)


def _question_key(request: Instance) -> Any:
    """Return what the continuations of one question have in common."""
    arguments = request.arguments
    return (arguments[0], *arguments[3:]) if len(arguments) > 3 else arguments


def _continuation(model: VideoLlamaChat, request: Instance) -> Any:
    continuation = request.arguments[1]
    if callable(continuation):
        _, _, _, doc_id, task, split = request.arguments
        return continuation(model.task_dict[task][split][doc_id])
    return continuation


def _batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
