"""Pictures: show() for grids of digits, the sheet of what each node learned, the loss curve.

Files are written whole or not at all, and come out the same wherever the same was learned.
"""

import io
import os
import sys
import textwrap
import threading
from pathlib import Path

import matplotlib.colors
import matplotlib.style
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageChops
from torchvision.transforms.functional import gaussian_blur

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, which are 0..1 before normalization
PAPER, INK = (0 - MEAN) / STD, (1 - MEAN) / STD  # a digit's background and its full stroke
WHITE = 1.0  # drawn as white, and all above it too: tanh, so a reconstruction, goes no higher
DPI = 200
ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#777777"  # of Okabe and Ito: for the colour-blind too
MINUS = "\N{MINUS SIGN}"
STYLE = {"font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.edgecolor": GREY,
         "axes.spines.top": False, "axes.spines.right": False, "xtick.color": GREY,
         "ytick.color": GREY, "xtick.labelcolor": "black", "ytick.labelcolor": "black",
         "image.interpolation": "nearest"}
styled = matplotlib.style.context(["default", STYLE])  # a decorator: the user's own style stays out


class Refusal(Exception):
    """Something of the user's that cannot be used; the message says what, and the way out."""


# --- Files ---

def nearest_folder(path):
    """`path` or, where it is still to be made, the closest folder above it; Refusal if that is
    something else: a file, a pipe, a broken link."""
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if not there.is_dir():
        raise Refusal(f"{there} is not a folder: name another one")
    return there


def check_folder(path):
    """Refusal if the folder `path` cannot be made or written in. Makes nothing that stays."""
    probe = nearest_folder(path) / f".{os.getpid()}.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f"{path} cannot be written in ({error.strerror})"
        raise Refusal(f"{reason}: name another folder") from None


def write_whole(path, data):
    """Write bytes to `path` so that it holds either all of them or what it held before: to a
    temporary file beside it, which then takes its name. Raises OSError, which names `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def save(figure, path, mode="RGB"):
    """Save a matplotlib figure as a PNG ("L": a grey one). A file that shows the same is left as it
    is: processors differ in last bits, and so here and there in a grey level, which git should not
    take for another picture. For the same reason there is no date or version in a file.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert(mode)
    if not same_picture(picture, path):
        png = io.BytesIO()
        picture.save(png, "PNG", dpi=(DPI, DPI), compress_level=3)
        write_whole(path, png.getvalue())


def same_picture(picture, path):
    """Whether a file's picture is as large, and no pixel more than 4 levels of 256 off."""
    try:
        with Image.open(path) as old:
            difference = ImageChops.difference(picture, old.convert(picture.mode))
    except (OSError, SyntaxError):  # there is none yet, or it is damaged: PIL raises either
        return False
    return old.size == picture.size and np.max(difference) <= 4


# --- Grids of digits ---

def to_grey(pixels, white=WHITE):
    """Normalized pixels, a tensor of any shape -> 8-bit grey, from PAPER in black to white."""
    return ((pixels.detach().cpu() - PAPER) / (white - PAPER)).clamp(0, 1).mul(255).round().byte()


