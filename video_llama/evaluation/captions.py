"""Scores of captions: BLEU-4 with sacrebleu, and CIDEr-D.

Source of CIDEr-D: Vedantam et al. 2015 (arXiv 1411.5726), section 6 and the supplement, with the conventions of the
COCO evaluation code: raw term counts, clipped candidate counts, a Gaussian penalty of the difference in length, and a
factor of 10. The COCO code tokenizes with a Java program (PTBTokenizer); here words are lower-case runs of letters,
digits and apostrophes, so figures differ slightly from those of that code on the same captions.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from video_llama.errors import MissingExtraError

MAX_ORDER = 4
"""Longest n-grams that are compared."""
LENGTH_SIGMA = 6.0
"""Standard deviation of the penalty of a difference in length, in words."""
CIDER_SCALE = 10.0

_WORD = re.compile(r"[^\W_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W_]+)*")

Ngrams = Counter[tuple[str, ...]]
Vectors = list[dict[tuple[str, ...], float]]


def words_of(text: str) -> list[str]:
    """Return the words that CIDEr-D compares."""
    return _WORD.findall(text.lower())


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of each candidate against its references; the corpus score is the mean.

    Document frequencies are those of the given references, so scores of few rows are not comparable with others, and a
    single row scores 0.
    """
    reference_ngrams = [[_ngrams(words_of(text)) for text in texts] for texts in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for row in reference_ngrams:
        frequency.update({ngram for ngrams in row for ngram in ngrams})
    log_rows = math.log(max(1, len(references)))

    def vectors(ngrams: Ngrams) -> Vectors:
        weighted: Vectors = [{} for _ in range(MAX_ORDER)]
        for ngram, count in ngrams.items():
            weighted[len(ngram) - 1][ngram] = count * (log_rows - math.log(max(1, frequency[ngram])))
        return weighted

    scores = []
    for candidate, row in zip(candidates, reference_ngrams, strict=True):
        ngrams = _ngrams(words_of(candidate))
        found = vectors(ngrams)
        similarities = [_similarity(found, vectors(each), _length(ngrams) - _length(each)) for each in row]
        scores.append(CIDER_SCALE * sum(similarities) / len(similarities))
    return scores


def _ngrams(words: Sequence[str]) -> Ngrams:
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )


def _length(ngrams: Ngrams) -> int:
    """Return the number of bigrams, which the COCO code uses as the length of a caption."""
    return sum(count for ngram, count in ngrams.items() if len(ngram) == 2)


def _similarity(candidate: Vectors, reference: Vectors, difference: int) -> float:
    """Return the mean over the orders of the clipped cosine similarity, with the penalty of the length."""
    total = 0.0
    for found, expected in zip(candidate, reference, strict=True):
        norm = _norm(found) * _norm(expected)
        if norm:
            clipped = sum(
                min(weight, expected[ngram]) * expected[ngram] for ngram, weight in found.items() if ngram in expected
            )
            total += clipped / norm
    return total / MAX_ORDER * math.exp(-(difference**2) / (2 * LENGTH_SIGMA**2))


def _norm(vector: dict[tuple[str, ...], float]) -> float:
    return math.sqrt(sum(weight**2 for weight in vector.values()))


@dataclass(frozen=True)
class Bleu:
    """BLEU-4 of a corpus, 0 to 100, with sacrebleu's signature.

    ``of`` returns the score of the rows with given weights, for the bootstrap.
    """

    score: float
    signature: str
    of: Callable[[np.ndarray], float]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """Return sacrebleu's corpus BLEU in lower case. Raises MissingExtraError without sacrebleu."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError as error:
        raise MissingExtraError("sacrebleu", "evaluate") from error
    num_references = max(map(len, references))
    streams = [[row[n] if n < len(row) else None for row in references] for n in range(num_references)]
    corpus = BLEU(lowercase=True)
    result = corpus.corpus_score(list(candidates), streams)
    sentence = BLEU(lowercase=True, effective_order=True)  # the counts are the same; it is meant for single sentences
    rows = [sentence.sentence_score(text, list(texts)) for text, texts in zip(candidates, references, strict=True)]
    statistics = np.array([[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in rows], dtype=np.float64)

    def of(weights: np.ndarray) -> float:
        sums: list[Any] = [int(value) for value in weights @ statistics]
        counts, totals, (length, reference_length) = sums[:MAX_ORDER], sums[MAX_ORDER:-2], sums[-2:]
        return float(BLEU.compute_bleu(counts, totals, length, reference_length, smooth_method="exp").score)

    return Bleu(float(result.score), str(corpus.get_signature()), of)
