"""A plan on paper: the cost of many clips with the 7B model on a cluster, and what bounds each stage.

    python benchmarks/plan_scale.py MEASURED.json [--clips 10000000] [--nodes 8] [...]

MEASURED.json is written by `bench_batch.py --json`: processor time to read a clip, and the size of a clip.
Measured by this script on this machine: the rows per second that one process writes, and the bytes of a row in Ray's
object store. Nothing about a GPU is measured. Its seconds are FLOP counts of the 7B model (torch's counter on the
configuration, without weights) and bytes of weights and cache, divided by the peak figures of a data sheet times a
utilization. Utilizations, batch size, token counts, cores, network and price are options: assumptions, not results.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from video_llama.datasets.question_rows import QuestionRow
from video_llama.datasets.row_file import RowFile
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

NUM_FRAMES, NUM_SOUND_CLIPS = 8, 8
BYTES_PER_VALUE = 2  # bfloat16
HOUR = 3600.0
RECORD_CHARACTERS = 2000
"""Characters of the record of a row, about those of an answer of the miniature."""


@dataclass(frozen=True)
class Model:
    """FLOPs and bytes of the 7B model for one clip."""

    encode_flops: float
    prefill_flops: float
    token_flops: float
    """Of one generated token, without attention to the cache, which is below 1 % of it at these lengths."""
    decoder_bytes: float
    cache_bytes_per_token: float


def count_model(prompt_tokens: int) -> Model:
    """Count on the configuration of the 7B model, without weights."""
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(VideoLlamaConfig()).eval().requires_grad_(False)
        frames = torch.empty(1, NUM_FRAMES, 3, 224, 224)
        mel = torch.empty(1, NUM_SOUND_CLIPS, 1, *model.config.imagebind_audio_config.input_size)
        embeds = torch.empty(1, prompt_tokens, model.config.text_config.hidden_size)
        mask = torch.empty(1, 1, prompt_tokens, prompt_tokens)  # four dimensions: used as it is
    with torch.no_grad(), FlopCounterMode(display=False) as encode:
        model.model.encode_video(frames)
        model.model.encode_audio(mel)
    with torch.no_grad(), FlopCounterMode(display=False) as prefill:
        model.model.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    decoder = sum(each.numel() for each in model.model.language_model.parameters()) + model.lm_head.weight.numel()
    text = model.config.text_config
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * BYTES_PER_VALUE
    return Model(
        encode.get_total_flops(), prefill.get_total_flops(), 2.0 * decoder, float(decoder * BYTES_PER_VALUE), cache
    )


def writer_rows_per_second(num_rows: int = 20_000, batch_size: int = 8) -> tuple[float, int]:
    """Return the rows per second that one process writes in batches, and the bytes of a row."""
    row = {"id": "", "media": ["s3://bucket/clip.mp4"], "question": "What happens in the video?", "answer": "a " * 64}
    row |= {"error": None, "record": {"text": "x" * RECORD_CHARACTERS}}
    with tempfile.TemporaryDirectory() as folder, RowFile(Path(folder) / "rows.jsonl") as file:
        start = time.perf_counter()
        for first in range(0, num_rows, batch_size):
            file.write([{**row, "id": str(number)} for number in range(first, first + batch_size)])
        seconds = time.perf_counter() - start
        return num_rows / seconds, file.path.stat().st_size // num_rows


def bytes_per_queued_row(batch_size: int = 8) -> float:
    """Return the bytes of a row as it waits in Ray's object store."""
    rows = [QuestionRow(str(n), (f"s3://bucket/clips/{n:08}.mp4",), "What happens in the video?") for n in range(8)]
    return len(pickle.dumps(rows)) / batch_size


