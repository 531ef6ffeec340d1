"""The PDF's figures, drawn at the size at which they are printed (the text is 6.9 inches wide).

Places and sizes are in pixels, 200 to the inch, from a figure's upper left corner.
"""

import itertools

from matplotlib.figure import Figure
from torchvision.utils import make_grid

import utils
from utils import BLUE, DPI, GREY, ORANGE, to_grey

WIDE = 1380
SIDE = 28  # pixels of an image
GREEN = "#009e73"  # Okabe-Ito, as utils' colours
NORM_RUNS = {  # the runs of norms.png: label, colour, marker, whether it is filled
    "strong-fast": ("no limit, 1e-3", ORANGE, "o", True),
    "strong": ("no limit, 1e-4", ORANGE, "o", False),
    "limit-5": ("norm at most 5, 10, 20, 40, 1e-3", "black", "s", False),
    "limit-10": (None, "black", "s", False), "limit-20": (None, "black", "s", False),
    "limit-40": (None, "black", "s", False),
    "strong-decay-fast": ("weight decay, 1e-3", BLUE, "o", True),
    "strong-decay": ("weight decay, 1e-4", BLUE, "o", False),
    "strong-encoder-decay-fast": ("decay of the encoder, 1e-3", GREEN, "x", True),
    "strong-decoder-decay-fast": ("decay of the decoder, 1e-3", GREEN, "+", True)}
KINDS = {  # the runs of kinds.png, and their heads there
    "default": "my run: blobs", "strong-decay": "stronger penalty, decay: digits",
    "hundred-decay": "100 nodes, penalty, decay: strokes"}


def new_figure(width, height):
    return Figure(figsize=(width / DPI, height / DPI))


def axes_at(figure, left, top, width, height):
    whole_width, whole_height = figure.get_size_inches() * DPI
    return figure.add_axes([left / whole_width, 1 - (top + height) / whole_height,
                            width / whole_width, height / whole_height])


def write_at(figure, left, top, text, **style):
    width, height = figure.get_size_inches() * DPI
    figure.text(left / width, 1 - top / height, text, **{"va": "top", "fontsize": 7.5} | style)


def draw_image(figure, left, top, image, size):
    """Draw a normalized image, or a grid of them, `size` pixels wide, in utils' grey scale."""
    pixels = to_grey(image)
    pixels = pixels.view(SIDE, SIDE) if pixels.numel() == SIDE * SIDE else pixels[0]
    axes = axes_at(figure, left, top, size, size * pixels.shape[0] / pixels.shape[1])
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")


def draw_weights(figure, left, top, weights, size):
    """Draw 784 numbers on a colour scale of their own."""
    weights = weights.detach()
    utils.draw_weights(axes_at(figure, left, top, size, size), weights, weights.abs().max())


@utils.styled
def plot_node(weights, covariance, examples, path, heads):
    """Save a node's strip: its decoder weights and pixel covariance, (784,) each, and eight images
    (8, 1, 28, 28) from its whole range; with a head over each, or without."""
    top = 32 if heads else 0
    figure = new_figure(484, top + 118)
    draw_weights(figure, 0, top, weights, 116)
    draw_weights(figure, 122, top, covariance, 116)
    grid = make_grid(examples, 4, padding=1, pad_value=utils.WHITE)[:, 1:-1, 1:-1]
    draw_image(figure, 250, top, grid, 232)
    for middle, head in ((58, "decoder"), (180, "covariance"), (366, "low to high activation")):
        write_at(figure, middle, 4, head if heads else "", ha="center")
    utils.save(figure, path)


@utils.styled
def plot_tree(tree, covariance, path):
    """Save a tree of measures.grow_tree() with three levels of questions: the mean image and the
    number of the images at each place, and the covariance (nodes, 784) of the node asked next; at
    the leaves the most common digit and its share."""
    wide, size, icon, step = 1000, 80, 46, 134
    figure = new_figure(wide, 3 * step + size + 50)
    lines = axes_at(figure, 0, 0, wide, 3 * step + size + 50)
    lines.set(xlim=(0, wide), ylim=(3 * step + size + 50, 0))
    lines.axis("off")

    def draw(tree, level, index):
        slot, top = (wide - 30) / 2 ** level, 2 + level * step
        middle, below = (index + 0.5) * slot, top + size + 5
        draw_image(figure, middle - size / 2, top, tree["mean"], size)
        if "asks" not in tree:
            digit = tree["digits"].argmax().item()
            share = tree["digits"][digit].item() / tree["count"]
            write_at(figure, middle, below - 2, f"{tree['count']:,}\n{share:.0%} {digit}s",
                     ha="center")
            return
        draw_weights(figure, middle - icon / 2, below, covariance[tree["asks"]], icon)
        write_at(figure, middle + size / 2 + 4, top + size / 2, f"node {tree['asks']}?",
                 fontweight="bold", va="center")
        for answer, side, colour in (("no", -1, BLUE), ("yes", 1, ORANGE)):
            bend, end, across = middle + side * (icon / 2 + 3), middle + side * slot / 4, below + 25
            lines.plot([bend, end, end], [across, across, top + step - 3], color=colour,
                       linewidth=1.4)
            write_at(figure, end + side * 6, across + 3, answer, color=colour,
                     ha="right" if side < 0 else "left")
            draw(tree[answer], level + 1, 2 * index + (side > 0))

    draw(tree, 0, 0)
    write_at(figure, wide / 2 - size, 20, f"mean of {tree['count']:,}\ntraining images",
             ha="right")
    utils.save(figure, path)


