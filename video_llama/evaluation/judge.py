"""Judge the answers of a run with a language model: is the answer correct, and how good is it from 0 to 5?

In: the folder of a run. Out: a folder of its own with judgements.jsonl, settings.json and metrics.json; the answers are
not changed. Rows without an answer are wrong with score 0, and are not sent.
"""

from __future__ import annotations

import ast
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.datasets.row_file import RowFile, complete_rows, keep_settings
from video_llama.errors import DataError, JudgeError
from video_llama.evaluation.answering import Result
from video_llama.evaluation.judge_client import JudgeClient, Reply, ReplyCache, Request, judge_request, request_key
from video_llama.evaluation.metrics import INTERVALS, Figure, group_of
from video_llama.evaluation.run import read_results
from video_llama.evaluation.statistics import Count, bootstrap_interval, mean_score
from video_llama.files import replace_text
from video_llama.log import progress

JUDGEMENTS_FILE = "judgements.jsonl"
JUDGE_SETTINGS_FILE = "settings.json"
JUDGE_SUMMARY_FILE = "metrics.json"
CACHE_FILE = "cache.jsonl"
JUDGE_FOLDER = "judge"

MAX_SCORE = 5
PLACES = ("{question}", "{expected}", "{answer}")

JUDGE_PROMPT = """You are given a question about a video, a reference answer, and the answer of a model.
Decide whether the answer of the model means the same as the reference answer. Synonyms and paraphrases are correct; a \
contradiction, a missing key fact or a different thing is not.

Question: {question}
Reference answer: {expected}
Answer of the model: {answer}

Reply with JSON only, in this form: {"correct": true, "score": 4}
"correct" is true or false. "score" is an integer from 0 (nothing is right) to 5 (everything is right)."""


@dataclass(frozen=True)
class JudgeOptions:
    """Which model judges, and how it is asked. The places {question}, {expected} and {answer} of ``prompt`` are filled.

    Raises ValueError for a prompt without these places.
    """

    url: str
    model: str
    prompt: str = JUDGE_PROMPT
    concurrency: int = 4
    """Number of requests at the same time."""

    def __post_init__(self) -> None:
        missing = [place for place in PLACES if place not in self.prompt]
        if missing:
            raise ValueError(f"The prompt has no {' and no '.join(missing)}. Add it.")
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}. Give 1 or more.")

    def filled(self, result: Result) -> str:
        """Return the prompt for one answer."""
        expected = result["expected"].get("answers") or result["expected"].get("captions")
        values = {"question": result["question"], "expected": " | ".join(expected), "answer": result["answer"]}
        return re.sub("|".join(map(re.escape, PLACES)), lambda match: str(values[match[0][1:-1]]), self.prompt)


