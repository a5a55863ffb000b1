"""Generation compared with the reference: start position, greedy ids, stop lists, scores, and the sampling filters.

The reference's ids begin with BOS, because transformers 4.28 starts from ``[[bos]]`` if only embeddings are given; ours
are the new ids alone. Where the reference cut the front of a long context (gen_truncated), the stored embeddings are
the remaining ones: these cases show that the same embeddings give the same answer. With a tokenizer, the prompt's ids
and the answer's text are compared as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from benchmarks.conformance_build import Golden
from benchmarks.conformance_compare import LIMIT, apart, differing, ids_of
from benchmarks.conformance_row import Row, guarded
from video_llama.conversation import (
    TEMPLATES,
    Conversation,
    MediaMessage,
    Slot,
    Template,
    Tokenizer,
    encode_prompt,
    media_message,
    postprocess,
)
from video_llama.models.repetition_penalty import with_answer_penalty

Case = dict[str, Any]


class EndsWith(StoppingCriteria):
    """Stop if the ids of the first row end with one of the sequences, as in the reference."""

    def __init__(self, sequences: list[list[int]]) -> None:
        self.sequences = sequences

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        first = input_ids[0].tolist()
        is_done = any(first[-len(sequence) :] == sequence for sequence in self.sequences)
        return torch.full((len(input_ids),), is_done, device=input_ids.device)


def rows(golden: Golden, tokenizer_path: Path | None) -> Iterator[Row]:
    """Yield the rows of each generation case and of the sampling filters."""
    for name, case in golden.cases.get("generation", {}).items():
        if "same_embeds_as" in case:
            yield from guarded(name, lambda name=name, case=case: _stop_rows(golden, name, case))
            continue
        yield from guarded(name, lambda name=name, case=case: _case_rows(golden, name, case))
        if tokenizer_path is None:
            yield Row(f"{name}: text", None, note="the prompt's ids and the answer's text need --tokenizer FILE")
        else:
            yield from guarded(name, lambda name=name, case=case: _text_rows(golden, name, case, tokenizer_path))
    if "warp" in golden.cases:
        yield from guarded("warp", lambda: _warp_rows(golden, golden.cases["warp"]))


@torch.no_grad()
def _case_rows(golden: Golden, name: str, case: Case) -> Iterator[Row]:
    model, stored = golden.model, golden.output(f"{name}.inputs_embeds")
    ids, features = _marked_ids(golden, stored, case["media"])
    embeds = model.model.embed_inputs(ids, **features)
    yield apart(f"{name}: inputs_embeds", embeds, stored)
    settings = {**_greedy(golden), **case.get("kw", {})}
    outputs = model.generate(ids, **features, **settings, output_scores=True, return_dict_in_generate=True)
    answer = outputs.sequences[:, ids.shape[1] :]
    yield differing(f"{name}: ids", _with_bos(golden, answer), golden.output(f"{name}.raw_sequence"))
    yield differing(f"{name}: ids of the answer", answer[0], golden.output(f"{name}.output_token"))
    best = torch.stack(outputs.scores)[:, 0].topk(2, dim=-1).values
    yield apart(f"{name}: best scores", best[:, 0], golden.output(f"{name}.step_max_score"))
    # A margin is a difference of two scores: its error is compared with the size of the scores.
    error = (best[:, 0] - best[:, 1] - golden.output(f"{name}.step_margin")).abs().max() / best.abs().max()
    yield Row(f"{name}: margins", float(error), LIMIT)


def _stop_rows(golden: Golden, name: str, case: Case) -> Iterator[Row]:
    stop = StoppingCriteriaList([EndsWith(case["stops"])])
    embeds = golden.output(f"{case['same_embeds_as']}.inputs_embeds")
    answer = golden.model.generate(inputs_embeds=embeds, **_greedy(golden), stopping_criteria=stop)
    note = f"stops {case['stops']}"
    yield differing(f"{name}: ids", _with_bos(golden, answer), golden.output(f"{name}.raw_sequence"), note)


def _greedy(golden: Golden) -> dict[str, Any]:
    """Return the reference's arguments without sampling; the number of tokens is parsed from the description."""
    found = re.search(r"max_new_tokens (\d+)", golden.described("gen_*"))
    if found is None:
        raise ValueError("cases.json's description of gen_* does not say max_new_tokens")
    return {"do_sample": False, "num_beams": 1, "max_new_tokens": int(found.group(1))}


def _with_bos(golden: Golden, answer: Tensor) -> Tensor:
    return torch.nn.functional.pad(answer, (1, 0), value=golden.config["llama"]["bos_token_id"])


