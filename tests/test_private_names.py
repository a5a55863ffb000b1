"""The private names of transformers and torch that the code uses are those of the table in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

from torch import nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

ROOT = Path(__file__).resolve().parent.parent
OURS = {"_audio_processor", "_decode", "_tokenizer", "_get_num_multimodal_tokens"}
"""Names of our own attributes that transformers uses elsewhere; the last is a method that vLLM calls."""
TORCH = re.compile(r"\b(torch(?:\.cpu|\.ops\.mkldnn)?\._[a-z]\w*)")


def modules() -> list[Path]:
    return sorted((ROOT / "video_llama").rglob("*.py"))


def private_names_of_transformers() -> set[str]:
    classes = (PreTrainedModel, GenerationMixin, ProcessorMixin, PreTrainedTokenizerFast)
    names = {name for kind in classes for name in dir(kind)}
    names |= {*dir(PretrainedConfig()), *dir(GenerationConfig()), "_hf_hook"}
    names -= {*dir(nn.Module()), *dir(object)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")} - OURS


def names_in(tree: ast.AST) -> set[str]:
    """Return attributes, methods, class variables and strings."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            targets = [each.targets[0] for each in node.body if isinstance(each, ast.Assign)]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def listed() -> set[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Private names of transformers and torch")[2]
    return {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def test_every_private_name_is_listed() -> None:
    private = private_names_of_transformers()
    used = {name for path in modules() for name in names_in(ast.parse(path.read_text(encoding="utf-8"))) & private}
    used |= {name for path in modules() for name in TORCH.findall(path.read_text(encoding="utf-8"))}
    assert used - listed() == set()
    assert listed() - used - OURS == set()
