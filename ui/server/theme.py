"""How the inspector looks: Gradio's plain theme with system fonts, our style sheet, and the page's script. Nothing is fetched."""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

from icr_platform.report.svg import chart_style

# Named so that Bengali, Thai, Arabic and Chinese get a readable face wherever the system has one.
SANS = (
    "system-ui", "Segoe UI", "Noto Sans", "Noto Sans Bengali", "Noto Sans Thai", "Noto Sans Arabic", "Noto Sans CJK SC", "Noto Sans SC",
    "Nirmala UI", "Leelawadee UI", "PingFang SC", "Microsoft YaHei", "sans-serif",
)  # fmt: skip
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "Noto Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Gradio's base theme without its web fonts."""
    return gr.themes.Base(
        font=list(SANS), font_mono=list(MONO), primary_hue="blue", neutral_hue="slate", radius_size="sm", text_size="md"
    )


def style() -> str:
    """The style sheet: the charts', which the report shares, and the inspector's own."""
    return chart_style() + "".join(map(_asset, ("inspector.css", "texts.css", "review.css")))


def head() -> str:
    """What goes into <head>: our script and no referrer for links to MLflow."""
    return f'<meta name="referrer" content="no-referrer"><script>{_asset("inspector.js")}{_asset("review.js")}</script>'


def _asset(name: str) -> str:
    return (files("ui.html") / "assets" / name).read_text(encoding="utf-8")
