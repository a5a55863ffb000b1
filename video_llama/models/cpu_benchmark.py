"""Measure how fast this CPU runs a model of a given size, in each form that the weights can have.

One block of each network is built with random weights in its real size and timed, so that a 7B model can be measured on
a machine that could not load it. A network's time is that of its blocks times their number; embeddings, the video and
audio Q-Formers and Python between the blocks are not included. Times are wall times with torch's number of threads.
"""

# B batch, L tokens, D width

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from video_llama.models.cache_argument import CACHE
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear
from video_llama.models.ggml import has_ggml
from video_llama.models.memory import predict_memory
from video_llama.models.packed_linear import PackedLinear
from video_llama.models.placement import LoadOptions, Placing, meta_model, put_tensor, resolve_placing, set_form
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

TYPICAL_PROMPT = 110
TYPICAL_ANSWER = 50
"""Length of the typical prompt and answer by which the forms are ranked."""
GEMM_SIZE = 1536
BANDWIDTH_BYTES = 2**30
MIN_RUNS, MAX_SECONDS = 3, 1.0
"""Each time is measured at least three times, and again until a second has passed."""
NUM_FRAMES, TIMED_FRAMES = 8, 2
"""Number of frames of the video, and of those that are timed."""

FORMS: dict[str, dict[str, Any]] = {
    "as stored": {},
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "q4_k": {"quantization": "q4_k"},
    "int8, int8 encoders": {"quantization": "int8", "encoder_quantization": "int8"},
}
"""Name of a form -> its arguments of ``video_llama.load``."""


@dataclass(frozen=True)
class Timing:
    """Median, shortest and longest of several wall times, in seconds."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(work: Callable[[], object]) -> Timing:
        """Time a call after one that is not timed."""
        work()
        times: list[float] = []
        while len(times) < MIN_RUNS or sum(times) < MAX_SECONDS:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return Timing(statistics.median(times), min(times), max(times))

    def times(self, factor: float) -> Timing:
        """Return the times multiplied by ``factor``."""
        return Timing(self.median * factor, self.least * factor, self.most * factor)

    def plus(self, other: Timing) -> Timing:
        """Return the sums."""
        return Timing(self.median + other.median, self.least + other.least, self.most + other.most)


@dataclass(frozen=True)
class Ceilings:
    """The machine's limits: memory bandwidth in bytes/s, and products of square matrices in FLOP/s by type."""

    read_bandwidth: float
    matrix_products: dict[str, float]


@dataclass(frozen=True)
class FormSpeed:
    """What one form takes for a video with 8 frames and 8 sound clips, and for text."""

    name: str
    options: dict[str, Any]
    """Arguments of ``video_llama.load``."""
    arithmetic: dict[str, str]
    encode: Timing
    """ViT, frame Q-Former and, in a model with the audio branch, ImageBind."""
    first_token: Timing
    """The decoder for a prompt of TYPICAL_PROMPT tokens."""
    token: Timing
    """One further token."""
    memory: int
    """Predicted memory in bytes, ``predict_memory``."""
    encode_flops: float
    token_bytes: int
    """Bytes of weights that are read for one token."""
    answer: float = field(init=False)
    """Timing for one answer of TYPICAL_ANSWER tokens."""

    def __post_init__(self) -> None:
        seconds = self.encode.median + self.first_token.median + (TYPICAL_ANSWER - 1) * self.token.median
        object.__setattr__(self, "answer", seconds)


