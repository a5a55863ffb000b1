"""Steps of the GPU benchmark that need pydantic: training steps, and requests through the server's scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_inference import NEW_TOKENS, media, model_of
from benchmarks.gpu_models import random_model
from benchmarks.gpu_timing import Bench, Result, flop_of
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.scheduler import DecodeJob, FinishedAnswer, Scheduler
from video_llama.chat.decoding import Decoding
from video_llama.chat.engine import EncodedMedium, Engine
from video_llama.chat.messages import message_for
from video_llama.checkpoints.folder import Manifest, ModelFolder
from video_llama.config import parse_config
from video_llama.conversation import Tokenizer
from video_llama.processors.medium import ReadMedium
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.video_processor import SampledVideo
from video_llama.training.config import TrainConfig
from video_llama.training.distributed import World
from video_llama.training.dry_run import DryRunOptions, dry_run, planned_step, planned_trainer
from video_llama.training.planned_batches import planned_batches
from video_llama.training.run import freeze_others
from video_llama.training.stages import stage_of

TOKENIZER = Path(__file__).resolve().parent.parent / "video_llama" / "miniature" / "weights" / "tokenizer.model"
STAGES: dict[str, dict[str, Any]] = {
    "stage 1": {"format": "webvid", "rows": 32},
    "stage 2": {"format": "webvid_instruct", "rows": 4},
}
"""Format of the data and batch size of the published recipes of the vision branch."""
VARIANTS = (("bf16", False), ("bf16", True), ("fp16", False), ("fp16", True))
"""Data type of the computation, and whether the features of the frozen encoders are cached."""
CONCURRENCY = (1, 8, 32)
QUESTIONS = ("What happens in the video?", "What do you see?", "Who is in it, and what do they do?", "Describe it.")


def train_config(bench: Bench, stage: str, dtype: str, *, is_cached: bool) -> TrainConfig:
    """Return the settings of a training of the vision branch on data that is not there."""
    chosen = STAGES[stage]
    content = {
        "model": {"frozen_llama_proj": False, "frozen_video_Qformer": False},
        "datasets": {chosen["format"]: {"labels": "reference"}},
        "run": {
            "output_dir": "unused",
            "batch_size_train": 2 if bench.is_tiny else chosen["rows"],
            "dtype": dtype if bench.is_cuda else "fp32",
            "cache_features": is_cached,
            "device": bench.device.type,
        },
    }
    return parse_config(TrainConfig, content, source="benchmarks/gpu_training.py")


def predictions(bench: Bench) -> dict[str, int]:
    """Return the predicted peak of each variant on a simulated GPU, in bytes."""
    found = {}
    for stage in STAGES:
        for is_cached in (False, True):
            config = train_config(bench, stage, "bf16", is_cached=is_cached)
            found[f"{stage}, {is_cached}"] = dry_run(config, "gpu", DryRunOptions(size=bench.size)).largest.peak
    return found


def train(bench: Bench) -> Iterator[Result]:
    """Time a training step of each stage: from frames and from cached features, in bf16 and in fp16."""
    bench.shared.pop("model", None)
    for dtype, is_cached in VARIANTS:
        if dtype == "fp16" and not bench.is_cuda:
            continue
        for stage in STAGES:
            yield _training_step(bench, stage, dtype, is_cached=is_cached)


def _training_step(bench: Bench, stage: str, dtype: str, *, is_cached: bool) -> Result:
    config = train_config(bench, stage, dtype, is_cached=is_cached)
    bench.reset_peak()
    stored = torch.float16 if dtype == "fp16" else torch.bfloat16
    model = random_model(bench.size, bench.device, stored if bench.is_cuda else torch.float32, with_audio_branch=False)
    chosen = stage_of(config.model)
    freeze_others(model, chosen)
    [batch] = planned_batches(config, None, model.config, chosen, 96 if bench.is_tiny else None)
    trainer = planned_trainer(model, config, World(0, 1, bench.device))
    planned_step(trainer, batch)
    flop = flop_of(lambda: planned_step(trainer, batch))
    seconds = bench.seconds(lambda: planned_step(trainer, batch), runs=5, warm_up=1)
    predicted = bench.shared.get("predictions", {}).get(f"{stage}, {is_cached}") if dtype == "bf16" else None
    return {
        "what": f"train, {stage}, {config.run.dtype}, {'cached features' if is_cached else 'frames'}",
        "seconds_per_step": round(seconds, 4),
        "samples_per_second": round(batch.batch_size / seconds, 2),
        "row_tokens": batch.num_tokens,
        "share_of_matrix_peak": bench.share_of_matrix_peak(flop, seconds),
        "peak_bytes": bench.peak(),
        "predicted_bytes": predicted,
    }


def serve(bench: Bench) -> Iterator[Result]:
    """Answer questions about videos through the scheduler, without HTTP. Their media are encoded beforehand."""
    model = model_of(bench)
    tokenizer = Tokenizer(TOKENIZER)
    narrow_vocabulary(model, tokenizer)
    settings = ProcessorSettings(image_size=model.config.vision_config.image_size)
    engine = Engine(ModelFolder(None, model, tokenizer, settings, Manifest("random numbers")))
    frames, _ = media(bench, len(QUESTIONS))
    with torch.no_grad():
        videos = model.model.encode_video(frames)
    turns = [_turn(bench, engine, video, question) for video, question in zip(videos, QUESTIONS, strict=True)]
    for concurrency in CONCURRENCY:
        yield _served(bench, engine, turns, concurrency)
    del bench.shared["model"]  # its vocabulary has changed


def _served(bench: Bench, engine: Engine, turns: list[Any], concurrency: int) -> Result:
    scheduler = Scheduler(engine, Metrics(), max_rows=concurrency, prefix_tokens=0)
    num_requests = concurrency * (1 if bench.is_tiny else 3)
    done, slots, tokens, firsts = threading.Semaphore(0), threading.Semaphore(concurrency), [], []
    errors: list[Exception] = []
    scheduler.start()
    start = time.perf_counter()
    for number in range(num_requests):
        slots.acquire()
        submitted = time.perf_counter()
        is_first = [True]

        def emit(event: Any, submitted: float = submitted, is_first: list[bool] = is_first) -> None:
            if is_first[0]:
                firsts.append(time.perf_counter() - submitted)
                is_first[0] = False
            if not isinstance(event, str):
                tokens.append(event.record.tokens["generated"] if isinstance(event, FinishedAnswer) else 0)
                if isinstance(event, Exception):
                    errors.append(event)
                slots.release()
                done.release()

        scheduler.submit(DecodeJob(turns[number % len(turns)], (f"video {number % len(turns)}",), (), emit))
    for _ in range(num_requests):
        done.acquire()
    seconds = time.perf_counter() - start
    scheduler.stop()
    if errors:
        raise errors[0]
    return {
        "what": f"scheduler, concurrency {concurrency}",
        "requests": num_requests,
        "tokens_per_second": round(sum(tokens) / seconds, 1),
        "median_seconds_to_first_text": round(sorted(firsts)[len(firsts) // 2], 4),
        "peak_bytes": bench.peak(),
    }


def _turn(bench: Bench, engine: Engine, video: torch.Tensor, question: str) -> Any:
    seconds = [float(index) for index in range(8)]
    pixels = np.zeros((8, 3, 4, 4), dtype=np.uint8)  # not encoded again
    sampled = SampledVideo(pixels, list(range(8)), seconds, 1.0, 8, 8.0, "random", "video")
    medium = EncodedMedium(ReadMedium("video", "random", frames=sampled), video, None, 0.0, 0.0)
    conversation = engine.conversation()
    conversation.add_media(message_for(medium.read))
    return engine.turn(conversation, [medium], question, Decoding(max_new_tokens=4 if bench.is_tiny else NEW_TOKENS))


def narrow_vocabulary(model: Any, tokenizer: Tokenizer) -> None:
    """Reduce the embedding table and the head to the vocabulary of the tokenizer in this repository."""
    size = tokenizer.vocab_size
    table, head = model.get_input_embeddings().weight.data, model.lm_head.weight.data
    model.set_input_embeddings(nn.Embedding(size, table.shape[1], _weight=table[:size].clone()))
    model.lm_head.weight = nn.Parameter(head[:size].clone())
    model.lm_head.out_features = size
    model.config.text_config.vocab_size = size
    model.config.video_token_id, model.config.audio_token_id = tokenizer.video_token_id, tokenizer.audio_token_id
