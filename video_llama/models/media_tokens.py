"""Media as decoder tokens: encode media of different lengths, and put the tokens at the placeholders of a prompt."""

# B batch, N media, T frames or clips, Q tokens per medium, L prompt length, D decoder width

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.utils.import_utils import torch_compilable_check

MEDIA_ARGUMENTS = (
    "pixel_values",
    "pixel_values_videos",
    "input_features",
    "audio_pixel_values",
    "frame_tokens",
    "clip_embeddings",
    "video_features",
    "audio_features",
)
"""The media arguments of ``VideoLlamaModel.forward``."""

MediaTensors = Tensor | Sequence[Tensor]
"""N media: a tensor [N, T, ...] if they have the same length, or a list of N tensors [T, ...]."""


def as_videos(pixel_values: MediaTensors) -> MediaTensors:
    """Return images [N, 3, height, width] as videos of one frame [N, 1, 3, height, width]; videos are unchanged."""
    is_images = isinstance(pixel_values, Tensor) and pixel_values.dim() == 4
    return pixel_values[:, None] if is_images else pixel_values  # type: ignore[call-overload]


def each_medium(media_NT: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``encode``, which maps [T, ...] to [T, ...], to media [N, T, ...] and return [N, T, ...].

    On a CPU the media are encoded one at a time, because the last bits of a matrix product may depend on its number of
    rows. The features of a medium then do not depend on the batch, and cached features equal recomputed ones.
    """
    if media_NT.device.type == "cpu":
        return torch.stack([encode(medium) for medium in media_NT])
    return encode(media_NT.flatten(0, 1)).unflatten(0, media_NT.shape[:2])  # type: ignore[no-any-return]


def encode_by_length(media: MediaTensors, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``encode`` ([N, T, ...] -> [N, Q, D]) to media of different lengths; return [N, Q, D] in the given order.

    Media of equal length are encoded in one batch.
    """
    if isinstance(media, Tensor):
        return encode(media)
    groups: dict[int, list[int]] = {}
    for index, medium in enumerate(media):
        groups.setdefault(len(medium), []).append(index)
    encoded: dict[int, Tensor] = {}
    for indices in groups.values():
        batch = encode(torch.stack([media[index] for index in indices]))
        encoded.update(zip(indices, batch, strict=True))
    return torch.stack([encoded[index] for index in range(len(media))])


def tokens_of(
    ready: Tensor | None, *forms: tuple[Callable[[MediaTensors], Tensor], MediaTensors | None]
) -> Tensor | None:
    """Return the decoder tokens of a modality [N, Q, D], or None without media. Raises ValueError for several forms."""
    given = [(encode, medium) for encode, medium in forms if medium is not None and len(medium) > 0]
    if len(given) + (ready is not None) > 1:
        raise ValueError(
            "Give the media of a modality in one form: raw, as frozen features, or as decoder tokens. Images between "
            "videos are videos of one frame in pixel_values_videos."
        )
    if given:
        encode, medium = given[0]
        return encode(medium)
    return ready


def num_tokens_of(features_NQD: Tensor | None) -> int:
    """Return the number of decoder tokens of a modality."""
    return 0 if features_NQD is None else features_NQD.shape[0] * features_NQD.shape[1]


def place_tokens(embeds_BLD: Tensor, places_BL: Tensor, features_NQD: Tensor | None, modality: str) -> Tensor:
    """Return ``embeds_BLD`` with the media tokens [N, Q, D] where ``places_BL`` is true, in row-major order.

    Raises ValueError if the numbers of places and of tokens differ; in a compiled graph this is an assertion.
    """
    num_tokens = num_tokens_of(features_NQD)
    num_places = places_BL.sum()
    torch_compilable_check(
        num_places == num_tokens,
        lambda: (
            f"The prompt has {int(num_places)} {modality} placeholders, but the media given have {num_tokens} tokens."
        ),
    )
    if features_NQD is None or num_tokens == 0:
        return embeds_BLD
    if features_NQD.shape[-1] != embeds_BLD.shape[-1]:
        raise ValueError(
            f"The {modality} features have width {features_NQD.shape[-1]}, but the decoder has width "
            f"{embeds_BLD.shape[-1]}. Give the raw media, or features of this model."
        )
    tokens = features_NQD.flatten(0, 1).to(embeds_BLD)  # same dtype and, for a model on several devices, same device
    return embeds_BLD.masked_scatter(places_BL[..., None].to(embeds_BLD.device), tokens)
