"""The layout of the package: test files, module sizes, imports inside functions, and names with one meaning.

Each check lists its exceptions with a reason. The modules are parsed, not imported.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "video_llama"
MAX_LINES = 420
"""Lines of a module."""

WITHOUT_TEST_FILE: dict[str, str] = {
    "chat/auto.py": "a forwarding import for users of the old path",
}
"""Modules without a test file of their name -> reason. ``__init__`` and ``__main__`` need none."""

OPTIONAL_PACKAGES = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "fastapi",
    "fsspec",
    "gguf",
    "gradio",
    "httpx",
    "huggingface_hub",
    "matplotlib",
    "peft",
    "pyarrow",
    "pillow_heif",
    "ray",
    "vllm",
    "sacrebleu",
    "tensorboard",
    "uvicorn",
}
"""Packages of the extras. They may be imported inside the function that needs them."""

LAZY_FOLDERS = ("cli/",)
"""Commands import what they need when they run, so that ``--help`` stays fast."""

LAZY_IMPORTS: dict[tuple[str, str], str] = {
    ("miniature/commands.py", "*"): "a command of the command line",
    ("apps/server/__init__.py", "*"): "raises MissingExtraError without FastAPI",
    ("apps/demo/serving.py", "*"): "raises MissingExtraError without Gradio",
    ("apps/batch/engines.py", "video_llama.apps.batch.ray_engine"): "it imports the engines; raises MissingExtraError",
    ("apps/server/ray_serve.py", "video_llama.apps.server.app"): "only replicas import the web framework",
    ("log.py", "*"): "the command line's help does not load rich",
    ("training/metrics.py", "torch.utils.tensorboard"): "TensorBoard is optional",
}
"""(module, imported module or ``*``) -> reason for an import inside a function."""

SAME_NAME: dict[str, str] = {}
"""Public classes and constants that several modules define -> reason."""


def modules() -> dict[str, Path]:
    """Return the package's modules by their path below ``video_llama/``."""
    return {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules().items()}


def test_every_module_has_a_test_file_of_its_name() -> None:
    """``video_llama/a/b.py`` is tested in ``tests/a/test_b.py``."""
    absent = {
        name
        for name, path in modules().items()
        if not path.name.startswith("__") and not (ROOT / "tests" / name).with_name(f"test_{path.name}").exists()
    }
    assert absent - WITHOUT_TEST_FILE.keys() == set()
    assert WITHOUT_TEST_FILE.keys() - absent == set(), "these exceptions are no longer needed"


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def imports_in_functions(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that are imported inside a function."""
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module or "."


def test_imports_are_at_the_top_of_the_module(trees: dict[str, ast.Module]) -> None:
    lazy = {
        (name, imported)
        for name, tree in trees.items()
        for imported in imports_in_functions(tree)
        if not name.startswith(LAZY_FOLDERS) and imported.partition(".")[0] not in OPTIONAL_PACKAGES
    }
    unexplained = {
        f"{name}: {imported}" for name, imported in lazy if not {(name, imported), (name, "*")} & LAZY_IMPORTS.keys()
    }
    assert unexplained == set()
    used = lazy | {(name, "*") for name, _ in lazy}
    assert LAZY_IMPORTS.keys() - used == set(), "these exceptions are no longer needed"


def public_names(tree: ast.Module) -> Iterator[str]:
    """Yield the capitalised public names that a module defines: classes, constants and type aliases."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            is_type_variable = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar"
            names = [target.id for target in targets if isinstance(target, ast.Name) and not is_type_variable]
        else:
            names = []
        yield from (name for name in names if name[0].isupper())


def test_a_public_name_has_one_meaning(trees: dict[str, ast.Module]) -> None:
    """No two modules define a public class, constant or type alias of the same name."""
    defined: dict[str, list[str]] = defaultdict(list)
    for module, tree in trees.items():
        for name in set(public_names(tree)):
            defined[name].append(module)
    several = {name: places for name, places in defined.items() if len(places) > 1}
    unexplained = {name: places for name, places in several.items() if name not in SAME_NAME}
    assert unexplained == {}
    assert SAME_NAME.keys() - several.keys() == set(), "these exceptions are no longer needed"
