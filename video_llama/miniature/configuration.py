"""Dimensions of the miniature and settings of its processors."""

from __future__ import annotations

from video_llama.miniature.sounds import SAMPLING_RATE
from video_llama.miniature.tokenizer import NUM_PIECES
from video_llama.miniature.world import FRAME_SIZE, PATCH_SIZE
from video_llama.models.configuration import VideoLlamaConfig, audio_tower_config
from video_llama.processors.settings import ProcessorSettings

NUM_FRAMES = 8
NUM_CLIPS = 8
MEL_BINS, MEL_FRAMES = 128, 204
IMAGE_MEAN, IMAGE_STD = (0.3, 0.3, 0.3), (0.25, 0.25, 0.25)

VISION_WIDTH = 128
EMBEDDING_SIZE = 64  # dimension of ImageBind's shared embedding space


def miniature_config() -> VideoLlamaConfig:
    """Return the configuration: frames of 84 px, a decoder with 4 layers of width 192, 5.5 million parameters.

    The decoder has no rows for the media places; ``assemble.write_base`` adds them.
    """
    # Every step draws new data, so dropout is not needed; at this width it lowers the accuracy (docs/log.md).
    no_dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    heads = dict(hidden_size=VISION_WIDTH, num_attention_heads=4, vocab_size=1, **no_dropout)
    fusion = dict(heads, intermediate_size=512, num_hidden_layers=2, cross_attention_frequency=1)
    return VideoLlamaConfig(
        vision_config=dict(
            hidden_size=VISION_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=512,
            image_size=FRAME_SIZE,
            patch_size=PATCH_SIZE,
            initializer_range=0.02,
        ),
        qformer_config=dict(
            heads,
            num_hidden_layers=4,
            intermediate_size=256,
            cross_attention_frequency=2,
            encoder_hidden_size=VISION_WIDTH,
        ),
        video_qformer_config=dict(fusion, encoder_hidden_size=VISION_WIDTH),
        audio_qformer_config=dict(fusion, encoder_hidden_size=EMBEDDING_SIZE),
        imagebind_vision_config=dict(
            input_size=(FRAME_SIZE, FRAME_SIZE),
            kernel_size=(PATCH_SIZE, PATCH_SIZE),
            stride=(PATCH_SIZE, PATCH_SIZE),
            hidden_size=VISION_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            embedding_size=EMBEDDING_SIZE,
        ),
        # No scale on audio embeddings: the branch is trained on vision embeddings of norm 1. (The published model
        # scales its audio embeddings by 20.)
        imagebind_audio_config=audio_tower_config(
            input_size=(MEL_BINS, MEL_FRAMES),
            stride=(16, 16),
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            embedding_size=EMBEDDING_SIZE,
            logit_scale=False,
        ),
        text_config=dict(
            vocab_size=NUM_PIECES,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=1024,
            rms_norm_eps=1e-6,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        ),
        num_query_tokens=8,
        num_video_query_tokens=16,
        num_audio_query_tokens=8,
        max_frame_pos=32,
        max_audio_pos=8,
        with_imagebind_vision=True,
        video_token_id=NUM_PIECES,
        audio_token_id=NUM_PIECES + 1,
        prompt_template="default",
    )


def processor_settings() -> ProcessorSettings:
    """Return the processor settings of the model folder."""
    return ProcessorSettings(
        image_size=FRAME_SIZE,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        num_frames=NUM_FRAMES,
        sampling_rate=SAMPLING_RATE,
        num_mel_bins=MEL_BINS,
        target_length=MEL_FRAMES,
        num_clips=NUM_CLIPS,
    )
