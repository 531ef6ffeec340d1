"""The PDF's figures, drawn at the size at which they are printed (the text is 6.9 inches wide).

Places and sizes are in pixels, 200 to the inch, from a figure's upper left corner.
"""

import itertools

from matplotlib.figure import Figure
from torchvision.utils import make_grid

import codelet7
import utils
from codelet7 import EPOCHS, WEAK
from utils import BLUE, DPI, GREY, ON, ORANGE, to_grey
from writeup import measures

WIDE = 1380
SIDE = 28  # pixels of an image
PURPLE = "#aa4499"  # of weak activations
PROFILES = {  # the runs of switch.png's small panels, and their heads there
    "blobs": "assignment's\npenalty", "whispers": "stronger\npenalty",
    "limited": "stronger\npenalty, limit"}
KINDS = {  # the runs of kinds.png, and their heads there
    "blobs": "blobs: my run", "digits": "digits: stronger penalty, decay",
    "strokes": "strokes: 100 nodes"}


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
def plot_node(weights, covariance, examples, path):
    """Save a node's strip: its decoder weights and pixel covariance, (784,) each, and eight images
    (8, 1, 28, 28) from its whole range."""
    figure = new_figure(484, 118)
    draw_weights(figure, 0, 0, weights, 116)
    draw_weights(figure, 122, 0, covariance, 116)
    grid = make_grid(examples, 4, padding=1, pad_value=utils.WHITE)[:, 1:-1, 1:-1]
    draw_image(figure, 250, 0, grid, 232)
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
def plot_switch(shares, hidden, path):
    """Save the weak share by epoch of runs that are switched after EPOCHS, and beside it, for the
    models of PROFILES, from where in 0 to 1 their total activation comes.

    shares: {(run, its second stage): for each seed, the weak share from epoch 0 on}; a run or stage
    whose name ends in "limited" has a limited norm. hidden: {model: activations (n, nodes)}.
    """
    figure = new_figure(WIDE, 540)
    axes = axes_at(figure, 124, 12, 546, 440)
    for stages, seeds in shares.items():
        for weak in seeds:
            for stage, epochs in zip(stages, (range(1, EPOCHS + 1), range(EPOCHS, len(weak)))):
                axes.plot(epochs, [weak[epoch] for epoch in epochs], linewidth=1.3,
                          color=BLUE if stage.endswith("limited") else ORANGE)
    axes.axvline(EPOCHS, color=GREY, linewidth=0.8, linestyle=":")
    axes.text(EPOCHS, 1, " switch", color=GREY, va="top")
    axes.text(2 * EPOCHS, 0.78, "no limit", color=ORANGE, ha="right")
    axes.text(2 * EPOCHS, 0.15, "norm limited to 10", color=BLUE, ha="right")
    axes.set(xlim=(0, 2 * EPOCHS), ylim=(0, 1), xlabel="epoch", ylabel="weak share",
             yticks=[0, 0.25, 0.5, 0.75, 1], yticklabels=["0%", "25%", "50%", "75%", "100%"])
    profiles = {name: measures.activation_profile(hidden[name]) for name in PROFILES}
    highest = max(profile.max() for profile in profiles.values())
    for place, (name, head) in enumerate(PROFILES.items()):
        axes, bins = axes_at(figure, 758 + 210 * place, 72, 170, 380), len(profiles[name])
        axes.bar([(place + 0.5) / bins for place in range(bins)], profiles[name], 0.9 / bins,
                 color=[PURPLE if place < WEAK * bins else GREY for place in range(bins)])
        on = (hidden[name] > ON).sum(1).double().mean()
        axes.text(0.16, 0.97, f"{codelet7.weak_share(hidden[name]):.0%} weak", color=PURPLE,
                  va="top", transform=axes.transAxes)
        axes.text(0.16, 0.91, f"{on:.1f} nodes on", va="top", transform=axes.transAxes)
        axes.set(xlim=(0, 1), ylim=(0, 1.25 * highest), xticks=[0, WEAK, 0.5, 1], yticks=[],
                 xticklabels=["0", "", "0.5", "1"], xlabel="activation")
        write_at(figure, 758 + 210 * place + 85, 8, head, ha="center", fontweight="bold")
    write_at(figure, 736, 262, "share of total activation", rotation=90, va="center", ha="center")
    utils.save(figure, path)


@utils.styled
def plot_curve(rows, end, path):
    """Save the test MSE of model and lookup table by epoch, and below it the share of saturated
    activations. rows: {epoch: {"mse", "table", "saturated"}} from epoch 0, the untrained model, on.
    end: the default run's last epoch."""
    figure = new_figure(660, 390)
    upper, lower = axes_at(figure, 120, 8, 515, 200), axes_at(figure, 120, 230, 515, 80)
    for axes, key, colour, line in ((upper, "mse", ORANGE, "-"), (upper, "table", BLUE, "--"),
                                    (lower, "saturated", GREY, "-")):
        axes.plot([*rows], [row[key] for row in rows.values()], line, color=colour, linewidth=1.6)
        axes.set_xlim(0, max(rows))
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
        for place, text, align in ((0, "image", "left"), (wide / 2 - 24, "activations", "center"),
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
