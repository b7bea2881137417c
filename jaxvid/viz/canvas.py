"""Figures without global state: made by the object API, written as PNG or as themed inline SVG."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Text and axes are drawn in this colour, which a page replaces by its own text colour, so one
# figure reads well on a light and on a dark background.
INK = "#16181d"
# Okabe-Ito without its yellow and black, the blue lightened: told apart by the colour-blind,
# legible on both themes.
PALETTE = ("#2b8cd0", "#d55e00", "#009e73", "#cc79a7", "#8d80c9", "#b8860b")
STYLE = {
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.fonttype": "none",
}


def make_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """Figure of ``width`` x ``height`` inches."""
    fig = Figure(figsize=(width, height), layout=layout, facecolor="none")
    FigureCanvasAgg(fig)
    return fig


def style() -> matplotlib.RcParams:
    """Context in which figures of this package are drawn: ``with style(): ...``."""
    return matplotlib.rc_context(STYLE)


def tidy(ax: Axes) -> None:
    """Axes with two spines and a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color=INK, alpha=0.12, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_facecolor("none")


def save_png(fig: Figure, path: str | Path, dpi: int = 120) -> Path:
    """Write ``fig`` on white, as for a paper or slide."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=dpi, facecolor="white")
    return path


def to_svg(fig: Figure, name: str, label: str, dpi: int = 120) -> str:
    """Inline ``<svg>`` of ``fig`` that takes the text colour of the page around it.

    Args:
      fig: the figure; images in it are embedded at ``dpi``.
      name: makes the element ids of this figure differ from those of others on the page.
      label: what a screen reader says.

    Returns:
      The element, without XML prolog, metadata or outside references.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        fig.savefig(buffer, format="svg", dpi=dpi, facecolor="none", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    width = float(re.search(r'width="([\d.]+)pt"', text).group(1)) * 4 / 3
    # Ids that nothing refers to ("figure_1") repeat in every figure of a page.
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    text = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', _opening(label, width), text, count=1)
    return text


def _opening(label: str, width: float) -> str:
    label = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    label = label.replace("\\", r"\\")
    return (
        rf'<svg viewBox="\1" style="max-width:{width:.0f}px" role="img" aria-label="{label}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every name, in order, repeating when there are many."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
