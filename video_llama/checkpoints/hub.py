"""A repository of Hugging Face's hub in, a folder on this disk out."""

from __future__ import annotations

import os
from pathlib import Path

from video_llama.errors import CheckpointError

PREFIX = "hub:"
WANTED = ("*.pth", "*.json", "*.jinja", "*.model", "*.safetensors", "*.bin")


def download(name: str) -> Path:
    """Download what a model needs of ``hub:OWNER/NAME``, or ``hub:OWNER/NAME@REVISION``, and return its folder.

    Files are kept in huggingface_hub's cache, and those that are there are not fetched again. HF_ENDPOINT, HF_HOME,
    HF_TOKEN and HF_HUB_OFFLINE count as everywhere. Raises CheckpointError where the repository cannot be had.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(WANTED), endpoint=endpoint
        )
    except (OSError, ValueError) as error:  # the library's own errors are kinds of these
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{name} cannot be downloaded ({type(error).__name__}: {reason}). Check the name, the connection and "
            "HF_TOKEN, or give a folder that is on this machine."
        ) from error
    return Path(folder)
