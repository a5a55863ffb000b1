"""The documented training command: torchrun --nproc_per_node=N train.py --cfg-path CONFIG [--options a.b=c ...]."""

import argparse
import logging
import sys

from video_llama import log
from video_llama.errors import VideoLlamaError
from video_llama.training.run import train_from_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg-path", required=True, help="the training YAML")
    parser.add_argument("--options", nargs="+", default=[], help="overrides: section.key=value ...")
    parser.add_argument("--resume", help='a checkpoint to go on from, or "auto"')
    parser.add_argument("--max-steps", type=int, help="stop after this many steps")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    arguments = parser.parse_args()
    log.configure(logging.INFO)
    try:
        train_from_config(arguments.cfg_path, arguments.options, resume=arguments.resume, max_steps=arguments.max_steps)
    except VideoLlamaError as error:
        if arguments.debug:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
