"""The mistakes a user can make, each with its own kind. Messages say what happened, the values, and the remedy.

The command line prints such an error as one line and exits with 2; a bad *argument* of a Python function is a
plain ``ValueError``, and our own bugs are ``assert``s.
"""


class VideoLlamaError(Exception):
    """Base of everything that this package raises on purpose."""


class MediaError(VideoLlamaError):
    """A video, image or audio file that cannot be used as asked."""


class NoAudioTrackError(MediaError):
    """The file is readable and has no audio stream at all (an unreadable stream is a plain MediaError)."""


class PromptError(VideoLlamaError):
    """A question or history that cannot be put before the model, such as one longer than its context."""


class ConfigError(VideoLlamaError):
    """A YAML file, an override or a flag that is unknown, of the wrong type, or still a placeholder."""


class DataError(VideoLlamaError):
    """An annotation file or a training row that cannot be used."""


class CheckpointError(VideoLlamaError):
    """Weights that are missing, incomplete, of the wrong shape, or not weights at all."""


class MissingExtraError(VideoLlamaError):
    """An optional package is needed for this command; the message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with: pip install 'video-llama[{extra}]'")
