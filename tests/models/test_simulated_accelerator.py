"""Every path that depends on the device, at the published sizes, on a device that holds no data.

An operation that mixes devices or data types is an error here, as it is on a GPU. Values are not computed. ``Waits``
counts where the CPU waits for the device.

| path | sizes | data types and placement |
|---|---|---|
| encoding of images, videos and sound; prefill; token steps with left padding | 7b, 13b | every plan of ``PLANS`` |
| the same, decoder in int8 and int4 with PyTorch's own kernels | 7b, 13b | everything on the CPU |
| token steps: greedy, sampling, repetition penalty; one row, several with left padding | 7b, 13b | bf16 |
| ``generate``: greedy, sampling, repetition penalty, left padding | 7b, 13b | bf16 |
| beams, left padding | 7b, 13b | bf16 |
| chats, shared prompts, prefix reuse, scores, the server's batch with left padding | 7b, 13b | ``CHAT_CASES`` |
| prefill, token steps, ``generate``, attention of the queries on two devices | 7b, 13b | three device maps |
| a training step of each recipe | 7b, 13b | tests/training/test_simulated_step.py |
"""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers import DynamicCache, GenerationMixin

from tests.factories.simulated import OWN_PROCESS, Waits, device_or_skip, simulated_config, simulated_model, simulation
from video_llama.apps.server.batch import DecodeBatch, PrefixCache
from video_llama.chat.attention import query_attention
from video_llama.chat.decoding import Decoding, TokenChooser, beam_ids, token_steps
from video_llama.chat.engine import Engine
from video_llama.chat.likelihood import answer_scores
from video_llama.chat.messages import message_for
from video_llama.chat.session import Chat
from video_llama.chat.shared_prefill import shared_prefill
from video_llama.checkpoints.folder import Manifest, ModelFolder, read_model_folder
from video_llama.models import modeling_llama
from video_llama.models.cpu import processor
from video_llama.models.packed_linear import Int4Linear, Int8Linear
from video_llama.models.placement import VIT
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.medium import MediaOptions, read_medium
from video_llama.processors.settings import ProcessorSettings

pytestmark = OWN_PROCESS
DEVICE = device_or_skip()

SIZES = {"7b": 4096, "13b": 5120}
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32
SAMPLING = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 1}
DECODINGS = {"greedy": {}, "sampling": SAMPLING, "penalty": {**SAMPLING, "repetition_penalty": 1.2}}
ONE_READ = "decoding.next_tokens"
"""The chosen ids and whether the logits are finite: the ids are needed on the CPU to find the end of the answer."""
MASK_READ = "masking_utils._ignore_causal_mask_sdpa"
"""transformers looks for padding, once for a forward pass of several rows."""

PLANS = {
    "bf16": ({}, BFLOAT16, FLOAT32),
    "fp16": ({"dtype": "float16"}, FLOAT16, FLOAT32),
    "fp32": ({"dtype": "float32"}, FLOAT32, FLOAT32),
    "parts": ({"dtype": {"vision": "float16", "qformer": "bfloat16", "audio": "float32"}}, BFLOAT16, BFLOAT16),
    "other parts": ({"dtype": {"decoder": "float16", "audio": "bfloat16", "vision": "float32"}}, FLOAT16, FLOAT32),
    "int8": ({"quantization": "int8"}, BFLOAT16, FLOAT32),
    "int4": ({"quantization": "int4"}, BFLOAT16, FLOAT32),
    "low_resource": ({"low_resource": True}, BFLOAT16, FLOAT32),
    "low_resource fp16": ({"low_resource": True, "dtype": "float16"}, FLOAT16, FLOAT32),
}
"""Options of ``load`` -> data types of the decoder and of the Q-Formers."""
CASES = [(size, plan) for size in SIZES for plan in PLANS]
CHAT_CASES = [("7b", "bf16"), ("13b", "bf16"), ("7b", "low_resource fp16"), ("13b", "int4")]
SLOW_SIZES = ["7b", pytest.param("13b", marks=pytest.mark.slow)]


def first_fast(cases):
    return [cases[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in cases[1:])]


@pytest.fixture(autouse=True)
def _simulation():
    with simulation(), torch.no_grad():
        yield


