"""The timeline of a long video on the page: a player, and the entries, which jump the player to their start.

In: a ``Timeline`` and the file it is about. Out: HTML, and the script that connects the entries with the player.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from video_llama.chat.timeline import Timeline
from video_llama.chat.timeline_formats import EMPTY_ANSWER, TimelineEntry

FOLLOW_PLAYER = """
() => {
    if (window.vlTimeline) return
    window.vlTimeline = true
    document.addEventListener('click', event => {
        const entry = event.target.closest('#vl-timeline [data-start]')
        if (!entry) return
        const player = document.querySelector('#vl-timeline video, #vl-timeline audio')
        player.currentTime = Number(entry.dataset.start)
        player.scrollIntoView({block: 'nearest'})
        player.play().catch(() => {})
    })
    document.addEventListener('timeupdate', event => {
        if (!event.target.closest || !event.target.closest('#vl-timeline')) return
        const now = event.target.currentTime
        for (const entry of document.querySelectorAll('#vl-timeline [data-start]')) {
            const isShown = Number(entry.dataset.start) <= now && now < Number(entry.dataset.end)
            entry.setAttribute('aria-current', isShown ? 'true' : 'false')
        }
    }, true)
}
"""
"""A click on an entry sets the time of the player; the entries of the current time are marked."""


def timeline_html(path: Path, timeline: Timeline, num_windows: int) -> str:
    """Return the player, a bar with the entries in proportion to their length, and the entries as a list.

    ``num_windows`` is the number of windows of the medium; fewer may be answered so far.
    """
    entries = timeline.entries
    is_sound = timeline.windows[0].answer.record.media[0]["kind"] == "audio"
    source = f'src="gradio_api/file={quote(str(path))}" aria-label="{escape(path.name)}"'
    player = f"<audio {source} controls></audio>" if is_sound else f"<video {source} controls playsinline></video>"
    answered = len(timeline.windows)
    state = f"{answered} of {num_windows} windows" if answered < num_windows else f"{num_windows} windows"
    summary = ""
    if timeline.summary is not None:
        summary = f'<p class="vl-summary"><strong>Summary</strong> {escape(timeline.summary.text)}</p>'
    return (
        f'{player}<div class="vl-bar" aria-hidden="true">{_bar(entries, timeline.duration)}</div>'
        f'<p class="vl-quiet">{escape(timeline.question)} ({state}, {clock_text(timeline.duration)})</p>{summary}'
        f'<ol class="vl-entries" aria-label="Timeline">{"".join(map(_entry, entries))}</ol>'
    )


def _bar(entries: Sequence[TimelineEntry], duration: float) -> str:
    scale = 100 / max(duration, 1e-6)
    parts = []
    for number, entry in enumerate(entries):
        place = f"left:{entry.start * scale:.3f}%;width:{(entry.end - entry.start) * scale:.3f}%"
        kind = "vl-part vl-odd" if number % 2 else "vl-part"
        parts.append(f'<span class="{kind}" style="{place}" title="{escape(entry.text)}" {_times(entry)}></span>')
    return "".join(parts)


def _entry(entry: TimelineEntry) -> str:
    times = f"{clock_text(entry.start)} – {clock_text(entry.end)}"
    text = escape(entry.text or EMPTY_ANSWER)
    return f'<li><button type="button" {_times(entry)}><span class="vl-time">{times}</span> {text}</button></li>'


def _times(entry: TimelineEntry) -> str:
    return f'data-start="{entry.start:g}" data-end="{entry.end:g}"'


def clock_text(seconds: float) -> str:
    """Return a time as M:SS, or H:MM:SS from one hour on."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
