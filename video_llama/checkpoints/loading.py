"""Published files in, a model that answers out; nothing is written, and no tensor is in memory twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.chat.folder import Manifest, ModelFolder, check_fit, no_progress_bar, read_model_folder
from video_llama.checkpoints.assemble import Assembly, assemble, check_assembly, read_pieces
from video_llama.checkpoints.config import EvalConfig, ModelType
from video_llama.checkpoints.sources import read_eval_config
from video_llama.conversation import Tokenizer
from video_llama.errors import ConfigError

if TYPE_CHECKING:
    import torch


def plan(config: EvalConfig, where: str, model_type: ModelType | None = None) -> Assembly:
    """A plan that holds a whole model whose parts fit together; anything else is a CheckpointError."""
    assembly = assemble(config, where, model_type)
    check_assembly(assembly, where)
    tokenizer = Tokenizer(assembly.decoder.tokenizer_path, pad_token=assembly.settings.pad_token)
    check_fit(assembly.config, assembly.settings, tokenizer)
    return assembly


def load_yaml_model(
    path: str | Path,
    *,
    options: Sequence[str] = (),
    model_type: ModelType | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> ModelFolder:
    """Load the model that an evaluation YAML, or a folder in the published layout, describes; nothing is written.

    ``dtype`` None is what the reference ran the decoder in (bfloat16 for a half-precision one). Raises as ``convert``.
    """
    import torch

    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

    config = read_eval_config(path, options)
    if config.model.pretrained is not None:
        return read_model_folder(config.model.pretrained, dtype=dtype, device=device)
    _refuse_low_resource(config, str(path))
    assembly = plan(config, str(path), model_type)
    tensors = dict(read_pieces(assembly.pieces.values()))
    with no_progress_bar():
        model = VideoLlamaForConditionalGeneration.from_pretrained(
            None, config=assembly.config, state_dict=tensors, dtype=dtype or assembly.config.dtype or torch.float32
        )
    model.to(torch.device(device))  # type: ignore[arg-type]  # transformers hides the signature
    tokenizer = Tokenizer(assembly.decoder.tokenizer_path, pad_token=assembly.settings.pad_token)
    manifest = Manifest(Path(path).stem, {"read from": str(path)})
    return ModelFolder(None, model, tokenizer, assembly.settings, manifest)


def _refuse_low_resource(config: EvalConfig, where: str) -> None:
    if config.model.low_resource:
        raise ConfigError(f"{where}: model.low_resource is not supported here yet. Set it to false.")