def wrapped(title, width):
    """The lines of a title: as few as a width in letters allows, and about equally long."""
    lines = textwrap.wrap(title, width)
    evenly = (textwrap.wrap(title, narrower) for narrower in range(1 + width // 2, width))
    return next((found for found in evenly if len(found) == len(lines)), lines)


def framed(images, colour):
    """Images (n, 1, h, w) -> (n, 3, h + 2, w + 2), each in a frame of a matplotlib colour."""
    rgb = torch.tensor(matplotlib.colors.to_rgb(colour)).view(1, 3, 1, 1)
    canvas = (PAPER + (WHITE - PAPER) * rgb).repeat(len(images), 1, images.shape[2] + 2,
                                                    images.shape[3] + 2)
    canvas[:, :, 1:-1, 1:-1] = images.cpu()
    return canvas


@styled
def show(grid, path=None, title=None):
    """Save a grid of images as a PNG at `path`, or open a window if there is no path.

    grid is (1, H, W) or (3, H, W), as make_grid gives it: normalized pixels, drawn on one fixed
    grey scale that the figure states, or 8-bit ones, drawn as they are. Saving needs no display.
    Raises ValueError for another shape, OSError for a path that cannot be written.
    """
    if grid.dim() != 3 or grid.shape[0] not in (1, 3) or not grid.numel():
        raise ValueError("show() takes a grid of shape (1, H, W) or (3, H, W), as make_grid gives "
                         f"it, not {tuple(grid.shape)}")
    pixels = grid.cpu() if grid.dtype == torch.uint8 else to_grey(grid)
    is_grey = bool((pixels == pixels[0]).all())
    height, width = pixels.shape[1:]
    zoom = max(1, round(1200 / width))  # whole screen pixels for each pixel: sharp
    wide, tall = max(width * zoom, 900) / DPI, height * zoom / DPI
    lines = wrapped(title or "", int(wide * 14.9))
    top, bottom = 0.1 + 0.17 * len(lines), 0.25
    size = (wide, tall + top + bottom + 1e-6)  # some matplotlibs cut off a fraction of a pixel
    if path is None:
        from matplotlib import pyplot  # only here: it wants a display
        figure = pyplot.figure(figsize=size)
    else:
        figure = Figure(figsize=size)
    axes = figure.add_axes([0, bottom / size[1], 1, tall / size[1]])
    picture = pixels[0] if is_grey else pixels.permute(1, 2, 0)
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    figure.text(0.5, 1 - 0.06 / size[1], "\n".join(lines), ha="center", va="top", fontsize=9,
                linespacing=1.1)
    if grid.dtype != torch.uint8:
        scale = f"normalized pixels, from {PAPER:.2f} (paper) in black to {WHITE:g}, where tanh " \
                f"ends, in white; ink is {INK:.2f}"
        figure.text(0.5, 0.07 / size[1], scale.replace("-", MINUS), ha="center", fontsize=7,
                    color=GREY)
    if path is not None:
        save(figure, path, "L" if is_grey else "RGB")
    elif pyplot.get_backend().lower() in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template"):
        pyplot.close(figure)
        print("show(): there is no display to open a window on. show(grid, 'grid.png') saves the "
              "picture instead.", file=sys.stderr)
    else:
        pyplot.show()


# --- What the nodes learned ---

TILE, ROW = 168, 192  # in a figure's pixels: a 28-pixel picture at six times its size, and its row


@styled
def plot_nodes(encoder, decoder, hidden, target, images, labels, tops, path, about):
    """Save one sheet with a row for each of k hidden nodes.

    encoder, decoder: their weights, (k or more, 784). hidden: their activations (n, k) for `images`
    (n, 1, 28, 28), normalized. target: the mean activation that the sparsity penalty asks for.
    labels: the images' digits, (n,). tops: for each node, the indices of its favourite images.
    """
    nodes = hidden.shape[1]
    encoder, decoder = (weights.detach().cpu()[:nodes].reshape(nodes, 1, 28, 28)
                        for weights in (encoder, decoder))
    smooth = gaussian_blur(encoder, kernel_size=9, sigma=1.5)  # as they are, they look like noise
    lines = wrapped(f"What each hidden node responds to. {about}", 125)
    top, bottom, wide = 80 + 34 * len(lines), 116, 1800
    tall = top + nodes * ROW + bottom
    figure = Figure(figsize=(wide / DPI, tall / DPI))
    figure.text(0.01, 1 - 16 / tall, "\n".join(lines), fontsize=9, va="top")

    def column(left, width, heading, below):
        """Axes for one column of the sheet, in which node i's row is from y = i down to i + 1."""
        axes = figure.add_axes([left / wide, bottom / tall, width / wide, nodes * ROW / tall])
        axes.set(ylim=(nodes, 0), yticks=[], title=heading)
        axes.spines[:].set_visible(False)
        figure.text((left + width / 2) / wide, (bottom - 52) / tall, below, ha="center", va="top",
                    fontsize=7.5)
        return axes

    def scale(weights):
        return f"blue {MINUS}{weights.abs().max():.2f}\nto red +{weights.abs().max():.2f}"

    means = torch.stack([images[top].mean(0) for top in tops])
    names = column(200, TILE, "encoder weights,\nsmoothed", scale(smooth))
    for node in range(nodes):
        names.text(-0.12, node + 0.5, f"node {node}", ha="right", va="center", fontsize=10)
    draw_tiles(names, in_colours(smooth))
    draw_tiles(column(410, TILE, "decoder\nweights", scale(decoder)), in_colours(decoder))
    draw_tiles(column(620, TILE, "mean of its\ntop 100", "paper black,\nink white"),
               to_grey(means, white=INK).expand(-1, 3, -1, -1))
    draw_histograms(column(860, 430, "histogram of its activation",
                           f"over all {len(hidden):,} images, one scale for all nodes\n"
                           f"(orange: mean; blue: target {target:g})"), hidden, target)
    draw_counts(column(1350, 430, "digits among its top 100", "digit, and how many images of it"),
                torch.stack([labels[top].bincount(minlength=10) for top in tops]))
    save(figure, path)


def in_colours(weights):
    """Weights (k, 1, h, w) -> 8-bit (k, 3, h, w): red above 0, blue below, all on one scale."""
    scaled = weights[:, 0].numpy() / (2 * weights.abs().max().item()) + 0.5
    colours = matplotlib.colormaps["RdBu_r"](scaled, bytes=True)[..., :3]
    return torch.from_numpy(colours).movedim(3, 1)


def draw_tiles(axes, pictures):
    """Draw 8-bit pictures (k, 3, 28, 28), one to a row, with white between them."""
    gap = (ROW - TILE) * 28 // TILE // 2  # in pixels of the pictures, above and below each
    rows = F.pad(pictures, (0, 0, gap, gap), value=255).permute(0, 2, 3, 1)
    axes.imshow(rows.flatten(0, 1).numpy(), extent=(0, 1, len(pictures), 0), aspect="auto")
    axes.set_xticks([])


def draw_histograms(axes, hidden, target):
    """Draw the distribution of each of k nodes' activations (n, k), its mean and the target."""
    edges = np.linspace(0, 1, 51)
    shares = np.stack([np.histogram(activation, edges)[0] for activation in hidden.t().numpy()])
    heights = to_pixels(shares / shares.max())
    means = hidden.mean(0, dtype=torch.float64).numpy().round(2)
    for node, (height, mean) in enumerate(zip(heights, means)):
        axes.stairs(node + 0.94 - height, edges, baseline=node + 0.94, fill=True, color=GREY)
        axes.plot([0, 1], [node + 0.94] * 2, color=GREY, linewidth=0.5)
        axes.plot([mean] * 2, [node + 0.1, node + 0.94], color=ORANGE, linewidth=1.2)
        side, align = (0.015, "left") if mean < 0.7 else (-0.015, "right")  # where there is room
        axes.text(mean + side, node + 0.1, f"mean {mean:.2f}", color=ORANGE, va="top", ha=align)
    axes.vlines([target] * len(means), np.arange(len(means)) + 0.1, np.arange(len(means)) + 0.94,
                color=BLUE, linestyle="--", linewidth=1)
    axes.set(xlim=(-0.01, 1.01), xticks=[0, 0.25, 0.5, 0.75, 1])


def draw_counts(axes, counts):
    """Draw how many of each node's top images are of each digit, (k, 10)."""
    nodes, digits = np.divmod(np.arange(counts.numel()), 10)
    counts = counts.flatten().numpy()
    heights = to_pixels(counts / 100)
    axes.bar(digits, -heights, bottom=nodes + 0.94, color=GREY)
    for digit, node, height, count in zip(digits, nodes, heights, counts):
        if count:
            axes.text(digit, node + 0.92 - height, count, ha="center", va="bottom", fontsize=7)
    axes.hlines(np.unique(nodes) + 0.94, -0.5, 9.5, color=GREY, linewidth=0.5)
    axes.set(xlim=(-0.6, 9.6), xticks=range(10))


def to_pixels(share):
    """A bar's height in rows, at most 0.75, in whole pixels: last bits of a float must not show."""
    return np.round(share * 0.75 * ROW) / ROW


# --- The losses ---

@styled
def save_losses(history, folder, about, references):
    """Save loss.png and losses.csv into `folder`. history is a list of (loss, mse), one an epoch;
    references, a dict {epoch: loss}, is marked beside them."""
    rows = "".join(f"{epoch},{loss:.6f},{mse:.6f},{loss - mse:.6f}\n"
                   for epoch, (loss, mse) in enumerate(history, 1))
    write_whole(folder / "losses.csv", ("epoch,loss,mse,weighted_penalty\n" + rows).encode())
    epochs = range(1, len(history) + 1)
    losses, mses = np.array(history).round(6).T
    lines = wrapped(f"Training loss and its two parts. {about}", 85)
    figure = Figure(figsize=(6, 3.7 + 0.16 * len(lines)))
    height = figure.get_size_inches()[1]
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw=dict(
        height_ratios=[2.2, 1], left=0.12, right=0.97, top=1 - (0.2 + 0.16 * len(lines)) / height,
        bottom=0.12, hspace=0.15))
    figure.text(0.02, 1 - 0.08 / height, "\n".join(lines), fontsize=9, va="top")
    upper.plot(epochs, losses, "o-", color=ORANGE, markersize=5,
               label="loss: MSE + weighted penalty")
    upper.plot(epochs, mses, "s--", color=BLUE, markersize=3, markerfacecolor="white", linewidth=1,
               label="MSE alone")
    if references:
        upper.plot(*zip(*references.items()), "kx", markersize=8, label="the sheet's loss")
        for epoch, loss in references.items():
            upper.annotate(f"{loss:.4f}", (epoch, loss), (0, 8), textcoords="offset points",
                           ha="center")
    upper.set_ylabel("loss, mean over the epoch's batches")
    upper.legend(frameon=False)
    lower.plot(epochs, losses - mses, color=GREY, marker="o", markersize=3)
    lower.set(xlabel="epoch", ylabel="weighted penalty", ylim=(0, None),
              xlim=(0.5, len(history) + 0.5))
    lower.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    save(figure, folder / "loss.png")
