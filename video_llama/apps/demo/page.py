"""Layout of the page: components, labels, and the handler of each event."""

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
from video_llama.apps.demo.timeline import FOLLOW_PLAYER
from video_llama.apps.demo.visitors import Visitors
from video_llama.chat import Assistant, Decoding

QUESTION_LABEL = "Your question"
NAME_QUESTION = f"() => document.querySelector('#vl-question textarea').setAttribute('aria-label', '{QUESTION_LABEL}')"
"""Gradio does not associate the label with the text area; without this, screen readers find no name."""

PLAY_VIDEO = """
async () => {
    for (let attempt = 0; attempt < 100; attempt++) {
        const videos = document.querySelectorAll('#vl-chat video')
        if (videos.length) return void videos[videos.length - 1].play().catch(() => {})
        await new Promise(resolve => setTimeout(resolve, 100))
    }
}
"""
"""Play the last video of the chat. Gradio creates the player some time after the message; ``play`` is rejected if
the browser blocks autoplay, and the visitor can still press the play button."""

NUM_ANSWERS = 16
"""Number of answers generated concurrently; further questions wait in the queue."""

MAX_QUEUE = 64
"""Maximum number of events waiting in the queue; Gradio refuses further ones with a message."""

SWEEP_SECONDS, KEPT_SECONDS = 3600, 86400
"""Interval of the search for uploads without a holder (the page closed during the upload), and their maximum age."""


@dataclass(frozen=True)
class PageOptions:
    """Options of the page: whether audio can be used, the initial decoding method, and the example clips."""

    with_audio: bool = True
    is_greedy: bool = False
    examples: Sequence[Path] = ()

    @property
    def example_question(self) -> str:
        """The question that is filled in with an example."""
        return "What do you see and hear?" if self.with_audio else "What happens in the video?"


@dataclass(frozen=True)
class _Chat:
    messages: Any
    status: Any
    box: Any
    stop: Any
    clear: Any
    start_over: Any


@dataclass(frozen=True)
class _Settings:
    """``controls`` in the order of the arguments of ``handlers.decoding_of``."""

    audio: Any
    method: Any
    sampling: Any
    controls: Sequence[Any]


@dataclass(frozen=True)
class _Timeline:
    window: Any
    stride: Any
    with_summary: Any
    make: Any
    shown: Any


def build_page(visitors: Visitors, options: PageOptions) -> Any:
    """Return the page as ``gradio.Blocks``."""
    handlers = Handlers(visitors)
    assistant = visitors.assistant
    with gr.Blocks(
        title="Video-LLaMA", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS), fill_width=True
    ) as page:
        gr.HTML(_head(assistant, options))
        with gr.Row():
            with gr.Column(scale=6, min_width=300):
                chat = _chat()
                examples = _examples(options.examples)
                settings = _settings(assistant, options)
                timeline = _timeline()
                webcam, use_recording = _webcam()
            with gr.Column(scale=5, min_width=300):
                model_input, record = _inspection()
        outputs = [chat.messages, chat.box, model_input, record, chat.status, chat.stop, timeline.shown]
        wire = partial(_wire, outputs=outputs)
        _wire_chat(chat, handlers, settings.controls, outputs)
        for button, path in zip(examples, options.examples, strict=True):
            shown = wire(button.click, handlers.show_example, [gr.State(str(path)), gr.State(options.example_question)])
            shown.then(None, js=PLAY_VIDEO)
        made = wire(
            timeline.make.click,
            handlers.make_timeline,
            [chat.box, timeline.window, timeline.stride, timeline.with_summary, *settings.controls],
            concurrency_limit=NUM_ANSWERS,
        )
        wire(made.failure, handlers.fail, [])
        wire(use_recording.click, handlers.use_recording, [webcam])
        wire(settings.audio.input, handlers.set_audio, [settings.audio])
        _wire(settings.method.change, _show_sampling, [settings.method], outputs=[settings.sampling], queue=False)
        page.load(None, js=NAME_QUESTION)
        page.load(None, js=FOLLOW_PLAYER)
        page.unload(handlers.leave)
    page.queue(max_size=MAX_QUEUE)
    return page


def page_theme() -> Any:
    """Return Gradio's default theme with system fonts, which need no download, and greys with sufficient contrast."""
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    grey = "*neutral_500"
    return theme.set(
        body_text_color_subdued=grey,
        block_info_text_color=grey,
        input_placeholder_color=grey,
        input_placeholder_color_dark="*neutral_400",
    )


def _wire(event: Any, handler: Any, inputs: Sequence[Any], *, outputs: Sequence[Any], **options: Any) -> Any:
    """Connect an event to a handler that is not part of Gradio's API; the API of this project is the HTTP server."""
    return event(handler, inputs, outputs, api_visibility="private", show_progress="hidden", **options)


