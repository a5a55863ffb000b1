"""What quantization and half precision change in the miniature's answers.

    python benchmarks/bench_forms.py [--num-clips 60] [--seed 5]

Asks two questions about each of some new clips of the miniature's world, in each form of the weights that this
processor supports. Prints, against float32: the share of identical answers, the share of identical tokens up to the
first difference, and the perplexity of the correct answers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import video_llama
from benchmarks.evaluate_miniature import MAX_NEW_TOKENS, write_questions
from benchmarks.machine import machine
from video_llama.chat.loading import MINIATURE_PATH
from video_llama.conversation import TOKENIZER_MODEL, Tokenizer
from video_llama.models.cpu_benchmark import supported_forms

BASELINE = "float32"


def common_share(found: Sequence[int], expected: Sequence[int]) -> float:
    """Return the share of ``expected`` that ``found`` begins with."""
    equal = next((n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), len(found))
    return min(equal, len(expected)) / max(len(expected), 1)


def main() -> None:
    """Print a row for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    tokenizer = Tokenizer(MINIATURE_PATH / TOKENIZER_MODEL)
    forms = {BASELINE: {"dtype": "float32"}} | supported_forms(with_emulated=True)
    with tempfile.TemporaryDirectory() as folder:
        path = write_questions(Path(folder), options.num_clips, options.seed)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        print(f"{machine()}; {len(rows)} questions about {options.num_clips} clips")
        print(f"{'form':24}{'answers':>10}{'tokens':>10}{'perplexity':>12}")
        expected: list[list[int]] = []
        for name, arguments in forms.items():
            assistant = video_llama.load(device="cpu", **arguments)
            requests = [(row["media"], row["question"]) for row in rows]
            answers = assistant.ask_batch(requests, batch_size=8, max_new_tokens=MAX_NEW_TOKENS)
            scores = [assistant.score(row["media"], row["question"], [row["answer"]])[0] for row in rows]
            ids = [tokenizer.encode(answer.text) for answer in answers]
            expected = expected or ids
            pairs = list(zip(ids, expected, strict=True))
            same = sum(found == baseline for found, baseline in pairs) / len(pairs)
            tokens = sum(common_share(*pair) for pair in pairs) / len(pairs)
            loss = -sum(score.sum for score in scores) / sum(len(score.log_probs) for score in scores)
            print(f"{name:24}{same:>10.1%}{tokens:>10.1%}{math.exp(loss):>12.4f}", flush=True)


if __name__ == "__main__":
    main()
