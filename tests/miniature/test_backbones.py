"""The frozen parts: each pre-training runs a few steps on the real architecture; what it makes has the right form."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from video_llama.conversation import IGNORE_INDEX, Tokenizer, pad_batch
from video_llama.miniature.documents import caption_document, dialogue_example, frames_sentence
from video_llama.miniature.pretrain_imagebind import BindingLearner, binding_loss, sample_sounds
from video_llama.miniature.pretrain_language import (
    add_noise,
    make_batches,
    noisy_positions,
    pretrain_language,
    weighted_loss,
)
from video_llama.miniature.pretrain_vision import (
    FrameLearner,
    TowerLearner,
    pretrain_frames,
    sample_pictures,
    sin_cos_positions,
)
from video_llama.miniature.questions import caption_pair, dialogue
from video_llama.miniature.recipe import EMBEDDING_SIZE, LanguagePhase, Pretraining, miniature_config
from video_llama.miniature.tokenizer import NUM_PIECES, STOP_MARK, train_tokenizer
from video_llama.processors.video_processor import frames_message

FEW = Pretraining(num_steps=3, batch_size=4, peak_lr=1e-3, warmup_steps=1)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path, seed=0)
    return path


def test_the_stop_mark_is_one_piece_wherever_it_stands(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    assert tokenizer.vocab_size == NUM_PIECES
    [mark] = {tokenizer.encode(f"a{end}{STOP_MARK}")[-1] for end in (".", "?", "", " ")}
    assert tokenizer.decode([mark]) == STOP_MARK


def test_any_text_survives_the_tokenizer(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    for text in ("Wie heißt du? 你好", "two  spaces", "\ttab\nline", "12.5 seconds"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_frames_sentence_is_the_processors_own() -> None:
    assert frames_sentence((0.0, 0.6, 1.2)) == frames_message([0, 6, 12], 10.0)


def test_documents_are_labelled_on_answers_alone(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = dialogue(rng)
        example = dialogue_example(tokenizer, drawn)
        learnt = tokenizer.decode([label for label in example.labels if label != IGNORE_INDEX])
        assert [part.strip() for part in learnt.split(STOP_MARK)[:-1]] == [qa.answer for qa in drawn.turns]
    words, caption = caption_pair(rng)
    example = caption_document(tokenizer, words, caption)
    assert tokenizer.decode([label for label in example.labels if label != IGNORE_INDEX]) == caption + STOP_MARK


def test_batches_follow_from_seed_and_number(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    phase = LanguagePhase("few", 0, FEW, 0.5, 0.5, 0.1)
    first, again = (make_batches(tokenizer, phase, 1, 0) for _ in range(2))
    assert first == again
    assert first != make_batches(tokenizer, phase, 1, 1)
    assert all(len(batch) == 4 for batch in first)


def test_weighted_loss_tells_answers_from_the_rest() -> None:
    ids = torch.tensor([[1, 2, 3, 0]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 3, IGNORE_INDEX]])
    mask = torch.tensor([[1, 1, 1, 0]])
    logits = torch.zeros(1, 4, 5)
    logits[0, 1, 3] = 100.0  # the answer is certain, the text before it is not
    answers, text = weighted_loss(logits, ids, labels, mask)
    assert answers.item() == pytest.approx(0.0, abs=1e-6)
    assert text.item() == pytest.approx(float(np.log(5)), rel=1e-5)


def test_noise_is_on_the_marked_tokens_alone_and_as_strong_as_told() -> None:
    marked = torch.tensor([[True, True, False]]).repeat(3, 1)
    deviations = torch.tensor([0.0, 1.0, 2.0])
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 5, 6)]
    noise, again, other = (add_noise(torch.zeros(3, 3, 4000), marked, deviations, each) for each in generators)
    assert torch.equal(noise, again)
    assert not torch.equal(noise, other)
    assert not noise[:, 2].any()
    assert torch.allclose(noise[:, :2].flatten(1).std(dim=1), deviations, atol=0.05)


def test_spans_are_the_words_of_the_media(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    rng = np.random.default_rng(0)
    documents = [(drawn := dialogue(rng), dialogue_example(tokenizer, drawn)) for _ in range(40)]
    assert {drawn.medium for drawn, _ in documents} == {"audio_video", "video", "image", "audio", "text"}
    for drawn, example in documents:
        told = [words for words in (drawn.sound_words, drawn.video_words, drawn.image_words) if words]
        marked = [tokenizer.decode(example.input_ids[span.start : span.start + span.length]) for span in example.spans]
        assert [words.strip() for words in marked] == told
    words, caption = caption_pair(rng)
    example = caption_document(tokenizer, words, caption)
    [span] = example.spans
    assert (span.start, tokenizer.decode(example.input_ids[1 : 1 + span.length]).strip()) == (1, words)
    assert example.labels[1 + span.length] != IGNORE_INDEX  # the caption comes at once


def test_noise_is_on_all_that_is_no_answer_or_on_the_medias_words_alone(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    rng = np.random.default_rng(1)
    examples = [dialogue_example(tokenizer, dialogue(rng)) for _ in range(60)]
    rows = pad_batch(examples, 0)
    labels = torch.tensor(rows.labels)
    spans = torch.zeros_like(labels, dtype=torch.bool)
    for row, example in enumerate(examples):
        for span in example.spans:
            spans[row, span.start : span.start + span.length] = True
    questions = labels == IGNORE_INDEX
    has_medium = torch.tensor([bool(example.spans) for example in examples])
    nowhere, everywhere = torch.zeros(60, dtype=torch.bool), torch.ones(60, dtype=torch.bool)
    assert torch.equal(noisy_positions(examples, labels, nowhere), questions)
    alone = noisy_positions(examples, labels, everywhere)
    assert torch.equal(alone[has_medium], spans[has_medium])
    assert torch.equal(alone[~has_medium], questions[~has_medium])
    assert has_medium.any()
    assert not has_medium.all()
    half = noisy_positions(examples, labels, torch.arange(60) < 30)
    assert torch.equal(half[:30], alone[:30])
    assert torch.equal(half[30:], questions[30:])


def test_the_language_model_trains(tokenizer_path: Path, tmp_path: Path) -> None:
    first = LanguagePhase("first", 0, FEW, 0.5, 0.5, 0.1)
    phases = [first, replace(first, name="second", named_share=0.0, max_noise=3.0, media_noise_share=0.5)]
    model = pretrain_language(tokenizer_path, tmp_path, seed=0, phases=phases)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}
    assert model.config.vocab_size == NUM_PIECES
    assert not model.training


def test_positions_differ_and_leave_the_class_token_alone() -> None:
    table = sin_cos_positions(128, 6)[0]
    assert table.shape == (37, 128)
    assert not table[0].any()
    assert torch.cdist(table[1:], table[1:])[~torch.eye(36, dtype=torch.bool)].min() > 0.5


def test_the_frame_encoder_trains(tmp_path: Path) -> None:
    encoder = pretrain_frames(tmp_path, seed=0, recipe=FEW)
    pixels, targets = sample_pictures(np.random.default_rng(0), 2)
    assert encoder(pixels).shape == (2, miniature_config().num_query_tokens, 128)
    assert targets["patches"].shape == (2, 36)


@pytest.mark.parametrize("learner", [FrameLearner, TowerLearner])
def test_every_part_of_an_encoder_gets_a_gradient(learner: type) -> None:
    torch.manual_seed(0)
    module = learner()
    loss, _ = module.loss(*sample_pictures(np.random.default_rng(0), 4))
    loss.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not [name for name in without if "tower.head." not in name]  # its head learns with the sounds


def test_sounds_say_how_long_each_shape_sounds() -> None:
    sounds = sample_sounds(seed=0, num_tracks=12)
    assert sounds.mels.shape == (96, 1, 128, 204)
    assert torch.allclose(sounds.shares.sum(1), torch.ones(96), atol=1e-5)
    assert (sounds.shares.amax(1) < 0.99).any()


def test_binding_is_best_where_sounds_lie_on_their_pictures() -> None:
    shapes = torch.tensor([0, 1, 0, 1])
    pictures = torch.eye(4)[shapes]
    shares = torch.eye(4)[torch.tensor([0, 1])]
    bound = binding_loss(torch.eye(4)[:2], pictures, shares, shapes)
    swapped = binding_loss(torch.eye(4)[[1, 0]], pictures, shares, shapes)
    assert bound < swapped


def test_binding_moves_the_sounds_and_leaves_the_vision_trunk() -> None:
    torch.manual_seed(0)
    learner = BindingLearner(TowerLearner().tower)
    pixels, targets = sample_pictures(np.random.default_rng(0), 4)
    sounds = sample_sounds(seed=1, num_tracks=2)
    loss, figures = learner.loss(sounds.mels[:4], sounds.shares[:4], pixels, targets["shape"])
    loss.backward()
    trained = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert {name for name in trained if name.startswith("vision.")} == {"vision.head.weight"}
    assert learner.audio(sounds.mels[:2]).embedding_NE.shape == (2, EMBEDDING_SIZE)
    assert -1 <= figures["cosine"] <= 1