def _marked_ids(golden: Golden, embeds: Tensor, media: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the ids of stored embeddings with marked media positions, and our media tokens for these positions.

    The sound comes first. If the front was cut within the media, the last tokens of ours are taken.
    """
    model, config = golden.model.model, golden.model.config
    ids = ids_of(embeds, model.get_input_embeddings().weight, config.video_token_id)
    *sound, picture = _chat_inputs(golden, media)
    video = model.encode_video(picture.transpose(1, 2))
    audio = model.encode_audio(sound[0]) if sound else video[:, :0]
    places = (ids[0] == config.video_token_id).nonzero()[:, 0]
    num_video = min(video.shape[1], len(places))
    num_audio = len(places) - num_video
    ids[0, places[:num_audio]] = config.audio_token_id
    features = {"video_features": video[:, video.shape[1] - num_video :]}
    if num_audio:
        features["audio_features"] = audio[:, audio.shape[1] - num_audio :]
    return ids, features


def _chat_inputs(golden: Golden, media: str) -> list[Tensor]:
    """Return the stored inputs of a kind of chat, audio first, as named in the description."""
    found = re.search(rf"((?:in\.\w+\[:1\],? )+)\({media}\)", golden.described("gen_*"))
    if found is None:
        raise ValueError(f"cases.json's description of gen_* does not name the inputs of {media}")
    return [golden.input(name)[:1] for name in re.findall(r"in\.(\w+)", found.group(1))]


def _text_rows(golden: Golden, name: str, case: Case, tokenizer_path: Path) -> Iterator[Row]:
    """Compare the prompt's text and ids, and the text of the answer."""
    tokenizer = Tokenizer(tokenizer_path)
    if golden.config["tokenizer"]["image_token_id"] != tokenizer.video_token_id:
        tokenizer = Tokenizer(tokenizer_path, pad_token="[PAD]")
    template = _template(case)
    conversation = Conversation(template, case["system"])
    conversation.add_media(_chat_media(case))
    for question in case["asks"]:
        conversation.ask(question)
    yield Row(f"{name}: prompt", int(conversation.text() != case["prompt"]))
    stored, _ = _marked_ids(golden, golden.output(f"{name}.inputs_embeds"), case["media"])
    config = golden.model.config
    ids = encode_prompt(
        tokenizer,
        conversation.prompt(),
        num_video_tokens=config.num_video_query_tokens,
        num_audio_tokens=config.num_audio_query_tokens,
    ).input_ids
    yield differing(f"{name}: prompt ids", torch.tensor([ids[-stored.shape[1] :]]), stored)
    text = postprocess(tokenizer, golden.output(f"{name}.output_token").tolist(), template)
    yield Row(f"{name}: answer's text", int(text != case["output_text"]))


def _template(case: Case) -> Template:
    """Return the template by name; variants with another system prompt are found by their roles."""
    known = TEMPLATES.get(case["conv"])
    user = case["messages"][0][0]
    return known or next(TEMPLATES[name] for name in ("default", "llama2") if TEMPLATES[name].roles[0] == user)


def _chat_media(case: Case) -> MediaMessage:
    if case["media"] == "image":
        return media_message(image=Slot("video"))
    if case["media"] == "audiovideo":
        return media_message(video=Slot("video"), audio=Slot("audio"))
    return media_message(video=Slot("video"), sentence=case.get("msg", ""))


def _warp_rows(golden: Golden, case: Case) -> Iterator[Row]:
    """Compare the filters in the order of our ``generate``: without and with sampling."""
    names = ("repetition_penalty", "temperature", "top_k", "top_p", "min_length")
    ids, logits = golden.input("warp_ids"), golden.input("warp_logits")
    for stage, do_sample in (("after_processors", False), ("after_warpers", True)):
        settings = GenerationConfig(do_sample=do_sample, eos_token_id=golden.config["llama"]["eos_token_id"])
        settings.update(**{name: case[name] for name in names})
        # The stored ids begin with BOS, which our method adds itself: pass the ids after it.
        arguments = with_answer_penalty({}, settings, 1, int(ids[0, 0]))
        settings.repetition_penalty = arguments["repetition_penalty"]
        golden.model._prepare_special_tokens(settings)
        processors = golden.model._get_logits_processor(
            settings, input_ids_seq_length=1, logits_processor=arguments["logits_processor"]
        )
        ours, theirs = processors(ids, logits.clone()), golden.output(f"warp.{stage}")
        yield differing(f"warp: removed {stage}", ours.isinf(), theirs.isinf())
        kept = ~theirs.isinf()
        yield apart(f"warp: scores {stage}", ours[kept], theirs[kept])
