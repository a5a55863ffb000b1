"""``python -m video_llama`` is the ``video-llama`` command."""

from video_llama.cli import main

if __name__ == "__main__":
    main()
