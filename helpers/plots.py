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
    "legend.labelcolor": INK,
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
    display(Picture(buffer.getvalue(), alt=alt))


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
    axes.legend(frameon=False, labelcolor=INK)
    show(figure, alt)


def bars(values: dict[str, float], *, ylabel: str, alt: str) -> None:
    """One labelled bar per entry, with its value above it."""
    figure, axes = new_figure(max(4, 0.9 * len(values)), 2.8)
    drawn = axes.bar(list(values), list(values.values()), color=BLUE)
    axes.bar_label(drawn, fmt="%.2f", color=INK)
    axes.set(ylabel=ylabel)
    show(figure, alt)


def matrix(
    values,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    alt: str,
    title: str = "",
    numbers: bool | None = None,
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
        figure.colorbar(image).ax.tick_params(colors=INK)
    show(figure, alt)


# --- 00 what is a language model --------------------------------------------------------------------------------------


def surprises(words: Sequence[str], bits: Sequence[float], *, alt: str) -> None:
    """One bar per word, in the order of the text; words may come twice. bits: the surprise of each."""
    figure, axes = new_figure(max(4, 0.85 * len(words)), 2.8)
    drawn = axes.bar(range(len(words)), bits, color=BLUE)
    axes.bar_label(drawn, fmt="%.1f", color=INK)
    axes.set_xticks(range(len(words)), words)
    axes.set(ylabel="surprise in bits")
    show(figure, alt)


def slope(
    x: Sequence[float], y: Sequence[float], *, at: tuple[float, float], slope: float, xlabel: str, alt: str
) -> None:
    """A loss over one weight, and the straight line that touches it at the point `at`."""
    figure, axes = new_figure(6, 3)
    axes.plot(x, y, color=BLUE, label="loss")
    ends = at[0] - 2, at[0] + 2
    axes.plot(ends, [at[1] + slope * (end - at[0]) for end in ends], "--", color=ORANGE, label="slope here")
    axes.plot(*at, "o", color=ORANGE)
    axes.set(xlabel=xlabel, ylabel="loss")
    axes.legend(frameon=False, labelcolor=INK)
    show(figure, alt)


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
    widths = [len(piece) + 1 for piece in pieces]
    figure, axes = _strips(sum(widths), names)
    _strip(axes, 0, pieces, widths, [INK] * len(pieces))
    for row in range(1, len(names)):
        window, side = divmod(row - 1, 2)
        first = starts[window] + side
        cut = slice(first, first + context_length)
        _strip(axes, row, pieces[cut], widths[cut], [(SKY, ORANGE)[side]] * context_length, start=sum(widths[:first]))
    alt = (
        f"{len(starts)} windows of {context_length} tokens, cut from a stream of {len(pieces)} tokens; each starts "
        f"{stride} after the one before, and every y lies one token to the right of its x."
    )
    show(figure, alt)


# --- 02 embeddings ----------------------------------------------------------------------------------------------------


def raw_data(sentence: str, sound, image, frames, patch: int) -> None:
    """Text, sound, an image and a video in one row, with the places where each is cut into pieces.

    sound: (pieces, samples); image: (height, width); frames: (n, height, width); patch: a patch's side in pixels.
    """
    words, film = sentence.split(), frames[:: len(frames) // 3][:3]
    figure, axes = new_figure(11, 2.5, ncols=3 + len(film), width_ratios=[1, 1.8] + [1] * (1 + len(film)))
    for i, word in enumerate(words):
        box = dict(facecolor="none", edgecolor=ORANGE, pad=1.5)
        axes[0].text(0.5, 1 - (i + 0.5) / len(words), word, ha="center", va="center", color=INK, fontsize=9, bbox=box)
    axes[1].plot(sound.flatten().tolist(), color=BLUE, linewidth=1)
    axes[1].vlines(range(0, sound.numel() + 1, sound.shape[1]), -1, 1, color=ORANGE, linewidth=1)
    for panel, pixels in zip(axes[2:], [image, *film], strict=True):
        panel.imshow(pixels, cmap=MAP)
        edges = [edge - 0.5 for edge in range(0, len(pixels) + 1, patch)]
        panel.hlines(edges, -0.5, edges[-1], color=ORANGE, linewidth=1)
        panel.vlines(edges, -0.5, edges[-1], color=ORANGE, linewidth=1)
    titles = ["text: words", "sound: short pieces", "image: patches"]
    titles += [f"video: frame {i + 1}" for i in range(len(film))]
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title, fontsize=11)
        panel.axis("off")
    n_patches = (len(image) // patch) ** 2
    alt = (
        f"Raw data cut into pieces: a sentence into {len(words)} words, a sound wave into {len(sound)} short pieces, "
        f"an image into {n_patches} square patches, and each frame of a video into as many patches."
    )
    show(figure, alt)


def matrices(
    panels: dict,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    alt: str,
    xlabel: str = "",
    ylabel: str = "",
    numbers: bool = False,
    shared: bool = False,
) -> None:
    """Matrices side by side, one per title; labels stand where they fit. shared: one colour scale for all."""
    panels = {title: [[float(value) for value in row] for row in values] for title, values in panels.items()}
    tallest = max(len(values) for values in panels.values())
    widths = [len(values[0]) for values in panels.values()]
    cell = min(0.4, 4 / tallest, 10.5 / sum(widths))
    size = 1.6 + sum(cell * width + 0.5 for width in widths), 0.6 + cell * tallest + 0.6 * bool(columns or xlabel)
    figure, axes = new_figure(*size, ncols=len(panels), squeeze=False, width_ratios=widths)
    every = [value for values in panels.values() for row in values for value in row]
    for panel, (title, values) in zip(axes[0], panels.items(), strict=True):
        here = every if shared else [value for row in values for value in row]
        low, high = min(here), max(here)
        image = panel.imshow(values, cmap=MAP, vmin=low, vmax=high)
        panel.set_title(title, fontsize=11)
        panel.set(xlabel=xlabel, ylabel=ylabel if panel is axes[0][0] else "", anchor="N")
        names = rows if len(values) == len(rows) and panel is axes[0][0] else ()
        panel.set_yticks(range(len(names)), names)
        names = columns if len(values[0]) == len(columns) else ()
        panel.set_xticks(range(len(names)), names, rotation=90)
        for i, row in enumerate(values if numbers else ()):
            for j, value in enumerate(row):
                colour = "black" if value > (low + high) / 2 else "white"
                panel.text(j, i, f"{value:.1f}".removesuffix(".0"), ha="center", va="center", color=colour, fontsize=8)
    if shared:
        figure.colorbar(image, ax=axes[0], shrink=0.8).ax.tick_params(colors=INK)
    show(figure, alt)


def graph(nodes: Sequence[tuple[str, str, str]], *, alt: str) -> None:
    """A computation from left to right. Each node: its name, what flows forward (above it), what flows back (below)."""
    figure, axes = new_figure(1.75 * len(nodes), 2.1)
    axes.set(xlim=(-0.55, len(nodes) - 0.45), ylim=(-1.2, 1.2))
    axes.axis("off")
    for i, (name, forward, backward) in enumerate(nodes):
        box = dict(boxstyle="round,pad=0.4", facecolor="none", edgecolor=INK)
        axes.text(i, 0, name, ha="center", va="center", color=INK, bbox=box)
        axes.text(i, 0.62, forward, ha="center", va="center", color=SKY)
        axes.text(i, -0.62, backward, ha="center", va="center", color=ORANGE)
        if i:
            for height, start, end, colour in ((0.12, i - 0.64, i - 0.36, SKY), (-0.12, i - 0.36, i - 0.64, ORANGE)):
                axes.annotate("", (end, height), (start, height), arrowprops=dict(arrowstyle="->", color=colour))
    axes.text(-0.5, 1.15, "forward: values", color=SKY, fontsize=9, va="top")
    axes.text(-0.5, -1.15, "backward: gradients", color=ORANGE, fontsize=9, va="bottom")
    show(figure, alt)


def word_maps(maps: dict, words: Sequence[str], groups: dict[str, Sequence[str]], *, alt: str) -> None:
    """Word vectors flattened to two numbers by PCA, one panel per title; each group has its own colour and mark.

    maps: title -> (n_words, d) tensor whose row i belongs to words[i]; the words of the groups are drawn.
    """
    import torch

    chosen = [words.index(word) for members in groups.values() for word in members]
    figure, axes = new_figure(5 * len(maps), 4.6, ncols=len(maps), squeeze=False)
    for panel, (title, vectors) in zip(axes[0], maps.items(), strict=True):
        points = vectors[chosen].float()
        points = points - points.mean(0)
        directions = torch.linalg.svd(points, full_matrices=False)[2][:2]
        # A direction and its opposite are equally good; one of the two is chosen, so that the map does not flip.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        flat = iter((points @ (directions * largest.sign()).T).tolist())
        for mark, colour, (group, members) in zip("osD^vP", COLOURS, groups.items(), strict=False):
            for i, word in enumerate(members):
                place = next(flat)
                panel.scatter(*place, color=colour, marker=mark, s=28, label="" if i else group)
                panel.annotate(word, place, xytext=(4, 3), textcoords="offset points", color=INK, fontsize=9)
        panel.set(title=title, xticks=[], yticks=[])
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(groups), labelcolor=INK, frameon=False)
    show(figure, alt)


def clocks(angles, *, alt: str) -> None:
    """angles: (positions, pairs) in radians. One clock face for each, its hand at that angle."""
    angles = [[float(angle) for angle in row] for row in angles]
    shape = dict(nrows=len(angles[0]), ncols=len(angles))
    figure, axes = new_figure(1.2 + 0.9 * shape["ncols"], 0.2 + 0.95 * shape["nrows"], squeeze=False, **shape)
    for pair, faces in enumerate(axes):
        for position, face in enumerate(faces):
            _dial(face, {"": angles[position][pair]}, colours=[COLOURS[pair % len(COLOURS)]])
            face.set_title("" if pair else f"{position}", fontsize=11)
        faces[0].set_ylabel(f"pair {pair}", rotation=0, ha="right", va="center")
    show(figure, alt)


def dials(panels: dict[str, dict[str, float]], *, alt: str) -> None:
    """One clock face per title, with several named hands: name -> angle in radians."""
    figure, axes = new_figure(2.6 * len(panels), 2.8, ncols=len(panels), squeeze=False)
    for face, (title, hands) in zip(axes[0], panels.items(), strict=True):
        _dial(face, hands, colours=COLOURS)
        face.set_title(title, fontsize=11)
    show(figure, alt)


def _dial(face, hands: dict[str, float], colours: Sequence[str]) -> None:
    from math import cos, sin

    face.add_patch(plt.Circle((0, 0), 1, fill=False, edgecolor=INK))
    for (name, angle), colour in zip(hands.items(), colours, strict=False):
        x, y = cos(angle), sin(angle)
        face.annotate("", (x, y), (0, 0), arrowprops=dict(arrowstyle="->", color=colour, linewidth=2))
        face.text(1.25 * x, 1.25 * y, name, ha="center", va="center", color=colour)
    room = 1.5 if any(hands) else 1.1
    face.set(xlim=(-room, room), ylim=(-room, room), aspect="equal", xticks=[], yticks=[])
    face.spines[:].set_visible(False)


# --- 03 attention -----------------------------------------------------------------------------------------------------


def attention_maps(maps: dict, words: Sequence[str] = (), *, alt: str, colour_bar: bool = True) -> None:
    """One square map of weights per entry: rows look, columns are looked at, what lies in the future is left blank.

    Each value: (n, n) weights between 0 and 1. `words` label both sides; without them the places are counted from 0.
    """
    n = len(next(iter(maps.values())))
    side = max(2.3, 0.33 * n if words else 0.0)
    width = (side + (0.9 if words else 0.4)) * len(maps) + 0.9
    figure, all_axes = new_figure(width, side + 1.1, ncols=len(maps), squeeze=False)
    for axes, (title, weights) in zip(all_axes[0], maps.items(), strict=True):
        future = [[j > i and float(weights[i][j]) == 0 for j in range(n)] for i in range(n)]
        cells = [[float("nan") if future[i][j] else float(weights[i][j]) for j in range(n)] for i in range(n)]
        image = axes.imshow(cells, cmap=MAP, vmin=0, vmax=1)
        axes.set_title(title)
        if words:
            axes.set_xticks(range(n), words, rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
            axes.set_yticks(range(n), words, fontsize=9)
        else:
            axes.locator_params(integer=True, nbins=5)
        if axes is all_axes[0][0]:
            axes.set_ylabel("who looks")
        axes.set_xlabel("who is looked at")
    if colour_bar:
        with plt.rc_context(STYLE):
            figure.colorbar(image, ax=all_axes[0].tolist(), label="weight", fraction=0.05)
    show(figure, alt)


def dot_products(pairs: dict) -> None:
    """Pairs of 2-D vectors as arrows, one panel per entry of `pairs` (name -> (a, b)), with their dot product."""
    figure, all_axes = new_figure(2.4 * len(pairs), 2.7, ncols=len(pairs), sharex=True, sharey=True)
    told = []
    for axes, (name, (a, b)) in zip(all_axes, pairs.items(), strict=True):
        a, b = [float(v) for v in a], [float(v) for v in b]
        product = a[0] * b[0] + a[1] * b[1]
        for vector, colour, style in ((a, BLUE, "-"), (b, ORANGE, "--")):
            arrow = dict(arrowstyle="-|>", color=colour, linewidth=2.5, linestyle=style, shrinkA=0, shrinkB=0)
            axes.annotate("", vector, (0, 0), arrowprops=arrow)
        axes.plot(0, 0, "o", color=INK, markersize=4)
        axes.set(xlim=(-2.3, 2.3), ylim=(-1.7, 2.3), aspect="equal", title=f"{name}\na · b = {product:.1f}")
        axes.axis("off")
        told.append(f"{name}: {product:.1f}")
    show(figure, f"Two arrows in each panel and their dot product. {'; '.join(told)}.")


def softmax_by_scale(scores: Sequence[float], scales: Sequence[float]) -> None:
    """The same scores, multiplied by each of `scales`, after softmax: one bar chart each."""
    import math

    figure, all_axes = new_figure(2.3 * len(scales), 2.6, ncols=len(scales), sharey=True)
    largest = []
    for axes, scale in zip(all_axes, scales, strict=True):
        powers = [math.exp(float(score) * scale) for score in scores]
        weights = [power / sum(powers) for power in powers]
        drawn = axes.bar(range(len(weights)), weights, color=BLUE)
        axes.bar_label(drawn, fmt="%.2f", color=INK, fontsize=9)
        axes.set(title=f"scores × {scale:g}", ylim=(0, 1.15))
        axes.set_xticks(range(len(weights)), [f"{float(score) * scale:g}" for score in scores])
        largest.append(f"{max(weights):.2f}")
    all_axes[0].set_ylabel("weight")
    told = [", ".join(f"{float(value):g}" for value in values) for values in (scores, scales)]
    show(figure, f"Softmax of {told[0]}, times {told[1]}. The largest weight grows: {', '.join(largest)}.")


def attention_steps(queries, keys, values, words: Sequence[str], *, alt: str) -> None:
    """One head on one sentence, left to right: queries, keys, scores, weights, values, output.

    queries, keys, values: (time, head_dim) tensors. Every panel has its own scale; the words label the rows.
    """
    scores = queries @ keys.T / keys.shape[-1] ** 0.5
    future = scores.new_ones(scores.shape).triu(1).bool()
    weights = scores.masked_fill(future, -float("inf")).softmax(-1)
    panels = {
        "queries": queries,
        "keys": keys,
        "scores": scores.masked_fill(future, float("nan")),
        "weights": weights.masked_fill(future, float("nan")),
        "values": values,
        "output": weights @ values,
    }
    widths = [tensor.shape[1] for tensor in panels.values()]
    figure, all_axes = new_figure(11, 3.3, ncols=len(panels), gridspec_kw={"width_ratios": widths})
    signs = ("", "·", "→", "→", "·", "=")
    for axes, (title, tensor), sign in zip(all_axes, panels.items(), signs, strict=True):
        axes.imshow(tensor.tolist(), cmap=MAP, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(" × ".join(str(size) for size in tensor.shape), fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        place = dict(xy=(0, 0.5), xycoords="axes fraction", xytext=(-3, 0), textcoords="offset points")
        axes.annotate(sign, **place, ha="right", va="center", fontsize=13, color=INK)
    all_axes[0].set_yticks(range(len(words)), words, fontsize=9)
    show(figure, alt)


def split_heads(x, n_heads: int) -> None:
    """A (time, d_model) table of numbers beside the n_heads tables of (time, head_dim) it is cut into."""
    table = [[float(value) for value in row] for row in x]
    n_rows, n_columns = len(table), len(table[0])
    size = n_columns // n_heads
    widths = [n_columns] + [size] * n_heads
    size_in_inches = 0.5 * sum(widths) + 1.2 * n_heads, 0.5 * n_rows + 0.9
    figure, all_axes = new_figure(*size_in_inches, ncols=1 + n_heads, gridspec_kw={"width_ratios": widths})
    parts = [(f"d_model = {n_columns}", 0, n_columns)]
    parts += [(f"head {head}", head * size, size) for head in range(n_heads)]
    for axes, (title, first, width) in zip(all_axes, parts, strict=True):
        axes.set(xlim=(0, width), ylim=(n_rows, 0), aspect="equal", title=title)
        axes.set_xticks([])
        axes.set_yticks([i + 0.5 for i in range(n_rows)], [f"token {i}" for i in range(n_rows)])
        axes.tick_params(length=0)
        for i in range(n_rows):
            for j in range(width):
                colour = COLOURS[((first + j) // size) % len(COLOURS)]
                axes.add_patch(plt.Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white"))
                axes.text(j + 0.5, i + 0.5, f"{table[i][first + j]:g}", ha="center", va="center", color="black")
    alt = f"A table of {n_rows} tokens by {n_columns} numbers, cut by columns into {n_heads} of {n_rows} by {size}: "
    show(figure, alt + "every head keeps all tokens and gets a share of each token's numbers.")


def cached_work(n: int) -> None:
    """Writing `n` tokens one by one: the keys and values computed at each step, without and with a cache."""
    figure, all_axes = new_figure(6.4, 3.2, ncols=2, sharey=True)
    for axes, cached in zip(all_axes, (False, True), strict=True):
        for step in range(n):
            for token in range(step + 1):
                new = token == step
                colour = BLUE if new else "none" if cached else ORANGE
                hatch = "///" if colour == ORANGE else ""
                axes.add_patch(plt.Rectangle((token, step), 1, 1, facecolor=colour, hatch=hatch, edgecolor=INK))
        total = n if cached else n * (n + 1) // 2
        axes.set(xlim=(0, n), ylim=(n, 0), aspect="equal", title=f"{'with' if cached else 'without'} a cache: {total}")
        axes.set(xlabel="token", xticks=[i + 0.5 for i in range(n)], yticks=[i + 0.5 for i in range(n)])
        axes.set(xticklabels=range(1, n + 1), yticklabels=range(1, n + 1))
        axes.tick_params(length=0)
    all_axes[0].set_ylabel("step")
    alt = f"Two staircases of {n} steps. Without a cache every step computes all tokens so far again, "
    show(figure, alt + f"{n * (n + 1) // 2} keys in all; with a cache each step computes one, {n} in all.")


# --- 04 GPT -----------------------------------------------------------------------------------------------------------

BLOCK_PARTS = {
    "gpt2": ("GPT-2", "LayerNorm", "attention\nwith biases", "feed-forward\nGELU, biases", "+ learned positions"),
    "modern": ("modern", "RMSNorm", "attention\nrotary, query/key norm", "feed-forward\nSwiGLU", ""),
}


def gpt_blocks(*kinds: str) -> None:
    """The way of a token through the model, from below: the stream, and the two branches of each block.

    kinds: "gpt2", "modern" or both, side by side. What differs from GPT-2 is drawn in orange.
    """
    figure, all_axes = new_figure(4.6 * len(kinds), 4.6, ncols=len(kinds), squeeze=False)
    for axes, kind in zip(all_axes[0], kinds, strict=True):
        title, norm, attention, feed_forward, positions = BLOCK_PARTS[kind]
        colour = ORANGE if kind == "modern" else BLUE
        axes.set(xlim=(-0.9, 4.1), ylim=(-0.5, 8.6), title=title)
        axes.axis("off")
        axes.annotate("", (0, 7.5), (0, 0.3), arrowprops=dict(arrowstyle="->", color=INK, linewidth=4))
        axes.add_patch(plt.Rectangle((-0.45, 0.75), 4.45, 5.7, fill=False, edgecolor=INK, linestyle=":"))
        axes.text(4, 6.6, "one block, many times", ha="right", va="bottom", color=INK, fontsize=9)
        for bottom, part in ((1.1, attention), (3.9, feed_forward)):
            for y, height, name in ((bottom + 0.35, 0.6, norm), (bottom + 1.45, 0.9, part)):
                axes.add_patch(plt.Rectangle((1, y - height / 2), 2.3, height, fill=False, edgecolor=colour))
                axes.text(2.15, y, name, ha="center", va="center", color=INK, fontsize=10)
            away = dict(arrowstyle="->", color=colour, linewidth=1.5, shrinkA=0, shrinkB=0)
            axes.annotate("", (1, bottom + 0.35), (0.05, bottom), arrowprops=away)
            axes.annotate("", (2.15, bottom + 1.0), (2.15, bottom + 0.65), arrowprops=away)
            axes.annotate("", (0.2, bottom + 2.1), (1, bottom + 1.65), arrowprops=away)
            axes.text(
                0,
                bottom + 2.15,
                "+",
                ha="center",
                va="center",
                color="white",
                fontsize=12,
                bbox=dict(boxstyle="circle,pad=0.12", facecolor=INK, edgecolor=INK),
            )
        axes.text(0, -0.05, f"token embedding {positions}", ha="left", va="center", color=INK, fontsize=10)
        axes.text(0, 8.0, f"{norm}, head, logits", ha="left", va="center", color=INK, fontsize=10)
    alt = (
        "A stream runs from the token embedding up to the head. In every block two branches leave it, first norm and "
        "attention, then norm and feed-forward, and both are added back to it."
    )
    if len(kinds) > 1:
        alt += " The modern block has the same shape with RMSNorm, rotary positions, query/key norm and SwiGLU."
    show(figure, alt)


def parameter_shares(models: dict[str, dict[str, float]], *, alt: str) -> None:
    """One bar per model, cut into the shares of its parts: name -> {part: number of parameters}."""
    figure, axes = new_figure(8, 0.7 + 0.55 * len(models))
    for row, parts in enumerate(models.values()):
        start, total = 0.0, sum(parts.values())
        for (part, count), colour in zip(parts.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
            share = count / total
            axes.barh(row, share, left=start, color=colour, label=part if row == 0 else None, height=0.6)
            if share > 0.06:
                axes.text(start + share / 2, row, f"{share:.0%}", ha="center", va="center", color="black", fontsize=9)
            start += share
    axes.set_yticks(range(len(models)), list(models))
    axes.set(xlim=(0, 1), xlabel="share of the parameters")
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=4, labelcolor=INK, frameon=False)
    show(figure, alt)


# --- 05 pretraining ---------------------------------------------------------------------------------------------------


def cuts(panels: dict[str, Sequence[float]], tokens: Sequence[str], *, alt: str) -> None:
    """One distribution over `tokens` per panel, side by side; a token cut to 0 is marked by a cross."""
    figure, axes = new_figure(2.6 * len(panels), 2.6, ncols=len(panels), sharey=True, squeeze=False)
    for panel, (title, probabilities) in zip(axes[0], panels.items(), strict=True):
        probabilities = [float(p) for p in probabilities]
        panel.bar(range(len(tokens)), probabilities, color=BLUE)
        gone = [i for i, p in enumerate(probabilities) if p == 0]
        panel.plot(gone, [0.02] * len(gone), "x", color=ORANGE)
        panel.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
        panel.set_title(title, fontsize=11)
    axes[0, 0].set_ylabel("probability")
    show(figure, alt)


# --- 06 chat ----------------------------------------------------------------------------------------------------------


def masked_tokens(rows: Sequence[tuple[Sequence[str], Sequence[int]]], *, alt: str) -> None:
    """One strip per message, cut into its tokens. Those with mask 1, which are learned, have another colour."""
    widths = [[len(piece) + 0.6 for piece in pieces] for pieces, _ in rows]
    widest = max(map(sum, widths))
    figure, axes = new_figure(0.4 + 0.125 * widest, 0.36 * len(rows) + 0.5)
    axes.set(xlim=(0, widest), ylim=(len(rows) - 0.5, -0.5))
    axes.axis("off")
    for y, ((pieces, mask), row) in enumerate(zip(rows, widths, strict=True)):
        _strip(axes, y, pieces, row, [ORANGE if learned else SKY for learned in mask])
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (SKY, ORANGE)]
    figure.legend(handles, ["read only", "learned"], loc="outside lower left", ncols=2, labelcolor=INK, frameon=False)
    show(figure, alt)


def packed_rows(kinds: Sequence[Sequence[int]]) -> None:
    """Training rows as strips of tokens. kinds: for each token 0 (read only), 1 (learned) or 2 (separator)."""
    from matplotlib.colors import ListedColormap

    kinds = [[int(kind) for kind in row] for row in kinds]
    names, colours = ("read only", "learned", "separator"), (SKY, ORANGE, PINK)
    figure, axes = new_figure(9, 0.8 + 0.28 * len(kinds))
    axes.imshow(kinds, cmap=ListedColormap(colours), vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    axes.hlines([i + 0.5 for i in range(len(kinds) - 1)], -0.5, len(kinds[0]) - 0.5, color="white", linewidth=3)
    for i, row in enumerate(kinds):  # one token is a hair's breadth
        axes.vlines([j for j, kind in enumerate(row) if kind == 2], i - 0.5, i + 0.5, color=PINK, linewidth=4)
    axes.set_yticks(range(len(kinds)), [f"row {i}" for i in range(len(kinds))])
    axes.set(xlabel="place in the row")
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=INK) for colour in colours]
    figure.legend(handles, names, loc="outside upper left", ncols=3, labelcolor=INK, frameon=False)
    show(
        figure,
        f"{len(kinds)} rows of tokens. In each, stretches that are only read and stretches that are learned take turns.",
    )


def window_of_messages(
    messages: Sequence[dict], lengths: Sequence[int], n_dropped: int, limit: int, *, alt: str
) -> None:
    """One bar per message, as long as it has tokens, laid end to end: the first `n_dropped` fall out of the window.

    lengths: tokens per message; limit: how many tokens the window holds, counted from the newest end.
    """
    figure, axes = new_figure(9, 0.9 + 0.36 * len(messages))
    total, start = sum(lengths), 0
    axes.axvspan(total - limit, total, color=INK, alpha=0.15, linewidth=0)
    for row, (message, length) in enumerate(zip(messages, lengths, strict=True)):
        dropped = row < n_dropped
        colour = "none" if dropped else SKY if message["role"] == "user" else ORANGE
        axes.barh(row, length, left=start, facecolor=colour, edgecolor=INK, hatch="///" if dropped else "", height=0.7)
        text = message["content"] if len(message["content"]) < 32 else message["content"][:30] + "…"
        right = start > total / 2
        place = dict(x=start - 0.6, ha="right") if right else dict(x=start + length + 0.6, ha="left")
        axes.text(y=row, s=text, va="center", color=INK, fontsize=9, **place)
        start += length
    axes.set_yticks(range(len(messages)), [message["role"] for message in messages])
    axes.set(xlim=(0, total), xlabel="tokens, oldest first; the grey ground is what the window holds")
    axes.invert_yaxis()
    show(figure, alt)


def grouped_shares(values: dict[str, dict[str, float]], *, alt: str, xlabel: str = "share of right replies") -> None:
    """Shares between 0 and 1, one row per group and one bar per name: name -> {group: share}."""
    groups = list(next(iter(values.values())))
    height = 0.8 / len(values)
    figure, axes = new_figure(7, 0.9 + 0.4 * len(groups))
    for i, ((name, shares), colour, hatch) in enumerate(
        zip(values.items(), COLOURS, ("", "///", "..", ""), strict=False)
    ):
        places = [row - 0.4 + (i + 0.5) * height for row in range(len(groups))]
        axes.barh(
            places, [shares[group] for group in groups], height, color=colour, hatch=hatch, edgecolor=INK, label=name
        )
    axes.set_yticks(range(len(groups)), groups)
    axes.set(xlim=(0, 1), xlabel=xlabel)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(values), labelcolor=INK, frameon=False)
    show(figure, alt)