def media_of(config, count=1, device=DEVICE):
    audio = config.imagebind_audio_config.input_size
    return {
        "pixel_values_videos": torch.zeros(count, 8, 3, 224, 224, device=device),
        "input_features": torch.zeros(count, 8, 1, *audio, device=device),
    }


def prompt_of(config, rows=1, length=60, padding=0, device=DEVICE):
    ids = torch.ones(rows, length, dtype=torch.long)
    ids[:, 5 : 5 + config.num_video_query_tokens] = config.video_token_id
    ids[:, 40 : 40 + config.num_audio_query_tokens] = config.audio_token_id
    mask = torch.ones_like(ids)
    if padding:
        mask[-1, :padding] = 0
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@pytest.mark.parametrize(("size", "plan"), first_fast(CASES))
def test_encode_and_read(size, plan):
    options, decoder, qformer = PLANS[plan]
    config = simulated_config(size)
    check_encode_and_read(simulated_model(config, options), config, DEVICE, decoder, qformer)


def check_encode_and_read(model, config, device, decoder, qformer):
    media, body, width = media_of(config, 2, device), model.model, config.text_config.hidden_size
    video, audio = body.encode_video(media["pixel_values_videos"]), body.encode_audio(media["input_features"])
    image = body.encode_video(torch.zeros(2, 3, 224, 224, device=device))
    features = [
        body.get_video_features(media["pixel_values_videos"]).pooler_output,
        body.get_image_features(torch.zeros(2, 3, 224, 224, device=device)).pooler_output,
        body.get_audio_features(media["input_features"]).pooler_output,
    ]
    for tokens, count in zip([video, image, audio, *features], [32, 32, 8, 32, 32, 8], strict=True):
        assert tokens.shape[1:] == (count, width)
        assert (tokens.device, tokens.dtype) == (device, qformer)
    outputs = model(**prompt_of(config, 2, padding=3, device=device), **media, use_cache=True)
    assert outputs.logits.shape == (2, 60, config.text_config.vocab_size)
    assert (outputs.logits.device, outputs.logits.dtype) == (device, decoder)
    keys = outputs.past_key_values.layers[0].keys
    assert (keys.device, keys.dtype) == (device, decoder)
    check_token_steps(model, Decoding(), 2, device, decoder)


class TestQuantizedOnTheCPU:
    """The layers of a CPU without FBGEMM, whose own format has no simulation."""

    @pytest.mark.slow
    @pytest.mark.parametrize("quantization", ["int8", "int4"])
    @pytest.mark.parametrize("size", SIZES)
    def test_encode_and_read(self, size, quantization):
        config = simulated_config(size)
        without_fbgemm = replace(processor(), has_fbgemm=False)
        with mock.patch.object(modeling_llama, "processor", return_value=without_fbgemm):
            model = simulated_model(config, {"device": "cpu", "quantization": quantization})
        layer = model.model.language_model.layers[0].mlp.down_proj
        assert type(layer) is {"int8": Int8Linear, "int4": Int4Linear}[quantization]
        check_encode_and_read(model, config, torch.device("cpu"), BFLOAT16, FLOAT32)


@pytest.mark.parametrize("size", SLOW_SIZES)
def test_low_resource_has_the_vit_on_the_cpu(size):
    model = simulated_model(simulated_config(size), {"low_resource": True})
    places = {name: parameter.device.type for name, parameter in model.named_parameters()}
    assert {name for name, place in places.items() if place == "cpu"} == {
        name for name in places if name.startswith(f"{VIT}.")
    }


@pytest.mark.parametrize("size", SLOW_SIZES)
def test_token_steps(size):
    """One row: a single read for each token. Several rows: one more, whatever their number."""
    model = simulated_model(simulated_config(size))
    for settings in DECODINGS.values():
        for rows in (1, 3):
            check_token_steps(model, Decoding(**settings), rows)


