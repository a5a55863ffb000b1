"""Metrics in the Prometheus text format."""

import httpx

from tests.apps.server.conftest import CHAT_PATH
from video_llama.apps.server.metrics import Metrics


def test_text_format():
    metrics = Metrics()
    metrics.requests.labels("/health", "200").inc()
    metrics.first_token_seconds.observe(0.3)
    text = metrics.text().decode()
    assert 'video_llama_requests_total{path="/health",status="200"} 1.0' in text
    assert 'video_llama_first_token_seconds_bucket{le="0.25"} 0.0' in text
    assert 'video_llama_first_token_seconds_bucket{le="0.5"} 1.0' in text
    assert text.count("# HELP ") == text.count("# TYPE ") > 8


def test_each_server_has_its_own_counters():
    first, second = Metrics(), Metrics()
    first.worker_deaths.inc()
    assert "video_llama_media_worker_deaths_total 1.0" in first.text().decode()
    assert "video_llama_media_worker_deaths_total 0.0" in second.text().decode()


def test_requests_are_counted(server, client):
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "What?"}], max_tokens=2)
    text = httpx.get(f"{server.url}/metrics").text
    assert f'video_llama_requests_total{{path="{CHAT_PATH}",status="200"}}' in text
    assert 'video_llama_tokens_total{kind="generated"}' in text
