"""Find the files in which Video-LLaMA's weights are published, and the parts that each file contains.

A source is a file or folder with a role. Sources are read in the reference's order, and later ones replace tensors of
earlier ones: ViT, BLIP-2, decoder, projection, ImageBind, video branch, audio branch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.checkpoints.config import EvalConfig, ModelYaml
from video_llama.checkpoints.folder import CONFIG_FILE, MANIFEST_FILE
from video_llama.checkpoints.keys import IGNORED
from video_llama.config import apply_overrides, load_config, parse_config, require_filled
from video_llama.errors import CheckpointError, ConfigError

VIT_FILE = "eva_vit_g.pth"
BLIP2_FILE = "blip2_pretrained_flant5xxl.pth"
IMAGEBIND_FILE = "imagebind_huge.pth"
PUBLISHED = {
    "ckpt": ("VL_*.pth", "finetune-vicuna*.pth", "pretrain-vicuna*.pth"),
    "ckpt_2": ("AL_*.pth", "*audiobranch*.pth"),
    "llama_proj_model": ("pretrained_minigpt4*.pth",),
}
"""Key of an evaluation YAML -> name patterns of the published files."""

YAMLS = (".yaml", ".yml")
URL_PREFIXES = ("http://", "https://")

NUM_VIT_BLOCKS = 39
"""The published ViT has 40 blocks; BLIP-2 was trained on the output of the 39th."""

REMEDIES = {
    "model.frame_encoder.vision_model.post_layernorm.": "put blip2_pretrained_flant5xxl.pth next to the other files, "
    "or set model.q_former_model",
    "model.frame_encoder.vision_model.": "put eva_vit_g.pth next to the other files, or set model.vit_ckpt_path",
    "model.frame_encoder.": "put blip2_pretrained_flant5xxl.pth next to the other files, or set model.q_former_model",
    "model.video_qformer.": "set model.ckpt to the file of the video branch",
    "model.audio_qformer.": "set model.ckpt_2 to the file of the audio branch, or model.equip_audio_branch to false",
    "model.imagebind_": "put imagebind_huge.pth next to the other files, or set model.imagebind_ckpt_path",
    "": "set model.llama_model to the complete folder of the decoder",
}
"""Prefix of our names -> how to provide these tensors; the first match applies."""


@dataclass(frozen=True)
class Role:
    """The tensors of a kind of file. The patterns match complete names of the reference."""

    prefix: str = ""
    """Prefix that the reference adds to the names in the file."""
    taken: str = r".*"
    """Names of the tensors that are read from the file."""
    known_leftovers: str = r"(?!)"
    """Names of the tensors that the file also contains and the model does not need."""

    def name(self, own: str) -> str:
        """Return the reference's complete name of a tensor in the file."""
        return own if own.startswith(self.prefix) else self.prefix + own

    def is_taken(self, name: str) -> bool:
        """Return whether the tensor with this complete name is read from the file."""
        return re.fullmatch(self.taken, name) is not None and not self.is_leftover(name)

    def is_leftover(self, name: str) -> bool:
        """Return whether the tensor with this complete name is known and not needed."""
        return IGNORED.match(name) is not None or re.fullmatch(self.known_leftovers, name) is not None


_QFORMER_TEXT = (
    r"\w*Qformer\.cls\..*|\w*Qformer\.bert\.embeddings\.(word|position)_embeddings\..*"
    r"|\w*Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*"
)
_VIT_REST = (
    r"visual_encoder\.((norm|fc_norm|head|lm_head)\..*|mask_token|rel_pos_bias.*"
    rf"|blocks\.({NUM_VIT_BLOCKS}|[4-9]\d)\..*)"
)
ROLES: dict[str, Role] = {
    "ViT": Role("visual_encoder.", known_leftovers=_VIT_REST),
    "BLIP-2": Role(
        taken=r"Qformer\.bert\..*|query_tokens|ln_vision\..*|visual_encoder\..*",
        known_leftovers=rf"{_QFORMER_TEXT}|{_VIT_REST}|(t5|opt|llm|vision|text)_\w+\..*|itm_head\..*|temp",
    ),
    "decoder": Role("llama_model."),
    "projection": Role(taken=r"llama_proj\..*", known_leftovers=r"(?!llama_proj\.).*"),
    "ImageBind": Role("audio_encoder."),
    "video branch": Role(known_leftovers=_QFORMER_TEXT),
    "audio branch": Role(known_leftovers=_QFORMER_TEXT),
}


@dataclass(frozen=True)
class WeightSource:
    """A file, or a folder of shards, and its role (a key of ROLES)."""

    role: str
    path: Path


def is_published(path: Path) -> bool:
    """Return whether a path is a YAML, or a folder that is not a model folder and so must have the published layout."""
    is_ours = any((path / name).is_file() for name in (CONFIG_FILE, MANIFEST_FILE))
    return path.suffix in YAMLS or (path.is_dir() and not is_ours)