def check_token_steps(model, decoding, rows, device=DEVICE, dtype=BFLOAT16):
    choose, cache = TokenChooser(decoding, 1, rows, device), DynamicCache()
    mask = torch.ones(rows, 20, dtype=torch.long)
    mask[1:, :3] = 0
    embeds = torch.zeros(rows, 20, model.config.text_config.hidden_size, dtype=dtype, device=device)
    steps = token_steps(model, embeds, mask.to(device), cache, choose)
    assert next(steps) == [1] * rows
    with Waits() as waits:
        for _ in range(3):
            next(steps)
    is_read = device == DEVICE
    assert waits.reads == ({ONE_READ: 3} | ({MASK_READ: 3} if rows > 1 else {}) if is_read else {})
    assert not waits.uploads
    assert cache.get_seq_length() == 23
    assert {(layer.keys.device, layer.values.dtype) for layer in cache.layers} == {(device, dtype)}


LOOP_READS = {MASK_READ, "utils.__call__"}
"""What ``generate`` of transformers reads for each token: padding, and whether all answers have ended."""


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_generate(size):
    """Nothing of this package is read for a token; see LOOP_READS for transformers."""
    config = simulated_config(size)
    model = simulated_model(config)
    prompt, media = prompt_of(config, rows=2, padding=3), media_of(config, 2)
    for settings in ({}, {"do_sample": True, "top_k": 50, "top_p": 0.9}, {"repetition_penalty": 1.2}):
        settings = {"eos_token_id": None, "stop_strings": None, "do_sample": False, **settings}
        reads = []
        for length in (2, 3):
            with Waits() as waits:
                ids = model.generate(**prompt, **media, max_new_tokens=length, **settings)
            reads.append(waits.reads.copy())
        assert ids.device == DEVICE
        assert ids.shape == (2, 63)
        assert reads[1] - reads[0] == dict.fromkeys(LOOP_READS, 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_beams(size):
    """For each token, the ids of all beams are read to find stop strings, and whether scores are NaN."""
    model = simulated_model(simulated_config(size))
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :3] = 0
    embeds, mask = torch.zeros(2, 20, SIZES[size], dtype=BFLOAT16, device=DEVICE), mask.to(DEVICE)
    reads = []
    for length in (2, 3):
        ends = [True] * (length - 1) + [False]  # in a simulation, nothing is known about the scores
        unfinished = mock.patch.object(GenerationMixin, "_beam_search_has_unfinished_sequences", side_effect=ends)
        settings = Decoding(num_beams=2, max_new_tokens=length)
        with unfinished, Waits() as waits:
            rows = beam_ids(model, embeds, mask, settings, eos_id=2, pad_id=0, is_stopped=lambda ids: False)
        assert len(rows) == 2
        reads.append(waits.reads.copy())
    assert reads[1] - reads[0] == {
        MASK_READ: 1,
        "decoding.stopped": 1,
        "decoding.checked": 1,
        "decoding.check_finite": 1,
    }


# --- chats and the server's batch: a tokenizer, and media files


@pytest.fixture(scope="module")
def engine_parts(model_path, clips):
    """A tokenizer and two media at the published sizes of frames and clips, read without a simulation."""
    settings = ProcessorSettings()
    limits = {"max_frames": 32, "with_audio_branch": True}
    media = [read_medium(clips[name], settings, MediaOptions(), **limits) for name in ("video", "image")]
    sounds = [None if medium.sound is None else AudioProcessor(settings).process(medium.sound).mel for medium in media]
    return read_model_folder(model_path).tokenizer, settings, list(zip(media, sounds, strict=True))


@pytest.fixture
def engine(size, plan, engine_parts):
    tokenizer, settings, _ = engine_parts
    config = simulated_config(size)
    config.video_token_id, config.audio_token_id = tokenizer.video_token_id, tokenizer.audio_token_id
    config.text_config.vocab_size = tokenizer.vocab_size
    engine = Engine(
        ModelFolder(None, simulated_model(config, PLANS[plan][0]), tokenizer, settings, Manifest("simulated"))
    )
    sounds = {id(medium): mel for medium, mel in engine_parts[2]}
    engine.mel_clips = lambda read: sounds[id(read)]  # computed with tensors on the CPU, that must have data
    return engine


def turn_of(engine, medium, question, **decoding):
    conversation = engine.conversation()
    conversation.add_media(message_for(medium.read))
    return engine.turn(conversation, [medium], question, Decoding(max_new_tokens=4, **decoding))


