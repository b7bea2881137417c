"""Small pieces of HTML: a page that needs nothing but itself, tables, figures, folds."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

CSS = """
:root { color-scheme: light dark; --ink:#16181d; --soft:#5b6270; --line:#d9dce3; --card:#f6f7f9;
  --page:#ffffff; --accent:#0b5fa5; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaee; --soft:#a2a9b8; --line:#343944;
  --card:#1d2027; --page:#14161a; --accent:#7cc0ff; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--page); color:var(--ink); line-height:1.5;
  font:16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width:72rem; margin:0 auto; padding:1.25rem 1rem 4rem; }
h1 { font-size:1.65rem; line-height:1.2; margin:.4rem 0; overflow-wrap:anywhere; }
h2 { font-size:1.2rem; margin:2.4rem 0 .6rem; padding-top:.6rem; border-top:1px solid var(--line); }
h3 { font-size:1rem; margin:1.4rem 0 .4rem; }
p { max-width:46rem; } .soft, figcaption { color:var(--soft); font-size:.9rem; }
a { color:var(--accent); }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(9rem,1fr)); gap:.6rem;
  margin:1rem 0; }
.tile { background:var(--card); border:1px solid var(--line); border-radius:.5rem;
  padding:.55rem .75rem; min-width:0; }
.tile b { display:block; font-size:1.25rem; line-height:1.25; overflow-wrap:anywhere;
  font-variant-numeric:tabular-nums; }
.tile span { color:var(--soft); font-size:.8rem; }
.scroll { overflow-x:auto; -webkit-overflow-scrolling:touch; }
table { border-collapse:collapse; font-size:.92rem; font-variant-numeric:tabular-nums; }
th, td { padding:.3rem .8rem .3rem 0; text-align:left; border-bottom:1px solid var(--line);
  vertical-align:top; white-space:nowrap; }
td.wrap { white-space:normal; overflow-wrap:anywhere; min-width:10rem; }
th { font-weight:600; color:var(--soft); font-size:.85rem; } .num { text-align:right; }
figure { margin:.8rem 0; } figure svg, figure img { width:100%; height:auto; display:block; }
.wide svg, .wide img { min-width:34rem; }
.small figure { margin:0; }
.large { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(33rem,100%),1fr));
  gap:.5rem 1.5rem; align-items:start; } .large figure { min-width:0; }
svg text { font-family:system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
details { border:1px solid var(--line); border-radius:.5rem; padding:.5rem .8rem; margin:.6rem 0; }
summary { cursor:pointer; font-weight:600; }
pre { overflow-x:auto; background:var(--card); padding:.7rem; border-radius:.4rem;
  font:.82rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre.wrap { white-space:pre-wrap; overflow-wrap:anywhere; }
.key { display:inline-flex; align-items:center; gap:.35rem; margin:0 1rem .3rem 0;
  font-size:.9rem; } .key i { width:1rem; height:.25rem; border-radius:.1rem; }
.warn { border-left:4px solid #d55e00; padding:.3rem .8rem; background:var(--card); }
"""


def escape(value: Any) -> str:
    """Text made safe for HTML."""
    return html.escape(str(value))


def page(title: str, body: Iterable[str]) -> str:
    """Whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], wrap: bool = False) -> str:
    """Table; numbers are right-aligned and written by :func:`number`."""
    rows = [list(r) for r in rows]
    numeric = [bool(rows) and all(_is_number(r[i]) for r in rows) for i in range(len(header))]
    head = "".join(
        f'<th class="num">{escape(h)}</th>' if n else f"<th>{escape(h)}</th>"
        for h, n in zip(header, numeric)
    )
    plain = '<td class="wrap">' if wrap else "<td>"
    lines = []
    for row in rows:
        cells = (
            f'<td class="num">{escape(number(v))}</td>' if n else f"{plain}{escape(number(v))}</td>"
            for v, n in zip(row, numeric)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def tiles(items: Iterable[tuple[str, str]]) -> str:
    """Row of (value, label) boxes."""
    boxes = (
        f'<div class="tile"><b>{escape(v)}</b><span>{escape(label)}</span></div>'
        for v, label in items
    )
    return f'<div class="tiles">{"".join(boxes)}</div>'


def figure(content: str, caption: str = "", wide: bool = False) -> str:
    """Figure from an ``<svg>`` or ``<img>``; a wide one scrolls sideways on a small screen."""
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    if wide:
        content = f'<div class="scroll wide">{content}</div>'
    return f"<figure>{content}{note}</figure>"


def small_multiples(contents: Iterable[str]) -> str:
    """Grid of small figures, as many beside each other as fit."""
    # In the element itself, so that it also holds in a notebook, without the style of the page.
    style = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr))"
    figures = "".join(figure(c) for c in contents)
    return f'<div class="small" style="{style};gap:.5rem 1.2rem">{figures}</div>'


def large_multiples(figures: Iterable[str]) -> str:
    """Grid of large figures (of :func:`figure`): side by side where the screen is wide."""
    return f'<div class="large">{"".join(figures)}</div>'


def fold(summary: str, body: str, opened: bool = False) -> str:
    """Collapsible section."""
    state = " open" if opened else ""
    return f"<details{state}><summary>{escape(summary)}</summary>{body}</details>"


def legend(hues: dict[str, str]) -> str:
    """Names with their colours."""
    keys = (
        f'<span class="key"><i style="background:{hue}"></i>{escape(name)}</span>'
        for name, hue in hues.items()
    )
    return f"<div>{''.join(keys)}</div>"


def number(value: Any) -> str:
    """Short text of a value.

    >>> number(0.123456), number(71.234567), number(1234567), number(None), number("a")
    ('0.1235', '71.23', '1,234,567', '–', 'a')
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if 10 <= abs(value) < 1e6 else f"{value:.4g}"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
