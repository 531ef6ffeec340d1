"""Pictures: show() for grids of digits, the sheet of what each node learned, the loss curve."""

import io
import textwrap

import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from digits import MEAN, STD, write_whole

PAPER, INK = (0 - MEAN) / STD, (1 - MEAN) / STD  # the background, which is black, and a full stroke
WHITE = 1.0  # drawn as white, and all above it too: tanh, so a reconstruction, goes no higher
DPI = 200
ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#777777"  # of Okabe and Ito: for the colour-blind too
STYLE = {"font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.edgecolor": GREY,
         "axes.spines.top": False, "axes.spines.right": False, "xtick.color": GREY,
         "ytick.color": GREY, "xtick.labelcolor": "black", "ytick.labelcolor": "black",
         "image.interpolation": "nearest"}
styled = matplotlib.style.context(["default", STYLE])  # a decorator: the user's own style stays out


def save(figure, path):
    """Save a matplotlib figure as a PNG, the same bytes for the same picture."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, png.getvalue())


def to_grey(pixels):
    """Normalized pixels, a tensor of any shape -> 8-bit grey: PAPER is black, WHITE and all above
    it white."""
    return ((pixels.detach().cpu() - PAPER) / (WHITE - PAPER)).clamp(0, 1).mul(255).round().byte()


@styled
def show(grid, path=None, title=None):
    """Save a grid of images as a PNG at `path`, or open a window if there is no path.

    grid is (1, H, W) or (3, H, W), as make_grid gives it: normalized pixels, drawn on one fixed
    grey scale that the figure states, or 8-bit ones, drawn as they are. Saving needs no display.
    Raises OSError for a path that cannot be written.
    """
    pixels = grid.cpu() if grid.dtype == torch.uint8 else to_grey(grid)
    height, width = pixels.shape[1:]
    zoom = max(1, min(round(1200 / width), 2200 // height))  # whole pixels for each pixel: sharp
    wide, tall = max(width * zoom, 900), height * zoom
    lines = textwrap.wrap(title or "", wide // 12)
    top, bottom = 20 + 30 * len(lines), 50
    whole = top + tall + bottom
    if path is None:
        from matplotlib import pyplot  # only here: it wants a display
        figure = pyplot.figure(figsize=(wide / DPI, whole / DPI))
    else:
        figure = Figure(figsize=(wide / DPI, whole / DPI))
    axes = figure.add_axes([0, bottom / whole, 1, tall / whole])
    axes.imshow(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    axes.axis("off")
    figure.text(0.5, 1 - 12 / whole, "\n".join(lines), ha="center", va="top", fontsize=7.5,
                linespacing=1.1)
    if grid.dtype != torch.uint8:
        figure.text(0.5, 14 / whole, f"normalized pixels, from {PAPER:.2f} (paper) in black to "
                    f"{WHITE:g}, where tanh ends, in white; ink is {INK:.2f}", ha="center",
                    fontsize=7, color=GREY)
    if path is None:
        pyplot.show()
    else:
        save(figure, path)


@styled
def plot_nodes(decoder, hidden, target, images, labels, path, title):
    """Save a sheet with a row for each of k hidden nodes, and what shows what it responds to.

    decoder: the decoder's weights, (k or more, 784). hidden: the activations (n, k) for `images`
    (n, 1, 28, 28), normalized, with their digits `labels` (n,). target: the mean activation that
    the sparsity penalty asks for.
    """
    hidden, images = hidden.detach().cpu(), images.cpu()
    count, nodes = hidden.shape
    decoder = decoder[:nodes].detach().cpu().numpy()
    # The covariance of each pixel with the activation shows the pattern that a linear encoder
    # responds to; its weights do not (Haufe et al., NeuroImage 2014).
    common = ((hidden - hidden.mean(0)).t() @ images.flatten(1) / count).numpy()
    order = hidden.argsort(dim=0, stable=True)
    eighths = [count * (2 * eighth + 1) // 16 for eighth in range(8)]
    fires = (hidden > 0.5).float()
    shares = torch.stack([fires[labels == digit].mean(0) for digit in range(10)], 1).numpy()
    heights = np.stack([np.histogram(activation, bins=50, range=(0, 1))[0]
                        for activation in hidden.t().numpy()])

    last = nodes - 1
    lines = textwrap.wrap(f"What the hidden nodes 0 to {last} respond to. {title}", 145)
    top, bottom = 0.45 + 0.17 * len(lines), 0.55  # inches, as is the height of a row
    tall = top + 0.78 * nodes + bottom
    figure = Figure(figsize=(11, tall))
    figure.text(0.01, 1 - 0.08 / tall, "\n".join(lines), fontsize=9, va="top")
    rows = figure.subplots(nodes, 5, squeeze=False, gridspec_kw=dict(
        width_ratios=[1.6, 1.6, 8, 3.2, 3.2], left=0.055, right=0.99, wspace=0.05, hspace=0.15,
        top=1 - top / tall, bottom=bottom / tall))
    for node, (weights, pattern, examples, histogram, by_digit) in enumerate(rows):
        draw_weights(weights, decoder[node], abs(decoder).max())
        weights.text(-4, 14, f"node {node}", ha="right", va="center")
        draw_weights(pattern, common[node], abs(common).max())
        strip = make_grid(images[order[eighths, node]], 8, padding=1, pad_value=WHITE)
        examples.imshow(to_grey(strip).permute(1, 2, 0).numpy())
        examples.axis("off")
        draw_histogram(histogram, heights[node], hidden[:, node].mean().item(), target)
        histogram.set_ylim(0, heights.max() * 1.05)
        by_digit.bar(range(10), shares[node], color=GREY)
        by_digit.set(ylim=(0, 1), yticks=[], xticks=range(10), xticklabels=[])
    for axes, head in zip(rows[0], (
            "decoder\nweights", "what its images\nhave in common",
            "images from its whole range: the middle one of each\neighth, from the least active to "
            "the most", f"histogram of its activation\n(orange: mean; blue: target {target:g})",
            "share of each digit's images\nthat fire it (above 0.5)")):
        axes.set_title(head)
    rows[-1, 3].set_xticklabels(["0", "0.5", "1"])
    rows[-1, 4].set_xticklabels(range(10))
    figure.text(0.01, 0.06 / tall, "Red: the more active the node, the more ink; blue: the less. "
                f"The scale ends at {abs(decoder).max():.2f} for the weights, and at "
                f"{abs(common).max():.2f} for what the images have in common,\nwhich is the "
                "covariance of pixel and activation. The bars of the digits go from 0 to 100%.",
                fontsize=7.5, color=GREY)
    save(figure, path)


def draw_weights(axes, weights, limit):
    """Draw 784 numbers as a picture, from -limit in blue to limit in red."""
    axes.imshow(weights.reshape(28, 28), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.axis("off")


def draw_histogram(axes, heights, mean, target):
    """Draw a node's histogram, with its mean and the target."""
    axes.stairs(heights, np.linspace(0, 1, len(heights) + 1), fill=True, color=GREY)
    axes.axvline(mean, color=ORANGE)
    axes.axvline(target, color=BLUE, linestyle="--")
    axes.text(mean, 0.97, f" mean {mean:.2f} ", color=ORANGE, va="top",
              ha="left" if mean < 0.6 else "right", transform=axes.get_xaxis_transform())
    axes.set(xlim=(0, 1), yticks=[], xticks=[0, 0.5, 1], xticklabels=[])


