"""Load a model from the published files, without writing a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from video_llama.checkpoints.assemble import Assembly, PlannedTensor, assemble, check_assembly, read_planned
from video_llama.checkpoints.building import build_model
from video_llama.checkpoints.config import ModelType, ModelYaml
from video_llama.checkpoints.folder import Manifest, ModelFolder, check_fit, read_model_folder
from video_llama.checkpoints.initialization import initialize
from video_llama.checkpoints.published_files import read_eval_config
from video_llama.models.placement import LoadOptions, resolve_placing


@dataclass(frozen=True)
class AssemblyTensors:
    """The tensors of an assembly: read from published files, or randomly initialized."""

    tensors: Mapping[str, PlannedTensor]
    initialized: Mapping[str, Tensor]
    files: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    """Empty: the published files store the tensors under other names."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Stored data type of each tensor."""
        tensors: dict[str, PlannedTensor | Tensor] = {**self.tensors, **self.initialized}
        return {name: tensor.dtype for name, tensor in tensors.items()}

    def read(self, names: Sequence[str], *, is_kept: bool) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors."""
        yield from ((name, self.initialized[name]) for name in names if name in self.initialized)
        yield from read_planned(self.tensors[name] for name in names if name in self.tensors)


def plan(
    config: ModelYaml, where: str, model_type: ModelType | None = None, initializable: Sequence[str] = ()
) -> Assembly:
    """Return the plan of a complete model whose parts fit together; see ``assemble`` for the arguments.

    Raises CheckpointError, with names, for anything missing, unexpected or inconsistent.
    """
    assembly = assemble(config, where, model_type, initializable)
    check_assembly(assembly, where)
    check_fit(assembly.config, assembly.settings, assembly.decoder.tokenizer)
    return assembly


def load_yaml_model(
    path: str | Path,
    options: LoadOptions = LoadOptions(),  # noqa: B008  (frozen)
    *,
    overrides: Sequence[str] = (),
    model_type: ModelType | None = None,
) -> ModelFolder:
    """Load the model that an evaluation YAML, or a folder in the published layout, describes.

    ``overrides`` change the YAML ("model.ckpt=..."). Without ``options.dtype`` the decoder has the data type that the
    reference computes in (bfloat16 for a half-precision decoder). ``low_resource`` of the YAML is respected. Raises
    ConfigError and CheckpointError as ``convert`` does, and ValueError for invalid options.
    """
    config = read_eval_config(path, overrides)
    options = replace(options, low_resource=options.low_resource or config.model.low_resource)
    if config.model.pretrained is not None:
        return read_model_folder(config.model.pretrained, options)
    return load_assembly(plan(config, str(path), model_type), str(path), options)


def load_assembly(assembly: Assembly, where: str, options: LoadOptions, *, seed: int = 0) -> ModelFolder:
    """Load the model of a plan. Parts without a file are initialized from ``seed`` and listed as untrained.

    Raises ValueError for invalid options.
    """
    assert assembly.model.device.type == "meta", "an assembly is loaded once"
    placing = resolve_placing(assembly.config.dtype or "float32", options)
    initialized = initialize(assembly.config, assembly.initialized, seed)
    model = build_model(assembly.model, AssemblyTensors(assembly.tensors, initialized), placing)
    manifest = Manifest(Path(where).stem, {"read from": where}, assembly.initialized)
    return ModelFolder(None, model, assembly.decoder.tokenizer, assembly.settings, manifest, placing=placing)
