"""Loading a model folder: peak memory relative to the model, time relative to reading the files, and an answer.

    python benchmarks/bench_load.py SCRATCH [--size 1gb|7b] [--forms stored int8 int4] [--ask] [--cold]

Creates a folder of random numbers in SCRATCH (1 or 16.4 GB; one row of normal numbers is repeated in each tensor),
loads it once per form in a separate process, and deletes it. "load" ends when every page of every weight has been
touched. Imports are not counted. The files are in the page cache for reading and loading if they fit.
Reading is timed twice: "read" uses one buffer of 16 MB again and again, and allocates no memory; "fill" reads into
untouched memory of the size of the file, one shard at a time (a second copy of 16 GB would evict the files).
"stored" is the dtype of config.json, bfloat16: the ViT and the audio trunk, which have other dtypes as in the published
files, are converted, and all other tensors stay memory-mapped.
--cold evicts the files from the page cache before each timing.
--ask also answers a question about the example clip with its sound: only its memory and time are meaningful. It needs
LLaMA's tokenizer, named by VIDEO_LLAMA_TOKENIZER.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from benchmarks.measuring import random_tensor, read_seconds
from video_llama.checkpoints.folder import Manifest, write_rest
from video_llama.checkpoints.safetensors_writer import MAX_SHARD_BYTES, TensorSpec, write_shards
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.memory import predict_memory, published_config
from video_llama.models.placement import LoadOptions, Placing, empty_model, resolve_placing
from video_llama.processors.settings import ProcessorSettings

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "two_shapes.mp4"
GB = 1e9
FORMS = {
    "stored": {},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int4": {"dtype": "bfloat16", "quantization": "int4"},
    "q4_k": {"dtype": "bfloat16", "quantization": "q4_k"},
}
MEASURED = """
import json, sys, time
import torch
import video_llama.models.placement, video_llama.models.modeling_llama
from video_llama.chat import Assistant, read_model_folder
from video_llama.models.placement import LoadOptions

def status(key):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])

path, clip, placing = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
open("/proc/self/clear_refs", "w").write("5")  # reset the peak
before, start = status("VmRSS"), time.perf_counter()
folder = read_model_folder(path, LoadOptions(**placing))
tensors = [*folder.model.parameters(), *folder.model.buffers()]
touched = sum(int(tensor.detach().reshape(-1).view(torch.uint8)[::4096].sum()) for tensor in tensors)
report = {"load_seconds": time.perf_counter() - start, "load_peak": status("VmHWM") - before}
report["model"] = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
if clip:
    start = time.perf_counter()
    answer = Assistant(folder).chat(clip).ask("What happens in the video?", max_new_tokens=8)
    report |= {"ask_seconds": time.perf_counter() - start, "peak": status("VmHWM") - before}
    report |= {"tokens": answer.record.tokens, "seconds": answer.record.seconds, "process_peak": status("VmHWM")}
print(json.dumps(report))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scratch", type=Path, help="folder with 1.5 or 20 GB of free space")
    parser.add_argument("--size", choices=["1gb", "7b"], default="1gb")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--ask", action="store_true", help="also answer a question")
    parser.add_argument("--cold", action="store_true", help="read and load from disk, not from the page cache")
    arguments = parser.parse_args()
    folder = arguments.scratch / f"bench_load_{arguments.size}"
    try:
        config = one_gb_config() if arguments.size == "1gb" else published_config("7b")
        write_folder(folder, config)
        print(machine())
        print(f"{arguments.size}: {sum(file.stat().st_size for file in weights(folder)) / GB:.2f} GB in the files")
        for form in arguments.forms:
            timings: list[Any] = []
            for timing in (reading_seconds, fill_seconds, partial(measure, form=form, is_asked=arguments.ask)):
                if arguments.cold:
                    evict(folder)
                timings.append(timing(folder))
            show(form, *timings)
            if arguments.ask:
                placing = resolve_placing("bfloat16", LoadOptions(**FORMS[form]))
                predicted = predict_memory(config, placing, num_frames=8, num_clips=8, num_tokens=200)
                print(f"          predicted for 200 tokens: {predicted.total / GB:.2f} GB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_gb_config() -> VideoLlamaConfig:
    """Return the configuration of a model of the published kind with 1.0 GB of weights."""
    narrow = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    text = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16}
    return VideoLlamaConfig(
        vision_config={**narrow, "num_hidden_layers": 6},
        qformer_config={"num_hidden_layers": 2},
        imagebind_audio_config={"num_hidden_layers": 2},
        text_config={**text, "max_position_embeddings": 2048},
        dtype="bfloat16",
    )


def write_folder(folder: Path, config: VideoLlamaConfig) -> None:
    """Write a folder of random numbers with the published dtypes: ViT float16, decoder bfloat16, rest float32."""
    dtypes = {"vision": torch.float16, "decoder": torch.bfloat16, "qformer": torch.float32, "audio": torch.float32}
    model = empty_model(config, Placing(dtypes))
    specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True)
    for _ in write_shards(folder, specs, lambda names: random_tensors(specs, names), MAX_SHARD_BYTES):
        pass
    config.save_pretrained(folder)
    manifest = Manifest("random", {"made by": "benchmarks/bench_load.py"}, (), "Random weights: every answer is noise.")
    tokenizer_path = os.environ["VIDEO_LLAMA_TOKENIZER"]
    write_rest(folder, config, tokenizer_path=tokenizer_path, settings=ProcessorSettings(), manifest=manifest)


def random_tensors(specs: dict[str, TensorSpec], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        yield name, random_tensor(specs[name])


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def evict(folder: Path) -> None:
    """Evict the weights from the page cache."""
    for path in weights(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading_seconds(folder: Path) -> float:
    """Return the time to read the files once into one buffer."""
    return read_seconds(weights(folder))


def fill_seconds(folder: Path) -> float:
    """Return the time to read the files once, each into untouched memory of its size."""
    start = time.perf_counter()
    for path in weights(folder):
        with path.open("rb", buffering=0) as file:
            memory = memoryview(mmap.mmap(-1, path.stat().st_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            while num_read := file.readinto(memory):
                memory = memory[num_read:]
    return time.perf_counter() - start


def measure(folder: Path, form: str, is_asked: bool) -> dict[str, float]:
    clip = str(EXAMPLE) if is_asked else ""
    command = [sys.executable, "-c", MEASURED, str(folder), clip, json.dumps(FORMS[form])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, float] = json.loads(done.stdout)
    return report


def show(form: str, reading: float, filling: float, report: dict[str, float]) -> None:
    memory = f"peak/model {report['load_peak'] / report['model']:.2f} ({report['load_peak'] / GB:.2f} GB)"
    loading = report["load_seconds"]
    seconds = f"load/read {loading / reading:.2f} ({loading:.2f} s / {reading:.2f} s)"
    print(f"{form:9} {memory:28} {seconds}, load/fill {loading / filling:.2f} ({filling:.2f} s)", flush=True)
    if "peak" in report:
        print(
            f"          asked: peak {report['peak'] / GB:.2f} GB (process {report['process_peak'] / GB:.2f} GB), "
            f"{report['ask_seconds']:.1f} s, {report['tokens']}, {report['seconds']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