def read_eval_config(path: str | Path, overrides: Sequence[str] = ()) -> EvalConfig:
    """Read a YAML file, or create the configuration of a folder in the published layout.

    ``overrides`` change the YAML ("model.ckpt=..."). Raises ConfigError for invalid keys or values, and CheckpointError
    for a folder whose files are missing or ambiguous.
    """
    path = Path(path)
    if not path.is_dir():
        return load_config(EvalConfig, path, overrides)
    data = {"model": _discover(path)}
    return parse_config(EvalConfig, apply_overrides(data, overrides), source=str(path))


def list_sources(config: ModelYaml, where: str) -> list[WeightSource]:
    """Return the sources that a configuration names, and those found next to them, in the order of loading.

    ``where`` names the configuration in errors. Raises ConfigError for a placeholder or an empty ``llama_model``, and
    CheckpointError for a file that does not exist. Missing parts are reported later, by ``check_assembly``.
    """
    require_filled(config, source=where)
    if not config.model.llama_model:
        raise ConfigError(f"{where}: model.llama_model is empty. Give the decoder's folder.")
    return find_sources(config, where)


def find_sources(config: ModelYaml, where: str) -> list[WeightSource]:
    """Return the sources as :func:`list_sources` does, but allow a configuration without a decoder."""
    model = config.model
    named = {key: _existing(key, getattr(model, key), where) for key in ("llama_model", "llama_proj_model", "ckpt")}
    if model.equip_audio_branch:
        named["ckpt_2"] = _existing("ckpt_2", model.ckpt_2, where)
    folders = [path if path.is_dir() else path.parent for path in named.values() if path is not None]
    folders += [folder.parent for folder in folders]
    found: dict[str, Path | None] = {
        "ViT": _existing("vit_ckpt_path", model.vit_ckpt_path, where) or _find_in(VIT_FILE, folders),
        "BLIP-2": _blip2(model.q_former_model, where) or _find_in(BLIP2_FILE, folders),
        "decoder": named["llama_model"],
        "projection": named["llama_proj_model"],
        "ImageBind": _imagebind(model.imagebind_ckpt_path, where, folders) if model.equip_audio_branch else None,
        "video branch": named["ckpt"],
        "audio branch": named.get("ckpt_2"),
    }
    return [WeightSource(role, found_path) for role, found_path in found.items() if found_path is not None]


def absent_paths(config: ModelYaml) -> dict[str, str]:
    """Return key of ``model`` -> path, for every path that does not exist, including placeholders."""
    keys = ["llama_model", "vit_ckpt_path", "q_former_model", "llama_proj_model", "ckpt"]
    keys += ["imagebind_ckpt_path", "ckpt_2"] if config.model.equip_audio_branch else []
    named = {key: getattr(config.model, key) for key in keys}
    return {
        key: value
        for key, value in named.items()
        if value and not value.startswith(URL_PREFIXES) and not _exists(key, Path(value))
    }


def remedy_for(name: str) -> str:
    """Return how to provide a missing tensor (one of our names)."""
    return next(remedy for start, remedy in REMEDIES.items() if name.startswith(start))


def _discover(folder: Path) -> dict[str, Any]:
    """Return the ``model`` section for a folder that contains all published files."""
    decoders = sorted(config.parent for config in folder.glob("*/config.json"))
    if len(decoders) != 1:
        listed = ", ".join(decoder.name for decoder in decoders) or "none"
        raise CheckpointError(
            f"{folder} is not a model folder. A folder of published files must contain one decoder (a folder with "
            f"config.json), but this one contains {listed}. Name the files in a YAML: see eval_configs/."
        )
    found: dict[str, Any] = {"llama_model": str(decoders[0])}
    for key, patterns in PUBLISHED.items():
        files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
        if key == "ckpt":
            files = [file for file in files if "audiobranch" not in file.name]
        if len(files) > 1:
            raise CheckpointError(
                f"{folder} has several files for model.{key}: {', '.join(file.name for file in files)}. Choose one: "
                f"--set model.{key}={files[0]}"
            )
        if files:
            found[key] = str(files[0])
    has_audio = "ckpt_2" in found
    return {**found, "imagebind_ckpt_path": str(folder) if has_audio else "", "equip_audio_branch": has_audio}


def _existing(key: str, value: str, where: str) -> Path | None:
    if not value:
        return None
    path = Path(value)
    if not path.exists():
        raise CheckpointError(f"{where}: model.{key} is {value}, which does not exist. Correct the path.")
    return path


def _exists(key: str, path: Path) -> bool:
    return (path / IMAGEBIND_FILE).is_file() if key == "imagebind_ckpt_path" and path.is_dir() else path.exists()


def _blip2(value: str, where: str) -> Path | None:
    """Return the path, or None for a URL: the reference downloads from it, but this function downloads nothing."""
    return None if value.startswith(URL_PREFIXES) else _existing("q_former_model", value, where)


def _imagebind(value: str, where: str, folders: Sequence[Path]) -> Path | None:
    path = _existing("imagebind_ckpt_path", value, where)
    if path is None:
        return _find_in(IMAGEBIND_FILE, folders)
    if path.is_dir():
        path = path / IMAGEBIND_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{where}: model.imagebind_ckpt_path: {path} does not exist. Put imagebind_huge.pth there."
        )
    return path


def _find_in(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
