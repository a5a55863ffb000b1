"""Script for test_distributed.py under torchrun: several runs, one after the other, in the same two processes.

Starting two processes for each run would take longer than the runs.
"""

import json
import logging
import sys
from pathlib import Path

import torch

from video_llama import log
from video_llama.training.run import train_from_config


def main(jobs_path: str) -> None:
    log.configure(logging.INFO)
    torch.distributed.init_process_group("gloo")
    for path, overrides, resume, max_steps in json.loads(Path(jobs_path).read_text()):
        train_from_config(path, overrides, resume=resume, max_steps=max_steps)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
