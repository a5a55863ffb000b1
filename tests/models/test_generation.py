"""Every way of decoding that transformers offers gives the greedy answer, for prompts with media."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM, StaticCache

from tests.models.conftest import AUDIO, VIDEO, VOCABULARY
from video_llama.models.cache_argument import CACHE
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

Model = VideoLlamaForConditionalGeneration
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
IDS = [1, 7, *[AUDIO] * 2, 8, 9, *[VIDEO] * 5, 10, *[VIDEO] * 5, 11, 7, 8]


@pytest.fixture(params=["without rows", "with rows"])
def model(request: Any, make: Any) -> Model:
    """The model with and without rows of the placeholders in the embedding."""
    rows = VOCABULARY + 2 if request.param == "with rows" else VOCABULARY
    made: Model = make(text_config={"vocab_size": rows})
    return made


@pytest.fixture
def media(frames: Any, mels: Any) -> dict[str, Any]:
    return {"pixel_values_videos": frames(3, 2), "input_features": mels(4)}


def greedy(model: Model, media: dict[str, Any], **settings: Any) -> list[int]:
    made = model.generate(torch.tensor([IDS]), **media, **{**GREEDY, **settings})
    return made[0, len(IDS) :].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt_lookup_num_tokens": 4},
        {"prompt_lookup_num_tokens": 4, "repetition_penalty": 1.3},
        {"prefill_chunk_size": 4},
        {"prefill_chunk_size": 1},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "prefill_chunk_size": 7},
    ],
    ids=lambda settings: ", ".join(f"{name} {value}" for name, value in settings.items()),
)
def test_equal_to_greedy(model: Model, media: dict[str, Any], settings: dict[str, Any]) -> None:
    penalty = {name: value for name, value in settings.items() if name == "repetition_penalty"}
    expected = greedy(model, media, **penalty)
    assert len(set(expected)) > 1
    assert greedy(model, media, **settings) == expected


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("kind", ["same", "narrower", "plain LLaMA"])
def test_an_assistant_gives_the_greedy_answer(
    model: Model, media: dict[str, Any], make: Any, kind: str, penalty: float
) -> None:
    text = model.config.text_config
    if kind == "plain LLaMA":
        assistant: Any = LlamaForCausalLM(text).eval()
        assistant.model.load_state_dict(model.model.language_model.state_dict())
    elif kind == "narrower":
        assistant = make(text_config={"vocab_size": text.vocab_size, "hidden_size": 16, "num_hidden_layers": 1})
    else:
        assistant = model
    expected = greedy(model, media, repetition_penalty=penalty)
    assert greedy(model, media, assistant_model=assistant, repetition_penalty=penalty) == expected


def test_media_are_encoded_once(model: Model, media: dict[str, Any], monkeypatch: Any) -> None:
    calls: list[int] = []
    encode = model.model.frame_encoder.forward
    monkeypatch.setattr(
        model.model.frame_encoder, "forward", lambda pixels: calls.append(len(pixels)) or encode(pixels)
    )
    greedy(model, media)
    assert calls == [3, 2]


def test_use_cache_false_uses_no_cache(model: Model, media: dict[str, Any]) -> None:
    made = model.generate(
        torch.tensor([IDS]), **media, **GREEDY, use_cache=False, return_dict_in_generate=True, output_logits=True
    )
    assert made.past_key_values is None


def test_a_cache_is_continued_without_the_media(model: Model, media: dict[str, Any]) -> None:
    first = model.generate(torch.tensor([IDS]), **media, **GREEDY, return_dict_in_generate=True)
    question = torch.tensor([[21, 22, 23]])
    whole = torch.cat([first.sequences, question], dim=1)
    every = {"attention_mask": torch.ones_like(whole)}  # the answer may contain the padding id
    expected = model.generate(whole, **every, **media, **GREEDY)
    assert torch.equal(model.generate(whole, **every, past_key_values=first.past_key_values, **GREEDY), expected)


@pytest.mark.parametrize("kind", ["all media", "new media", "only new ids"])
def test_a_cache_is_continued_with_another_video(model: Model, media: dict[str, Any], frames: Any, kind: str) -> None:
    more = frames(4)
    first = model.generate(torch.tensor([IDS]), **media, **GREEDY, return_dict_in_generate=True)
    added = torch.tensor([[21, *[VIDEO] * 5, 23]])
    whole = torch.cat([first.sequences, added], dim=1)
    every = {**media, "pixel_values_videos": media["pixel_values_videos"] + more}
    mask = torch.ones_like(whole)  # the answer may contain the padding id
    expected = model.generate(whole, attention_mask=mask, **every, **GREEDY)[:, whole.shape[1] :]
    cache = first.past_key_values
    if kind == "only new ids":
        last = first.sequences[:, cache.get_seq_length() :]
        ids = torch.cat([last, added], dim=1)
        given: dict[str, Any] = {"pixel_values_videos": more}
    else:
        ids, given = whole, every if kind == "all media" else {"pixel_values_videos": more}
    made = model.generate(ids, attention_mask=mask, cache=cache, **given, **GREEDY)
    assert torch.equal(made[:, ids.shape[1] :], expected)


def test_placeholders_and_media_must_agree(model: Model, frames: Any) -> None:
    with pytest.raises(ValueError, match="10 video placeholders, but the media given have 5"):
        model.generate(torch.tensor([IDS]), pixel_values_videos=frames(2), **GREEDY)
    with pytest.raises(ValueError, match="0 video placeholders, but the media given have 5"):
        model.generate(torch.tensor([[1, 2]]), pixel_values_videos=frames(2), **GREEDY)
    with pytest.raises(ValueError, match="Give input_ids with the media"):
        model.generate(pixel_values_videos=frames(2), **GREEDY)


def test_an_unknown_argument_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="pixel_value_video"):
        model.generate(torch.tensor([[1, 2]]), pixel_value_video=torch.zeros(1), **GREEDY)


def test_placeholders_are_never_generated_and_a_forced_one_is_harmless(model: Model, media: dict[str, Any]) -> None:
    if not model.config.has_placeholder_rows:
        pytest.skip("the vocabulary has no rows of placeholders")
    model.lm_head.weight.data[VIDEO] = 100 * model.lm_head.weight.data[greedy(model, media)[0]]
    assert VIDEO not in greedy(model, media)
    forced = greedy(model, media, prefix_allowed_tokens_fn=lambda batch, ids: [VIDEO])
    assert set(forced) == {VIDEO}
    assert model(torch.tensor([[VIDEO]]), cache=_cache(model)).logits.isfinite().all()


def test_a_placeholder_after_a_cache_needs_no_media(model: Model) -> None:
    assert model(torch.tensor([[AUDIO]]), cache=_cache(model)).logits.isfinite().all()


def _cache(model: Model) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[1, 2, 3]]), cache=cache)
    return cache


def test_sampled_beams_and_several_answers_share_the_media(model: Model, media: dict[str, Any]) -> None:
    """With a temperature near 0 every sampled answer is the greedy one."""
    expected = greedy(model, media)
    settings = {"do_sample": True, "temperature": 1e-4, "max_new_tokens": 12, "eos_token_id": None}
    made = model.generate(torch.tensor([IDS]), **media, **settings, num_return_sequences=3)
    assert made[:, len(IDS) :].tolist() == [expected] * 3


def test_a_decode_step_compiles_to_one_graph(model: Model, media: dict[str, Any]) -> None:
    """`eager` as backend: the graph is captured without breaks, and no C++ compiler is required."""
    cache = StaticCache(config=model.config, max_cache_len=40)
    expected = greedy(model, media)
    embeds = model.model.embed_inputs(torch.tensor([IDS]), **media)
    with torch.no_grad():
        ids = model(inputs_embeds=embeds, cache=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
        step = torch.compile(model.forward, fullgraph=True, backend="eager")
        made = [ids.item()]
        for position in range(len(IDS), len(IDS) + 11):
            positions = torch.tensor([[position]])
            ids = step(ids, cache=cache, position_ids=positions).logits[:, -1:].argmax(-1)
            made.append(ids.item())
    assert made == expected


def test_the_forward_pass_with_media_compiles_and_exports(model: Model, media: dict[str, Any]) -> None:
    ids = torch.tensor([IDS])
    given = {"pixel_values_videos": torch.stack(media["pixel_values_videos"][:1] * 2)}
    given["input_features"] = media["input_features"][0][None]
    with torch.no_grad():
        expected = model(ids, **given, use_cache=False).logits
        compiled = torch.compile(model.forward, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(ids, **given, use_cache=False).logits, expected)
        exported = torch.export.export(model, (ids,), {**given, "use_cache": False}, strict=False).module()
        torch.testing.assert_close(exported(ids, **given, use_cache=False).logits, expected)
        wrong = Tensor.clone(ids)
        wrong[0, 1] = VIDEO
        with pytest.raises(RuntimeError):
            exported(wrong, **given, use_cache=False)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_both_names_of_the_cache_work_with_every_transformers(model: Model, name: str) -> None:
    first = model.generate(torch.tensor([[1, 7, 8]]), return_dict_in_generate=True, **GREEDY)
    ids = torch.cat([first.sequences, torch.tensor([[9]])], dim=1)
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), **GREEDY}  # id 0 is not padding here
    expected = model.generate(ids, **given)
    assert torch.equal(model.generate(ids, **{name: getattr(first, CACHE)}, **given), expected)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(ids, cache=_cache(model), past_key_values=_cache(model))
