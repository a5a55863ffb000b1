"""The memory of a real training step on the CPU, in a process of its own: used by bench_train_memory.py and a test.

    python benchmarks/train_step_memory.py CONFIG [--set KEY=VALUE] [--tokens N] [--size SIZE]
    torchrun --nproc_per_node=2 benchmarks/train_step_memory.py CONFIG ...

Builds the model of the YAML with random numbers and runs three steps of the trainer with the same batch as
``video-llama train CONFIG --dry-run``. Prints on rank 0, as JSON, by how much the resident memory of the process rose
above its level before the model (``step``: during the steps, after the model was built; ``setup``: before). A step of a
tiny model comes first, so that the memory of the libraries is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from video_llama.config import load_config
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.placement import meta_model
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.config import TrainConfig
from video_llama.training.distributed import World, world
from video_llama.training.dry_run import planned_step, planned_trainer, starting_model
from video_llama.training.lora import add_lora
from video_llama.training.planned_batches import PlannedBatch, planned_batches
from video_llama.training.run import freeze_others
from video_llama.training.stages import stage_of

STEPS = 3
TINY: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}


def status(key: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def tiny_model() -> VideoLlamaForConditionalGeneration:
    tower = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "embedding_size": 12}
    return meta_model(
        VideoLlamaConfig(
            vision_config={**TINY, "image_size": 28, "patch_size": 14},
            qformer_config={**TINY, "vocab_size": 1},
            imagebind_vision_config={**tower, "input_size": (28, 28)},
            imagebind_audio_config={**tower, "input_size": (16, 26), "kernel_size": (8, 8), "stride": (4, 6)},
            text_config={**TINY, "vocab_size": 100},
            video_token_id=100,
            audio_token_id=101,
            with_imagebind_vision=True,
        )
    )


def fill(model: VideoLlamaForConditionalGeneration) -> None:
    """Give a model on the meta device random numbers."""
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(std=0.02, generator=generator)


def run_steps(
    model: VideoLlamaForConditionalGeneration, config: TrainConfig, batch: PlannedBatch, this: World
) -> dict[str, int]:
    """Run the steps and return the peaks of the resident memory in bytes."""
    if config.model.lora is not None:
        add_lora(model, config.model.lora, config.run.seed)
    freeze_others(model, stage_of(config.model))
    reset_peak()
    fill(model)
    trainer = planned_trainer(model, config, this)
    setup = status("VmHWM")
    reset_peak()
    for _ in range(STEPS):
        planned_step(trainer, batch)
    return {"setup": setup, "step": status("VmHWM")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--size")
    arguments = parser.parse_args()
    config = load_config(TrainConfig, arguments.config, arguments.set)
    stage = stage_of(config.model)
    device = torch.device("cpu")
    with world("cpu") as this:
        model, folder = starting_model(config, str(arguments.config), stage, arguments.size, device)
        [batch, *_] = planned_batches(config, folder, model.config, stage, arguments.tokens)
        tiny = tiny_model()
        small = planned_batches(config, None, tiny.config, stage, 64 + config.model.max_txt_len)
        run_steps(tiny, config, small[0], this)
        del tiny
        before = status("VmRSS")
        peaks = run_steps(model, config, batch, this)
        if this.is_main:
            print(json.dumps({name: peak - before for name, peak in peaks.items()}))


if __name__ == "__main__":
    main()
