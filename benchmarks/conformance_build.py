"""Build our model from a golden folder's config.json and weights; every dimension is read from the files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2VisionConfig, LlamaConfig

from benchmarks.conformance_row import Row
from video_llama.checkpoints.keys import IGNORED, convert_state_dict, revert_state_dict
from video_llama.models.configuration import ImageBindTowerConfig, VideoLlamaConfig, audio_tower_config
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

BERT_NAMES = ("hidden_size", "num_attention_heads", "intermediate_size", "layer_norm_eps", "hidden_act")

Config = dict[str, Any]


class Golden:
    """A golden folder: its cases, its tensors (half precision as float32), and our model with its weights."""

    def __init__(self, folder: Path) -> None:
        self.config: Config = _read_json(folder / "config.json")
        self.cases: Config = _read_json(folder / "cases.json")
        self.tensors = {name: _widened(tensor) for name, tensor in load_file(folder / "cases.safetensors").items()}
        self.weights = {name: _widened(tensor) for name, tensor in load_file(folder / "weights.safetensors").items()}
        self.compared: set[str] = set()

    def input(self, name: str) -> Tensor:
        return self.tensors[f"in.{name}"]

    def output(self, name: str) -> Tensor:
        """Return an output of the reference and mark it as compared."""
        self.compared.add(f"out.{name}")
        return self.tensors[f"out.{name}"]

    def described(self, case: str) -> str:
        """Return the description of a case. Raises KeyError for an unknown case."""
        text: str = self.cases["describe"][case]
        return text

    def inputs_of(self, case: str) -> list[Tensor]:
        """Return the inputs named in the description of a case, in its order."""
        return [self.input(name) for name in re.findall(r"\bin\.(\w+)", self.described(case))]

    def has_output(self, name: str) -> bool:
        return f"out.{name}" in self.tensors

    def names(self, prefix: str) -> list[str]:
        """Return the distinct parts of output names between ``prefix`` and the last dot."""
        start = f"out.{prefix}."
        found = (name[len(start) :].rpartition(".")[0] for name in self.tensors if name.startswith(start))
        return sorted(set(found) - {""})

    def starting(self, prefix: str) -> list[str]:
        """Return the output names that start with ``prefix``, without "out."."""
        return sorted(name[len("out.") :] for name in self.tensors if name.startswith(f"out.{prefix}"))

    @property
    def left_over(self) -> list[str]:
        """Return the outputs that no case has compared."""
        return sorted(name for name in self.tensors if name.startswith("out.") and name not in self.compared)

    @cached_property
    def model(self) -> VideoLlamaForConditionalGeneration:
        """Return our model in float32 and evaluation mode. Raises RuntimeError if the weights do not fit exactly."""
        model = VideoLlamaForConditionalGeneration(model_config(self.config)).float().eval()
        ours, _, _ = convert_state_dict(self.weights)
        model.load_state_dict(ours, strict=True)
        return model

    @cached_property
    def precise_model(self) -> VideoLlamaForConditionalGeneration:
        """Return the model in float64."""
        return deepcopy(self.model).double()

    def weight_rows(self) -> Iterator[Row]:
        """Check the name table in both directions: no unknown name, and every tensor is restored bit for bit."""
        ours, ignored, unknown = convert_state_dict(self.weights)
        named = sorted(unknown)[:3]
        yield Row("weights: names unknown", len(unknown), note=", ".join(named) or f"{len(self.weights)} tensors")
        missing, unexpected = self.model.load_state_dict(ours, strict=False)
        yield Row("weights: missing or left over", len(missing) + len(unexpected), note=f"{len(ignored)} ignored")
        back = revert_state_dict(self.model.state_dict())
        kept = {name for name in self.weights if not IGNORED.match(name)}
        wrong = [name for name in kept & back.keys() if not torch.equal(back[name], self.weights[name])]
        yield Row(
            "weights: there and back", len(wrong) + len(kept ^ back.keys()), note=f"{len(kept)} tensors, bit-equal"
        )


def model_config(golden: Config) -> VideoLlamaConfig:
    """Return our configuration with the reference's dimensions and both ImageBind towers."""
    vit, qformer, tokenizer = golden["vit"], golden["qformer"], golden["tokenizer"]
    video, audio = golden["video_qformer"], golden["audio_qformer"]
    bert = qformer["bert_config"]
    vision_tower, audio_tower = _towers(golden["imagebind"])
    return VideoLlamaConfig(
        vision_config=_vision_config(vit),
        qformer_config=_qformer_config(
            bert, bert["num_hidden_layers"], qformer["cross_attention_freq"], vit["embed_dim"]
        ),
        video_qformer_config=_qformer_config(
            bert, video["num_hidden_layers"], video["cross_attention_freq"], bert["hidden_size"]
        ),
        audio_qformer_config=_qformer_config(
            bert, audio["num_hidden_layers"], audio["cross_attention_freq"], audio_tower.embedding_size
        ),
        imagebind_vision_config=vision_tower,
        imagebind_audio_config=audio_tower,
        text_config=LlamaConfig(**golden["llama"]),
        vision_post_norm_eps=golden["ln_vision_eps"],
        num_query_tokens=qformer["num_query_token"],
        num_video_query_tokens=video["num_query_token"],
        num_audio_query_tokens=audio["num_query_token"],
        max_frame_pos=video["max_frame_pos"],
        max_audio_pos=audio["max_clip_pos"],
        with_imagebind_vision=True,
        video_token_id=tokenizer["image_token_id"],
        audio_token_id=tokenizer["audio_token_id"],
    )


def _vision_config(vit: Config) -> Blip2VisionConfig:
    return Blip2VisionConfig(
        hidden_size=vit["embed_dim"],
        intermediate_size=int(vit["embed_dim"] * vit["mlp_ratio"]),
        num_hidden_layers=vit["depth"],
        num_attention_heads=vit["num_heads"],
        image_size=vit["img_size"],
        patch_size=vit["patch_size"],
        layer_norm_eps=vit["norm_eps"],
        qkv_bias=vit["qkv_bias"],
    )


def _qformer_config(bert: Config, num_layers: int, frequency: int, encoder_width: int) -> Blip2QFormerConfig:
    shared = {name: bert[name] for name in BERT_NAMES if name in bert}
    return Blip2QFormerConfig(
        **shared, num_hidden_layers=num_layers, cross_attention_frequency=frequency, encoder_hidden_size=encoder_width
    )


def _towers(imagebind: Config) -> tuple[ImageBindTowerConfig, ImageBindTowerConfig]:
    args, size = imagebind["args"], imagebind["vision_img_size"]
    depth, *kernel = args["kernel_size"]
    vision = ImageBindTowerConfig(
        input_size=(size, size),
        kernel_size=tuple(kernel),
        stride=tuple(kernel),
        temporal_kernel=depth,
        hidden_size=args["vision_embed_dim"],
        num_hidden_layers=args["vision_num_blocks"],
        num_attention_heads=args["vision_num_heads"],
        embedding_size=args["out_embed_dim"],
    )
    audio = audio_tower_config(
        input_size=(args["audio_num_mel_bins"], args["audio_target_len"]),
        kernel_size=(args["audio_kernel_size"],) * 2,
        stride=(args["audio_stride"],) * 2,
        hidden_size=args["audio_embed_dim"],
        num_hidden_layers=args["audio_num_blocks"],
        num_attention_heads=args["audio_num_heads"],
        embedding_size=args["out_embed_dim"],
    )
    return vision, audio


def _read_json(path: Path) -> Config:
    content: Config = json.loads(path.read_text(encoding="utf-8"))
    return content


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
