"""The pictures: one function each, every one showing itself when called. Used in all notebooks.

Readable on light and on dark pages (a mid-grey ink on a transparent ground), safe for colour-blind readers
(Okabe and Ito's colours; "cividis" for maps), and each with alt text: a sentence that says what is to be seen.
"""

from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
from IPython.display import Image, display

INK = "#808080"  # readable on white and on black
BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED)
MAP = "cividis"

STYLE = {
    "figure.dpi": 90,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "font.size": 11,
    "legend.frameon": False,
}


def new_figure(width: float = 7, height: float = 3, **subplots):
    """A figure and its axes in the course's style; arguments as in plt.subplots."""
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained", **subplots)


def show(figure, alt: str) -> None:
    """Display `figure` once, as a PNG whose alt text, and text form, is `alt`."""
    import io

    buffer = io.BytesIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    display(Picture(buffer.getvalue(), alt))


class Picture(Image):
    """A PNG that tells screen readers, terminals and tests what it shows."""

    def __repr__(self) -> str:
        return f"[picture] {self.alt}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        data, metadata = super()._repr_mimebundle_(include, exclude)
        return data | {"text/plain": repr(self)}, metadata


# --- all chapters -----------------------------------------------------------------------------------------------------

STAGES = ("text", "tokens", "embeddings", "attention", "GPT", "pretraining", "chat")


def pipeline(today: str) -> None:
    """The course's pipeline, from text to chat, with the stage `today` lit."""
    if today not in STAGES:
        raise ValueError(f"today must be one of {', '.join(STAGES)}, got {today!r}")
    figure, axes = new_figure(9, 0.9)
    axes.set(xlim=(-0.6, len(STAGES) - 0.4), ylim=(-0.5, 0.5))
    axes.axis("off")
    for i, stage in enumerate(STAGES):
        lit = stage == today
        box = dict(boxstyle="round,pad=0.45", facecolor=BLUE if lit else "none", edgecolor=BLUE if lit else INK)
        axes.text(i, 0, stage, ha="center", va="center", color="white" if lit else INK, bbox=box)
        if i:
            axes.annotate("", (i - 0.36, 0), (i - 0.64, 0), arrowprops=dict(arrowstyle="->", color=INK))
    show(figure, f"The pipeline {', then '.join(STAGES)}. Today: {today}.")


def lines(
    series: dict[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    xlabel: str = "step",
    ylabel: str = "loss",
    alt: str,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """One line per entry of `series`, all over the same x (by default 1, 2, 3 …)."""
    figure, axes = new_figure()
    for (name, values), style in zip(series.items(), ("-", "--", "-.", ":", "-", "--"), strict=False):
        axes.plot(x if x is not None else range(1, len(values) + 1), values, style, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.legend()
    show(figure, alt)


def bars(values: dict[str, float], *, ylabel: str, alt: str) -> None:
    """One labelled bar per entry, with its value above it."""
    figure, axes = new_figure(max(4, 0.9 * len(values)), 2.8)
    drawn = axes.bar(list(values), list(values.values()), color=BLUE)
    axes.bar_label(drawn, fmt="%.2f", color=INK)
    axes.set(ylabel=ylabel)
    show(figure, alt)


def matrix(
    values, *, rows: Sequence[str] = (), columns: Sequence[str] = (), alt: str, title: str = "", numbers: bool | None = None
) -> None:
    """A 2-D tensor or list of lists as coloured cells; numbers are written in while there are at most 8 x 12."""
    values = [[float(value) for value in row] for row in values]
    n_rows, n_columns = len(values), len(values[0])
    figure, axes = new_figure(1.6 + 0.55 * n_columns, 0.9 + 0.42 * n_rows)
    image = axes.imshow(values, cmap=MAP, aspect="auto")
    axes.set_title(title)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    if numbers if numbers is not None else n_rows <= 8 and n_columns <= 12:
        middle = (min(map(min, values)) + max(map(max, values))) / 2
        for i in range(n_rows):
            for j in range(n_columns):
                colour = "black" if values[i][j] > middle else "white"
                axes.text(j, i, f"{values[i][j]:.2f}", ha="center", va="center", color=colour, fontsize=9)
    else:
        figure.colorbar(image)
    show(figure, alt)


# --- 00 what is a language model --------------------------------------------------------------------------------------

# --- 01 tokenization --------------------------------------------------------------------------------------------------


def _strip(axes, y: float, pieces: Sequence[str], widths: Sequence[float], colours: Sequence[str], start: float = 0):
    """A row of boxes, one per piece, from `start` on; spaces show as a raised dot. Returns where the row ends."""
    for piece, width, colour in zip(pieces, widths, colours, strict=True):
        axes.add_patch(plt.Rectangle((start + 0.06, y - 0.36), width - 0.12, 0.72, color=colour, linewidth=0))
        text = piece.replace(" ", "·").replace("\n", "↵")
        axes.text(start + width / 2, y, text, ha="center", va="center", color="black", family="monospace", fontsize=10)
        start += width
    return start


def _strips(width: float, names: Sequence[str]):
    """A figure for strips that are up to `width` characters wide, one under the other, with their names at the left."""
    figure, axes = new_figure(1.4 + 0.125 * width, 0.36 * len(names) + 0.15)
    axes.set(xlim=(0, width), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes


def token_rows(
    rows: dict[str, Sequence[str]],
    *,
    alt: str,
    widths: dict[str, Sequence[float]] | None = None,
    lit: Collection[str] = (),
) -> None:
    """One strip per row, cut into its pieces, with their number at the end. Pieces in `lit` have another colour.

    A piece is as wide as its text, unless `widths` gives the row's widths (in characters).
    """
    widths = {name: [max(len(piece), 1) for piece in pieces] for name, pieces in rows.items()} | (widths or {})
    widest = max(sum(row) for row in widths.values())
    figure, axes = _strips(widest + 5, list(rows))
    for y, (name, pieces) in enumerate(rows.items()):
        colours = [ORANGE if piece in lit else SKY for piece in pieces]
        end = _strip(axes, y, pieces, widths[name], colours)
        axes.text(end + 0.5, y, str(len(pieces)), va="center", color=INK)
    show(figure, alt)


def window_rows(pieces: Sequence[str], context_length: int, stride: int) -> None:
    """A stream of tokens and the windows x and y that are cut from it, each under the tokens it holds."""
    starts = range(0, len(pieces) - context_length, stride)
    names = ["stream"] + [f"{side}[{i}]" for i in range(len(starts)) for side in "xy"]
    cell = max(map(len, pieces)) + 0.6
    figure, axes = _strips(cell * len(pieces), names)
    _strip(axes, 0, pieces, [cell] * len(pieces), [INK] * len(pieces))
    for row in range(1, len(names)):
        window, side = divmod(row - 1, 2)
        first = starts[window] + side
        part = pieces[first : first + context_length]
        _strip(axes, row, part, [cell] * len(part), [(SKY, ORANGE)[side]] * len(part), start=cell * first)
    alt = (
        f"{len(starts)} windows of {context_length} tokens, cut from a stream of {len(pieces)} tokens; each starts "
        f"{stride} after the one before, and every y lies one token to the right of its x."
    )
    show(figure, alt)


# --- 02 embeddings ----------------------------------------------------------------------------------------------------

# --- 03 attention -----------------------------------------------------------------------------------------------------

# --- 04 GPT -----------------------------------------------------------------------------------------------------------

# --- 05 pretraining ---------------------------------------------------------------------------------------------------

# --- 06 chat ----------------------------------------------------------------------------------------------------------
