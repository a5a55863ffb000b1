"""The model compared with the reference: every tensor of the golden cases, from the ViT to the generated ids.

cases.json describes each case under "describe". Dimensions, ids and weights are read from the folder.
Losses and gradients are in conformance_training.py, generation in conformance_generation.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import conformance_generation, conformance_training
from benchmarks.conformance_build import Golden
from benchmarks.conformance_compare import apart, differing
from benchmarks.conformance_row import Row, guarded
from video_llama.models.imagebind import TowerOutput

TOKEN_STEP = 7  # golden stores every 7th token of the long frame_hidden_state tensors

Case = Callable[[Golden], Iterator[Row]]


def rows(folder: Path, tokenizer_path: Path | None = None) -> Iterator[Row]:
    """Yield a row for each item of cases.json and cases.safetensors, and one for outputs that were not compared."""
    try:
        golden = Golden(folder)
    except (OSError, KeyError, ValueError) as e:
        yield Row("model", 1, note=f"{type(e).__name__}: {e}")
        return
    yield from guarded("weights", golden.weight_rows)
    for name, case in CASES.items():
        if any(output.startswith(f"out.{name}") for output in golden.tensors):
            yield from guarded(name, lambda case=case: case(golden))
    yield from conformance_training.rows(golden)
    yield from conformance_generation.rows(golden, tokenizer_path)
    left = golden.left_over
    yield Row("model: outputs not compared", len(left), note=", ".join(left[:3]))


@torch.no_grad()
def _visual_encoder(golden: Golden) -> Iterator[Row]:
    """Return all tokens before ln_vision, the final norm of our ViT."""
    vit = golden.model.model.frame_encoder.vision_model
    (pixels,) = golden.inputs_of("visual_encoder.out")
    tokens = vit.encoder(vit.embeddings(pixels)).last_hidden_state
    yield apart("visual_encoder", tokens, golden.output("visual_encoder.out"))


@torch.no_grad()
def _ln_vision(golden: Golden) -> Iterator[Row]:
    norm = golden.model.model.frame_encoder.vision_model.post_layernorm
    yield apart("ln_vision", norm(*golden.inputs_of("ln_vision.out")), golden.output("ln_vision.out"))


@torch.no_grad()
def _qformer(golden: Golden) -> Iterator[Row]:
    encoder = golden.model.model.frame_encoder
    (tokens,) = golden.inputs_of("qformer.out")
    queries = encoder.query_tokens.expand(len(tokens), -1, -1)
    outputs = encoder.qformer(query_embeds=queries, encoder_hidden_states=tokens, output_hidden_states=True)
    yield apart("qformer", outputs.last_hidden_state, golden.output("qformer.out"))
    if golden.has_output("qformer.out_one_layer_hidden"):
        one_layer = golden.output("qformer.out_one_layer_hidden")
        yield apart("qformer: after one layer", outputs.hidden_states[1], one_layer)


@torch.no_grad()
def _video_qformer(golden: Golden) -> Iterator[Row]:
    model, prefix = golden.model.model, "encode_videoQformer_visual"
    for name in golden.names(prefix):
        case = f"{prefix}.{name}"
        pixels = golden.input(name).transpose(1, 2)
        positioned = model.video_qformer.add_positions(model.encode_frames(pixels))
        hidden, _ = model.video_qformer.query(positioned)
        stored = golden.output(f"{case}.frame_hidden_state")
        kept = positioned if stored.shape == positioned.shape else positioned[:, ::TOKEN_STEP]
        yield apart(f"{case}: frame_hidden_state", kept, stored)
        yield apart(f"{case}: video_hidden", hidden, golden.output(f"{case}.video_hidden"))
        tokens = model.encode_video(pixels)
        yield apart(f"{case}: inputs_llama", tokens, golden.output(f"{case}.inputs_llama"))
        # Media positions are tokens of the prompt: their mask is 1.
        ones = torch.ones(tokens.shape[:2], dtype=torch.long)
        yield differing(f"{case}: atts_llama", ones, golden.output(f"{case}.atts_llama"))


@torch.no_grad()
def _joint_path(golden: Golden) -> Iterator[Row]:
    model, case = golden.model.model, "encode_videoQformer_audiovideo"
    pixels, mel = golden.inputs_of(case)
    clips = model.imagebind_audio(mel.flatten(0, 1)).hidden_ND.unflatten(0, mel.shape[:2])
    stored = golden.output(f"{case}.encoder_tail")
    tail = model.video_qformer.add_positions(clips[:, :, None])[:, -stored.shape[1] :]
    yield apart(f"{case}: encoder_tail", tail, stored)
    tokens = model.get_audiovisual_features(pixels.transpose(1, 2), mel)
    yield apart(f"{case}: inputs_llama", tokens, golden.output(f"{case}.inputs_llama"))


def _tower(golden: Golden, modality: str, media: Tensor) -> TowerOutput:
    tower = getattr(golden.model.model, f"imagebind_{modality}")
    output: TowerOutput = tower(media.flatten(0, 1))
    return TowerOutput(*(part.unflatten(0, media.shape[:2]) for part in output[:3]))


@torch.no_grad()
def _imagebind(golden: Golden) -> Iterator[Row]:
    for name in golden.names("get_audio_feature"):
        modality, _, medium = name.partition(".")
        output, case = _tower(golden, modality, golden.input(medium)), f"get_audio_feature.{name}"
        yield apart(f"{case}: audio_feature", output.hidden_ND, golden.output(f"{case}.audio_feature"))
        yield apart(f"{case}: final", output.embedding_NE, golden.output(f"{case}.final"))


@torch.no_grad()
def _audio_qformer(golden: Golden) -> Iterator[Row]:
    model = golden.model.model
    encoders = {"audio": model.encode_audio, "vision": model.get_audio_features_from_frames}
    for name in golden.names("encode_audioQformer"):
        modality, _, medium = name.partition(".")
        tokens, case = encoders[modality](golden.input(medium)), f"encode_audioQformer.{name}"
        yield apart(f"{case}: inputs_llama", tokens, golden.output(f"{case}.inputs_llama"))


@torch.no_grad()
def _decoder(golden: Golden) -> Iterator[Row]:
    case = "llama.nomask"
    logits = golden.model(inputs_embeds=golden.input("llm_embeds")).logits
    yield from _column_rows(golden, case, logits)
    yield apart(f"{case}: logsumexp", logits.logsumexp(dim=-1), golden.output(f"{case}.logits_lse"))
    yield differing(f"{case}: argmax", logits.argmax(dim=-1), golden.output(f"{case}.logits_argmax"))
    yield apart(f"{case}: last position", logits[:, -1], golden.output(f"{case}.logits_last"))


@torch.no_grad()
def _decoder_padded(golden: Golden) -> Iterator[Row]:
    """Compare logits as in training: right padding, positions counted from 0 regardless of the mask."""
    case = "llama.rightpad"
    embeds, mask = golden.input("llm_embeds"), golden.input("llm_mask")
    logits = golden.model(inputs_embeds=embeds, attention_mask=mask).logits
    yield from _column_rows(golden, case, logits)
    for name in golden.starting(f"{case}.logits_row"):
        row, position = map(int, re.findall(r"\d+", name.rpartition(".")[2]))
        yield apart(f"{case}: row {row}, position {position}", logits[row, position], golden.output(name))


def _column_rows(golden: Golden, case: str, logits: Tensor) -> Iterator[Row]:
    """Compare every n-th column of the logits; n is part of the name."""
    for name in golden.starting(f"{case}.logits_cols_0_mod_"):
        step = int(name.rpartition("_")[2])
        yield apart(f"{case}: columns", logits[..., ::step], golden.output(name))


CASES: dict[str, Case] = {
    "visual_encoder": _visual_encoder,
    "ln_vision": _ln_vision,
    "qformer": _qformer,
    "encode_videoQformer_visual": _video_qformer,
    "encode_videoQformer_audiovideo": _joint_path,
    "get_audio_feature": _imagebind,
    "encode_audioQformer": _audio_qformer,
    "llama.nomask": _decoder,
    "llama.rightpad": _decoder_padded,
}
