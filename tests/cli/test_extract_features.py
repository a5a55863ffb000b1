"""``video-llama extract-features``: prints the number of samples and the folder."""

from tests.cli.conftest import invoke


def test_samples_and_folder(training_yaml):
    result = invoke("extract-features", training_yaml)
    assert result.exit_code == 0, result.output
    samples, folder = result.stdout.splitlines()
    assert samples.startswith("webvid_instruct: ")
    assert samples.endswith(" samples")
    assert folder.startswith(f"{training_yaml.parent / 'features'}")


def test_run_without_cached_features(training_yaml):
    result = invoke("extract-features", training_yaml, "--set", "run.cache_features=false")
    assert result.exit_code == 2
    assert "cache_features" in result.stderr
