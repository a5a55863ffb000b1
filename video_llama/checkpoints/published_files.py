"""Which files give which parts: the layouts in which Video-LLaMA's weights are published, found and put in order.

A source is a file or folder with a role. Sources are read in their order and later ones win, as in the reference:
ViT, BLIP-2, decoder, projection, ImageBind, video branch, audio branch.
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
"""Keys of an evaluation YAML -> how the published files of their kind are called."""

YAMLS = (".yaml", ".yml")
ADDRESSES = ("http://", "https://")

NUM_VIT_BLOCKS = 39
"""The published ViT has 40 blocks, and BLIP-2 was trained on the output of the 39th."""


REMEDIES = {
    "model.frame_encoder.vision_model.post_layernorm.": "put blip2_pretrained_flant5xxl.pth beside, or set "
    "model.q_former_model",
    "model.frame_encoder.vision_model.": "put eva_vit_g.pth beside, or set model.vit_ckpt_path",
    "model.frame_encoder.": "put blip2_pretrained_flant5xxl.pth beside, or set model.q_former_model",
    "model.video_qformer.": "set model.ckpt to the video branch's file",
    "model.audio_qformer.": "set model.ckpt_2 to the audio branch's file, or model.equip_audio_branch to false",
    "model.imagebind_": "put imagebind_huge.pth beside, or set model.imagebind_ckpt_path",
    "": "set model.llama_model to the decoder's whole folder",
}
"""Beginnings of our names -> how to get such tensors; the first that fits counts."""


@dataclass(frozen=True)
class Role:
    """What a kind of file gives. The patterns are of the reference's names, whole."""

    prefix: str = ""
    """What the reference puts before the file's own names."""
    taken: str = r".*"
    """What it gives."""
    known_leftovers: str = r"(?!)"
    """What it also holds and nobody needs: counted, no error."""

    def name(self, own: str) -> str:
        """The reference's name of a tensor of the file."""
        return own if own.startswith(self.prefix) else self.prefix + own

    def is_taken(self, name: str) -> bool:
        return re.fullmatch(self.taken, name) is not None and not self.is_leftover(name)

    def is_leftover(self, name: str) -> bool:
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
    """A file, or a folder of shards, and what it is for (a key of ROLES)."""

    role: str
    path: Path


def is_published(path: Path) -> bool:
    """Whether a path is an evaluation YAML or may be a folder in the published layout; a model folder is neither."""
    is_ours = any((path / name).is_file() for name in (CONFIG_FILE, MANIFEST_FILE))
    return path.suffix in YAMLS or (path.is_dir() and not is_ours)


def read_eval_config(path: str | Path, overrides: Sequence[str] = ()) -> EvalConfig:
    """The settings for a YAML file, or for a folder in the published layout. Raises ConfigError and CheckpointError."""
    path = Path(path)
    if not path.is_dir():
        return load_config(EvalConfig, path, overrides)
    data = {"model": _discover(path)}
    return parse_config(EvalConfig, apply_overrides(data, overrides), source=str(path))


def list_sources(config: ModelYaml, where: str) -> list[WeightSource]:
    """The sources that a configuration names, and those that lie beside them, in the order of loading.

    ``where`` names the configuration in errors. Raises ConfigError for a placeholder and CheckpointError for a file
    that is named and not there. A part that no file gives is told later, by name.
    """
    require_filled(config, source=where)
    if not config.model.llama_model:
        raise ConfigError(f"{where}: model.llama_model is empty. Give the decoder's folder.")
    return find_sources(config, where)


def find_sources(config: ModelYaml, where: str) -> list[WeightSource]:
    """As ``list_sources``, also of a configuration that leaves the decoder out."""
    model = config.model
    named = {key: _existing(key, getattr(model, key), where) for key in ("llama_model", "llama_proj_model", "ckpt")}
    if model.equip_audio_branch:
        named["ckpt_2"] = _existing("ckpt_2", model.ckpt_2, where)
    beside = [path if path.is_dir() else path.parent for path in named.values() if path is not None]
    beside += [folder.parent for folder in beside]
    found: dict[str, Path | None] = {
        "ViT": _existing("vit_ckpt_path", model.vit_ckpt_path, where) or _beside(VIT_FILE, beside),
        "BLIP-2": _blip2(model.q_former_model, where) or _beside(BLIP2_FILE, beside),
        "decoder": named["llama_model"],
        "projection": named["llama_proj_model"],
        "ImageBind": _imagebind(model.imagebind_ckpt_path, where, beside) if model.equip_audio_branch else None,
        "video branch": named["ckpt"],
        "audio branch": named.get("ckpt_2"),
    }
    return [WeightSource(role, found_path) for role, found_path in found.items() if found_path is not None]


def absent_paths(config: ModelYaml) -> dict[str, str]:
    """Key of ``model`` -> value of every path that is named and not there, placeholders among them."""
    keys = ["llama_model", "vit_ckpt_path", "q_former_model", "llama_proj_model", "ckpt"]
    keys += ["imagebind_ckpt_path", "ckpt_2"] if config.model.equip_audio_branch else []
    named = {key: getattr(config.model, key) for key in keys}
    return {
        key: value
        for key, value in named.items()
        if value and not value.startswith(ADDRESSES) and not _is_there(key, Path(value))
    }


def remedy_for(name: str) -> str:
    """How to get a tensor of ours that no file gives."""
    return next(remedy for start, remedy in REMEDIES.items() if name.startswith(start))


def _discover(folder: Path) -> dict[str, Any]:
    """The ``model`` section for a folder in which the published files stand side by side."""
    decoders = sorted(config.parent for config in folder.glob("*/config.json"))
    if len(decoders) != 1:
        listed = ", ".join(decoder.name for decoder in decoders) or "none"
        raise CheckpointError(
            f"{folder} is no model folder and should have one folder with a decoder (its config.json) in it; it has "
            f"{listed}. Name the files in a YAML: see eval_configs/."
        )
    found: dict[str, Any] = {"llama_model": str(decoders[0])}
    for key, patterns in PUBLISHED.items():
        files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
        if key == "ckpt":
            files = [file for file in files if "audiobranch" not in file.name]
        if len(files) > 1:
            raise CheckpointError(
                f"{folder} has {', '.join(file.name for file in files)}. Say which: --set model.{key}={files[0]}"
            )
        if files:
            found[key] = str(files[0])
    has_sound = "ckpt_2" in found
    return {**found, "imagebind_ckpt_path": str(folder) if has_sound else "", "equip_audio_branch": has_sound}


def _existing(key: str, value: str, where: str) -> Path | None:
    if not value:
        return None
    path = Path(value)
    if not path.exists():
        raise CheckpointError(f"{where}: model.{key} is {value}, which does not exist. Correct the path.")
    return path


def _is_there(key: str, path: Path) -> bool:
    return (path / IMAGEBIND_FILE).is_file() if key == "imagebind_ckpt_path" and path.is_dir() else path.exists()


def _blip2(value: str, where: str) -> Path | None:
    """The reference's default is an address, from which it downloads; nothing is downloaded here unasked."""
    return None if value.startswith(ADDRESSES) else _existing("q_former_model", value, where)


def _imagebind(value: str, where: str, beside: Sequence[Path]) -> Path | None:
    path = _existing("imagebind_ckpt_path", value, where)
    if path is None:
        return _beside(IMAGEBIND_FILE, beside)
    if path.is_dir():
        path = path / IMAGEBIND_FILE
    if not path.is_file():
        raise CheckpointError(f"{where}: model.imagebind_ckpt_path: {path} does not exist. Put ImageBind-Huge there.")
    return path


def _beside(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
