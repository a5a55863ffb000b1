"""The page's layout: what stands where, what it is called, and which handler it calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from video_llama.apps.demo.handlers import GREEDY, SAMPLING, Handlers
from video_llama.apps.demo.pictures import media_html
from video_llama.apps.demo.visitors import Visitors
from video_llama.chat import Assistant, Decoding

EXAMPLE_QUESTION = "What happens in the video?"
QUESTION_LABEL = "Your question, with videos, images or sounds"
NAME_QUESTION = f"() => document.querySelector('#vl-question textarea').setAttribute('aria-label', '{QUESTION_LABEL}')"
"""Gradio shows the label beside the field and does not tie it to it, so that a screen reader would find no name."""

NUM_ANSWERS = 16
"""Answers that grow side by side; later ones wait."""

SWEEP_SECONDS, KEPT_SECONDS = 3600, 86400
"""How often uploads that nobody holds (the page was closed while they came in) are looked for, and how old they get."""


@dataclass(frozen=True)
class PageOptions:
    """What the page offers. ``with_sound`` false leaves hearing out, ``is_greedy`` is which way of answering is set."""

    with_sound: bool = True
    is_greedy: bool = False
    examples: Sequence[Path] = ()


def build_page(visitors: Visitors, options: PageOptions) -> Any:
    """The whole page as Gradio's Blocks, not yet served."""
    handlers = Handlers(visitors)
    assistant = visitors.assistant
    with gr.Blocks(
        title="Video-LLaMA", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS), fill_width=True
    ) as page:
        gr.HTML(_head(assistant, options))
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                talk = _talk()
                examples = _examples(options.examples)
                camera, show_recording = _camera()
            with gr.Column(scale=2, min_width=300):
                given, sound, controls, record = _given(assistant, options)
        outputs = [talk.messages, talk.box, given, record, talk.status, talk.stop]
        _wire_talk(talk, handlers, controls, outputs)
        wire = partial(_wire, outputs=outputs)
        for button, path in zip(examples, options.examples, strict=True):
            wire(button.click, handlers.show_example, [gr.State(str(path)), gr.State(EXAMPLE_QUESTION)])
        wire(show_recording.click, handlers.show_recording, [camera])
        wire(sound.input, handlers.set_sound, [sound])
        page.load(None, js=NAME_QUESTION)
        page.unload(handlers.leave)
    return page


def _wire_talk(talk: _Talk, handlers: Handlers, controls: Sequence[Any], outputs: Sequence[Any]) -> None:
    """The question box and the buttons under it. Stopping does not wait in the queue behind what it stops."""
    _wire(talk.box.submit, handlers.ask, [talk.box, *controls], outputs=outputs, concurrency_limit=NUM_ANSWERS)
    _wire(talk.box.change, handlers.attach, [talk.box], outputs=[], queue=False)
    _wire(talk.stop.click, handlers.stop, [], outputs=[], queue=False)
    _wire(talk.forget.click, handlers.forget, [], outputs=outputs)
    for start_over in (talk.start_over.click, talk.messages.clear):
        _wire(start_over, handlers.start_over, [], outputs=outputs)


def page_theme() -> Any:
    """Gradio's own look, in the reader's own fonts, its pale greys dark enough to read on white."""
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    grey = "*neutral_500"
    return theme.set(body_text_color_subdued=grey, block_info_text_color=grey, input_placeholder_color=grey)


def _wire(event: Any, handler: Any, inputs: Sequence[Any], *, outputs: Sequence[Any], **options: Any) -> None:
    """No handler is part of an API: that is the HTTP server's."""
    event(handler, inputs, outputs, api_visibility="private", show_progress="hidden", **options)


@dataclass(frozen=True)
class _Talk:
    messages: Any
    status: Any
    box: Any
    stop: Any
    forget: Any
    start_over: Any