@pytest.mark.parametrize(("size", "plan"), first_fast(CHAT_CASES))
def test_chats_and_batches(engine, engine_parts):
    video, image = (engine.encode(read, MediaOptions()) for read, _ in engine_parts[2])
    assert video.audio_tokens is not None
    for tokens in (video.video_tokens, video.audio_tokens, image.video_tokens):
        assert (tokens.device, tokens.dtype) == (DEVICE, FLOAT32)

    # A batch of which two prompts begin with the same video.
    turns = [
        turn_of(engine, medium, f"What {name}?") for medium, name in ((video, "now"), (image, "is it"), (video, "a"))
    ]
    prompts = shared_prefill(engine, turns)
    assert {layer.keys.device for layer in prompts.cache.layers} == {DEVICE}
    steps = token_steps(
        engine.model, prompts.embeds_BSD, prompts.mask_BL, prompts.cache, TokenChooser(Decoding(), 1, 3, DEVICE)
    )
    assert [next(steps), next(steps)] == [[1] * 3] * 2

    # A conversation: the second question computes only what follows the first.
    chat = Chat(engine, MediaOptions())
    chat.add(video)
    chat.ask("What?", max_new_tokens=2)
    assert chat.ask("And now?", max_new_tokens=3).record.tokens["reused"] > 40
    scores = answer_scores(engine, turns[0], ["a b", "c"])
    assert [len(score.log_probs) > 0 for score in scores] == [True, True]

    check_server_batch(engine, turns)


def check_server_batch(engine, turns):
    """Rows join and leave. A step reads once, whatever the number of rows."""
    batch = DecodeBatch(engine, PrefixCache(10_000))
    batch.join(turns[0], ["video"])
    for turn, reused in ((turns[2], True), (replace(turns[1], decoding=Decoding(max_new_tokens=4, **SAMPLING)), False)):
        _, num_reused = batch.join(turn, ["video" if reused else "image"])
        assert (num_reused > 30) == reused
    with Waits() as waits:
        assert batch.step() == [1, 1, 1]
        assert waits.reads == {ONE_READ: 1}
        assert not waits.uploads
        batch.leave([0])
        batch.leave([0])
        waits.clear()
        assert batch.step() == [1]
        assert waits.reads == {ONE_READ: 1}
        assert not waits.uploads


# --- several devices

FIRST, SECOND = "sim:0", "sim:1"
SPLITS = [
    {"": FIRST, "model.frame_encoder": SECOND, "model.language_model.layers.1": SECOND},
    {"": FIRST, "model.language_model": SECOND, "lm_head": SECOND},
    {"": FIRST, "model.video_qformer": SECOND, "model.imagebind_audio": SECOND},
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("split", SPLITS, ids=["every part", "decoder", "branches"])
@pytest.mark.parametrize("size", SIZES)
def test_two_devices(size, split):
    config = simulated_config(size)
    model = simulated_model(config, {"device_map": split})
    device = torch.device(split.get("model.language_model", FIRST))
    assert model.device == device
    media = {name: tensor.to(device) for name, tensor in media_of(config).items()}
    prompt = {name: tensor.to(device) for name, tensor in prompt_of(config).items()}
    outputs = model(**prompt, **media, use_cache=True)
    assert outputs.logits.device == device
    layers = [torch.device(split.get(f"model.language_model.layers.{index}", device)) for index in range(2)]
    assert [layer.keys.device for layer in outputs.past_key_values.layers] == layers
    cache, embeds = DynamicCache(), torch.zeros(2, 20, SIZES[size], dtype=BFLOAT16, device=device)
    mask = torch.ones(2, 20, dtype=torch.long, device=device)
    steps = token_steps(model, embeds, mask, cache, TokenChooser(Decoding(), 1, 2, device))
    assert [next(steps), next(steps)] == [[1, 1], [1, 1]]
    ids = model.generate(**prompt, **media, max_new_tokens=2, do_sample=False, eos_token_id=None, stop_strings=None)
    assert (ids.device, ids.shape) == (device, (1, 62))
    with mock.patch.object(FakeTensor, "numpy", lambda tensor: np.zeros(tensor.shape)):
        attention = query_attention(model.model, media["pixel_values_videos"][0], media["input_features"][0])
    assert attention is not None
