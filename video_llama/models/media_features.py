"""Media features: raw media to decoder tokens, and the outputs of the encoders as transformers' models return them."""

# N media, T frames, S clips, K queries per frame, Q queries per medium, P patches + 1 tokens, V encoder width,
# D decoder width, H Q-Former width, E ImageBind embedding width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from video_llama.models.media_tokens import MediaTensors, as_videos, each_medium, encode_by_length, tokens_of


class MediaFeatures:
    """The methods of ``VideoLlamaModel`` that encode media."""

    config: Any
    frame_encoder: Any
    video_qformer: Any

    def encode_frames(self, pixel_values_videos: Tensor) -> Tensor:
        """Encode normalised pixels [N, T, 3, height, width] to the query tokens of each frame [N, T, K, H]."""
        return each_medium(pixel_values_videos, self.frame_encoder)

    def encode_clips(self, input_features: Tensor) -> Tensor:
        """Encode mel clips [N, S, 1, mel bins, frames] to ImageBind embeddings [N, S, E] of norm about 20."""
        tower = self._branch("imagebind_audio", "with_audio_branch")
        return each_medium(input_features, lambda clips: tower(clips).embedding_NE)

    def encode_frames_as_clips(self, audio_pixel_values: Tensor) -> Tensor:
        """Encode frames [N, S, 3, height, width] to ImageBind embeddings [N, S, E] of norm 1, for audio training."""
        tower = self._branch("imagebind_vision", "with_imagebind_vision")
        return each_medium(audio_pixel_values, lambda frames: tower(frames).embedding_NE)

    def encode_video(self, pixel_values_videos: MediaTensors) -> Tensor:
        """Encode normalised pixels [N, T, 3, height, width], or a list of N tensors, to decoder tokens [N, Q, D].

        An image is a video with T = 1; a tensor [N, 3, height, width] is N images.
        """
        videos = as_videos(pixel_values_videos)
        return encode_by_length(videos, lambda pixels: self.video_qformer(self.encode_frames(pixels)))

    def encode_audio(self, input_features: MediaTensors) -> Tensor:
        """Encode mel clips [N, S, 1, mel bins, frames], or a list of N tensors, to decoder tokens [N, Q, D]."""
        return encode_by_length(input_features, lambda mel: self.fuse_clips(self.encode_clips(mel)))

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_video_features(self, pixel_values_videos: MediaTensors, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Return the decoder tokens of videos and the ViT's outputs, as transformers' models do.

        Args:
            pixel_values_videos: normalised pixels [N, T, 3, height, width], or a list of N tensors; a tensor
                [N, 3, height, width] is N images.
            kwargs: ``output_hidden_states``, ``output_attentions`` and ``return_dict``; others are ignored.

        Returns ``pooler_output`` [N, Q, D] and ``last_hidden_state`` [N, T, patches + 1, ViT width]; for a list the
        frames of all videos are in one dimension, [sum of T, patches + 1, ViT width]. ``hidden_states`` and
        ``attentions``, if requested, are those of the ViT. ``encode_video`` returns only the tokens.
        """
        encoder = self.frame_encoder
        seen: list[Any] = []

        def encode(pixels_THW: Tensor) -> Tensor:
            tokens: Tensor
            tokens, outputs = encoder.encode(pixels_THW, **recorded(kwargs))
            seen.append(outputs)
            return tokens

        videos = list(as_videos(pixel_values_videos))
        tokens_NQD = torch.cat([self.video_qformer(encode(pixels)[None]) for pixels in videos])
        return features_output(tokens_NQD, seen, isinstance(pixel_values_videos, Tensor))

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Return the outputs of :meth:`get_video_features` for images [N, 3, height, width].

        ``last_hidden_state`` is [N, patches + 1, ViT width].
        """
        return self.get_video_features(  # type: ignore[no-any-return]
            [image[None] for image in pixel_values], **{**kwargs, "return_dict": True}
        )

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_audio_features(self, input_features: MediaTensors, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Return the decoder tokens of sounds and the outputs of ImageBind's audio trunk.

        Args:
            input_features: mel clips [N, S, 1, mel bins, frames], or a list of N tensors.
            kwargs: ``output_hidden_states``, ``output_attentions`` and ``return_dict``; others are ignored.

        Returns ``pooler_output`` [N, Q, D] and ``last_hidden_state`` [N, S, patches + 1, trunk width], or for a list
        [sum of S, patches + 1, trunk width]. ``encode_audio`` returns only the tokens.
        """
        trunk = self._branch("imagebind_audio", "with_audio_branch")
        seen = [trunk(clips, **recorded(kwargs)) for clips in input_features]
        tokens_NQD = torch.cat([self.fuse_clips(outputs.embedding_NE[None]) for outputs in seen])
        return features_output(tokens_NQD, seen, isinstance(input_features, Tensor))

    def get_audio_features_from_frames(self, audio_pixel_values: MediaTensors) -> Tensor:
        """Encode frames [N, S, 3, height, width] with ImageBind's vision tower and the audio Q-Former to [N, Q, D]."""
        return encode_by_length(audio_pixel_values, lambda pixels: self.fuse_clips(self.encode_frames_as_clips(pixels)))

    def fuse_clips(self, clip_embeddings: Tensor) -> Tensor:
        """Encode ImageBind embeddings [N, S, E] to decoder tokens [N, Q, D]."""
        return self._branch("audio_qformer", "with_audio_branch")(clip_embeddings[:, :, None])  # type: ignore[no-any-return]

    def get_audiovisual_features(self, pixel_values_videos: Tensor, input_features: Tensor) -> Tensor:
        """Encode frames [N, T, 3, height, width] and clips [N, S, 1, mel bins, frames] jointly to [N, Q, D].

        The video queries attend to the frames' query tokens and the clips' class tokens before ImageBind's final
        projection. Raises ValueError unless the audio trunk and the Q-Former have the same width (768 in the published
        model).
        """
        audio_width, width = self.config.imagebind_audio_config.hidden_size, self.config.qformer_config.hidden_size
        if audio_width != width:
            raise ValueError(
                f"The joint path requires equal widths; the audio trunk has {audio_width}, the Q-Former {width}."
            )
        trunk = self._branch("imagebind_audio", "with_audio_branch")
        clips = trunk(input_features.flatten(0, 1)).hidden_ND.unflatten(0, input_features.shape[:2])
        return self.video_qformer(self.encode_frames(pixel_values_videos), clips[:, :, None])  # type: ignore[no-any-return]

    def _branch(self, name: str, flag: str) -> nn.Module:
        if not hasattr(self, name):
            raise ValueError(
                f"This model was built without {name}. Set {flag}=True in its config and load its weights."
            )
        return getattr(self, name)  # type: ignore[no-any-return]

    def media_tokens(
        self,
        pixel_values: Tensor | None = None,
        pixel_values_videos: MediaTensors | None = None,
        input_features: MediaTensors | None = None,
        audio_pixel_values: MediaTensors | None = None,
        frame_tokens: MediaTensors | None = None,
        clip_embeddings: MediaTensors | None = None,
        video_features: Tensor | None = None,
        audio_features: Tensor | None = None,
    ) -> dict[str, Tensor | None]:
        """Return the decoder tokens [N, Q, D] of "video" and "audio", or None where no media are given.

        Give the media of a modality in one form, in the order of their placeholders:

        - raw: ``pixel_values_videos``, or ``pixel_values`` [N, 3, height, width] for images only; ``input_features``,
          or ``audio_pixel_values`` (frames for the audio branch);
        - features of the frozen encoders: ``frame_tokens`` [N, T, K, H], ``clip_embeddings`` [N, S, E];
        - decoder tokens: ``video_features``, ``audio_features`` [N, Q, D].
        """
        video = tokens_of(
            video_features,
            (self.encode_video, pixel_values_videos),
            (self.encode_video, pixel_values),
            (self._fuse_frames, frame_tokens),
        )
        audio = tokens_of(
            audio_features,
            (self.encode_audio, input_features),
            (self.get_audio_features_from_frames, audio_pixel_values),
            (self._fuse_all_clips, clip_embeddings),
        )
        return {"video": video, "audio": audio}

    def _fuse_frames(self, frame_tokens: MediaTensors) -> Tensor:
        return encode_by_length(frame_tokens, self.video_qformer)

    def _fuse_all_clips(self, clip_embeddings: MediaTensors) -> Tensor:
        return encode_by_length(clip_embeddings, self.fuse_clips)


def recorded(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an encoder that request outputs of its layers."""
    return {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if name in kwargs}


def features_output(tokens_NQD: Tensor, seen: Sequence[Any], is_stacked: bool) -> BaseModelOutputWithPooling:
    """Return the output for N media, given the encoder's output of each medium, [T, P, V].

    ``is_stacked``: whether the media have equal lengths, so that the results are [N, T, P, V] instead of
    [sum of T, P, V].
    """
    join = torch.stack if is_stacked else torch.cat

    def joined(name: str) -> tuple[Tensor, ...] | None:
        layers = [getattr(outputs, name) for outputs in seen]
        if not layers or any(each is None for each in layers):
            return None
        return tuple(join(list(layer)) for layer in zip(*layers, strict=True))

    return BaseModelOutputWithPooling(
        last_hidden_state=join([outputs.last_hidden_state for outputs in seen]),
        pooler_output=tokens_NQD,
        hidden_states=joined("hidden_states"),
        attentions=joined("attentions"),
    )
