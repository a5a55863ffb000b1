"""Steps of the GPU benchmark: conformance, ceilings, encoding, decoding, quantized decoders."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from benchmarks.conformance_build import Golden
from benchmarks.conformance_model import CASES
from benchmarks.conformance_row import guarded
from benchmarks.gpu_models import IMAGE_SIZE, MEL_SIZE, cache_bytes, decoder_bytes, random_model
from benchmarks.gpu_timing import Bench, Result, flop_of
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.memory import predict_memory
from video_llama.models.placement import LoadOptions, resolve_placing
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "dev"
BATCHES = (1, 8, 32)
NUM_FRAMES, NUM_CLIPS = 8, 8
PROMPT_TOKENS = 128
MATRIX, COPY_BYTES = 8192, 2**30
NEW_TOKENS = 64


def golden_on(device: torch.device) -> Golden:
    """Return the golden folder with its tensors and our model on the device, in float32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    golden = Golden(GOLDEN)
    golden.tensors = {name: tensor.to(device) for name, tensor in golden.tensors.items()}
    golden.model.to(device)
    return golden


def conformance(bench: Bench) -> Iterator[Result]:
    """Compare every forward case with the reference, in float32, and state the error of the same in bfloat16."""
    golden = golden_on(bench.device)
    with torch.device(bench.device):
        rows = [row for name, case in CASES.items() for row in guarded(name, lambda case=case: case(golden))]
        failed = [f"{row.case}: {row.value:.1e} {row.note}".strip() for row in rows if row.failed]
        errors = [row.value for row in rows if row.limit is not None and row.value is not None]
        yield {"what": "golden, float32", "cases": len(rows), "failing_cases": failed, "largest_error": max(errors)}
        lower_precision(golden)
        errors = []
        for name, case in CASES.items():
            if name.startswith("visual_encoder") or name in ("ln_vision", "qformer"):
                continue  # parts alone; the whole path follows
            rows = list(guarded(name, lambda case=case: case(golden)))
            errors += [row.value for row in rows if row.limit is not None and row.value is not None]
        yield {"what": "golden, bfloat16 decoder and encoders", "cases": len(errors), "largest_error": max(errors)}


def lower_precision(golden: Golden) -> None:
    """Convert the model and the float inputs to bfloat16, but the Q-Formers, as when a model is loaded."""
    for name, parameter in golden.model.named_parameters():
        if "qformer" not in name and "query_tokens" not in name:
            parameter.data = parameter.data.bfloat16()


def gpu_tests(bench: Bench) -> Iterator[Result]:
    """Run the tests marked gpu, where pytest is installed."""
    if importlib.util.find_spec("pytest") is None:
        yield {"what": "tests marked gpu", "skipped": "pytest is not installed"}
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=ROOT)
    yield {"what": "tests marked gpu", "exit_code": done.returncode, "last_line": done.stdout.strip()[-200:]}


def ceilings(bench: Bench) -> Iterator[Result]:
    """Measure the bandwidth of a copy and the speed of a large matrix product."""
    size = 2**20 if bench.is_tiny else COPY_BYTES
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bench.bandwidth = 2 * size / bench.seconds(lambda: target.copy_(source))
    width = 256 if bench.is_tiny else MATRIX
    left, right = (torch.randn(width, width, device=bench.device).bfloat16() for _ in range(2))
    bench.matrix_peak = 2 * width**3 / bench.seconds(lambda: left @ right)
    yield {"what": "copy", "gigabytes_per_second": round(bench.bandwidth / 1e9, 1)}
    yield {"what": f"bfloat16 product {width}^3", "teraflop_per_second": round(bench.matrix_peak / 1e12, 2)}


def model_of(bench: Bench) -> VideoLlamaForConditionalGeneration:
    """Return the model of the inference steps, made at the first call."""
    if "model" not in bench.shared:
        bench.reset_peak()
        bench.shared["model"] = random_model(bench.size, bench.device, torch.bfloat16)
    model: VideoLlamaForConditionalGeneration = bench.shared["model"]
    return model


