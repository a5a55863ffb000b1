"""An answer that is searched for with beams, beside answers that grow token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from video_llama.chat.decoding import beam_ids
from video_llama.chat.engine import Engine, PreparedTurn
from video_llama.conversation import has_stop


def search(engine: Engine, turn: PreparedTurn, between: Callable[[], None]) -> list[int]:
    """The ids that ``Chat`` finds for this turn. ``between`` is called after each token, and ends it by raising."""
    length = 0

    def is_stopped(ids: Sequence[int]) -> bool:  # asked for every beam, all of one length
        nonlocal length
        if len(ids) > length:
            length = len(ids)
            between()
        return has_stop(engine.tokenizer, ids, engine.template)

    embeds_1LD, mask_1L = engine.embed([turn])
    tokenizer = engine.tokenizer
    ids = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    [found] = beam_ids(engine.model, embeds_1LD, mask_1L, turn.decoding, **ids, is_stopped=is_stopped)
    return found
