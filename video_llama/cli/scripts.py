"""The scripts of the original Video-LLaMA, with its flags: train.py, demo_video.py and demo_audiovideo.py."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from video_llama.cli.demo import HOST, serve_page
from video_llama.cli.reporting import reported_errors
from video_llama.log import configure

if TYPE_CHECKING:
    from video_llama.chat import Assistant

MODEL_TYPES = ("vicuna", "llama_v2")


def run_train_script(description: str) -> None:
    """Train from a YAML file. Exits as ``video-llama train`` does."""
    parser = _parser(description, config_help="training YAML file")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="checkpoint to resume from, or auto for the newest one")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after this many steps")
    arguments = parser.parse_args()
    configure(logging.INFO)
    with reported_errors(lambda: arguments.debug):
        from video_llama.training.run import train_from_config

        train_from_config(arguments.cfg_path, arguments.options, resume=arguments.resume, max_steps=arguments.max_steps)


def run_demo_script(description: str, *, with_audio: bool) -> None:
    """Serve the web demo for an evaluation YAML file. Exits as ``video-llama demo`` does."""
    parser = _parser(description, config_help="evaluation YAML file")
    parser.add_argument(
        "--model_type", choices=MODEL_TYPES, help="prompt style (default: read from the YAML file or the decoder)"
    )
    parser.add_argument("--gpu-id", type=int, metavar="N", help="GPU to run on")
    parser.add_argument("--device", help="device to run on, instead of --gpu-id (default: the GPU if available)")
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free port from 7860)")
    arguments = parser.parse_args()
    with reported_errors(lambda: arguments.debug):
        serve_page(_load_yaml(arguments), arguments.host, arguments.port, with_audio=with_audio, is_greedy=False)


def _parser(description: str, *, config_help: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg-path", required=True, metavar="CONFIG", help=config_help)
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _load_yaml(arguments: argparse.Namespace) -> Assistant:
    from video_llama.chat import Assistant
    from video_llama.chat.loading import usable_device
    from video_llama.checkpoints.loading import load_yaml_model
    from video_llama.models.placement import LoadOptions

    device = str(usable_device(_device_name(arguments.gpu_id, arguments.device)))
    options = LoadOptions(device, is_for_inference=True)
    folder = load_yaml_model(arguments.cfg_path, options, overrides=arguments.options, model_type=arguments.model_type)
    return Assistant(folder)


def _device_name(gpu_id: int | None, device: str | None) -> str | None:
    """Return the device of --gpu-id or --device. Raises ValueError if both are given or the GPU does not exist."""
    import torch

    if gpu_id is None:
        return device
    if device is not None:
        raise ValueError("--gpu-id and --device cannot be combined. Give one of them.")
    count = torch.cuda.device_count()
    if not 0 <= gpu_id < count:
        raise ValueError(f"--gpu-id is {gpu_id}, but this machine has {count} CUDA devices. Use --device cpu instead.")
    return f"cuda:{gpu_id}"
