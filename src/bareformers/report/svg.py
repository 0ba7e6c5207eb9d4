"""From matplotlib to SVG that stands inline in a page and takes the page's colours and font."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from bareformers.report.palette import THEMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MUTED, FAINT = (THEMES[name][0] for name in ("muted", "faint"))
TEXT = 12.0
SMALL = 11.0


@dataclass(frozen=True)
class Panel:
    """A small figure with its heading, one of several side by side."""

    title: str
    hint: str
    svg: str


def chart(width: float, height: float, *, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Axes in a figure of `width` x `height` CSS pixels, with margins in the same unit."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": TEXT, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasAgg(figure)
        figure.patch.set_visible(False)
        axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
    """Axes without a frame on top and at the right, with quiet ticks and labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=3, color=FAINT, labelcolor=MUTED, labelsize=SMALL)
    axes.xaxis.label.set(color=MUTED, fontsize=SMALL)
    axes.yaxis.label.set(color=MUTED, fontsize=SMALL)


_COLOURS = {colours[0]: f"var(--{name})" for name, colours in THEMES.items()}


def inline(figure: Figure, name: str, described: str) -> str:
    """`figure` as an `<svg>` element for a page: no metadata, ids that start with `name`, themed colours, no font."""
    import matplotlib
    from matplotlib.text import Text

    for artist in figure.findobj(Text):
        artist.set_parse_math(False)  # names may hold a dollar sign
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bareformers"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith("}metadata")]:
            parent.remove(child)
    referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        element.attrib = {
            attribute.split("}")[-1]: _for_page(attribute.split("}")[-1], value, name)
            for attribute, value in element.attrib.items()
            if attribute != "id" or value in referenced
        }
        element.tail = None if element.tail is None or not element.tail.strip() else element.tail
    width, height = root.get("viewBox", "0 0 0 0").split()[2:]
    root.attrib = {"class": "figure", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": described}
    return ElementTree.tostring(root, encoding="unicode")


def _for_page(attribute: str, value: str, name: str) -> str:
    """An attribute's value with short numbers, and ids and references to them that start with `name`."""
    if attribute == "id":
        return f"{name}-{value}"
    if attribute == "href":
        return value.replace("#", f"#{name}-", 1)
    if attribute == "style":
        value = _themed(value)
    value = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
    return value.replace("url(#", f"url(#{name}-")


def _themed(style: str) -> str:
    """A style attribute with the page's colours and font in place of those that matplotlib wrote."""
    style = re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", style)
    style = re.sub(r"font-family: [^;]*;?\s*", "", style)
    return re.sub(r"#[0-9a-f]{6}", lambda match: _COLOURS.get(match[0], match[0]), style)
