"""Export a model folder to the reference's files: the exact inverse of ``convert``.

The files have the published layout, whichever files the parts were read from: one file each for ViT, BLIP-2 and
ImageBind, a folder for the decoder, ``VL_...pth`` and ``AL_...pth`` for the branches. Tensors that ``convert`` does not
keep (the text side of the Q-Formers, ImageBind's other modalities) are not restored; the reference does not read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from video_llama.checkpoints.completeness import check_tensors, expected_shapes, without_tied_output
from video_llama.checkpoints.files import SAFETENSORS, StoredTensor, opened, read_values, scan
from video_llama.checkpoints.folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    Manifest,
    read_config,
    read_manifest,
    read_settings,
)
from video_llama.checkpoints.keys import ADAPTER, reference_names, revert_state_dict
from video_llama.checkpoints.place_rows import PLACE_TABLES
from video_llama.checkpoints.published_files import BLIP2_FILE, IMAGEBIND_FILE, PUBLISHED, ROLES, VIT_FILE
from video_llama.checkpoints.safetensors_writer import TensorSpec, write_shards
from video_llama.checkpoints.tokenizer_files import write_decoder_tokenizer_files
from video_llama.conversation import CHAT_TEMPLATE, TOKENIZER_MODEL, Tokenizer
from video_llama.errors import CheckpointError
from video_llama.files import new_file, new_folder
from video_llama.log import progress
from video_llama.models.configuration import VideoLlamaConfig

ROLE_OF = {
    "model.frame_encoder.vision_model.post_layernorm.": "BLIP-2",
    "model.frame_encoder.vision_model.": "ViT",
    "model.frame_encoder.": "BLIP-2",
    "model.video_qformer.": "video branch",
    "model.audio_qformer.": "audio branch",
    "model.imagebind_": "ImageBind",
    "": "decoder",
}
"""Prefix of our names -> role of the file that contains these tensors; the first match applies."""

FILES = {"ViT": VIT_FILE, "BLIP-2": BLIP2_FILE, "ImageBind": IMAGEBIND_FILE}
BRANCH_FILES = {"video branch": ("ckpt", "VL_{}.pth"), "audio branch": ("ckpt_2", "AL_{}.pth")}
"""Role -> key in PUBLISHED, and the name of the file if the manifest records none."""
DECODER_FOLDERS = {"llama2": "llama-2-chat-hf", "default": "vicuna-v0"}
WRAPPED = ("BLIP-2", "video branch", "audio branch")
"""Roles of the files that contain their state dict under the key "model"."""


def export_to_reference(source: str | Path, target: str | Path) -> Path:
    """Write the reference's files for ``source``, and return ``target``.

    Args:
        source: a model folder, or trained parts (a .safetensors file, or a training checkpoint's folder).
        target: for a model folder, a folder in the published layout; for trained parts, a .pth file that the reference
            loads as ``ckpt``.

    Raises:
        CheckpointError: any other source, a source with adapters, or a target that exists.
    """
    source, target = Path(source), Path(target)
    if (source / CONFIG_FILE).is_file() and (source / MANIFEST_FILE).is_file():
        _write_folder(source, target)
    else:
        _write_trained_parts(source, target)
    return target


def _write_folder(source: Path, target: Path) -> None:
    config, manifest = read_config(source), read_manifest(source)
    if config.prompt_template == CHAT_TEMPLATE:
        raise CheckpointError(f"{source} has a decoder with its own chat template, which the reference cannot use.")
    expected = expected_shapes(config)
    stored = without_tied_output(scan(source, safetensors_only=True), expected, str(source))
    check_tensors(expected, stored, str(source))
    groups: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        role = next(role for start, role in ROLE_OF.items() if name.startswith(start))
        groups.setdefault(role, {})[name] = tensor
    if target.exists():
        raise CheckpointError(f"{target} exists. Choose another name, or remove it first.")
    with new_folder(target) as unfinished:
        decoder = groups.pop("decoder")
        for role, tensors in progress(groups.items(), "writing files", len(groups)):
            _save(_in_reference_names(tensors, role), role in WRAPPED, unfinished / _file_name(role, manifest))
        folder = unfinished / _recorded(manifest, "decoder", DECODER_FOLDERS.get(config.prompt_template, "decoder"))
        folder.mkdir()
        _write_decoder(folder, source, config, decoder)


def _in_reference_names(tensors: Mapping[str, StoredTensor], role: str) -> dict[str, Tensor]:
    reverted = revert_state_dict(dict(read_values(tensors, is_kept=True)))
    return {name.removeprefix(ROLES[role].prefix): tensor for name, tensor in reverted.items()}


def _save(tensors: Mapping[str, Tensor], is_wrapped: bool, path: Path) -> None:
    """Save tensors with ``torch.save``. Views are copied: otherwise the complete storage (a joined bias) is saved."""
    own = {name: tensor.clone() if _is_view(tensor) else tensor for name, tensor in tensors.items()}
    torch.save({"model": own} if is_wrapped else own, path)


def _is_view(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def _write_decoder(folder: Path, source: Path, config: VideoLlamaConfig, stored: Mapping[str, StoredTensor]) -> None:
    """Write the decoder in Hugging Face's layout, which the reference reads with ``from_pretrained``.

    It has no rows for the media places.
    """
    names = {reference_names(ours)[0].removeprefix(ROLES["decoder"].prefix): ours for ours in stored}
    num_tokens = config.video_token_id
    shapes = {
        ours: (num_tokens, *each.shape[1:]) if ours in PLACE_TABLES else each.shape for ours, each in stored.items()
    }
    specs = {theirs: TensorSpec(shapes[ours], stored[ours].dtype) for theirs, ours in names.items()}

    def read(requested: list[str]) -> Iterator[tuple[str, Tensor]]:
        back = {names[theirs]: theirs for theirs in requested}
        for ours, tensor in read_values({ours: stored[ours] for ours in back}):
            yield back[ours], tensor[:num_tokens] if ours in PLACE_TABLES else tensor

    for _ in progress(write_shards(folder, specs, read), "writing the decoder", len(specs)):
        pass
    _write_decoder_files(folder, source, config)


def _write_decoder_files(folder: Path, source: Path, config: VideoLlamaConfig) -> None:
    text_config = config.text_config.to_dict() | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    text_config |= {"_name_or_path": folder.name, "vocab_size": config.video_token_id}
    (folder / CONFIG_FILE).write_text(json.dumps(text_config, indent=2) + "\n", encoding="utf-8")
    pad_token = read_settings(source).pad_token
    tokenizer = Tokenizer(source / TOKENIZER_MODEL, pad_token=pad_token)
    tokenizer.save(folder)
    write_decoder_tokenizer_files(folder, tokenizer, pad_token)
    if pad_token is not None:
        (folder / "added_tokens.json").write_text(json.dumps({pad_token: tokenizer.pad_id}) + "\n", encoding="utf-8")


def _file_name(role: str, manifest: Manifest) -> str:
    """Return the recorded name if it is a published one, else a name that differs by branch.

    Both branches may have been read from files of the same name, such as checkpoint_4.pth.
    """
    if role in FILES:
        return FILES[role]
    key, form = BRANCH_FILES[role]
    recorded = _recorded(manifest, role, "")
    is_published = any(fnmatch(recorded, pattern) for pattern in PUBLISHED[key])
    return recorded if is_published else form.format(manifest.name)


def _recorded(manifest: Manifest, role: str, default: str) -> str:
    """Return the name of the source with this role as recorded in the manifest, else ``default``."""
    files = manifest.sources.get("files")
    sources = [each.get("source") for each in files if each.get("role") == role] if isinstance(files, list) else []
    return Path(str(sources[0])).name if sources and sources[0] else default


def _write_trained_parts(source: Path, target: Path) -> None:
    """Write the trained parts of a training checkpoint in the format of the reference's trainer."""
    found = [source] if source.suffix == SAFETENSORS else sorted(source.glob(f"*{SAFETENSORS}"))
    if len(found) != 1:
        raise CheckpointError(
            f"{source} is not a model folder, and has {len(found)} {SAFETENSORS} files instead of one. Give a model "
            "folder, or the folder of a training checkpoint."
        )
    if target.suffix != ".pth" or target.exists():
        raise CheckpointError(f"{target} must be a new file whose name ends in .pth. Choose another name.")
    with new_file(target) as unfinished, opened(found[0]) as tensors:
        _refuse_adapters(tensors, found[0])
        _save(revert_state_dict(tensors), True, unfinished)


def _refuse_adapters(names: Iterable[str], file: Path) -> None:
    adapters = [name for name in names if ADAPTER.search(name)]
    if adapters:
        raise CheckpointError(
            f"{file} contains adapters ({len(adapters)} tensors, such as {adapters[0]}), which the reference does not "
            "support. Merge them into a model folder with `video-llama merge`, and convert that folder."
        )
