"""Published files in, a model in memory out; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.checkpoints.assemble import Assembly, assemble, check_assembly, read_pieces
from video_llama.checkpoints.config import EvalConfig, ModelType
from video_llama.checkpoints.folder import Manifest, ModelFolder, check_fit, read_model_folder
from video_llama.checkpoints.initial import draw
from video_llama.checkpoints.placement import Dtypes, resolve_placing
from video_llama.checkpoints.published_files import read_eval_config
from video_llama.conversation import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def plan(
    config: EvalConfig, where: str, model_type: ModelType | None = None, may_be_drawn: Sequence[str] = ()
) -> Assembly:
    """A plan that holds a whole model whose parts fit together, but for those that ``assemble`` leaves to be drawn.

    Anything else is a CheckpointError.
    """
    assembly = assemble(config, where, model_type, may_be_drawn)
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
    dtype: Dtypes | None = None,
    low_resource: bool = False,
    **placing: Any,
) -> ModelFolder:
    """Load the model that an evaluation YAML, or a folder in the published layout, describes; nothing is written.

    ``dtype`` None is what the reference ran the decoder in (bfloat16 for a half-precision one); ``placing`` is that of
    ``read_model_folder``, and a ``low_resource`` of the YAML counts as well. Raises as ``convert``.
    """
    config = read_eval_config(path, options)
    placing |= {"low_resource": low_resource or config.model.low_resource, "dtype": dtype, "device": device}
    if config.model.pretrained is not None:
        return read_model_folder(config.model.pretrained, **placing)
    return load_assembly(plan(config, str(path), model_type), str(path), **placing)


def load_assembly(assembly: Assembly, where: str, *, seed: int = 0, **placing: Any) -> ModelFolder:
    """The model of a plan; ``seed`` decides what is drawn, which the manifest calls untrained.

    ``placing`` is that of ``placement.resolve_placing``, which raises ValueError.
    """
    from video_llama.models.placing import build_model

    assert assembly.model.device.type == "meta", "an assembly is loaded once"
    wanted = resolve_placing(assembly.config.dtype or "float32", **placing)
    pieces, drawn = assembly.pieces, draw(assembly.config, assembly.drawn, seed)

    def read(names: list[str], _: bool) -> Iterator[tuple[str, Tensor]]:
        yield from ((name, drawn[name]) for name in names if name in drawn)
        yield from read_pieces(pieces[name] for name in names if name in pieces)

    dtypes = {name: piece.dtype for name, piece in pieces.items()} | {name: each.dtype for name, each in drawn.items()}
    model = build_model(assembly.model, dtypes, read, wanted)
    tokenizer = Tokenizer(assembly.decoder.tokenizer_path, pad_token=assembly.settings.pad_token)
    manifest = Manifest(Path(where).stem, {"read from": where}, assembly.drawn)
    return ModelFolder(None, model, tokenizer, assembly.settings, manifest)