def measure_ceilings() -> Ceilings:
    """Measure the limits of the machine."""
    block = torch.ones(BANDWIDTH_BYTES // 8, dtype=torch.int64)
    bandwidth = BANDWIDTH_BYTES / Timing.of(block.sum).least
    del block
    flops = 2 * GEMM_SIZE**3
    left = torch.randn(GEMM_SIZE, GEMM_SIZE)
    linear = nn.functional.linear
    products = {"float32": flops / Timing.of(lambda: linear(left, left)).least}
    half = left.bfloat16()
    products["bfloat16"] = flops / Timing.of(lambda: linear(half, half)).least
    if processor().has_fbgemm:
        layer = FbgemmInt8Linear(GEMM_SIZE, GEMM_SIZE, torch.float32, num_terms=1)
        layer.pack(left, torch.device("cpu"))
        products["int8"] = flops / Timing.of(lambda: layer.multiply(left)).least
    return Ceilings(bandwidth, products)


def supported_forms(*, with_emulated: bool = False) -> dict[str, dict[str, Any]]:
    """Return the entries of FORMS that this processor and installation support.

    ``with_emulated`` includes bfloat16 where the processor emulates it.
    """
    cpu = processor()
    forms = dict(FORMS)
    if not cpu.has_fbgemm:
        del forms["int8, int8 encoders"]
    if not has_ggml():
        del forms["q4_k"]
    if not cpu.has_bfloat16 and not with_emulated:
        del forms["bfloat16"]
    return forms


def measure_forms(config: VideoLlamaConfig, *, with_emulated: bool = False) -> Iterator[FormSpeed]:
    """Measure a model of this configuration in each supported form."""
    stored = getattr(config, "dtype", None) or "float32"
    for name, arguments in supported_forms(with_emulated=with_emulated).items():
        placing = resolve_placing(stored, LoadOptions(**arguments, is_for_inference=True))
        yield measure_form(name, arguments, config, placing)


@torch.inference_mode()
def measure_form(name: str, arguments: Mapping[str, Any], config: VideoLlamaConfig, placing: Placing) -> FormSpeed:
    """Measure one form."""
    model = one_block_model(config, placing)
    num_layers = config.text_config.num_hidden_layers
    head = Timing.of(lambda: model.lm_head(_random(placing, 1, 1, config.text_config.hidden_size)))
    layers = model.model.language_model
    num_clips = config.max_audio_pos if config.with_audio_branch else 0
    return FormSpeed(
        name=name,
        options=dict(arguments),
        arithmetic=placing.describe(config),
        encode=_encode_seconds(model, config, placing, num_clips),
        first_token=_decoder_seconds(model, placing, 0, TYPICAL_PROMPT).times(num_layers).plus(head),
        token=_decoder_seconds(model, placing, TYPICAL_PROMPT, 1).times(num_layers).plus(head),
        memory=predict_memory(config, placing, num_frames=NUM_FRAMES, num_clips=num_clips).total,
        encode_flops=_encode_flops(config, num_clips),
        token_bytes=_bytes(layers.layers[0]) * num_layers + _bytes(model.lm_head),
    )


def one_block_model(config: VideoLlamaConfig, placing: Placing) -> VideoLlamaForConditionalGeneration:
    """Return a model with one block per encoder and decoder, and random weights in the form of ``placing``."""
    config = copy.deepcopy(config)
    config.with_imagebind_vision = False
    for part in (config.vision_config, config.imagebind_audio_config, config.text_config):
        part.num_hidden_layers = 1
    model = set_form(meta_model(config), placing)
    for path, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            module.pack(_row_repeated((module.out_features, module.in_features)), torch.device("cpu"))
            if getattr(module, "bias", None) is not None:
                module.bias = torch.zeros(module.out_features)
            continue
        for leaf, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.is_meta:
                put_tensor(model, f"{path}.{leaf}".lstrip("."), _row_repeated(tuple(tensor.shape)).to(tensor.dtype))
    rotary = type(model.model.language_model.rotary_emb)
    model.model.language_model.rotary_emb = rotary(config.text_config)
    model.tie_weights()
    return model


def _row_repeated(shape: tuple[int, ...]) -> Tensor:
    """Return small random numbers; a matrix repeats one row, which is fast to make."""
    row = torch.randn(shape[-1:] or (1,)).mul(0.02)
    return row.expand(shape).contiguous() if shape else row[0]


def _random(placing: Placing, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=placing.dtypes["decoder"])


def _encode_seconds(
    model: VideoLlamaForConditionalGeneration, config: VideoLlamaConfig, placing: Placing, num_clips: int
) -> Timing:
    body: Any = model.model
    vision, num_patches = config.vision_config, _num_patches(config)
    patches = torch.randn(TIMED_FRAMES, num_patches, vision.hidden_size, dtype=placing.dtypes["vision"])
    block = body.frame_encoder.vision_model.encoder.layers[0]
    seconds = Timing.of(lambda: block(patches)).times(vision.num_hidden_layers)
    queries = torch.randn(TIMED_FRAMES, config.num_query_tokens, config.qformer_config.hidden_size).to(
        placing.dtypes["qformer"]
    )
    encoded, qformer = patches.to(placing.dtypes["qformer"]), body.frame_encoder.qformer
    seconds = seconds.plus(Timing.of(lambda: qformer(query_embeds=queries, encoder_hidden_states=encoded)))
    seconds = seconds.times(NUM_FRAMES / TIMED_FRAMES)
    if num_clips:
        audio = config.imagebind_audio_config
        tokens = torch.randn(num_clips, audio.num_patches + 1, audio.hidden_size, dtype=placing.dtypes["audio"])
        seconds = seconds.plus(Timing.of(lambda: body.imagebind_audio.blocks[0](tokens)).times(audio.num_hidden_layers))
    return seconds


def _decoder_seconds(
    model: VideoLlamaForConditionalGeneration, placing: Placing, num_cached: int, num_tokens: int
) -> Timing:
    """Time one decoder block for ``num_tokens`` tokens after ``num_cached`` others."""
    decoder: Any = model.model.language_model
    width = model.config.text_config.hidden_size
    cache: Any = DynamicCache(config=model.config.text_config)
    if num_cached:
        model(inputs_embeds=_random(placing, 1, num_cached, width), cache=cache, use_cache=True, logits_to_keep=1)
    inputs_1LD = _random(placing, 1, num_tokens, width)
    positions = decoder.rotary_emb(inputs_1LD, position_ids=torch.arange(num_cached, num_cached + num_tokens)[None])
    kept = [(layer, layer.keys, layer.values) for layer in cache.layers] if num_cached else []
    mask = None if num_tokens == 1 else torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()[None, None]

    def step() -> None:
        for layer, keys, values in kept:
            layer.keys, layer.values = keys, values
        arguments = {CACHE: cache} if num_cached else {}
        decoder.layers[0](inputs_1LD, attention_mask=mask, position_embeddings=positions, **arguments)

    return Timing.of(step)


def _num_patches(config: VideoLlamaConfig) -> int:
    size: Any = config.vision_config.image_size
    patch: Any = config.vision_config.patch_size
    return int((size // patch) ** 2 + 1)


def _encode_flops(config: VideoLlamaConfig, num_clips: int) -> float:
    """Return the operations of the ViT's and ImageBind's linear layers and attention for 8 frames and the clips."""
    vision, audio = config.vision_config, config.imagebind_audio_config
    total = NUM_FRAMES * _tower_flops(
        _num_patches(config), vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers
    )
    if num_clips:
        total += num_clips * _tower_flops(
            audio.num_patches + 1, audio.hidden_size, audio.intermediate_size, audio.num_hidden_layers
        )
    return total


def _tower_flops(num_tokens: int, width: int, hidden: int, num_layers: int) -> float:
    linear = 2 * num_tokens * (4 * width**2 + 2 * width * hidden)
    attention = 4 * num_tokens**2 * width
    return float(num_layers * (linear + attention))


def _bytes(module: nn.Module) -> int:
    """Return the bytes of a module's weights; packed FBGEMM layers no longer hold them as tensors."""
    total = 0
    for child in module.modules():
        if isinstance(child, FbgemmInt8Linear):
            total += child.in_features * child.out_features
        elif isinstance(child, PackedLinear) and child.weight.numel() == 0:  # type: ignore[operator]
            total += 2 * child.in_features * child.out_features
        else:
            total += sum(each.numel() * each.element_size() for each in child.parameters(recurse=False))
            total += sum(each.numel() * each.element_size() for each in child.buffers(recurse=False))
    return total