@styled
def plot_losses(history, sheet_losses, path, title):
    """Save the loss curve. history is a list of (loss, mse), one an epoch; sheet_losses, a dict
    {epoch: loss}, is what the assignment's author got."""
    losses, mses = np.array(history).T
    epochs = np.arange(1, len(losses) + 1)
    lines = textwrap.wrap(f"Training loss and its two parts. {title}", 85)
    figure = Figure(figsize=(6, 3.7 + 0.16 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    upper.plot(epochs, losses, "o-", color=ORANGE, markersize=5,
               label="loss: MSE + weighted penalty")
    upper.plot(epochs, mses, "s--", color=BLUE, markersize=3, markerfacecolor="white", linewidth=1,
               label="MSE alone")
    authors = " and ".join(f"{loss:.4f}" for loss in sheet_losses.values())
    upper.plot(*zip(*sheet_losses.items()), "kx", markersize=8,
               label=f"the sheet's author, with the sheet's settings on MNIST: {authors}")
    for epoch in {1, len(losses)}:
        upper.annotate(f"{losses[epoch - 1]:.4f}", (epoch, losses[epoch - 1]), (0, 9),
                       textcoords="offset points", ha="center", color=ORANGE)
    upper.set_ylabel("loss, mean over\nthe epoch's batches")
    upper.legend(frameon=False)
    lower.plot(epochs, losses - mses, color=GREY, marker="o", markersize=3)
    lower.set(xlabel="epoch", ylabel="weighted penalty", ylim=(0, None))
    lower.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    save(figure, path)
