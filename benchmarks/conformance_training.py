"""The two losses compared with the reference: decoder inputs, logits, loss, and the norm of every gradient.

Instruction batches contain their ids. Those of caption batches are found from the stored embeddings, in which every
word is a row of the embedding table (conformance_text.py checks that our tokenizer produces the same ids).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance_build import Golden
from benchmarks.conformance_compare import LIMIT, apart, differing, ids_of
from benchmarks.conformance_row import Row, guarded
from video_llama.checkpoints.keys import to_reference
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

BRANCHES = {0: "model.video_qformer.", 1: "model.audio_qformer."}
"""``train_flag``: which branch trains, and so which the pictures go through."""

BLIND = ".self.key.bias"
"""Softmax is invariant to a shift of the keys: these gradients are rounding noise, and only have to be small."""

Case = dict[str, Any]
Tensors = dict[str, Tensor]
Model = VideoLlamaForConditionalGeneration


def rows(golden: Golden) -> Iterator[Row]:
    """Yield the rows of each loss case."""
    for name, case in golden.cases.get("loss", {}).items():
        yield from guarded(f"loss.{name}", lambda name=name, case=case: _case_rows(golden, name, case))


def _case_rows(golden: Golden, name: str, case: Case) -> Iterator[Row]:
    prefix = f"loss.{name}"
    batch = _batch(golden, name)
    media = _media(golden, case)
    if case["train_flag"] == 1:
        is_media = batch["input_ids"] == golden.model.config.video_token_id
        batch["input_ids"] = batch["input_ids"].masked_fill(is_media, golden.model.config.audio_token_id)
    for key in ("labels", "attention_mask"):
        yield differing(f"{prefix}: {key}", batch[key], golden.output(f"{prefix}.{key}"))
    with torch.no_grad():
        embeds = golden.model.model.embed_inputs(batch["input_ids"], **media)
        outputs = golden.model(**batch, **media)
    yield apart(f"{prefix}: inputs_embeds", embeds, golden.output(f"{prefix}.inputs_embeds"))
    yield apart(f"{prefix}: logsumexp", outputs.logits.logsumexp(dim=-1), golden.output(f"{prefix}.logits_lse"))
    yield apart(f"{prefix}: loss", outputs.loss, golden.output(prefix))
    yield from _gradient_rows(golden, name, batch, media)


def _batch(golden: Golden, name: str) -> Tensors:
    """Return ids, labels and mask, collated or of a caption batch."""
    keys = ("input_ids", "labels", "attention_mask")
    if golden.has_output(f"batch.{name}.input_ids"):
        return {key: golden.output(f"batch.{name}.{key}") for key in keys}
    table = golden.model.get_input_embeddings().weight
    ids = ids_of(golden.output(f"loss.{name}.inputs_embeds"), table, golden.model.config.video_token_id)
    return {"input_ids": ids, **{key: golden.output(f"loss.{name}.{key}") for key in keys[1:]}}


def _media(golden: Golden, case: Case) -> Tensors:
    """Return the frames as input of the branch, [B, T, 3, H, W]; an image is a video of one frame."""
    pictures = golden.input(case["images"] if "images" in case else case["image"])
    frames = pictures.transpose(1, 2) if pictures.dim() == 5 else pictures[:, None]
    return {"audio_pixel_values" if case["train_flag"] == 1 else "pixel_values_videos": frames}


def _gradient_norms(model: Model, branch: str, batch: Tensors, media: Tensors) -> dict[str, float]:
    """Return gradient norms by the reference's names, for the parameters that have one if only ``branch`` trains."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(branch))
        parameter.grad = None
    model(**batch, **media).loss.backward()
    norms = {
        str(to_reference(name)): float(parameter.grad.double().norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return norms


def _gradient_rows(golden: Golden, name: str, batch: Tensors, media: Tensors) -> Iterator[Row]:
    """Compare the norm of every gradient. Ours is in float64, so that only the reference's rounding is measured:
    in float32 these sums of many small terms are themselves uncertain by about the limit (the note has that figure)."""
    branch = BRANCHES[golden.cases["loss"][name]["train_flag"]]
    theirs: dict[str, float] = golden.cases["grad_norms"][name]
    total = float(golden.output(f"loss.{name}.grad_norm_total"))
    precise = {key: value.double() for key, value in media.items()}
    ours = _gradient_norms(golden.precise_model, branch, batch, precise)
    yield Row(f"loss.{name}: trained parameters", len(ours.keys() ^ theirs.keys()), note=f"{len(theirs)} names")
    errors = _norm_errors(ours, theirs, total)
    rough = _norm_errors(_gradient_norms(golden.model, branch, batch, media), theirs, total)
    worst = max(errors, key=lambda key: errors[key])
    note = f"at {worst}; {max(rough.values()):.1e} in float32"
    yield Row(f"loss.{name}: gradient norms", errors[worst], LIMIT, note)
    our_total = math.sqrt(sum(norm**2 for norm in ours.values()))
    yield Row(f"loss.{name}: gradient norm, total", abs(our_total - total) / total, LIMIT)


def _norm_errors(ours: dict[str, float], theirs: dict[str, float], total: float) -> dict[str, float]:
    """Return relative errors by name; if the true gradient is 0, relative to the norm of all gradients."""
    scales = {key: total if key.endswith(BLIND) or norm == 0 else norm for key, norm in theirs.items()}
    return {key: abs(ours[key] - norm) / scales[key] for key, norm in theirs.items() if key in ours}
