"""Write docs/images/architecture.svg: the path of a video, its sound and a question through the model.

    python docs/diagrams/architecture.py

The sizes are those of the 7B model; tests/test_docs.py compares them with ``VideoLlamaConfig`` and checks that the
picture is up to date.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "images" / "architecture.svg"

WIDTH, BOX_WIDTH, BOX_HEIGHT, STEP, TOP = 960, 272, 56, 104, 92
LANE_X = (28, 344, 660)
FILLS = {
    "data": ("#f4f5f7", "#8a919c"),
    "frozen": ("#dbeafe", "#3b73b9"),
    "trained": ("#fde8cf", "#c77c1e"),
    "fixed": ("#ffffff", "#8a919c"),
}


@dataclass(frozen=True)
class Step:
    """A box: its title, the file it is implemented in (or a detail), its kind, and the shape of its output."""

    title: str
    detail: str
    kind: str
    output: str = ""


VISION = (
    Step("Video or image", "T frames (default 8)", "data"),
    Step("Decode, scale, normalise", "processors/video_processor.py", "fixed", "[T, 3, 224, 224]"),
    Step("EVA-CLIP ViT-g/14, 39 blocks", "models/blip2.py", "frozen", "[T, 257, 1408]"),
    Step("Frame Q-Former, 32 queries", "models/blip2.py", "frozen", "[T, 32, 768]"),
    Step("+ frame positions", "models/qformer.py", "trained", "[T x 32, 768]"),
    Step("Video Q-Former, 2 layers, 32 queries", "models/qformer.py", "trained", "[32, 768]"),
    Step("Linear projection", "models/qformer.py", "trained", "[32, D]"),
)
AUDIO = (
    Step("Audio track", "8 clips of 2 s", "data"),
    Step("Resample to 16 kHz, log-mel", "processors/audio_processor.py", "fixed", "[8, 1, 128, 204]"),
    Step("ImageBind audio trunk, 12 blocks", "models/imagebind.py", "frozen", ""),
    Step("Head, L2 norm, scale 20", "models/imagebind.py", "frozen", "[8, 1024]"),
    Step("+ clip positions", "models/qformer.py", "trained", "[8, 1024]"),
    Step("Audio Q-Former, 2 layers, 8 queries", "models/qformer.py", "trained", "[8, 768]"),
    Step("Linear projection", "models/qformer.py", "trained", "[8, D]"),
)
TEXT = (
    Step("Question and history", "text", "data"),
    Step("Prompt with placeholders", "conversation/conversation_video.py", "fixed", ""),
    Step("Tokenizer", "conversation/tokenization.py", "fixed", "[L] token ids"),
    Step("Token embedding", "models/video_llama.py", "frozen", "[L, D]"),
)
LANES = (("Vision-language branch", VISION), ("Audio-language branch", AUDIO), ("Text", TEXT))
DECODER = "Language model: LLaMA-2-Chat or Vicuna"
DECODER_DETAIL = "Each run of placeholders is replaced by the tokens of its medium. D = 4096 (7B) or 5120 (13B)."


def main() -> None:
    """Write the picture."""
    TARGET.write_text(svg(), encoding="utf-8")


def svg() -> str:
    """Return the whole picture."""
    bottom = TOP + 7 * STEP
    parts = [_defs(bottom + 176)]
    for x, (name, steps) in zip(LANE_X, LANES, strict=True):
        parts.append(_text(x + BOX_WIDTH / 2, 40, name, size=17, weight=600))
        parts += _lane(x, steps, bottom)
    parts += _decoder(bottom)
    parts += _legend(bottom + 148)
    return "\n".join(parts) + "\n</svg>\n"


def _lane(x: float, steps: tuple[Step, ...], bottom: float) -> list[str]:
    """Return the boxes of one branch and the arrows between them; the last arrow leads to the decoder at ``bottom``."""
    parts = []
    for index, step in enumerate(steps):
        y = TOP - 32 + index * STEP
        parts += _box(x, y, step)
        below = y + BOX_HEIGHT
        end = bottom - 32 if index == len(steps) - 1 else y + STEP
        parts.append(_arrow(x + BOX_WIDTH / 2, below, end))
        if step.output:
            parts.append(_text(x + BOX_WIDTH / 2 + 12, below + 29, step.output, anchor="start", mono=True, size=14))
    return parts


def _box(x: float, y: float, step: Step) -> list[str]:
    fill, stroke = FILLS[step.kind]
    rect = f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{fill}" stroke="{stroke}"/>'
    middle = x + BOX_WIDTH / 2
    return [
        rect,
        _text(middle, y + 24, step.title, size=14.5),
        _text(middle, y + 43, step.detail, size=12, fill="#555c66", mono=step.detail.endswith(".py")),
    ]


def _decoder(bottom: float) -> list[str]:
    y, (fill, stroke) = bottom - 32, FILLS["frozen"]
    width = LANE_X[-1] + BOX_WIDTH - LANE_X[0]
    rect = f'<rect x="{LANE_X[0]}" y="{y}" width="{width}" height="72" rx="8" fill="{fill}" stroke="{stroke}"/>'
    return [
        rect,
        _text(WIDTH / 2, y + 30, DECODER, size=17, weight=600),
        _text(WIDTH / 2, y + 53, DECODER_DETAIL, size=13, fill="#555c66"),
        _arrow(WIDTH / 2, y + 72, y + 108),
        _text(WIDTH / 2, y + 128, "Answer, token by token", size=15, weight=600),
    ]


def _legend(y: float) -> list[str]:
    """Return the key of the colours. Which parts train is the published recipe; docs/training.md has the others."""
    parts, x = [], float(LANE_X[0])
    for kind, label in (("trained", "trained"), ("frozen", "frozen"), ("fixed", "no weights")):
        fill, stroke = FILLS[kind]
        parts.append(f'<rect x="{x}" y="{y - 12}" width="16" height="16" rx="3" fill="{fill}" stroke="{stroke}"/>')
        parts.append(_text(x + 24, y + 1, label, anchor="start", size=13))
        x += 110
    return parts


def _arrow(x: float, start: float, end: float) -> str:
    style = 'stroke="#555c66" stroke-width="1.5" marker-end="url(#tip)"'
    return f'<line x1="{x}" y1="{start}" x2="{x}" y2="{end - 2}" {style}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    weight: int = 400,
    anchor: str = "middle",
    fill: str = "#1d2026",
    mono: bool = False,
) -> str:
    family = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" if mono else "inherit"
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}" '
        f'font-family="{family}">{escape(text)}</text>'
    )


def _defs(height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        "font-family=\"system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\">\n"
        "<title>Architecture of Video-LLaMA with tensor shapes</title>\n"
        "<!-- Generated by docs/diagrams/architecture.py -->\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#555c66"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height:.0f}" rx="12" fill="#ffffff"/>'
    )


if __name__ == "__main__":
    main()
