"""Media are decoded and encoded once, in processes whose failure affects one request only."""

import os
import signal
import threading

import openai
import pytest

from tests.apps.server.conftest import CHAT_PATH, ask, data_url, posted, running, until
from tests.factories.media import grey_bomb

QUESTION = "What do you see?"


class TestStoppedProcess:
    """A server whose only media process is paused, so that requests wait for it."""

    @pytest.fixture(params=[120.0])
    def stopped(self, request, assistant, urls):
        with running(assistant, media_workers=1, media_worker_seconds=request.param) as server:
            self.ask(server, urls["image"])
            [pid] = server.service.media_pids
            os.kill(pid, signal.SIGSTOP)
            yield server, pid

    @staticmethod
    def wait_until_taken(server):
        """Wait until a medium has been sent to the process."""
        until(lambda: not server.service._pool._idle)

    @staticmethod
    def ask(server, url):
        return server.client().chat.completions.create(model="tiny", messages=ask(QUESTION, video=url), max_tokens=2)

    def test_killed_process_gives_an_error_and_the_next_request_succeeds(self, stopped, urls):
        server, pid = stopped

        def kill():
            self.wait_until_taken(server)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        with pytest.raises(openai.BadRequestError, match="ended the process that decoded it") as caught:
            self.ask(server, urls["video"])
        assert caught.value.code == "bad_media"
        assert self.ask(server, urls["video"]).choices
        assert server.service.media_pids != [pid]
        assert server.metric("video_llama_media_worker_deaths_total") == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("stopped", [4.0], indirect=True)
    def test_process_is_killed_after_its_time_limit(self, stopped, clips, urls):
        server, pid = stopped
        with pytest.raises(openai.BadRequestError, match="took longer than 4 s to decode"):
            self.ask(server, urls["video"])
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        # A new image is decoded within hundredths of a second, which is within the limit even on a busy machine.
        assert self.ask(server, data_url(clips["image"].read_bytes() + b"more", "image/png")).choices

    def test_process_is_killed_when_its_client_disconnects(self, stopped, urls):
        server, pid = stopped
        with posted(server, CHAT_PATH, {"model": "tiny", "messages": ask(QUESTION, video=urls["video"])}):
            self.wait_until_taken(server)
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        until(lambda: server.service.num_taken == 0)

    def test_concurrent_requests_about_one_file_share_its_encoding(self, stopped, urls):
        server, pid = stopped
        threads = [threading.Thread(target=self.ask, args=(server, urls["silent"])) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: server.metric("video_llama_media_total", found="shared") == 2)
        os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert server.metric("video_llama_media_total", found="encoded") == 2  # this video and the first image
        self.ask(server, urls["silent"])
        assert server.metric("video_llama_media_total", found="kept") == 1


@pytest.mark.parametrize(("entries", "num_encoded", "num_kept"), [(0, 4, 0), (1, 3, 1), (2, 2, 2)])
def test_least_recently_used_media_are_removed(assistant, urls, entries, num_encoded, num_kept):
    with running(assistant, media_cache_entries=entries) as server:
        for name in ("image", "silent", "silent", "image"):
            TestStoppedProcess.ask(server, urls[name])
        assert server.metric("video_llama_media_total", found="encoded") == num_encoded
        assert server.metric("video_llama_media_total", found="kept") == num_kept


def test_large_image_is_refused_from_its_header(client):
    with pytest.raises(openai.BadRequestError, match="is 8000 x 8000 pixels"):
        client.chat.completions.create(
            model="tiny", messages=ask(QUESTION, image=data_url(grey_bomb(8000), "image/png")), max_tokens=1
        )
