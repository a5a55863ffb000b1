"""The predicted memory, against what a process of its own took."""

import subprocess
import sys

import pytest

from tests.chat.making import make_folder, tiny_config
from video_llama.chat.placement import resolve_placing
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.memory import predict_memory

NUM_FRAMES = 4
BIG_ENOUGH = dict(
    vision_config=dict(
        hidden_size=512, intermediate_size=2048, num_attention_heads=8, image_size=28, num_hidden_layers=6
    ),
    text_config=dict(
        hidden_size=1024,
        intermediate_size=2816,
        num_attention_heads=8,
        num_hidden_layers=8,
        vocab_size=380,
        max_position_embeddings=400,
    ),
)
"""Some 300 MB in float32: what an interpreter takes here and there is small beside it."""

MEASURE = """
import io, sys
from PIL import Image
from video_llama.chat import load

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

def ask(path, **placing):
    assistant = load(path, device="cpu", **placing)
    picture = io.BytesIO()
    Image.new("RGB", (28, 28), "red").save(picture, "png")
    frames = [picture.getvalue()] * {num_frames}
    answer = assistant.chat(frames).ask("What do you see in it? " * 6, max_new_tokens=2)
    return assistant, answer.record.tokens["prompt"]

placing = {placing}
first = ask(sys.argv[1], **placing)[0]  # the libraries' own memory is taken here
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = status("VmRSS")
assistant, prompt = ask(sys.argv[2], **placing)
print(status("VmHWM") - before, prompt)
"""


def config_of(path):
    return VideoLlamaConfig.from_pretrained(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One that warms a process up, and one whose memory is measured."""
    folder = tmp_path_factory.mktemp("memory")
    text = dict(tiny_config(380).text_config.to_dict(), hidden_size=64, intermediate_size=64)
    small = make_folder(folder / "small", text_config=text, with_audio_branch=False)
    return small, make_folder(folder / "big", **BIG_ENOUGH, with_audio_branch=False)


@pytest.mark.parametrize(
    "placing", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "int4"}], ids=str
)
def test_within_a_tenth_of_what_is_measured(folders, placing):
    script = MEASURE.format(num_frames=NUM_FRAMES, placing=placing)
    command = [sys.executable, "-c", script, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured, num_prompt_tokens = map(int, done.stdout.split())
    wanted = resolve_placing("float32", **placing)
    predicted = predict_memory(config_of(folders[1]), wanted, num_frames=NUM_FRAMES, num_tokens=num_prompt_tokens + 2)
    assert predicted.total == pytest.approx(measured, rel=0.1)
