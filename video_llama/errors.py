"""Exceptions for user errors. A message states what happened, the values involved, and the remedy.

The command line prints such an error as one line and exits with status 2. Invalid arguments of Python functions raise
``ValueError``; internal errors are ``assert`` statements.
"""


class VideoLlamaError(Exception):
    """Base class of the package's exceptions."""


class MediaError(VideoLlamaError):
    """A video, image or audio file that cannot be read or used as requested.

    ``is_temporary``: the same file may be readable when it is tried again, as after a failed download.
    """

    def __init__(self, message: str, *, is_temporary: bool = False) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class NoAudioTrackError(MediaError):
    """The file is readable but has no audio stream. An unreadable audio stream raises MediaError."""


class PromptError(VideoLlamaError):
    """A question or history that the model cannot process, for example one longer than its context."""


class ContextLengthError(PromptError):
    """A question that does not fit into the context of the model."""


class ConfigError(VideoLlamaError):
    """A YAML file, override or flag that is unknown, has the wrong type, or is still a placeholder."""


class DataError(VideoLlamaError):
    """An annotation file or a training row that cannot be used."""


class CheckpointError(VideoLlamaError):
    """Weights that are missing, incomplete, of the wrong shape, or not readable as weights."""


class JudgeError(VideoLlamaError):
    """A server that judges answers and cannot be used: no connection, an error, or another model than before."""


class WorkerError(VideoLlamaError):
    """A worker process that ended unexpectedly."""


class MissingExtraError(VideoLlamaError):
    """A required optional package is not installed. The message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with: pip install 'video-llama[{extra}]'")
