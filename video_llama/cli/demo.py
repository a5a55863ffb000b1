"""``video-llama demo``: the web page; and what the reference's demo scripts, which start it as well, share."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from video_llama.cli import options
from video_llama.cli.reporting import EXIT_ERROR, EXIT_INTERRUPTED, report
from video_llama.errors import VideoLlamaError

if TYPE_CHECKING:
    from video_llama.chat import Assistant

HOST = "127.0.0.1"
MODEL_TYPES = ("vicuna", "llama_v2")


def demo(
    model: options.Model = "miniature",
    overrides: options.Overrides = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    low_resource: options.LowResource = False,
    device_map: options.DeviceMap = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")] = HOST,
    port: Annotated[int | None, typer.Option(help="(default: the first free one from 7860 on)")] = None,
    only_vision: Annotated[bool, typer.Option("--only-vision", help="Do not listen to any sound.")] = False,
    debug: options.Debug = False,
) -> None:
    """Serve a web page to talk about videos, images and sounds. Ctrl-C stops it.

    The miniature answers with its likeliest words, other weights as the reference's demo draws them; the page can
    change that.
    """
    from video_llama.chat.loading import MINIATURE

    assistant = options.load_assistant(
        model, overrides, device, dtype, quantization=quantization, low_resource=low_resource, device_map=device_map
    )
    _serve(assistant, host, port, with_sound=not only_vision, is_greedy=model == MINIATURE)


def _serve(assistant: Assistant, host: str, port: int | None, *, with_sound: bool, is_greedy: bool) -> None:
    """Serve the page until Ctrl-C, or until the process is told to end."""
    from video_llama.apps.demo.serving import running_demo

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_demo(assistant, host=host, port=port, with_sound=with_sound, is_greedy=is_greedy) as page:
        typer.echo(f"{page.url} (Ctrl-C stops it)")
        threading.Event().wait()


def run_reference_demo(description: str, *, with_sound: bool) -> int:
    """Serve the page for an evaluation YAML, by the reference's flags; returns the exit code."""
    arguments = _reference_parser(description).parse_args()
    try:
        _serve(_load_yaml(arguments), arguments.host, arguments.port, with_sound=with_sound, is_greedy=False)
    except (VideoLlamaError, ValueError) as error:
        report(error, debug=arguments.debug)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _reference_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg-path", required=True, help="the evaluation YAML")
    parser.add_argument(
        "--model_type", choices=MODEL_TYPES, help="the decoder's prompt style (default: as the YAML says)"
    )
    parser.add_argument("--gpu-id", type=int, help="the GPU to load the model on")
    parser.add_argument("--device", help="in the place of --gpu-id: cpu, cuda (default: the GPU if there is one)")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: section.key=value ...")
    parser.add_argument("--host", default=HOST, help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860 on)")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    return parser


def _load_yaml(arguments: argparse.Namespace) -> Assistant:
    from video_llama.chat import Assistant
    from video_llama.chat.loading import usable_device
    from video_llama.checkpoints.loading import load_yaml_model

    device = str(usable_device(_device_name(arguments.gpu_id, arguments.device)))
    folder = load_yaml_model(
        arguments.cfg_path, options=arguments.options, model_type=arguments.model_type, device=device
    )
    return Assistant(folder)


def _device_name(gpu_id: int | None, device: str | None) -> str | None:
    """The device that --gpu-id or --device names. ValueError where both do, or there is no such GPU."""
    import torch

    if gpu_id is None:
        return device
    if device is not None:
        raise ValueError("--gpu-id and --device are given. Give one of them.")
    count = torch.cuda.device_count()
    if not 0 <= gpu_id < count:
        raise ValueError(f"--gpu-id is {gpu_id} and this machine has {count} CUDA devices. Give --device cpu instead.")
    return f"cuda:{gpu_id}"
