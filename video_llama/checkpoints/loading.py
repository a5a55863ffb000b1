"""Published files in, a model that answers out; nothing is written, and no tensor is in memory twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_llama.chat.folder import Manifest, ModelFolder, check_fit, read_model_folder
from video_llama.chat.placement import Dtypes, resolve_placing
from video_llama.checkpoints.assemble import Assembly, assemble, check_assembly, read_pieces
from video_llama.checkpoints.config import EvalConfig, ModelType
from video_llama.checkpoints.sources import read_eval_config
from video_llama.conversation import Tokenizer


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
    device: str = "cpu",
    dtype: Dtypes | None = None,
    **placing: Any,
) -> ModelFolder:
    """Load the model that an evaluation YAML, or a folder in the published layout, describes; nothing is written.

    ``dtype`` None is what the reference ran the decoder in (bfloat16 for a half-precision one); ``placing`` is that of
    ``read_model_folder``, and the YAML's ``low_resource`` counts as given. Raises as ``convert``.
    """
    from video_llama.models.placing import build_model

    config = read_eval_config(path, options)
    placing = {"low_resource": config.model.low_resource, **placing, "dtype": dtype, "device": device}
    if config.model.pretrained is not None:
        return read_model_folder(config.model.pretrained, **placing)
    assembly = plan(config, str(path), model_type)
    wanted = resolve_placing(assembly.config.dtype or "float32", **placing)
    pieces = assembly.pieces
    model = build_model(
        assembly.config,
        {name: piece.dtype for name, piece in pieces.items()},
        lambda names, _: read_pieces(pieces[name] for name in names),
        wanted,
    )
    tokenizer = Tokenizer(assembly.decoder.tokenizer_path, pad_token=assembly.settings.pad_token)
    manifest = Manifest(Path(path).stem, {"read from": str(path)})
    return ModelFolder(None, model, tokenizer, assembly.settings, manifest)