def _talk() -> _Talk:
    messages = gr.Chatbot(
        label="Conversation",
        height=430,
        buttons=[],
        render_markdown=False,
        allow_tags=False,
        feedback_options=None,
        placeholder="Choose an example below, or give a video, an image or a sound, and ask about it.",
    )
    status = gr.HTML(elem_id="vl-status")
    box = gr.MultimodalTextbox(
        label=QUESTION_LABEL,
        elem_id="vl-question",
        placeholder="Ask about what is shown …",
        sources=["upload", "microphone"],
        file_types=["video", "image", "audio"],
        file_count="multiple",
        autofocus=True,
    )
    with gr.Row():
        stop = gr.Button("Stop the answer", variant="stop", interactive=False, size="sm", min_width=120)
        forget = gr.Button("Forget what was said", size="sm", min_width=120)
        start_over = gr.Button("Start over", size="sm", min_width=120)
    return _Talk(messages, status, box, stop, forget, start_over)


def _examples(paths: Sequence[Path]) -> list[Any]:
    if not paths:
        return []
    gr.HTML('<p class="vl-quiet">Examples: a click shows one to the model.</p>')
    with gr.Row():
        return [gr.Button(path.stem.replace("_", " ").capitalize(), size="sm", min_width=120) for path in paths]


def _camera() -> tuple[Any, Any]:
    """As it was recorded: to mirror it, or to take its sound out, Gradio would need an ffmpeg on the machine."""
    with gr.Accordion("Record with the camera", open=False):
        unmirrored = gr.WebcamOptions(mirror=False)
        camera = gr.Video(label="Camera", sources=["webcam"], include_audio=True, webcam_options=unmirrored, buttons=[])
        return camera, gr.Button("Show the recording to the model", size="sm")


def _given(assistant: Assistant, options: PageOptions) -> tuple[Any, Any, list[Any], Any]:
    given = gr.HTML(media_html([]), elem_id="vl-given")
    sound = gr.Checkbox(
        options.with_sound,
        label="Sound",
        info="Switching it begins the conversation again, with the same files.",
        visible=options.with_sound,
    )
    with gr.Accordion("How answers are chosen", open=False):
        controls = _controls(assistant, options)
    with gr.Accordion("Record of the last answer", open=False):
        record = gr.JSON(label="Record", show_label=False)
    return given, sound, controls, record


def _controls(assistant: Assistant, options: PageOptions) -> list[Any]:
    """In the order of ``handlers.decoding``'s arguments."""
    reference = Decoding.reference()
    context = int(assistant.config.text_config.max_position_embeddings)
    longest = Decoding().resolved(context).max_new_tokens
    return [
        gr.Radio([GREEDY, SAMPLING], value=GREEDY if options.is_greedy else SAMPLING, label="Words"),
        gr.Slider(0.05, 2.0, reference.temperature, step=0.05, label="Temperature", info="Of drawn words."),
        gr.Slider(0.05, 1.0, reference.top_p, step=0.05, label="Top-p", info="Draw from the likeliest of this sum."),
        gr.Slider(1, 200, reference.top_k, step=1, label="Top-k", info="Draw from this many likeliest words."),
        gr.Slider(1, 8, 1, step=1, label="Beams", info="Above 1, the answer is searched for and comes at once."),
        gr.Slider(1, context // 2, longest, step=1, label="Longest answer", info="Tokens."),
        gr.Textbox("", label="Seed", info="Of drawn words: a whole number. Empty: a new one each time."),
    ]


def _head(assistant: Assistant, options: PageOptions) -> str:
    senses = "watches a video, listens to it, and talks about both" if options.with_sound else "watches a video"
    notice = f'<p class="vl-notice">{escape(assistant.notice)}</p>' if assistant.notice else ""
    return (
        f'<header class="vl-head"><h1>Video-LLaMA</h1><p>A language model that {senses}. '
        f"Weights: <strong>{escape(assistant.name)}</strong>.</p>{notice}</header>"
    )
