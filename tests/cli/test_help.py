"""``--help``: its sections, and what it does not import."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import invoke

HEAVY = {"torch", "transformers", "gradio", "fastapi", "av", "numpy", "rich"}
COMMANDS = {
    "Use": ["ask", "chat", "batch", "embed", "demo", "serve"],
    "Measure": ["evaluate", "benchmark", "judge"],
    "Train": ["train", "validate-data", "extract-features", "plot", "merge"],
    "Weights": ["inspect", "convert", "apply-delta"],
    "Miniature": ["miniature"],
}


def sections(text: str) -> dict[str, list[str]]:
    """The first word of each entry, by section."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line.removesuffix(":")] = []
        elif found and line.startswith("  ") and line[2] != " ":
            list(found.values())[-1].append(line.split()[0])
    return found


def test_commands_are_in_named_panels():
    found = sections(invoke("--help").stdout)
    assert {name: found[name] for name in COMMANDS} == COMMANDS
    assert list(found) == [*COMMANDS, "Options"]


def test_options_are_in_named_panels():
    found = sections(invoke("ask", "--help").stdout)
    assert list(found) == ["Arguments", "Frames and audio", "Long videos", "Decoding", "Model", "Options", "Examples"]
    assert found["Options"] == ["--json", "--debug", "-h,"]
    assert found["Model"][:2] == ["--model", "--set"]


def test_defaults_and_ranges_are_in_words():
    text = " ".join(invoke("serve", "--help").stdout.split())
    assert "Port to listen on (default: 8000; 0 to 65535)." in text
    assert "[default" not in text
    text = " ".join(invoke("convert", "--help").stdout.split())
    assert "Maximum size of a weight file, in GB (default: 2.0)." in text


def test_usage_names_the_arguments():
    assert "ask [OPTIONS] [FILE]... QUESTION" in invoke("ask", "--help").stdout
    assert "merge [OPTIONS] --into MODEL_FOLDER RUN... OUT" in invoke("merge", "--help").stdout


@pytest.mark.parametrize("name", [name for names in COMMANDS.values() for name in names])
def test_former_spellings_of_options_are_not_listed(name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert "--options" not in result.stdout
    assert "--model_type" not in result.stdout


def loaded_after(statements: str) -> dict[str, list[str]]:
    """Run code in a process of its own that fills ``found``: a name for each step -> the packages imported so far."""
    code = "import json, sys\nfound = {}\ndef packages(): return sorted({m.partition('.')[0] for m in sys.modules})\n"
    code += f"{statements}\nsys.stderr.write(json.dumps(found))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stderr.splitlines()[-1])


def test_import_of_the_command_line_loads_nothing_heavy():
    found = loaded_after("import video_llama.cli\nfound['cli'] = packages()")
    assert HEAVY.isdisjoint(found["cli"])


def test_help_of_each_command_loads_nothing_heavy():
    names = [[], *([name] for names in COMMANDS.values() for name in names)]
    names += [["miniature", name] for name in ("train", "evaluate", "clip", "clips")]
    found = loaded_after(
        f"from video_llama.cli import app\nfor names in {names}:\n"
        "    try: app([*names, '--help'])\n"
        "    except SystemExit as end: assert not end.code, (names, end.code)\n"
        "    found[' '.join(names)] = packages()"
    )
    assert {name: sorted(HEAVY.intersection(packages)) for name, packages in found.items()} == {
        " ".join(each): [] for each in names
    }