def media(bench: Bench, batch: int) -> tuple[Tensor, Tensor]:
    """Return normalized frames and mel clips of a batch, on the device."""
    size, mel = (IMAGE_SIZE, MEL_SIZE) if bench.is_tiny else (224, (128, 204))
    frames = torch.randn(batch, NUM_FRAMES, 3, size, size, device=bench.device)
    return frames, torch.randn(batch, NUM_CLIPS, 1, *mel, device=bench.device)


@torch.no_grad()
def encode(bench: Bench) -> Iterator[Result]:
    """Encode 8 frames and 8 clips to decoder tokens."""
    body = model_of(bench).model
    for batch in BATCHES:
        frames, clips = media(bench, batch)
        bench.reset_peak()

        def work(frames: Tensor = frames, clips: Tensor = clips) -> None:
            body.encode_video(frames)
            body.encode_audio(clips)

        flop, seconds = flop_of(work), bench.seconds(work)
        share = bench.share_of_matrix_peak(flop, seconds)
        yield {
            "what": f"encode, batch {batch}",
            "seconds": round(seconds, 5),
            "media_per_second": round(batch / seconds, 2),
            "share_of_matrix_peak": share,
            "peak_bytes": bench.peak(),
        }


def _prompt(bench: Bench, batch: int) -> Tensor:
    width = model_of(bench).config.text_config.hidden_size
    return torch.randn(batch, PROMPT_TOKENS, width, device=bench.device, dtype=torch.bfloat16) * 0.02


@torch.no_grad()
def first_token(bench: Bench) -> Iterator[Result]:
    """Encode a video with sound and process a prompt, until the first token is known."""
    model = model_of(bench)
    frames, clips = media(bench, 1)
    prompt = _prompt(bench, 1)
    bench.reset_peak()

    def work() -> None:
        model.model.encode_video(frames)
        model.model.encode_audio(clips)
        model(inputs_embeds=prompt, use_cache=True, logits_to_keep=1).logits.argmax(-1).item()

    seconds = bench.seconds(work)
    placing = resolve_placing(torch.bfloat16, LoadOptions(device=bench.device, dtype=torch.bfloat16))
    counts = {"num_frames": NUM_FRAMES, "num_clips": NUM_CLIPS, "num_tokens": PROMPT_TOKENS}
    yield {
        "what": f"first token, {NUM_FRAMES} frames, {NUM_CLIPS} clips, {PROMPT_TOKENS} tokens",
        "seconds": round(seconds, 5),
        "peak_bytes": bench.peak(),
        "predicted_bytes": predict_memory(cast("VideoLlamaConfig", model.config), placing, **counts).total,
    }


@torch.no_grad()
def decode(bench: Bench) -> Iterator[Result]:
    """Generate tokens one after another, without reading them between the steps."""
    yield from decode_of(bench, model_of(bench), "bfloat16")


def decode_of(bench: Bench, model: VideoLlamaForConditionalGeneration, name: str) -> Iterator[Result]:
    """Measure decoding with a growing cache, for each batch size."""
    tokens = 8 if bench.is_tiny else NEW_TOKENS
    for batch in BATCHES:
        bench.reset_peak()
        prompt = _prompt(bench, batch)
        cache: Any = DynamicCache()
        model(inputs_embeds=prompt, cache=cache, use_cache=True, logits_to_keep=1)
        step = torch.zeros(batch, 1, dtype=torch.long, device=bench.device)

        def work(cache: Any = cache, step: Tensor = step) -> None:
            ids = step
            for _ in range(tokens):
                ids = model(input_ids=ids, cache=cache, use_cache=True).logits[:, -1:].argmax(-1)

        seconds = bench.seconds(work, runs=3, warm_up=1) / tokens
        yield decode_row(bench, model, f"decode, {name}, batch {batch}", batch, seconds)