def gpu_seconds(model: Model, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of one GPU per clip and stage, from the assumptions."""
    flops = options.peak_tflops * 1e12 * options.compute_utilization
    bandwidth = options.bandwidth_tb * 1e12 * options.bandwidth_utilization
    context = options.prompt_tokens + options.answer_tokens / 2
    read = model.decoder_bytes / options.batch_size + context * model.cache_bytes_per_token
    return {
        "encode": model.encode_flops / flops,
        "prefill": model.prefill_flops / flops,
        "generate": options.answer_tokens * max(read / bandwidth, model.token_flops / flops),
    }


def main() -> None:
    """Print the inputs, the cost per stage and the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="file of bench_batch.py --json")
    parser.add_argument("--clips", type=int, default=10_000_000)
    parser.add_argument("--prompt-tokens", type=int, default=110, help="32 of the video, 8 of the sound, and text")
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cluster", default="DGX H100 (8 H100 SXM, 112 cores)", help="name of the nodes")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--cores-per-node", type=int, default=112)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bfloat16, dense (data sheet)")
    parser.add_argument("--bandwidth-tb", type=float, default=3.35, help="TB/s (data sheet)")
    parser.add_argument("--compute-utilization", type=float, default=0.4)
    parser.add_argument("--bandwidth-utilization", type=float, default=0.6)
    parser.add_argument("--core-speed", type=float, default=1.0, help="speed of a core, relative to the measured one")
    parser.add_argument("--core-utilization", type=float, default=0.8)
    parser.add_argument("--read-gb", type=float, default=10.0, help="GB/s from the object store, all nodes together")
    parser.add_argument("--price", type=float, help="price of a GPU-hour")
    options = parser.parse_args()
    settings = json.loads(options.measured.read_text(encoding="utf-8"))["settings"]
    core_seconds = settings["core_seconds"]["read"]
    model = count_model(options.prompt_tokens)
    rows_per_second, row_bytes = writer_rows_per_second()
    print(f"measured on: {settings['machine']}")
    clip = f"{settings['seconds']} s, {settings['height']}p, {settings['clip_bytes'] / 1e6:.1f} MB"
    print(
        f"measured: {core_seconds:.2f} s of a core to read a clip of {clip}; one process writes "
        f"{rows_per_second:,.0f} rows/s of {row_bytes:,} bytes; {bytes_per_queued_row():.0f} bytes per waiting row"
    )
    print(
        f"counted (7B, {NUM_FRAMES} frames, {NUM_SOUND_CLIPS} sound clips): encode {model.encode_flops / 1e12:.2f} "
        f"TFLOP, prompt of {options.prompt_tokens} tokens {model.prefill_flops / 1e12:.2f} TFLOP, "
        f"{model.token_flops / 1e9:.1f} GFLOP per token, decoder {model.decoder_bytes / 1e9:.1f} GB, cache "
        f"{model.cache_bytes_per_token / 1e6:.2f} MB per token"
    )
    names = ("cluster", "nodes", "answer_tokens", "batch_size", "peak_tflops", "bandwidth_tb", "compute_utilization")
    names += ("bandwidth_utilization", "core_speed", "core_utilization", "read_gb")
    print("assumed:", ", ".join(f"{name.replace('_', ' ')} {getattr(options, name)}" for name in names))
    for line in plan(options, gpu_seconds(model, options), core_seconds, settings["clip_bytes"], rows_per_second):
        print(line)
    print(
        f"results: {options.clips * row_bytes / 1e9:,.0f} GB of JSONL; rows in the object store: "
        f"{options.clips * bytes_per_queued_row() / 1e9:.1f} GB"
    )


def plan(
    options: argparse.Namespace, gpu: dict[str, float], core_seconds: float, clip_bytes: int, rows_per_second: float
) -> list[str]:
    """Return the lines of the plan."""
    num_gpus, num_cores = options.nodes * options.gpus_per_node, options.nodes * options.cores_per_node
    core_seconds = core_seconds / options.core_speed / options.core_utilization
    gpu_total = sum(gpu.values())
    hours: dict[str, tuple[float, str]] = {
        "read": (options.clips * clip_bytes / (options.read_gb * 1e9) / HOUR, "network"),
        "decode": (options.clips * core_seconds / num_cores / HOUR, f"{num_cores} cores"),
        **{name: (options.clips * seconds / num_gpus / HOUR, f"{num_gpus} GPUs") for name, seconds in gpu.items()},
        "write": (options.clips / rows_per_second / HOUR, "one process"),
    }
    together = sum(hours[name][0] for name in gpu)
    lines = [f"{'stage':16} {'hours':>8}  on"]
    lines += [f"{name:16} {value:8.2f}  {place}" for name, (value, place) in hours.items()]
    lines.append(f"{'GPU stages':16} {together:8.2f}  {num_gpus} GPUs, one after another")
    stages = {"read": hours["read"][0], "decode": hours["decode"][0], "GPU": together, "write": hours["write"][0]}
    bound = max(stages, key=lambda name: stages[name])
    wall = stages[bound]
    lines.append(
        f"run: {wall:.1f} hours, bound by {bound}; {wall * num_gpus:,.0f} GPU-hours paid, of which "
        f"{together * num_gpus:,.0f} are used ({together / wall:.0%}); {options.clips / wall / HOUR:,.0f} clips/s"
    )
    lines.append(f"cores per GPU that keep it busy: {core_seconds / gpu_total:.0f} (here {num_cores / num_gpus:.0f})")
    if options.price is not None:
        lines.append(f"cost at {options.price:g} per GPU-hour: {wall * num_gpus * options.price:,.0f}")
    return lines


if __name__ == "__main__":
    main()
