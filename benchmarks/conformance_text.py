"""Text compared with the reference: every item of text.json and the collated batches of the cases.

Templates, system prompts, tokenizers, token counts and end symbols are read from the files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.conformance_row import Row, guarded
from video_llama.conversation import (
    REFERENCE_DECODING,
    TEMPLATES,
    Conversation,
    MediaMessage,
    Slot,
    Style,
    Template,
    Tokenizer,
    TrainingExample,
    caption_example,
    caption_prompt,
    caption_targets,
    encode_prompt,
    image_turns,
    media_message,
    pad_batch,
    postprocess,
    prompt_text,
    prompt_wrap,
    render,
    segment_ids,
    stop_sequences,
    training_example,
    video_turns,
)
from video_llama.errors import VideoLlamaError

Item = dict[str, Any]
Check = Callable[[Item, Tokenizer], bool]
REFERENCE_FORMATS = {"vicuna": "default", "llama_v2": "llama2"}
STOP_LISTS = {"default_stops": "default", "llama2_stops": "llama2"}


def rows(folder: Path, tokenizer_path: Path | None) -> Iterator[Row]:
    """Yield a row per section of text.json and tokenizer or template; ``value`` counts the items that differ."""
    text_path = folder / "text.json"
    if not text_path.is_file():
        return
    text: dict[str, Any] = json.loads(text_path.read_text(encoding="utf-8"))
    yield from _rows_without_tokenizer(text)
    if tokenizer_path is None:
        yield Row("text.tokenizer", None, note="chat, train, tokenize and all other ids need --tokenizer FILE")
        return
    tokenizers = _tokenizers(text, tokenizer_path)
    checks: dict[str, Check] = {
        "chat": _chat_agrees,
        "train": _training_agrees,
        "prompt_wrap": _prompt_wrap_agrees,
        "caption_targets": _captions_agree,
        "tokenize": _tokenizer_agrees,
        "answer_postprocess": _answer_agrees,
    }
    for section, check in checks.items():
        yield from guarded(
            f"text.{section}",
            lambda section=section, check=check: _section_rows(text, section, check, tokenizers),
        )
    if "stopping" in text:
        first = next(iter(tokenizers.values()))
        yield from guarded("text.stopping", lambda: [_stopping_row(text["stopping"], first)])
    yield from guarded("text.batch", lambda: _batch_rows(folder, tokenizer_path))


def _rows_without_tokenizer(text: dict[str, Any]) -> Iterator[Row]:
    if "templates" in text:
        known = {name: item for name, item in text["templates"].items() if name in TEMPLATES}
        yield _row("templates", "", known.items(), lambda named: TEMPLATES[named[0]] == _template(named[1]))
        others = [item for name, item in text["templates"].items() if name not in TEMPLATES]
        if others:
            yield _row("templates", "other names", others, _template_renders)
    if "get_prompt" in text:
        groups: defaultdict[str, list[Item]] = defaultdict(list)
        for item in text["get_prompt"]:
            groups[item["style"]].append(item)
        for style, items in groups.items():
            yield _row("get_prompt", style, items, _rendering_agrees)
    if "blip_caption" in text:
        yield _row("blip_caption", "", text["blip_caption"], _caption_rule_agrees)
    if "answer_generate_kwargs" in text:
        yield _row("answer_generate_kwargs", "", [text["answer_generate_kwargs"]], REFERENCE_DECODING.__eq__)


def _row(section: str, group: str, items: Iterable[Any], agrees: Callable[[Any], bool]) -> Row:
    """Count the items that differ. An item that raises differs."""
    items = list(items)
    wrong = [index for index, item in enumerate(items) if not _runs_and_agrees(item, agrees)]
    case = ".".join(filter(None, ("text", section, group)))
    note = f"{len(items)} items" + (f", first to differ: number {wrong[0]}" if wrong else "")
    return Row(case, len(wrong), note=note)


def _runs_and_agrees(item: Any, agrees: Callable[[Any], bool]) -> bool:
    try:
        return agrees(item)
    except (VideoLlamaError, KeyError, ValueError):
        return False


def _section_rows(text: dict[str, Any], section: str, check: Check, tokenizers: dict[str, Tokenizer]) -> Iterator[Row]:
    """Yield the rows of one section. Items without a tokenizer name belong to the first tokenizer."""
    groups: defaultdict[tuple[str, ...], list[Item]] = defaultdict(list)
    for item in text.get(section, []):
        names = [str(item[key]) for key in ("tokenizer", "template", "format", "dataset", "media") if key in item]
        groups[tuple(names)].append(item)
    first = next(iter(tokenizers.values()))
    for group, items in groups.items():
        yield _row(
            section, ".".join(group), items, lambda item: check(item, tokenizers.get(item.get("tokenizer"), first))
        )


def _tokenizers(text: dict[str, Any], path: Path) -> dict[str, Tokenizer]:
    """Return the tokenizers named by the items. A tokenizer has a pad token if one of its ids requires it."""
    plain = Tokenizer(path)
    items = [item for section in text.values() if isinstance(section, list) for item in section if "tokenizer" in item]
    tokenizers = dict.fromkeys(dict.fromkeys(str(item["tokenizer"]) for item in items), plain)
    for item in items:
        ids = set(item.get("ids", [])) | set(item.get("input_ids", []) if item.get("sample") else [])
        has_image = plain.vocab_size + 1 in ids and "<AudioHere>" not in item.get("text", "")
        if item.get("pad_token_id", 0) >= plain.vocab_size or has_image:
            tokenizers[str(item["tokenizer"])] = Tokenizer(path, pad_token="[PAD]")
    return tokenizers or {"llama2": plain}


def _template(item: Item) -> Template:
    return Template(Style(item["style"]), item["system"], tuple(item["roles"]), item["sep"], item["sep2"])


def _template_renders(item: Item) -> bool:
    """Check that a template without a name can be rendered from its fields; ``get_prompt`` has the expected texts."""
    template = _template(item)
    prompt = prompt_text(render(template, [(template.roles[0], ("Why?",)), (template.roles[1], None)]))
    return template.system.strip() in prompt and "Why?" in prompt


def _rendering_agrees(item: Item) -> bool:
    messages = [(role, None if text is None else (text,)) for role, text in item["messages"]]
    return prompt_text(render(_template(item), messages)) == str(item["prompt"])


def _caption_rule_agrees(item: Item) -> bool:
    from video_llama.processors.text_processor import caption

    out: str = caption(item["text"], prompt=item["prompt"], max_words=item["max_words"])
    return out == str(item["out"])


def _chat_agrees(item: Item, tokenizer: Tokenizer) -> bool:
    """Replay the conversation: text, segments and length of each prompt, and the final messages."""
    template = _serving_template(item["template"], item["messages"][0][0])
    conversation = Conversation(template, item["system"])
    conversation.add_media(_chat_media(item))
    agrees = True
    for (asked, answer), step in zip(item["turns"], item["steps"], strict=True):
        for question in [asked] if isinstance(asked, str) else asked:
            conversation.ask(question)
        prompt = conversation.prompt()
        kinds = [part.kind for part in prompt if isinstance(part, Slot)]
        counts = dict(zip(kinds, item["img_list_token_counts"], strict=True))
        num_tokens = len(_encode(tokenizer, prompt, counts))
        agrees &= conversation.text() == step["prompt"] and segment_ids(tokenizer, prompt) == step["segment_ids"]
        agrees &= num_tokens == step["n_context"]
        if answer is not None:
            conversation.answer(answer)
    messages = [[message.role, message.text] for message in conversation.messages]
    waiting = [[template.roles[1], None]] if item["turns"][-1][1] is None else []
    return bool(agrees and messages + waiting == item["messages"])


def _encode(tokenizer: Tokenizer, prompt: Any, counts: dict[str, int]) -> list[int]:
    return encode_prompt(
        tokenizer, prompt, num_video_tokens=counts.get("video", 0), num_audio_tokens=counts.get("audio", 0)
    ).input_ids


def _serving_template(name: str, user: str) -> Template:
    """Return the template by name, or the one whose user role has this name."""
    return TEMPLATES.get(name) or next(t for t in (TEMPLATES["default"], TEMPLATES["llama2"]) if t.roles[0] == user)


def _chat_media(item: Item) -> MediaMessage:
    """Return the medium of a chat. Its frame sentence is extracted from the first message."""
    encoders = [name for name, _ in item["encoder_calls"]]
    if item["media"] == "upload_img":
        return media_message(image=Slot("video"))
    if "audio" in encoders:
        return media_message(video=Slot("video"), audio=Slot("audio"))
    asked = item["turns"][0][0]
    question = asked if isinstance(asked, str) else " ".join(asked)
    first = item["messages"][0][1]
    return media_message(
        video=Slot("video"), sentence=first.removeprefix("<Video><ImageHere></Video> ").removesuffix(f" {question}")
    )


def _training_agrees(item: Item, tokenizer: Tokenizer) -> bool:
    sample = {"kind": item["dataset"], "fmt": item["format"], "msg": item["msg"]}
    sample["QA" if item["dataset"] == "video" else "conversations"] = item["sample"]
    example = _reference_example(sample, tokenizer, item["num_video_query_token"])
    return (example.input_ids, example.labels) == (item["input_ids"], item["labels"])


def _reference_example(sample: Item, tokenizer: Tokenizer, num_tokens: int) -> TrainingExample:
    if sample["kind"] == "video":
        turns = video_turns(sample["QA"], media_message(video=Slot("video"), sentence=sample["msg"]))
    else:
        turns = image_turns(sample["conversations"], media_message(image=Slot("video")))
    template = REFERENCE_FORMATS[sample["fmt"]]
    return training_example(
        tokenizer, turns, num_video_tokens=num_tokens, num_audio_tokens=0, template=template, dialect="reference"
    )


def _prompt_wrap_agrees(item: Item, tokenizer: Tokenizer) -> bool:
    prompt = caption_prompt(item["raw_prompt"], item["prompt_template"])
    ids = [item["before_ids"], item["after_ids"]]
    return prompt_text(prompt) == item["prompt"] and prompt_wrap(tokenizer, prompt) == ids


def _captions_agree(item: Item, tokenizer: Tokenizer) -> bool:
    end_sym = item["end_sym"]
    captions = [text.removesuffix(end_sym) for text in item["text"]]
    batch = caption_targets(
        tokenizer, captions, end_sym=end_sym, max_text_tokens=item["max_txt_len"], dialect="reference"
    )
    expected = (item["input_ids"], item["attention_mask"], item["targets"], item["pad_token_id"])
    return (batch.input_ids, batch.attention_mask, batch.labels, tokenizer.pad_id) == expected


def _tokenizer_agrees(item: Item, tokenizer: Tokenizer) -> bool:
    with_bos = tokenizer.encode(item["text"], add_bos=True, placeholders=True)
    bare = tokenizer.encode(item["text"], placeholders=True)
    decoded = tokenizer.decode(item["ids"], placeholders=True)
    return (with_bos, bare, decoded) == (item["ids"], item["ids_no_special"], item["decode"])


def _answer_agrees(item: Item, tokenizer: Tokenizer) -> bool:
    return postprocess(tokenizer, item["raw_ids"], TEMPLATES[item["template"]]) == str(item["text"])


def _stopping_row(stopping: Item, tokenizer: Tokenizer) -> Row:
    """Compare the stop lists, and the ids at which the Vicuna list stops."""
    lists = [(stopping[name], stop_sequences(tokenizer, TEMPLATES[template])) for name, template in STOP_LISTS.items()]
    stops = stop_sequences(tokenizer, TEMPLATES["default"])
    cases = [(case["stop"], any(case["ids"][-len(stop) :] == stop for stop in stops)) for case in stopping["cases"]]
    return _row("stopping", "", [*lists, *cases], lambda pair: pair[0] == pair[1])


def _batch_rows(folder: Path, tokenizer_path: Path) -> Iterator[Row]:
    """Compare the batches of the loss cases: collated instructions, and layout and labels of captions."""
    files = {name: folder / name for name in ("cases.json", "cases.safetensors", "config.json")}
    if not all(path.is_file() for path in files.values()):
        return
    from safetensors.numpy import load_file

    losses = json.loads(files["cases.json"].read_text(encoding="utf-8")).get("loss", {})
    tensors = load_file(files["cases.safetensors"])
    config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    tokenizer = Tokenizer(tokenizer_path)
    if config["tokenizer"]["image_token_id"] != tokenizer.video_token_id:
        tokenizer = Tokenizer(tokenizer_path, pad_token="[PAD]")
    for name, case in losses.items():
        if "samples" in case:
            examples = [_reference_example(sample, tokenizer, case["num_query_token"]) for sample in case["samples"]]
            prefix, fields = f"out.batch.{name}", ("input_ids", "labels", "attention_mask")
        else:
            examples = _caption_examples(case, config, tokenizer)
            prefix, fields = f"out.loss.{name}", ("labels", "attention_mask")
        batch = pad_batch(examples, tokenizer.unk_id)
        expected = [(tensors[f"{prefix}.{key}"].astype(int).tolist(), getattr(batch, key)) for key in fields]
        yield _row("batch", name, expected, lambda pair: bool(pair[0] == pair[1]))


def _caption_examples(case: Item, config: dict[str, Any], tokenizer: Tokenizer) -> list[TrainingExample]:
    """``train_flag`` 0 sends the pictures through the video branch, 1 through the audio branch."""
    branch = config["audio_qformer" if case["train_flag"] == 1 else "video_qformer"]
    return [
        caption_example(
            tokenizer,
            caption,
            prompt=caption_prompt(case["prompt"]) if case["prompt"] else [Slot("video")],
            end_sym=case["end_sym"],
            max_text_tokens=case["max_txt_len"],
            num_video_tokens=branch["num_query_token"],
            num_audio_tokens=0,
            dialect="reference",
        )
        for caption in case["text_input"]
    ]
