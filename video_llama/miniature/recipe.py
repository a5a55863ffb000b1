"""The miniature's dimensions and the pre-training of its frozen parts, as data. ``docs/log.md`` says what was tried.

The branches' own training is not here: it is in ``train_configs/miniature/*.yaml``, for the project's trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from video_llama.miniature.questions import NAMED_SHARE
from video_llama.miniature.tokenizer import NUM_PIECES
from video_llama.miniature.world import FRAME_SIZE, PATCH_SIZE

if TYPE_CHECKING:
    from video_llama.models.configuration import VideoLlamaConfig

NUM_FRAMES = 8
NUM_CLIPS = 8
MEL_BINS, MEL_FRAMES = 128, 204
IMAGE_MEAN, IMAGE_STD = (0.3, 0.3, 0.3), (0.25, 0.25, 0.25)

VISION_WIDTH = 128
EMBEDDING_SIZE = 64  # of ImageBind's shared space


def miniature_config() -> VideoLlamaConfig:
    """The real architecture, small: 84 px frames, a decoder 192 wide with 4 layers, about 6 M parameters."""
    from video_llama.models.configuration import VideoLlamaConfig, audio_tower_config

    # Fresh data at every step, so nothing to gain from dropout, and at this width much to lose.
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
        # No scale on the sound: the branch is trained on vision embeddings of norm 1 (the published one is x 20).
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


@dataclass(frozen=True)
class Pretraining:
    """One pre-training: ``num_steps`` of ``batch_size``, learning rate from 0 over ``warmup_steps`` to ``peak_lr``,
    then by a cosine to 3 % of it; AdamW with ``weight_decay``."""

    num_steps: int
    batch_size: int
    peak_lr: float
    weight_decay: float = 0.02
    warmup_steps: int = 40


@dataclass(frozen=True)
class LanguagePhase:
    """A pre-training of the language model on one mixture of documents."""

    name: str
    stream: int
    """Number of its random stream."""
    recipe: Pretraining
    two_part_share: float
    """Of the scenes: two shapes one after the other."""
    hard_share: float
    """Of the questions: only from the kinds that are learnt late."""
    text_weight: float
    """Of the loss on the tokens that are not answers."""
    named_share: float = NAMED_SHARE
    """Of the questions about one of two colours: those that name the shape."""
    max_noise: float = 0.0
    """Gaussian noise on the embeddings of all that is no answer: for each document a deviation between 0 and this,
    in units of the words' own. A branch's tokens are never quite words; so the model learns to read what is near."""
    media_noise_share: float = 0.0
    """Of the documents with a medium: those with the weakest noise, which have it on the media's words alone. When the
    model is served, only the branches' tokens are inexact."""


LANGUAGE = (
    LanguagePhase("language", 21, Pretraining(1600, 40, peak_lr=2e-3, weight_decay=0.05), 0.5, 0.5, 0.1),
    # The rest of the text is chance by now; without its noise what needs two steps of reading is learnt sooner.
    LanguagePhase("language_hard", 26, Pretraining(900, 40, peak_lr=1.5e-3, weight_decay=0.05), 0.5, 0.7, 0.02),
    # Which colour belongs to which of two shapes comes last.
    LanguagePhase("language_two_part", 27, Pretraining(900, 40, peak_lr=1.5e-3, weight_decay=0.05), 0.8, 0.8, 0.02),
    # Every kind again, with more of the easy ones.
    LanguagePhase("language_all", 29, Pretraining(1500, 40, peak_lr=1.5e-3, weight_decay=0.05), 0.75, 0.25, 0.02),
    LanguagePhase(
        "language_noise",
        31,
        Pretraining(1200, 40, peak_lr=1.2e-3, weight_decay=0.05),
        0.6,
        0.4,
        0.02,
        named_share=0.0,
        max_noise=3.0,
        media_noise_share=0.5,
    ),
)
VISION = Pretraining(num_steps=2400, batch_size=48, peak_lr=1e-3)
IMAGEBIND_VISION = Pretraining(num_steps=1500, batch_size=48, peak_lr=1e-3)
IMAGEBIND_AUDIO = Pretraining(num_steps=500, batch_size=64, peak_lr=1e-3)
