"""``generate``: batches against single rows, and the behaviour that transformers documents."""

from queue import Queue
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from tests.models.conftest import AUDIO, VIDEO
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

Model = VideoLlamaForConditionalGeneration
NEW_TOKENS = 10
ROWS: dict[str, tuple[list[int], list[str]]] = {
    "video and sound": ([1, 7, *[AUDIO] * 2, 8, 9, *[VIDEO] * 5, 10, 11], ["sound 4", "video 3"]),
    "video": ([1, *[VIDEO] * 5, 12, 13, 14, 15, 16, 17, 18], ["video 6"]),
    "image": ([1, *[VIDEO] * 5, 19], ["video 1"]),
    "sound": ([1, 20, *[AUDIO] * 2, 21], ["sound 2"]),
    "text": ([1, 22, 23], []),
    "two videos and a sound": ([1, *[VIDEO] * 10, 24, *[AUDIO] * 2, 25], ["video 2", "video 3", "sound 1"]),
}
"""Prompts of different lengths, and their media with the number of frames or clips."""


class QueueStreamer(BaseStreamer):
    """Puts the ids into a queue, as transformers' text streamers do for another thread."""

    def __init__(self) -> None:
        self.queue: Queue[Any] = Queue()

    def put(self, value: Tensor) -> None:
        self.queue.put(value.flatten().tolist())

    def end(self) -> None:
        self.queue.put(None)


def media_of(names: list[str]) -> dict[str, list[Tensor]]:
    """Return random media. Each has its own seed, so that it is the same alone and in a batch."""
    shapes = {"video": (3, 28, 28), "sound": (1, 16, 26)}
    media: dict[str, list[Tensor]] = {"video": [], "sound": []}
    for name in names:
        kind, length = name.split()
        generator = torch.Generator().manual_seed(int(length) + 100 * (kind == "sound"))
        media[kind].append(torch.randn(int(length), *shapes[kind], generator=generator))
    arguments = {"pixel_values_videos": media["video"], "input_features": media["sound"]}
    return {name: tensors for name, tensors in arguments.items() if tensors}


def answer(model: Model, ids: list[int], names: list[str], **settings: Any) -> list[int]:
    made = model.generate(torch.tensor([ids]), **media_of(names), **settings)
    return made[0, len(ids) :].tolist()


def answers_in_one_batch(model: Model, **settings: Any) -> list[list[int]]:
    width = max(len(ids) for ids, _ in ROWS.values())
    ids = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in ROWS.values()])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in ROWS.values()])
    names = [name for _, media in ROWS.values() for name in media]
    made = model.generate(ids, attention_mask=mask, **media_of(names), **settings)
    return made[:, width:].tolist()


@pytest.mark.parametrize(
    "settings",
    [{}, {"repetition_penalty": 1.5}, {"num_beams": 3}, {"num_beams": 3, "repetition_penalty": 1.5}],
    ids=["greedy", "penalty", "beams", "beams with penalty"],
)
def test_a_batch_equals_its_single_rows(model: Model, settings: dict[str, Any]) -> None:
    """Without an end token all answers have the same length, and every token is compared."""
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": None, **settings}
    alone = [answer(model, ids, media, **settings) for ids, media in ROWS.values()]
    assert answers_in_one_batch(model, **settings) == alone
    assert len({tuple(row) for row in alone}) == len(ROWS), "the answers must depend on the prompts"


def test_finished_rows_of_a_batch_are_padded(model: Model) -> None:
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS}
    free = [answer(model, ids, media, **settings, eos_token_id=None) for ids, media in ROWS.values()]
    end = free[0][3]
    alone = [answer(model, ids, media, **settings, eos_token_id=end) for ids, media in ROWS.values()]
    together = answers_in_one_batch(model, **settings, eos_token_id=end)
    width = max(map(len, alone))
    assert together == [row + [0] * (width - len(row)) for row in alone]
    assert min(map(len, alone)) < width


def test_every_medium_changes_the_logits(model: Model) -> None:
    ids, media = ROWS["video and sound"]
    given = media_of(media)
    expected = model(torch.tensor([ids]), **given).logits[0, -1]
    for name in given:
        changed = {**given, name: [tensor.flip(0) for tensor in given[name]]}
        other = model(torch.tensor([ids]), **changed).logits[0, -1]
        assert (other - expected).abs().max() > 1e-3, name


def test_the_result_includes_the_prompt_unless_embeddings_are_given(model: Model) -> None:
    ids, media = ROWS["video"]
    settings = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None}
    prompt = torch.tensor([ids])
    whole = model.generate(prompt, **media_of(media), **settings)
    assert whole[0, : len(ids)].tolist() == ids
    embeds = model.model.embed_inputs(prompt, **media_of(media))
    assert model.generate(inputs_embeds=embeds, **settings).tolist() == whole[:, len(ids) :].tolist()
    assert torch.equal(model.generate(input_ids=prompt, **media_of(media), **settings), whole)
    assert torch.equal(model.generate(inputs=prompt, **media_of(media), **settings), whole)


def test_the_cache_does_not_change_the_answer(model: Model) -> None:
    """Compute each token with a forward pass over all preceding tokens."""
    ids, media = ROWS["video and sound"]
    expected = answer(model, ids, media, do_sample=False, max_new_tokens=5, eos_token_id=None)
    embeds = model.model.embed_inputs(torch.tensor([ids]), **media_of(media))
    made: list[int] = []
    for _ in range(5):
        made.append(int(model(inputs_embeds=embeds).logits[0, -1].argmax()))
        word = model.get_input_embeddings()(torch.tensor([[made[-1]]]))
        embeds = torch.cat([embeds, word], dim=1)
    assert made == expected


def test_sampling_follows_the_seed(model: Model) -> None:
    ids, media = ROWS["video"]
    settings = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": NEW_TOKENS, "eos_token_id": None}
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(answer(model, ids, media, **settings))
    assert made[0] == made[1] != made[2]


def test_a_streamer_gets_each_token(model: Model) -> None:
    ids, media = ROWS["sound"]
    streamer = QueueStreamer()
    settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
    expected = answer(model, ids, media, **settings, streamer=streamer)
    received = [streamer.queue.get_nowait() for _ in range(8)]
    assert received == [ids, *[[token] for token in expected], None]


def test_a_penalty_may_come_from_the_generation_configuration(model: Model) -> None:
    ids, media = ROWS["video"]
    settings = {"do_sample": False, "max_new_tokens": 3 * NEW_TOKENS, "eos_token_id": None}
    plain = answer(model, ids, media, **settings)
    expected = answer(model, ids, media, **settings, repetition_penalty=3.0)
    model.generation_config.repetition_penalty = 3.0
    assert answer(model, ids, media, **settings) == expected != plain
