"""The predicted memory, compared with that of a process."""

import gzip
import json
import os
import subprocess
import sys
from math import prod

import pytest
import torch

from tests.factories.models import make_folder, tiny_config
from video_llama.models.allocations import AllocationTracker
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.ggml import has_ggml
from video_llama.models.memory import predict_memory, published_config
from video_llama.models.placement import LoadOptions, empty_model, resolve_placing
from video_llama.models.simulation import fake_tensors, fill_with_fakes

needs_ggml = pytest.mark.skipif(not has_ggml(), reason="needs xllamacpp")

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
"""About 300 MB in float32, so that variations of the interpreter are small in comparison."""

HEAP = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
"""Makes glibc return every large block when it is freed, as it always does for those over 32 MB. Otherwise it keeps
smaller blocks and cannot always reuse them: about 20 MB of a small model's 200, varying from run to run."""

MEASURE = """
import io, sys
from PIL import Image
from video_llama.chat.loading import load

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
first = ask(sys.argv[1], **placing)[0]  # allocates the memory of the libraries
open("/proc/self/clear_refs", "w").write("5")  # resets the peak
before = status("VmRSS")
assistant, prompt = ask(sys.argv[2], **placing)
print(status("VmHWM") - before, prompt)
"""


def config_of(path):
    return VideoLlamaConfig.from_pretrained(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model, which loads the libraries, and the model whose memory is measured."""
    folder = tmp_path_factory.mktemp("memory")
    text = dict(tiny_config(380).text_config.to_dict(), hidden_size=64, intermediate_size=64)
    small = make_folder(folder / "small", text_config=text, with_audio_branch=False)
    return small, make_folder(folder / "big", **BIG_ENOUGH, with_audio_branch=False)


@pytest.mark.parametrize(
    "placing",
    [
        {"dtype": "bfloat16"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"quantization": "int8"}, marks=pytest.mark.slow),
        pytest.param({"quantization": "int4"}, marks=pytest.mark.slow),
        pytest.param({"quantization": "q4_k"}, marks=[pytest.mark.slow, needs_ggml]),
    ],
    ids=str,
)
def test_within_a_tenth_of_the_measured_memory(folders, placing):
    script = MEASURE.format(num_frames=NUM_FRAMES, placing=placing)
    command = [sys.executable, "-c", script, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | HEAP)
    assert done.returncode == 0, done.stderr
    measured, num_prompt_tokens = map(int, done.stdout.split())
    resolved = resolve_placing("float32", LoadOptions(**placing))
    predicted = predict_memory(config_of(folders[1]), resolved, num_frames=NUM_FRAMES, num_tokens=num_prompt_tokens + 2)
    assert predicted.total == pytest.approx(measured, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["7b", "13b"])
def test_equals_the_allocations_of_a_simulated_answer(size):
    """The formulas against every allocation of encoding a video with sound and reading a prompt, without data."""
    config, placing = published_config(size), resolve_placing("bfloat16", LoadOptions())
    model, device = empty_model(config, placing), torch.device("cpu")
    with fake_tensors(), AllocationTracker("cpu") as tracker, torch.no_grad():
        fill_with_fakes(model, device)
        tracker.mark([*model.parameters(), *model.buffers()], "weights")
        model.model.encode_video(torch.zeros(1, 8, 3, 224, 224))
        model.model.encode_audio(torch.zeros(1, 8, 1, 128, 204))
        embeds = torch.zeros(1, 500, config.text_config.hidden_size, dtype=torch.bfloat16)
        output = model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
    assert output.past_key_values.get_seq_length() == 500
    kinds = tracker.peak()
    predicted = predict_memory(config, placing, num_frames=8, num_clips=8, num_tokens=500)
    assert sum(predicted.weights.values()) == pytest.approx(kinds["weights"], rel=0.001)
    assert predicted.total == pytest.approx(sum(kinds.values()), rel=0.01)


@pytest.mark.parametrize(("size", "name"), [("7b", "llama_7b"), ("13b", "llama_13b")])
def test_weights_of_the_published_sizes(repository, size, name):
    """The size of the decoder follows from the reference's list of names and shapes."""
    listed = json.loads(gzip.decompress((repository / "tests" / "golden" / "full_keys.json.gz").read_bytes()))
    keys = listed["models"][name]["keys"]
    decoder = {key: shape for key, (shape, *_) in keys.items() if key.startswith("llama_model.")}
    num_parameters = sum(prod(shape) for key, shape in decoder.items() if not key.endswith("inv_freq"))
    predicted = predict_memory(published_config(size), resolve_placing("bfloat16", LoadOptions()), num_frames=8)
    rotary = 2 * 64 * 4  # the frequencies, twice, in float32
    assert predicted.weights["decoder"] == 2 * num_parameters + rotary


class TestPrediction:
    def predict(self, size="7b", num_frames=8, **more):
        options = {key: more.pop(key) for key in ("dtype", "quantization") if key in more}
        placing = resolve_placing("bfloat16", LoadOptions(**options))
        return predict_memory(published_config(size), placing, num_frames=num_frames, **more)

    def test_targets_of_7b_with_audio(self):
        """The project's targets: 13 GB with int8, 8 GB with int4, for 1000 tokens of prompt and answer."""
        request = {"num_clips": 8, "num_tokens": 1000}
        assert self.predict(quantization="int8", **request).total < 13e9
        assert self.predict(quantization="int4", **request).total < 8e9

    def test_without_clips_the_audio_branch_is_not_counted(self):
        assert "audio" not in self.predict().weights
        assert self.predict(num_clips=8).weights["audio"] == pytest.approx(2 * 86e6, rel=0.05)

    def test_memory_grows_with_the_input_and_the_model(self):
        totals = [
            self.predict(num_tokens=100).total,
            self.predict(num_tokens=200).total,
            self.predict(num_tokens=200, num_frames=32).total,
            self.predict(num_tokens=200, num_frames=32, num_clips=8).total,
            self.predict("13b", num_tokens=200, num_frames=32, num_clips=8).total,
            self.predict("13b", num_tokens=200, num_frames=32, num_clips=8, dtype="float32").total,
        ]
        assert totals == sorted(set(totals))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_frames": 33}, r"num_frames is 33\. This model supports 1 to 32"),
            ({"num_frames": -3}, "num_frames is -3"),
            ({"num_tokens": 0}, r"num_tokens is 0\. This model supports 1 to 4096"),
            ({"num_tokens": 4097}, "num_tokens is 4097"),
        ],
    )
    def test_numbers_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            self.predict(**changes)

    def test_unknown_size(self):
        with pytest.raises(ValueError, match=r"size is '70b'\. Choose 7b or 13b"):
            published_config("70b")