@utils.styled
def plot_norms(runs, path):
    """Save, against the mean norm of the decoder's columns, the weak share and the effective number
    of active nodes. runs: for each of NORM_RUNS, for each seed, rows (norm, weak share, effective
    number of active nodes), one for each epoch."""
    figure = new_figure(WIDE, 414)
    panels = axes_at(figure, 130, 8, 560, 262), axes_at(figure, 790, 8, 560, 262)
    for name, (label, colour, marker, filled) in NORM_RUNS.items():
        for seed_label, rows in zip([label] + [None] * 9, runs[name]):
            norms, *columns = zip(*rows)
            for axes, values in zip(panels, columns):
                axes.plot(norms, values, marker, color=colour, markersize=3, markeredgewidth=0.7,
                          markerfacecolor=colour if filled else "none", label=seed_label)
    panels[0].set(ylim=(0, 1), ylabel="weak share", yticks=[0, 0.25, 0.5, 0.75, 1],
                  yticklabels=["0%", "25%", "50%", "75%", "100%"])
    panels[1].set(ylim=(1, None), ylabel="effective number")
    for axes in panels:
        axes.set(xlim=(0, None), xlabel="mean norm of the decoder's columns")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=7.5, ncols=4,
                  loc="lower center", handletextpad=0, columnspacing=1, labelspacing=0.2)
    utils.save(figure, path)


@utils.styled
def plot_curve(rows, end, path):
    """Save the test MSE of model and lookup table by epoch, and below it the share of saturated
    activations. rows: for each seed, mine first, {epoch: {"mse", "table", "saturated"}} from epoch
    0, the untrained model, on; the band of all seeds is drawn pale. end: the default run's last
    epoch."""
    figure = new_figure(660, 390)
    upper, lower = axes_at(figure, 120, 8, 515, 200), axes_at(figure, 120, 230, 515, 80)
    epochs = list(rows[0])
    for axes, key, colour, line in ((upper, "mse", ORANGE, "-"), (upper, "table", BLUE, "--"),
                                    (lower, "saturated", GREY, "-")):
        seeds = [[row[key] for row in seed.values()] for seed in rows]
        axes.plot(epochs, seeds[0], line, color=colour, linewidth=1.6)
        axes.fill_between(epochs, [*map(min, *seeds)], [*map(max, *seeds)], color=colour, alpha=0.3,
                          linewidth=0)
        axes.set_xlim(0, max(epochs))
        axes.axvline(end, color=GREY, linewidth=0.8, linestyle=":")
    upper.text(end + 0.8, 0.655, f"my run ends\n(epoch {end})", color=GREY, va="top")
    upper.set(ylim=(0.475, 0.66), ylabel="test MSE", yticks=[0.5, 0.55, 0.6, 0.65],
              xticklabels=[])
    upper.text(25, 0.527, "model", color=ORANGE)
    upper.text(24, 0.5, "lookup table of ten answers", color=BLUE, va="top")
    lower.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0%", "50%", "100%"], xlabel="epoch",
              ylabel="saturated")
    utils.save(figure, path)


@utils.styled
def plot_kinds(models, image, path):
    """Save the decoder weights of the three models of KINDS, two with ten nodes to the left, one
    with a hundred to the right, each node on its own scale; below each, the activations for one
    image and its reconstruction."""
    figure = new_figure(990, 646)
    for model, head, (left, top), across, pitch in zip(
            models, KINDS.values(), [(0, 0), (0, 326), (500, 0)], [5, 5, 10], [86, 86, 49]):
        hidden, reconstruction = model(image)
        count = hidden.shape[1]
        write_at(figure, left, top + 2, head, fontsize=8, fontweight="bold")
        for node, weights in enumerate(model.decoder.weight.t()):
            down, right = divmod(node, across)
            draw_weights(figure, left + right * pitch, top + 32 + down * pitch, weights, pitch - 3)
        below, wide = top + 32 + count // across * pitch + 6, across * pitch
        draw_image(figure, left, below, image, 84)
        draw_image(figure, left + wide - 87, below, reconstruction, 84)
        code = axes_at(figure, left + 116, below + 2, wide - 246, 80)
        code.bar(range(count), hidden[0], width=0.8, color=ORANGE)
        code.set(ylim=(0, 1), xlim=(-0.7, count - 0.3), yticks=[0, 1], xticks=[])
        code.tick_params(length=2, pad=1, labelsize=7.5)
        for place, text, align in ((0, "image", "left"), (wide / 2 - 7, "activations", "center"),
                                   (wide - 3, "reconstruction", "right")):
            write_at(figure, left + place, below + 87, text, ha=align)
    utils.save(figure, path)


@utils.styled
def plot_shares(shares, path):
    """Save the share of each digit's images for which each node fires, (nodes, 10), as a heat
    map."""
    figure = new_figure(620, 520)
    axes = axes_at(figure, 90, 62, 526, 452)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for node, digit in itertools.product(range(len(shares)), range(10)):
        share = shares[node, digit].item()
        axes.text(digit, node, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                  color="white" if share > 0.55 else "black")
    axes.set(xticks=range(10), yticks=range(len(shares)),
             xticklabels=[f"{digit}s" for digit in range(10)],
             yticklabels=[f"node {node}" for node in range(len(shares))])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=7.5, pad=2)
    axes.spines[:].set_visible(False)
    write_at(figure, 353, 4, "% of each digit's images for which the node fires", ha="center")
    utils.save(figure, path)
