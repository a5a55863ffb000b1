"""Download a model from the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from video_llama.errors import CheckpointError

PREFIX = "hub:"
ALLOW_PATTERNS = ("*.pth", "*.json", "*.jinja", "*.model", "*.safetensors", "*.bin")


def download(name: str) -> Path:
    """Download the model files of ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION`` and return their folder.

    Files are stored in huggingface_hub's cache and are not downloaded twice. The environment variables HF_ENDPOINT,
    HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply. Raises CheckpointError if the download fails.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(ALLOW_PATTERNS), endpoint=endpoint
        )
    except (OSError, ValueError) as error:  # the library's own errors are subclasses of these
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{name} cannot be downloaded ({type(error).__name__}: {reason}). Check the name, the connection and "
            "HF_TOKEN, or give a local folder."
        ) from error
    return Path(folder)
