"""Plotting: show() for image grids, the node overview, the loss curve."""

import functools
import io
import os
import sys
import textwrap
from pathlib import Path

# A notebook passes its matplotlib backend to its child processes in MPLBACKEND. Where that backend
# is not installed, `import matplotlib` would fail.
if "IPython" not in sys.modules and "matplotlib_inline" in os.environ.get("MPLBACKEND", ""):
    del os.environ["MPLBACKEND"]

import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from digits import MEAN, STD, write_whole

BACKGROUND, INK = (0 - MEAN) / STD, (1 - MEAN) / STD  # normalized: the black background, full ink
WHITE = 1.0  # the maximum of tanh; drawn as white, like all larger values
ON = 0.5     # a node is on (it fires) for an image if its activation is above this
DPI = 200
ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#777777"  # Okabe-Ito palette: colour-blind safe
STYLE = {"font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.edgecolor": GREY,
         "axes.spines.top": False, "axes.spines.right": False, "xtick.color": GREY,
         "ytick.color": GREY, "xtick.labelcolor": "black", "ytick.labelcolor": "black",
         "image.interpolation": "nearest"}
wrap = functools.partial(textwrap.wrap, break_on_hyphens=False)  # "stand-in" stays whole
styled = matplotlib.style.context(["default", STYLE])  # a decorator: ignores a user's matplotlibrc


def save(figure, path):
    """Save a matplotlib figure in the format of the path's suffix (.png, .jpg, .tif, .webp, .svg,
    .pdf), or as PNG if the path has none. A PNG file has the same bytes each time, since it is
    saved without matplotlib's version. Raises OSError, which names `path`."""
    path, data = Path(path), io.BytesIO()
    metadata = {"Software": None} if path.suffix in ("", ".png") else None  # only PNG has this key
    figure.savefig(data, format=path.suffix[1:] or "png", dpi=DPI, metadata=metadata)
    write_whole(path, data.getvalue())


def to_grey(pixels):
    """Normalized pixels, a tensor of any shape -> 8-bit grey: BACKGROUND is black, WHITE and all
    above it white."""
    grey = (pixels.detach().cpu() - BACKGROUND) / (WHITE - BACKGROUND)
    return grey.clamp(0, 1).mul(255).round().byte()


