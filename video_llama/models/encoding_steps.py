"""Encode a medium in small steps, so that other work can be done between them.

Input and output are those of ``encode_video`` and ``encode_audio`` for one medium. A step is one block of an encoder
for a few frames or clips, which do not depend on each other. The values equal those of the whole encoding up to the
rounding of matrix products of another size.
"""

# T frames or clips, L tokens of one of them, V encoder width, K queries per frame, H Q-Former width, Q queries per
# medium, D decoder width, E ImageBind embedding width

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from video_llama.models.video_llama import VideoLlamaModel

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work that pauses at each ``yield``, and its result."""

STEP_PRODUCTS_CPU = 2e9
"""Multiplications of one step: about 0.1 s of one core. One frame in a block of ViT-g needs 6.5e9."""
STEP_PRODUCTS_ACCELERATOR = 5e11
"""On a GPU small products leave most of the device idle. 8 frames in a block of ViT-g need 5e10."""


def run_steps(steps: Steps[Result]) -> Result:
    """Do all steps and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def timed(steps: Steps[Result]) -> Steps[tuple[Result, float]]:
    """Do steps and return their result and the seconds that they took, without the pauses."""
    seconds = 0.0
    while True:
        start = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            return end.value, seconds + time.perf_counter() - start
        seconds += time.perf_counter() - start
        yield


def video_steps(body: VideoLlamaModel, pixels_THW: Tensor) -> Steps[Tensor]:
    """Encode normalised frames [T, 3, height, width] to decoder tokens [Q, D] in steps."""
    encoder, config = body.frame_encoder, body.config.vision_config
    num_tokens = (config.image_size // config.patch_size) ** 2 + 1
    tokens: list[Tensor] = []
    for some_THW in pixels_THW.split(_num_parallel(config, num_tokens, pixels_THW.device)):
        if _is_offloaded(encoder):
            tokens.append(_without_grad(encoder, some_THW))
        else:
            hidden_TLV = yield from _vit_steps(encoder.vision_model, some_THW)
            tokens.append((yield from _qformer_steps(encoder.qformer, encoder.query_tokens, hidden_TLV)))
        yield
    fused_QD: Tensor = _without_grad(body.video_qformer, torch.cat(tokens)[None])[0]
    return fused_QD


def audio_steps(body: VideoLlamaModel, clips_THW: Tensor) -> Steps[Tensor]:
    """Encode mel clips [T, 1, mel bins, frames] to decoder tokens [Q, D] in steps. Raises ValueError without branch."""
    tower: Any = body._branch("imagebind_audio", "with_audio_branch")
    embeddings: list[Tensor] = []
    for some_THW in clips_THW.split(_num_parallel(tower.config, tower.config.num_patches + 1, clips_THW.device)):
        if _is_offloaded(tower):
            embeddings.append(_without_grad(tower, some_THW).embedding_NE)
        else:
            tokens_TLV = _without_grad(tower.embed, some_THW)
            for block in tower.blocks:
                tokens_TLV = _without_grad(block, tokens_TLV)[0]
                yield
            embeddings.append(_without_grad(tower.project, tokens_TLV)[1])
        yield
    fused_QD: Tensor = _without_grad(body.fuse_clips, torch.cat(embeddings)[None])[0]
    return fused_QD


def _vit_steps(vision_model: Any, pixels_THW: Tensor) -> Steps[Tensor]:
    """Return the ViT's output [T, L, V] for frames; the blocks of ``Blip2VisionModel`` one by one."""
    hidden_TLV = _without_grad(vision_model.embeddings, pixels_THW)
    for layer in vision_model.encoder.layers:
        hidden_TLV = _without_grad(layer, hidden_TLV)
        yield
    return _without_grad(vision_model.post_layernorm, hidden_TLV)  # type: ignore[no-any-return]


def _qformer_steps(qformer: Any, queries_1KH: Tensor, hidden_TLV: Tensor) -> Steps[Tensor]:
    """Return the frame Q-Former's output [T, K, H]; the layers of ``Blip2QFormerModel`` one by one."""
    dtype = qformer.layernorm.weight.dtype
    queries_TKH = queries_1KH.detach().expand(len(hidden_TLV), -1, -1)
    hidden_TKH = _without_grad(qformer.layernorm, queries_TKH.to(dtype))
    for layer in qformer.encoder.layer:
        hidden_TKH = _without_grad(
            layer, hidden_TKH, encoder_hidden_states=hidden_TLV.to(dtype), query_length=hidden_TKH.shape[1]
        )
        yield
    return hidden_TKH  # type: ignore[no-any-return]


def _without_grad(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Call a function without gradients. The mode must not be changed across a ``yield``."""
    with torch.no_grad():
        return function(*inputs, **named)


def _num_parallel(config: Any, num_tokens: int, device: torch.device) -> int:
    """Return the number of frames or clips of a step."""
    width = config.hidden_size
    products = num_tokens * (4 * width**2 + 2 * width * config.intermediate_size)
    limit = STEP_PRODUCTS_CPU if device.type == "cpu" else STEP_PRODUCTS_ACCELERATOR
    return max(1, int(limit / products))


def _is_offloaded(module: nn.Module) -> bool:
    """Return whether accelerate's hooks move weights or inputs when the modules are called as a whole."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())
