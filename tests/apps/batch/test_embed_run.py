"""An embedding run: continued after an interruption, the same with Ray, errors."""

import numpy as np
import pytest

from tests.apps.batch.conftest import default_media, write_rows
from video_llama.apps.batch.embed_run import EmbedRunConfig
from video_llama.apps.batch.engines import EngineOptions
from video_llama.apps.batch.inputs import BatchInput
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.run import run_batch
from video_llama.errors import DataError


@pytest.fixture
def config(clips, tmp_path):
    names = [clips[name].name for name in clips] + ["absent.mp4"]
    table = write_rows(clips["video"].parent / "embed.jsonl", [{"id": name, "media": name} for name in names])
    data = BatchInput(str(table), needs_question=False)
    return EmbedRunConfig(data, tmp_path / "v.npz", default_media, batch_size=2)


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def test_a_run_is_continued(config, load, clips):
    summary = run_batch(config, load)
    assert (summary["rows"], summary["answers"], summary["errors"]) == (5, 4, 1)
    whole = arrays_of(config.output)
    assert whole["ids"].tolist() == [clips[name].name for name in clips] + ["absent.mp4"]
    assert len(whole["clip_vectors"]) == 3
    lines = config.output.with_name("v.npz.jsonl")
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:3]) + b"half")
    config.output.unlink()
    assert run_batch(config, load)["new_rows"] == 2
    again = arrays_of(config.output)
    assert again.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_ray(config, load, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[scale]'")
    run_batch(config, load)
    limits = BatchLimits(media_workers=1, object_store_bytes=100_000_000)
    output = tmp_path / "ray.npz"
    with_ray = EmbedRunConfig(
        config.data, output, default_media, batch_size=2, limits=limits, engine=EngineOptions("ray")
    )
    run_batch(with_ray, load)
    first, second = arrays_of(config.output), arrays_of(output)
    places = {row_id: number for number, row_id in enumerate(second["ids"])}
    for number, row_id in enumerate(first["ids"]):
        for name in ("clip", "frame", "audio"):
            found = [
                each[f"{name}_vectors"][each[f"{name}_rows"] == place]
                for each, place in ((first, number), (second, places[row_id]))
            ]
            np.testing.assert_array_equal(*found)


def test_errors(config, load, clips, tmp_path):
    table = write_rows(tmp_path / "two.jsonl", [{"media": ["a.mp4", "b.mp4"]}])
    data = BatchInput(str(table), needs_question=False)
    with pytest.raises(DataError, match=r"row 1 has 2 media\. Give one per row"):
        run_batch(EmbedRunConfig(data, tmp_path / "v.npz", default_media), load)
    with pytest.raises(ValueError, match=r"ends in \.parquet or \.npz"):
        run_batch(EmbedRunConfig(data, tmp_path / "v.jsonl", default_media), load)
