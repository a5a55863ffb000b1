"""The documentation names files, commands, options and make targets that exist. Its examples and its picture are valid.

Links and anchors inside the site are checked by ``mkdocs build --strict`` (make lint).
"""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from video_llama.checkpoints.config import EvalConfig
from video_llama.cli import app
from video_llama.config import parse_config
from video_llama.datasets.own_rows import own_sample
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
HISTORY = {"CHANGELOG.md", "docs/log.md"}  # may name what no longer exists
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]
)
CURRENT = [page for page in PAGES if page not in HISTORY]

FOLDERS = r"(?:video_llama|tests|benchmarks|docs|train_configs|eval_configs|examples|prompts)"
PATH = re.compile(rf"(?<![\w/.-]){FOLDERS}/[\w./*-]*\w")
MODULE = re.compile(r"(?<![\w/.*-])[\w/]+\.py\b")
MODULE_ROOTS = (ROOT, ROOT / "video_llama", ROOT / "video_llama" / "miniature")
EXAMPLES_ONLY = {"video_llama/a/b.py", "tests/a/test_b.py"}
COMMAND = re.compile(r"(?:^|`)(?:\$ )?(?:\S*/)?video-llama ([^`\n]+)", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_block(page: str, language: str) -> str:
    """Return the first code block of a language, without the indentation of a list."""
    [body] = re.findall(rf"^ *```{language}\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE)[:1]
    return "\n".join(line.removeprefix("    ") for line in body.splitlines())


@pytest.mark.parametrize("page", CURRENT)
def test_named_files_exist(page):
    text = text_of(page)
    paths = {path.partition("::")[0] for path in PATH.findall(text)} - EXAMPLES_ONLY
    assert [path for path in sorted(paths) if not list(ROOT.glob(path))] == []
    modules = set(MODULE.findall(text)) - EXAMPLES_ONLY
    missing = [name for name in sorted(modules) if not any((folder / name).exists() for folder in MODULE_ROOTS)]
    assert missing == []


@pytest.mark.parametrize("page", [*CURRENT, "CHANGELOG.md"])
def test_links_to_files(page):
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(page))
    missing = [target for target in targets if "://" not in target and not (folder / target).exists()]
    assert missing == []


def commands(page: str) -> list[list[str]]:
    """Return the arguments of every ``video-llama`` command of a page, in code blocks and in inline code."""
    lines = [line.partition("   #")[0].partition(" # ")[0] for line in COMMAND.findall(text_of(page))]
    return [shlex.split(line.rstrip("\\ ")) for line in lines if "'" not in line or line.count("'") % 2 == 0]


def resolve(arguments: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the first words name, and the other words."""
    command: Any = typer.main.get_command(app)
    while arguments and hasattr(command, "commands") and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"video-llama has no command {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


@pytest.mark.parametrize("page", [page for page in CURRENT if page != "docs/commands.md"])
def test_named_commands_and_options_exist(page):
    for arguments in commands(page):
        command, rest = resolve(arguments)
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert options <= known, f"{page}: video-llama {' '.join(arguments)}"


@pytest.mark.parametrize("page", CURRENT)
def test_named_tests_exist(page):
    for paths, words in re.findall(r"pytest ((?:tests[\w/.]* ?)+)-k \"?([\w ]+)\"?", text_of(page)):
        files = [
            file
            for path in paths.split()
            for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py"))
        ]
        names = " ".join(re.findall(r"def (test_\w+)", "".join(file.read_text(encoding="utf-8") for file in files)))
        assert [word for word in words.split(" or ") if word not in names] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    makefile = text_of("Makefile")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_the_index_lists_every_page():
    pages = {page.removeprefix("docs/") for page in PAGES if re.fullmatch(r"docs/[^/]+\.md", page)} - {"index.md"}
    assert pages == {page for page in pages if f"]({page}" in text_of("docs/index.md")}


def test_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 200


def test_fine_tuning_example_is_valid(tmp_path):
    parse_config(TrainConfig, yaml.safe_load(code_block("docs/training.md", "yaml")), source="docs/training.md")
    rows = [json.loads(line) for line in code_block("docs/training.md", "json").splitlines()]
    samples = [own_sample(row, f"docs/training.md:{index}", tmp_path) for index, row in enumerate(rows)]
    assert len(samples) == 3


def test_legacy_example_is_valid():
    parse_config(EvalConfig, yaml.safe_load(code_block("README_Vicuna.md", "yaml")), source="README_Vicuna.md")


class TestArchitecturePicture:
    @pytest.fixture(scope="class")
    def picture(self) -> str:
        return runpy.run_path(str(ROOT / "docs" / "diagrams" / "architecture.py"))["svg"]()

    def test_is_up_to_date(self, picture):
        assert text_of("docs/images/architecture.svg") == picture, "run: python docs/diagrams/architecture.py"

    def test_shapes_are_those_of_the_model(self, picture):
        config = VideoLlamaConfig()
        vision, audio = config.vision_config, config.imagebind_audio_config
        patches = (vision.image_size // vision.patch_size) ** 2
        queries, width = config.num_query_tokens, config.qformer_config.hidden_size
        for shape in (
            f"[T, 3, {vision.image_size}, {vision.image_size}]",
            f"[T, {patches + 1}, {vision.hidden_size}]",
            f"[T, {queries}, {width}]",
            f"[T x {queries}, {width}]",
            f"[{config.num_video_query_tokens}, {width}]",
            f"[8, 1, {audio.input_size[0]}, {audio.input_size[1]}]",
            f"[8, {audio.embedding_size}]",
            f"[{config.num_audio_query_tokens}, D]",
            f"D = {config.text_config.hidden_size} (7B)",
        ):
            assert shape in picture
