"""Reading in other processes, from threads: what a file does to its process is told, and the next one is read."""

import os
import signal
import threading
import time
from contextlib import closing

import pytest

from video_llama.apps.media.limits import MediaLimits
from video_llama.apps.media.reader import MediaReader
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaOptions

OPTIONS = MediaOptions()


def stopped_reader(assistant, **limits) -> tuple[MediaReader, int]:
    """A reader with one process, which does nothing any more; and the process."""
    reader = MediaReader(assistant.engine, MediaLimits(media_workers=1, **limits))
    [pid] = reader.pids
    os.kill(pid, signal.SIGSTOP)
    return reader, pid


def wait_until_taken(reader) -> None:
    """Wait until the process has been given a file."""
    while reader._pool._idle:
        time.sleep(0.01)


def test_reads_under_the_files_name(assistant, clips):
    with closing(MediaReader(assistant.engine, MediaLimits())) as reader:
        read = reader.read(clips["video"], MediaOptions(no_audio=True))
        with pytest.raises(MediaError, match=r"^none\.mp4 cannot be read \(No such file or directory\)"):
            reader.read(clips["video"].with_name("none.mp4"), OPTIONS)
        pids = reader.pids
    assert (read.source, read.kind, read.why_no_sound) == (clips["video"].name, "video", "not asked for")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_process_that_is_killed(assistant, clips):
    reader, pid = stopped_reader(assistant)

    def kill():
        wait_until_taken(reader)
        os.kill(pid, signal.SIGKILL)

    with closing(reader):
        threading.Thread(target=kill).start()
        with pytest.raises(MediaError, match=r"silent\.mp4 ended the process that decoded it"):
            reader.read(clips["silent"], OPTIONS)
        assert reader.read(clips["silent"], OPTIONS).frames is not None


def test_end_while_a_file_is_read(assistant, clips):
    reader, _ = stopped_reader(assistant)
    failures = []

    def read():
        try:
            reader.read(clips["silent"], OPTIONS)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until_taken(reader)
    reader.close()
    thread.join(timeout=60)
    assert len(failures) == 1
