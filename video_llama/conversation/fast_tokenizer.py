"""A tokenizer of the tokenizers library (``tokenizer.json``) with the interface of ``Tokenizer``.

It is used for decoders with a chat template of their own, such as Llama 3 and SmolLM2. Each text between media is
encoded as it stands, with the special tokens that it contains.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from video_llama.conversation.conversation_video import PLACEHOLDER
from video_llama.conversation.tokenization import (
    AUDIO_PLACE,
    AUDIO_PLACEHOLDER,
    VIDEO_PLACE,
    Tokenizer,
    check_encodable,
)
from video_llama.errors import CheckpointError

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MEDIA_PLACES = (VIDEO_PLACE, AUDIO_PLACE)


class FastTokenizer(Tokenizer):
    """The tokenizer of a ``tokenizer.json``. The media places have the two ids after its tokens.

    Args:
        content: the text of ``tokenizer.json``, with or without the media places.
        eos_token, bos_token, pad_token, unk_token: texts of special tokens. Without BOS or padding token, EOS is used.
        add_bos: whether prompts begin with BOS. If not, only the chat template writes it.
        where: the file, for error messages.

    Raises CheckpointError if the content or a special token is missing or wrong.
    """

    def __init__(
        self,
        content: str,
        *,
        eos_token: str,
        bos_token: str | None = None,
        pad_token: str | None = None,
        unk_token: str | None = None,
        add_bos: bool = False,
        where: str | Path = TOKENIZER_JSON,
    ) -> None:
        self._content, num_tokens = _without_places(content, where)
        self._backend = _backend(self._content, where)
        self.vocab_size = int(self._backend.get_vocab_size(with_added_tokens=True))
        if num_tokens not in (None, self.vocab_size):
            raise CheckpointError(
                f"{where}: {VIDEO_PLACE} has the id {num_tokens}, not {self.vocab_size}, the next one."
            )
        self.video_token_id, self.audio_token_id = self.vocab_size, self.vocab_size + 1
        self.tokens = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token, "unk_token": unk_token}
        ids = {name: self._id(text, name, where) for name, text in self.tokens.items() if text is not None}
        self.eos_id = ids["eos_token"]
        self.bos_id = ids.get("bos_token", self.eos_id)
        self.pad_id = ids.get("pad_token", self.eos_id)
        self.unk_id = ids.get("unk_token", -1)
        self.add_bos = add_bos and bos_token is not None
        added = self._backend.get_added_tokens_decoder()
        self._special = {token: each.content for token, each in added.items() if each.special}
        self._special |= {self._id(text, name, where): text for name, text in self.tokens.items() if text is not None}
        # A space mark is prepended to the first text only: other texts are encoded after a special token.
        alone, after = (self._encoded(text) for text in ("a", f"{eos_token}a"))
        self._first_differs = alone != after[1:]

    @classmethod
    def read(cls, path: str | Path) -> FastTokenizer:
        """Read a model folder's ``tokenizer.json`` and the ``tokenizer_config.json`` next to it."""
        path = Path(path)
        config_path = path.with_name(TOKENIZER_CONFIG)
        try:
            content = path.read_text(encoding="utf-8")
            config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
            tokens = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} or {config_path.name} cannot be read ({error}). Copy them again.") from error
        return cls(content, **tokens, add_bos=bool(config.get("add_bos_token", False)), where=path)  # type: ignore[arg-type]

    @property
    def content(self) -> str:
        """The text of ``tokenizer.json``, with the media places as special tokens, and BOS only with ``add_bos``."""
        data = json.loads(self._content)
        if not self.add_bos:  # prompts begin with the text of the chat template only
            data["post_processor"] = None
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        data["added_tokens"] += [
            {"id": self.vocab_size + index, "content": text, **flags, "special": True}
            for index, text in enumerate(MEDIA_PLACES)
        ]
        return json.dumps(data, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` into a folder, for transformers too."""
        (folder / TOKENIZER_JSON).write_text(self.content, encoding="utf-8")
        config = {name: text for name, text in self.tokens.items() if text is not None} | {
            "pad_token": self.tokens["pad_token"] or self.tokens["eos_token"],
            "add_bos_token": self.add_bos,
            # This class takes tokenizer.json as it is.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": {"video_token": VIDEO_PLACE, "audio_token": AUDIO_PLACE},
            "processor_class": "VideoLlamaProcessor",
        }
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / TOKENIZER_CONFIG).write_text(f"{text}\n", encoding="utf-8")

    @property
    def adds_bos_itself(self) -> bool:
        """Whether the post-processor of ``tokenizer.json`` puts BOS before a text."""
        ids = self._backend.encode("a").ids
        return len(ids) > 1 and ids[0] == self.bos_id

    def encode(self, text: str, *, add_bos: bool = False, placeholders: bool = False) -> list[int]:
        """Return the token ids of one segment, as ``Tokenizer.encode``; BOS is added only if the decoder uses it.

        Raises ValueError with ``placeholders``, which exist only for the reference's decoders.
        """
        if placeholders:
            raise ValueError("Placeholders are texts of the reference's decoders only. Encode a prompt with slots.")
        check_encodable(text)
        if add_bos or not self._first_differs:
            return ([self.bos_id] if add_bos and self.add_bos else []) + self._encoded(text)
        return self._encoded(f"{self.tokens['eos_token']}{text}")[1:]

    def decode(self, ids: Iterable[int], *, placeholders: bool = False) -> str:
        """Return the text of ids with special tokens, as ``Tokenizer.decode``. Invalid UTF-8 becomes U+FFFD.

        Raises ValueError for an id out of range.
        """
        video, audio = (PLACEHOLDER, AUDIO_PLACEHOLDER) if placeholders else MEDIA_PLACES
        text = ""
        for is_text, run in groupby(ids, key=lambda token: token < self.vocab_size):
            tokens = list(run)
            if min(tokens) < 0 or max(tokens) > self.audio_token_id:
                raise ValueError(
                    f"Token ids {min(tokens)} to {max(tokens)} are not all in 0..{self.audio_token_id}. Use the "
                    "tokenizer of the model that generated them."
                )
            if is_text:
                text += str(self._backend.decode(tokens, skip_special_tokens=False))
            else:
                text += "".join(video if token == self.video_token_id else audio for token in tokens)
        return text

    def _encoded(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _id(self, text: str, name: str, where: str | Path) -> int:
        token = self._backend.token_to_id(text) if isinstance(text, str) else None
        if token is None:
            raise CheckpointError(f"{where}: the {name} {text!r} is not a token. Correct {TOKENIZER_CONFIG}.")
        return int(token)


def open_tokenizer_file(path: str | Path, *, pad_token: str | None = None) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.model`` or a ``tokenizer.json``.

    Raises CheckpointError if it is missing or cannot be read.
    """
    return FastTokenizer.read(path) if Path(path).suffix == ".json" else Tokenizer(path, pad_token=pad_token)


def _without_places(content: str, where: str | Path) -> tuple[str, int | None]:
    """Return ``tokenizer.json`` without the media places and later tokens, and the id of the first place or None."""
    try:
        data = json.loads(content)
        added = data.get("added_tokens") or []
        places = {each["content"]: each["id"] for each in added if each["content"] in MEDIA_PLACES}
        first = places.get(VIDEO_PLACE)
        if places and (first is None or places.get(AUDIO_PLACE) != first + 1):
            raise CheckpointError(
                f"{where} has tokens {', '.join(places)} that are not the media places of a model folder. Use another "
                "decoder."
            )
        data["added_tokens"] = [each for each in added if first is None or each["id"] < first]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is not a tokenizer.json ({error}). Copy it again.") from error
    return json.dumps(data | {"truncation": None, "padding": None}, ensure_ascii=False), first


def _backend(content: str, where: str | Path):  # type: ignore[no-untyped-def]  # tokenizers ships no types
    try:
        return Backend.from_str(content)
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"{where} is not a tokenizer.json ({error}). Copy it again.") from error