def decode_row(
    bench: Bench, model: VideoLlamaForConditionalGeneration, what: str, batch: int, seconds: float
) -> Result:
    """Return the row of a decoding speed, as a multiple of the time to read the weights and the cache once."""
    num_bytes = decoder_bytes(model) + cache_bytes(model, batch, PROMPT_TOKENS + 2 * NEW_TOKENS)
    return {
        "what": what,
        "tokens_per_second": round(batch / seconds, 1),
        "seconds_per_step": round(seconds, 6),
        "times_byte_floor": round(seconds / (num_bytes / bench.bandwidth), 2) if bench.bandwidth else None,
        "peak_bytes": bench.peak(),
    }


@torch.no_grad()
def decode_static(bench: Bench) -> Iterator[Result]:
    """Decode with a static cache: as it is, as a CUDA graph, and compiled."""
    model = model_of(bench)
    length = PROMPT_TOKENS + 4 * NEW_TOKENS
    cache: Any = StaticCache(config=model.config.text_config, max_cache_len=length)
    model(inputs_embeds=_prompt(bench, 1), cache=cache, use_cache=True, logits_to_keep=1)
    ids = torch.zeros(1, 1, dtype=torch.long, device=bench.device)
    positions = torch.full((1, 1), PROMPT_TOKENS, device=bench.device)

    def step() -> None:
        output = model(input_ids=ids, position_ids=positions, cache=cache, use_cache=True)
        ids.copy_(output.logits[:, -1:].argmax(-1))
        positions.add_(1)

    yield decode_row(bench, model, "decode, static cache, batch 1", 1, bench.seconds(step, runs=20))
    if not bench.is_cuda:
        yield {"what": "decode, CUDA graph, batch 1", "skipped": "no GPU"}
        return
    graph = torch.cuda.CUDAGraph()
    bench.wait()
    with torch.cuda.graph(graph):
        step()
    yield decode_row(bench, model, "decode, CUDA graph, batch 1", 1, bench.seconds(graph.replay, runs=20))


@torch.no_grad()
def decode_compiled(bench: Bench) -> Iterator[Result]:
    """Generate with transformers' static cache, which compiles the forward pass on a GPU."""
    if not bench.is_cuda:
        yield {"what": "generate, compiled, batch 1", "skipped": "no GPU"}
        return
    model = model_of(bench)
    ids = torch.ones(1, PROMPT_TOKENS, dtype=torch.long, device=bench.device)

    def work() -> None:
        model.generate(
            input_ids=ids,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            cache_implementation="static",
        )

    seconds = bench.seconds(work, runs=2, warm_up=2) / NEW_TOKENS
    yield decode_row(bench, model, "generate, static cache, compiled, batch 1", 1, seconds)


@torch.no_grad()
def quantized(bench: Bench) -> Iterator[Result]:
    """Decode with int8 and int4 weights of bitsandbytes."""
    if not bench.is_cuda or importlib.util.find_spec("bitsandbytes") is None:
        reason = "bitsandbytes is not installed" if bench.is_cuda else "no GPU"
        yield {"what": "int8 and int4", "skipped": reason}
        return
    source = model_of(bench)
    for quantization in ("int8", "int4"):
        bench.reset_peak()
        yield from decode_of(bench, packed_copy(bench, source, quantization), quantization)


def packed_copy(
    bench: Bench, source: VideoLlamaForConditionalGeneration, quantization: str
) -> VideoLlamaForConditionalGeneration:
    """Return a model whose decoder layers are those of ``source``, quantized."""
    from video_llama.models.packed_linear import PackedLinear

    model = random_model(bench.size, bench.device, torch.bfloat16, quantization)
    weights = dict(source.model.language_model.named_modules())
    for name, layer in model.model.language_model.named_modules():
        if isinstance(layer, PackedLinear):
            layer.pack(weights[name].weight, bench.device)
    return model
