"""Scores of captions, against sacrebleu's corpus score and the COCO evaluation code."""

import numpy as np
import pytest

from video_llama.evaluation.captions import bleu, cider_d, words_of

WORDS = ("a", "the", "red", "blue", "circle", "square", "moves", "left", "right", "up", "and", "slowly", "there", "is")


def corpus(seed: int, num_rows: int = 40) -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, 14)))

    references = [[sentence() for _ in range(rng.integers(1, 6))] for _ in range(num_rows)]
    candidates = [
        " ".join(row[0].split()[: rng.integers(1, 14)]) if rng.random() < 0.7 else sentence() for row in references
    ]
    return candidates, references


@pytest.mark.parametrize("seed", range(5))
def test_cider_d_equals_the_coco_code(seed):
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    candidates, references = corpus(seed)
    for candidate, row in zip(candidates, references, strict=True):
        scorer += (candidate, row)
    mean, each = scorer.compute_score()
    ours = cider_d(candidates, references)
    np.testing.assert_allclose(ours, each, atol=1e-9)
    assert np.mean(ours) == pytest.approx(mean)
    assert max(ours) > 1


def test_cider_d_of_perfect_and_empty_captions():
    references = [["a red circle moves left slowly"], ["two blue squares stop there now"]]
    assert cider_d(["a red circle moves left slowly", ""], references) == pytest.approx([10.0, 0.0])
    assert cider_d(["a red circle"], [["a red circle"]]) == [0.0]
    assert cider_d([], []) == []


def test_words():
    assert words_of("It's RED, isn’t it? 3.5 (über)") == ["it's", "red", "isn’t", "it", "3", "5", "über"]


@pytest.mark.parametrize("seed", range(3))
def test_bleu_is_sacrebleus_corpus_score(seed):
    metrics = pytest.importorskip("sacrebleu.metrics.bleu")
    candidates, references = corpus(seed)
    result = bleu(candidates, references)
    assert result.of(np.ones(len(candidates))) == pytest.approx(result.score)
    twice = metrics.BLEU(lowercase=True).corpus_score(
        [*candidates, candidates[0]],
        [[row[n] if n < len(row) else None for row in [*references, references[0]]] for n in range(5)],
    )
    weights = np.ones(len(candidates))
    weights[0] = 2
    assert result.of(weights) == pytest.approx(twice.score)
    assert "case:lc" in result.signature
    assert "tok:13a" in result.signature
