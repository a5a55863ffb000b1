"""A file that breaks the decoder breaks one process and one request."""

import os
import signal
import threading

import openai
import pytest

from tests.apps.server.conftest import ask, data_url, posted, running, until
from tests.factories.talkative import grey_bomb

QUESTION = "What do you see?"
PATH = "/v1/chat/completions"


class TestWhileAsked:
    """A server whose one media process is stopped, so that a request waits in it."""

    @pytest.fixture(params=[120.0])
    def stopped(self, request, assistant, urls):
        with running(assistant, media_workers=1, media_worker_seconds=request.param) as server:
            self.ask(server, urls["image"])
            [pid] = server.service.media_pids
            os.kill(pid, signal.SIGSTOP)
            yield server, pid

    @staticmethod
    def wait_until_taken(server):
        """Wait until the process has been given a medium."""
        until(lambda: not server.service._pool._idle)

    @staticmethod
    def ask(server, url):
        return server.client().chat.completions.create(model="tiny", messages=ask(QUESTION, video=url), max_tokens=2)

    def test_killed_process_is_a_clean_error_and_the_next_request_succeeds(self, stopped, urls):
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
    def test_process_that_overruns_is_killed(self, stopped, clips, urls):
        server, pid = stopped
        with pytest.raises(openai.BadRequestError, match="took longer than 4 s to decode"):
            self.ask(server, urls["video"])
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        # An image that was never sent takes hundredths of a second, so that a busy machine does not overrun as well.
        assert self.ask(server, data_url(clips["image"].read_bytes() + b"more", "image/png")).choices

    def test_client_that_leaves_takes_its_process_along(self, stopped, urls):
        server, pid = stopped
        with posted(server, PATH, {"model": "tiny", "messages": ask(QUESTION, video=urls["video"])}):
            self.wait_until_taken(server)
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        until(lambda: server.service.num_taken == 0)

    def test_two_who_ask_about_one_file_share_its_reading(self, stopped, urls):
        server, pid = stopped
        threads = [threading.Thread(target=self.ask, args=(server, urls["silent"])) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: server.metric("video_llama_media_total", found="shared") == 2)
        os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert server.metric("video_llama_media_total", found="encoded") == 2  # this one, and the first image
        self.ask(server, urls["silent"])
        assert server.metric("video_llama_media_total", found="kept") == 1


def test_large_image_is_refused_by_its_header(client):
    with pytest.raises(openai.BadRequestError, match="is 8000 x 8000 pixels"):
        client.chat.completions.create(
            model="tiny", messages=ask(QUESTION, image=data_url(grey_bomb(8000), "image/png")), max_tokens=1
        )