def _wire_chat(chat: _Chat, handlers: Handlers, controls: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Connect the text box and its buttons. Stop bypasses the queue, in which it would wait for the answer."""
    asked = _wire(chat.box.submit, handlers.ask, [chat.box, *controls], outputs=outputs, concurrency_limit=NUM_ANSWERS)
    _wire(asked.failure, handlers.fail, [], outputs=outputs)
    _wire(chat.box.change, handlers.attach, [chat.box], outputs=[], queue=False)
    _wire(chat.stop.click, handlers.stop, [], outputs=[], queue=False)
    _wire(chat.clear.click, handlers.clear_chat, [], outputs=outputs)
    for start_over in (chat.start_over.click, chat.messages.clear):
        _wire(start_over, handlers.start_over, [], outputs=outputs)


def _show_sampling(method: str) -> Any:
    return gr.update(visible=method == SAMPLING)


def _head(assistant: Assistant, options: PageOptions) -> str:
    media = "videos, images and audio" if options.with_audio else "videos and images"
    notice = f'<p class="vl-notice">{escape(assistant.notice)}</p>' if assistant.notice else ""
    return (
        f'<header class="vl-head"><h1>Video-LLaMA</h1><p>Ask questions about {media}. '
        f"Model: <strong>{escape(assistant.name)}</strong></p>{notice}</header>"
    )


def _chat() -> _Chat:
    messages = gr.Chatbot(
        label="Chat",
        show_label=False,
        elem_id="vl-chat",
        height="47vh",
        min_height=320,
        buttons=[],
        allow_file_downloads=False,
        render_markdown=False,
        allow_tags=False,
        feedback_options=None,
        placeholder="Choose an example below, or attach a video, an image or an audio file and ask a question.",
    )
    status = gr.HTML(elem_id="vl-status", padding=False)
    box = gr.MultimodalTextbox(
        label=QUESTION_LABEL,
        show_label=False,
        elem_id="vl-question",
        placeholder="Ask a question …",
        sources=["upload", "microphone"],
        file_types=["video", "image", "audio"],
        file_count="multiple",
        autofocus=True,
    )
    with gr.Row(elem_classes="vl-buttons"):
        stop = gr.Button("Stop", interactive=False, size="sm", min_width=80)
        clear = gr.Button("Clear chat", size="sm", min_width=100)
        start_over = gr.Button("Remove media and start over", size="sm", min_width=220)
    return _Chat(messages, status, box, stop, clear, start_over)


def _examples(paths: Sequence[Path]) -> list[Any]:
    if not paths:
        return []
    with gr.Row(elem_classes="vl-buttons"):
        gr.HTML('<p class="vl-quiet">Examples</p>', padding=False, min_width=70, elem_id="vl-examples")
        return [gr.Button(path.stem.replace("_", " ").capitalize(), size="sm", min_width=90) for path in paths]


def _settings(assistant: Assistant, options: PageOptions) -> _Settings:
    reference = Decoding.reference()
    context = assistant.engine.context_length
    longest = Decoding().resolved(context).max_new_tokens
    with gr.Accordion("Settings", open=False):
        audio = gr.Checkbox(
            options.with_audio,
            label="Use audio",
            info="Changing this clears the chat and processes the media again.",
            visible=options.with_audio,
        )
        method = gr.Radio(
            [GREEDY, SAMPLING],
            value=GREEDY if options.is_greedy else SAMPLING,
            label="Decoding",
            info="Greedy decoding always gives the same answer; sampling varies.",
        )
        with gr.Column(visible=not options.is_greedy) as sampling:
            temperature = gr.Slider(
                0.05,
                2.0,
                reference.temperature,
                step=0.05,
                label="Temperature",
                info="Higher values give more varied answers.",
            )
            top_p = gr.Slider(
                0.05,
                1.0,
                reference.top_p,
                step=0.05,
                label="Top-p",
                info="Nucleus sampling: smallest set of tokens whose probabilities add up to this value.",
            )
            top_k = gr.Slider(
                1, 200, reference.top_k, step=1, label="Top-k", info="Sample from this many most probable tokens."
            )
            seed = gr.Textbox("", label="Seed", info="An integer, for reproducible answers. Empty: random.")
        beams = gr.Slider(
            1, 8, 1, step=1, label="Beams", info="Above 1, beam search is used and the answer is not streamed."
        )
        length = gr.Slider(
            1, context // 2, longest, step=1, label="Maximum length", info="Maximum number of tokens in an answer."
        )
    return _Settings(audio, method, sampling, [method, temperature, top_p, top_k, beams, length, seed])


def _timeline() -> _Timeline:
    with gr.Accordion("Timeline of a long video", open=False):
        gr.HTML(
            '<p class="vl-quiet">Answers the question in the text box for each window of the last video or audio file. '
            "Click an entry to play its part.</p>",
            padding=False,
        )
        with gr.Row():
            window = gr.Number(30, label="Window", info="In seconds.", minimum=0, min_width=120)
            stride = gr.Number(0, label="Step", info="Seconds; 0: the window.", minimum=0, min_width=120)
        with_summary = gr.Checkbox(False, label="Add a summary of the answers")
        make = gr.Button("Make timeline", size="sm")
        return _Timeline(window, stride, with_summary, make, gr.HTML("", elem_id="vl-timeline", padding=False))


def _webcam() -> tuple[Any, Any]:
    """Return the recorder and its button. Mirroring or removing audio in Gradio would require ffmpeg."""
    with gr.Accordion("Record with the webcam", open=False):
        unmirrored = gr.WebcamOptions(mirror=False)
        webcam = gr.Video(label="Webcam", sources=["webcam"], include_audio=True, webcam_options=unmirrored, buttons=[])
        return webcam, gr.Button("Use this recording", size="sm")


def _inspection() -> tuple[Any, Any]:
    model_input = gr.HTML(media_html([]), elem_id="vl-input")
    with gr.Accordion("Details of the last answer", open=False):
        record = gr.JSON(label="Details", show_label=False)
    return model_input, record