@styled
def show(grid, path=None, title=None):
    """Save a grid of images as a figure at `path`, or open a window if there is no path. The
    path's suffix decides the format (.jpg or .pdf, for example); without a suffix it is PNG.

    grid is (1, H, W) or (3, H, W), as returned by make_grid: normalized pixels (float), drawn on a
    fixed grey scale stated in the figure, or 8-bit pixels (uint8), drawn unchanged; TypeError for
    anything else. Saving needs no display. Raises OSError for a path that cannot be written.
    """
    if grid.dtype != torch.uint8 and not grid.is_floating_point():
        raise TypeError(f"show() expects float or uint8 pixels, not {grid.dtype}")
    pixels = grid.cpu() if grid.dtype == torch.uint8 else to_grey(grid)
    height, width = pixels.shape[1:]
    zoom = max(1, min(round(1200 / width), 2200 // height))  # an integer keeps the pixels sharp
    wide, tall = max(width * zoom, 900), height * zoom
    lines = wrap(title or "", wide // 12)
    top, bottom = 20 + 30 * len(lines), 50
    whole = top + tall + bottom
    if path is None:
        from matplotlib import pyplot  # only here: it may need a display
        figure = pyplot.figure(figsize=(wide / DPI, whole / DPI))
    else:
        figure = Figure(figsize=(wide / DPI, whole / DPI))
    axes = figure.add_axes([0, bottom / whole, 1, tall / whole])
    axes.imshow(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    axes.axis("off")
    figure.text(0.5, 1 - 12 / whole, "\n".join(lines), ha="center", va="top", fontsize=7.5,
                linespacing=1.1)
    if grid.dtype != torch.uint8:
        figure.text(0.5, 14 / whole, f"normalized pixels: black {BACKGROUND:.2f} (background), "
                    f"white ≥ {WHITE:g} (maximum of tanh), full ink {INK:.2f}", ha="center",
                    fontsize=7, color=GREY)
    if path is None:
        pyplot.show()
    else:
        save(figure, path)


# --- The node overview ---

def pixel_covariance(images, hidden):
    """The covariance of each node's activation with each pixel, (nodes, pixels).

    images (n, ...), hidden (n, nodes). It shows how the images change with the activation; the
    encoder's weights need not (Haufe et al., NeuroImage 2014).
    """
    return (hidden - hidden.mean(0)).t() @ images.flatten(1) / len(images)


def pick_examples(hidden):
    """The indices of eight images from each node's whole range, from the least to the most active:
    the middle image of each eighth. hidden (n, nodes) -> (8, nodes)."""
    count, order = len(hidden), hidden.argsort(dim=0)
    return order[[count * (2 * eighth + 1) // 16 for eighth in range(8)]]


def firing_shares(hidden, labels):
    """The share of each digit's images for which each node is on: hidden (n, nodes), labels (n,)
    -> (nodes, 10)."""
    on = (hidden > ON).double()
    return torch.stack([on[labels == digit].mean(0) for digit in range(10)], 1)


@styled
def plot_nodes(decoder, hidden, target, images, labels, path, title):
    """Save an overview with one row per hidden node, showing what it responds to.

    decoder: the decoder's weights, (nodes or more, 784). hidden: the activations (n, nodes) for
    `images` (n, 1, 28, 28), normalized, with their digits `labels` (n,). target: rho, the target
    mean activation.
    """
    hidden, images, labels = hidden.detach().cpu(), images.cpu(), labels.cpu()
    nodes = hidden.shape[1]
    decoder = decoder[:nodes].detach().cpu().numpy()
    covariance = pixel_covariance(images, hidden).numpy()
    shares = firing_shares(hidden, labels).numpy()
    examples = pick_examples(hidden)
    counts = torch.stack([torch.histc(h, bins=50, min=0, max=1) for h in hidden.t()]).numpy()

    lines = wrap(f"What the hidden nodes 0 to {nodes - 1} respond to. {title}", 145)
    top, bottom = 0.45 + 0.17 * len(lines), 0.55  # inches, as is the height of a row
    tall = top + 0.78 * nodes + bottom
    figure = Figure(figsize=(11, tall))
    figure.text(0.01, 1 - 0.08 / tall, "\n".join(lines), fontsize=9, va="top")
    rows = figure.subplots(nodes, 5, sharex="col", squeeze=False, gridspec_kw=dict(
        width_ratios=[1.6, 1.6, 8, 3.2, 3.2], left=0.055, right=0.99, wspace=0.05, hspace=0.15,
        top=1 - top / tall, bottom=bottom / tall))
    for node, (weights, pattern, strip, histogram, by_digit) in enumerate(rows):
        draw_weights(weights, decoder[node], abs(decoder).max())
        weights.text(-4, 14, f"node {node}", ha="right", va="center")
        draw_weights(pattern, covariance[node], abs(covariance).max())
        grid = make_grid(images[examples[:, node]], 8, padding=1, pad_value=WHITE)
        strip.imshow(to_grey(grid).permute(1, 2, 0).numpy())
        strip.axis("off")
        draw_histogram(histogram, counts[node], hidden[:, node].mean().item(), target)
        histogram.set_ylim(0, counts.max() * 1.05)
        by_digit.bar(range(10), shares[node], color=GREY)
        by_digit.set(ylim=(0, 1), yticks=[], xticks=range(10))
    for axes, head in zip(rows[0], (
            "decoder\nweights", "covariance\nwith pixels",
            "example images by activation, low to high:\nthe middle image of each eighth",
            f"histogram of activations\n(orange: mean; blue: target {target:g})",
            f"share of each digit's images\nwith the node on (> {ON:g})")):
        axes.set_title(head)
    figure.text(0.01, 0.06 / tall, "Red: more ink with higher activation; blue: less ink. Colour "
                f"scales: ±{abs(decoder).max():.2f} for decoder weights, "
                f"±{abs(covariance).max():.2f} for covariances.\nDigit bars: 0 to 100%.",
                fontsize=7.5, color=GREY)
    save(figure, path)


def draw_weights(axes, weights, limit):
    """Draw 784 numbers as an image, from -limit in blue to limit in red."""
    axes.imshow(weights.reshape(28, 28), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.axis("off")


def draw_histogram(axes, counts, mean, target):
    """Draw a node's histogram, with its mean activation and the target."""
    axes.stairs(counts, np.linspace(0, 1, len(counts) + 1), fill=True, color=GREY)
    axes.axvline(mean, color=ORANGE)
    axes.axvline(target, color=BLUE, linestyle="--")
    axes.text(mean, 0.97, f" mean {mean:.2f} ", color=ORANGE, va="top",
              ha="left" if mean < 0.6 else "right", transform=axes.get_xaxis_transform())
    axes.set(xlim=(0, 1), yticks=[], xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])


# --- The loss curve ---

@styled
def plot_losses(history, instructor_losses, path, title):
    """Save the loss curve. history: one (loss, mse) per epoch; instructor_losses: {epoch: loss},
    from the assignment."""
    losses, mses = np.array(history).T
    epochs = np.arange(1, len(losses) + 1)
    lines = wrap(f"Training loss and its two parts. {title}", 85)
    figure = Figure(figsize=(6, 3.7 + 0.16 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    upper.plot(epochs, losses, "o-", color=ORANGE, markersize=5,
               label="loss: MSE + weighted penalty")
    upper.plot(epochs, mses, "s--", color=BLUE, markersize=3, markerfacecolor="white", linewidth=1,
               label="MSE alone")
    numbers = " and ".join(f"{loss:.4f}" for loss in instructor_losses.values())
    upper.plot(*zip(*instructor_losses.items()), "kx", markersize=8,
               label=f"instructor (assignment settings, MNIST): {numbers}")
    for epoch in {1, len(losses)}:
        upper.annotate(f"{losses[epoch - 1]:.4f}", (epoch, losses[epoch - 1]), (0, 9),
                       textcoords="offset points", ha="center", color=ORANGE)
    upper.set_ylabel("training loss\n(mean over batches)")
    upper.legend(frameon=False, loc="upper right")
    lower.plot(epochs, losses - mses, color=GREY, marker="o", markersize=3)
    lower.set(xlabel="epoch", ylabel="weighted penalty", ylim=(0, None))
    lower.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    save(figure, path)
