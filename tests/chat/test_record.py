"""Records of answers."""

from __future__ import annotations

import json

import pytest

QUESTIONS = ("What do you see?", "What do you hear?", "Describe the shape.")


SHORT = {"max_new_tokens": 12}


def test_record_is_json(chat):
    answer = chat.ask(QUESTIONS[0], top_p=0.9, seed=1, **SHORT)
    read = json.loads(json.dumps(answer.as_dict(), allow_nan=False))
    assert read["answer"] == answer.text
    assert read["weights"]["name"] == "tiny"
    assert len(read["weights"]["files"]["model.safetensors"]["sha256"]) == 64
    assert read["decoding"]["seed"] == 1
    assert read["media"][0]["frames"]["indices"] == [0, 7, 15, 22]
    assert read["media"][0]["sound"]["start_seconds"] == pytest.approx([0, 0.336, 0.672])
    assert read["tokens"]["generated"] <= 12
    assert set(read["seconds"]) == {"decode_media", "encode_media", "prefill", "generate"}