def judge_run(
    run: Path,
    options: JudgeOptions,
    output: Path | None = None,
    *,
    api_key: str | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Judge the answers of a run and return the content of metrics.json.

    Args:
        run: folder of the run.
        options: the judge.
        output: folder of the judgements (default: ``judge`` in the folder of the run). A folder is continued.
        api_key: key of the server.
        cache: file of the replies (default: in ``output``); several runs can share one, one after the other.

    Raises:
        JudgeError: the server cannot be used, or answers as another model than before.
        DataError: the run has no answers that can be judged.
    """
    output = output or run / JUDGE_FOLDER
    results = [row for row in read_results(run) if row["expected"].get("answers") or row["expected"].get("captions")]
    if not results:
        raise DataError(f"{run} has no rows with an expected answer. Judge a run on rows with answers or captions.")
    client = JudgeClient(options.url, api_key)
    try:
        with RowFile(output / JUDGEMENTS_FILE) as file, ReplyCache(cache or output / CACHE_FILE) as replies:
            settings = {"url": client.url, "model": options.model, "prompt": options.prompt, "temperature": 0}
            keep_settings(output / JUDGE_SETTINGS_FILE, settings)
            missing = [row for row in results if (row["id"],) not in file.done]
            _judge(missing, options, client, replies, file)
    finally:
        client.close()
    summary = _summary(results, list(complete_rows(output / JUDGEMENTS_FILE)))
    replace_text(output / JUDGE_SUMMARY_FILE, json.dumps({**summary, "judge": settings}, indent=2) + "\n")
    return summary


def _judge(
    results: Sequence[Result], options: JudgeOptions, client: JudgeClient, replies: ReplyCache, file: RowFile
) -> None:
    names = {row["model"] for row in complete_rows(file.path) if row["model"]}
    asked = _replies(results, options, client, replies)
    for result, reply in progress(zip(results, asked, strict=True), "judging", len(results)):
        if reply is not None:
            names.add(reply.model)
        if len(names) > 1:
            raise JudgeError(
                f"{client.url} answers as {' and '.join(sorted(names))}. Give the name of a version that does not "
                "change, and a new folder (--output)."
            )
        file.write([_judgement(result, reply, options)])


def _replies(
    results: Sequence[Result], options: JudgeOptions, client: JudgeClient, replies: ReplyCache
) -> Iterator[Reply | None]:
    """Yield the reply for each row, in order; None for rows without an answer. Equal requests are sent once."""
    waiting: deque[tuple[str, Request, Future[Reply] | None] | None] = deque()
    running: dict[str, Future[Reply]] = {}

    def first() -> Reply | None:
        entry = waiting.popleft()
        if entry is None:
            return None
        key, request, future = entry
        known = replies.get(key)
        if known is None:
            assert future is not None, "a request that is not cached was sent"
            replies.put(key, request, reply := future.result())
            return reply
        return known

    with ThreadPoolExecutor(options.concurrency) as pool:
        try:
            for result in results:
                if result["answer"] is None:
                    waiting.append(None)
                else:
                    request = judge_request(options.model, options.filled(result))
                    key = request_key(client.url, request)
                    if replies.get(key) is None and key not in running:
                        running[key] = pool.submit(client.ask, request)
                    waiting.append((key, request, running.get(key)))
                if len(waiting) > 2 * options.concurrency:
                    yield first()
            while waiting:
                yield first()
        finally:
            pool.shutdown(cancel_futures=True)


def _judgement(result: Result, reply: Reply | None, options: JudgeOptions) -> dict[str, Any]:
    row: dict[str, Any] = {"id": result["id"], "model": None, "prompt": None, "reply": None, "error": None}
    if reply is None:
        return {**row, "correct": False, "score": 0.0}
    row |= {"model": reply.model, "prompt": options.filled(result), "reply": reply.text}
    try:
        is_correct, score = parse_reply(reply.text)
    except ValueError as error:
        return {**row, "correct": None, "score": None, "error": str(error)}
    return {**row, "correct": is_correct, "score": score}


def parse_reply(text: str) -> tuple[bool, float]:
    """Return whether the answer is correct, and its score, from JSON or a Python dictionary in the text.

    The key of the verdict is "correct", or "pred" as in Video-ChatGPT's prompts; its value is a bool, yes or no. Raises
    ValueError for other replies.
    """
    match = re.search(r"\{[^{}]*\}", text)
    values: Any = None
    if match:
        for parse in (json.loads, ast.literal_eval):
            try:
                values = parse(match[0])
                break
            except (ValueError, SyntaxError):
                continue
    if not isinstance(values, dict):
        raise ValueError("the reply has no verdict")
    verdict, score = values.get("correct", values.get("pred")), values.get("score")
    if isinstance(verdict, str):
        verdict = {"yes": True, "true": True, "no": False, "false": False}.get(verdict.strip().lower())
    if not isinstance(verdict, bool):
        raise ValueError("the reply does not say whether the answer is correct")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= MAX_SCORE:
        raise ValueError(f"the score is not a number from 0 to {MAX_SCORE}")
    return verdict, float(score)


def _summary(results: Sequence[Result], judgements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_id = {judgement["id"]: judgement for judgement in judgements}
    pairs = [(result, by_id[result["id"]]) for result in results]
    categories = sorted({result["expected"]["category"] for result in results if result["expected"]["category"]})
    return {
        "rows": len(pairs),
        "not_judged": sum(judgement["error"] is not None for _, judgement in pairs),
        "metrics": _figures(pairs),
        "categories": {
            name: {"metrics": _figures([pair for pair in pairs if pair[0]["expected"]["category"] == name])}
            for name in categories
        },
        "intervals": INTERVALS,
    }


def _figures(pairs: Sequence[tuple[Result, dict[str, Any]]]) -> dict[str, Figure]:
    """Return the share of correct answers and the mean score of the rows whose reply could be read."""
    judged = [(result, judgement) for result, judgement in pairs if judgement["error"] is None]
    if not judged:
        return {}
    count = Count(sum(judgement["correct"] for _, judgement in judged), len(judged))
    scores = [judgement["score"] for _, judgement in judged]
    low, high = bootstrap_interval([group_of(result) for result, _ in judged], mean_score(scores))
    accuracy = {"value": count.accuracy, "low": count.interval[0], "high": count.interval[1], "right": count.right}
    mean = {"value": sum(scores) / len(scores), "low": low, "high": high}
    return {"judged_correct": {**accuracy, "total": count.total}, "judged_score": {**mean, "total": count.total}}
