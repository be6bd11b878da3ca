"""How the inspector looks: Gradio's plain theme with system fonts, our style sheet, and the page's script. Nothing is fetched."""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

from icr_platform.report.svg import chart_style
from ui.pages.keys import keys_json

# Named so that Bengali, Thai, Arabic and Chinese get a readable face wherever the system has one.
SANS = (
    "system-ui", "Segoe UI", "Noto Sans", "Noto Sans Bengali", "Noto Sans Thai", "Noto Sans Arabic", "Noto Sans CJK SC", "Noto Sans SC",
    "Nirmala UI", "Leelawadee UI", "PingFang SC", "Microsoft YaHei", "sans-serif",
)  # fmt: skip
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "Noto Sans Mono", "monospace")

SCRIPTS = ("inspector.js", "votes.js", "keys.js", "texts.js", "review.js")
"""Of `ui/html/assets`, in the order in which they run."""


def theme() -> gr.themes.Base:
    """Gradio's base theme without its web fonts."""
    return gr.themes.Base(
        font=list(SANS), font_mono=list(MONO), primary_hue="blue", neutral_hue="slate", radius_size="sm", text_size="md"
    )


def style() -> str:
    """The style sheet: the charts', which the report shares, and the inspector's own."""
    return chart_style() + "".join(map(asset, ("inspector.css", "texts.css", "review.css", "narrow.css")))


def head() -> str:
    """What goes into <head>: our scripts, and no referrer for links to other sites."""
    # One element each: what goes wrong in one script leaves the others working.
    scripts = [f"window.icrKeys = {keys_json()};", *(asset(name) for name in SCRIPTS)]
    return '<meta name="referrer" content="same-origin">' + "".join(f"<script>{script}</script>" for script in scripts)


def asset(name: str) -> str:
    """Text of a file of `ui/html/assets`."""
    return (files("ui.html") / "assets" / name).read_text(encoding="utf-8")
