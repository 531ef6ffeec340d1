"""Pictures: show() for grids of digits, the sheet of what each node learned, the loss curve.

Files are written whole or not at all, and from the same data come out the same to the byte.
"""

import io
import os
import tempfile
import textwrap
from pathlib import Path

import matplotlib.colors
import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure

DPI = 200
BLACK, WHITE = -0.4242, 2.8215  # MNIST's blank paper and full ink, normalized: the grey scale's ends
ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#777777"  # told apart by the colour-blind too (Okabe and Ito)
MINUS = "\N{MINUS SIGN}"
STYLE = {"font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.edgecolor": GREY,
         "axes.spines.top": False, "axes.spines.right": False, "xtick.color": GREY, "ytick.color": GREY,
         "xtick.labelcolor": "black", "ytick.labelcolor": "black", "image.interpolation": "nearest"}


def write_whole(path, data):
    """Write bytes to `path` so that it holds either all of them or what it held before: to a
    temporary file beside it, which then takes its name. Raises OSError, a full disk's among them."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp's own mode is for its owner alone
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise OSError(error.errno, error.strerror, str(path)) from None  # names the file, not the temporary one
    except BaseException:  # Ctrl-C
        os.unlink(temporary)
        raise


def check_folder(path):
    """Make the folder `path` if it is not there; OSError if it is not one or cannot be written in."""
    Path(path).mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()


def save(figure, path):
    """Save a matplotlib figure as a PNG. No date or version goes in: equal pictures, equal bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, png.getvalue())


def show(grid, path=None, title=None):
    """Save a grid of images as a PNG at `path`, or open a window if there is no path.

    grid is (3, H, W) or (1, H, W), as make_grid gives it, in normalized pixels, drawn on one fixed
    grey scale that the figure states. Saving needs no display. Raises OSError if it cannot write.
    """
    grid = ((grid.detach().cpu().float() - BLACK) / (WHITE - BLACK)).clamp(0, 1).expand(3, -1, -1)
    height, width = grid.shape[1:]
    zoom = max(1, round(1200 / width))  # whole screen pixels for each pixel: sharp, none wider
    wide, tall = max(width * zoom, 900) / DPI, height * zoom / DPI
    lines = textwrap.wrap(title or "", int(wide * 13.5))
    top, bottom = 0.1 + 0.17 * len(lines), 0.25
    size = (wide, tall + top + bottom + 1e-6)  # some versions of matplotlib cut off a pixel's fraction
    with matplotlib.style.context(["default", STYLE]):
        if path is None:
            from matplotlib import pyplot  # only here: it wants a display
            figure = pyplot.figure(figsize=size)
        else:
            figure = Figure(figsize=size)
        axes = figure.add_axes([0, bottom / size[1], 1, tall / size[1]])
        axes.imshow(grid.permute(1, 2, 0).numpy())
        axes.axis("off")
        figure.text(0.5, 1 - 0.06 / size[1], "\n".join(lines), ha="center", va="top", fontsize=9, linespacing=1.1)
        figure.text(0.5, 0.07 / size[1], f"grey scale, in normalized pixels: black {BLACK:.2f} (paper) "
                    f"to white {WHITE:.2f} (ink)".replace("-", MINUS), ha="center", fontsize=7, color=GREY)
        if path is None:
            pyplot.show()
        else:
            save(figure, path)


def framed(images, colour):
    """Images (n, 1, h, w) -> (n, 3, h + 2, w + 2), each in a frame of a matplotlib colour."""
    rgb = torch.tensor(matplotlib.colors.to_rgb(colour), device=images.device)
    canvas = (BLACK + (WHITE - BLACK) * rgb).view(1, 3, 1, 1)
    canvas = canvas.repeat(len(images), 1, images.shape[2] + 2, images.shape[3] + 2)
    canvas[:, :, 1:-1, 1:-1] = images
    return canvas


def plot_nodes(encoder, decoder, top_means, hidden, label_counts, target, path, title):
    """Save one sheet with a row for each of k hidden nodes.

    encoder, decoder: their weights (k, 28, 28). top_means: the mean (k, 28, 28) of the images that
    activate each most, in normalized pixels. hidden: their activations (n, k) for all the images.
    label_counts: how many of those top images are of each digit, (k, 10). target: the mean
    activation that the sparsity penalty asks for.
    """
    encoder, decoder, top_means, hidden, label_counts = (
        tensor.cpu().numpy() for tensor in (encoder, decoder, top_means, hidden, label_counts))
    columns = [("encoder weights", encoder, "RdBu_r", -abs(encoder).max(), abs(encoder).max()),
               ("decoder weights", decoder, "RdBu_r", -abs(decoder).max(), abs(decoder).max()),
               ("mean of its top 100", top_means, "gray", BLACK, WHITE)]
    bins = np.linspace(0, 1, 51)
    shares = [np.histogram(activation, bins)[0] / len(activation) for activation in hidden.T]
    tallest = max(share.max() for share in shares)
    with matplotlib.style.context(["default", STYLE]):
        height = 0.95 * len(encoder) + 1.35
        figure = Figure(figsize=(9, height))
        axes = figure.subplots(len(encoder), 5, squeeze=False, gridspec_kw=dict(
            width_ratios=[1, 1, 1, 2.3, 2.3], wspace=0.2, hspace=0.3,
            left=0.115, right=0.985, top=1 - 0.6 / height, bottom=0.75 / height))
        figure.text(0.012, 1 - 0.12 / height, title, fontsize=10, va="top")
        for column, (heading, pictures, colours, low, high) in enumerate(columns):
            axes[0, column].set_title(heading)
            for ax, picture in zip(axes[:, column], pictures):
                drawn = ax.imshow(picture, cmap=colours, vmin=low, vmax=high)
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            box = axes[-1, column].get_position()
            bar = figure.add_axes([box.x0, 0.52 / height, box.width, 0.08 / height])
            figure.colorbar(drawn, cax=bar, orientation="horizontal",
                            label="normalized pixel" if colours == "gray" else "weight")
            bar.set_xticks([low, high], [f"{tick:.2f}".replace("-", MINUS) for tick in (low, high)], fontsize=7)
            for label, align in zip(bar.get_xticklabels(), ("left", "right")):
                label.set_horizontalalignment(align)
        axes[0, 3].set_title("how often it fires, and how strongly")
        axes[0, 4].set_title("digits among its top 100")
        for node, (name, fires, counts) in enumerate(axes[:, [0, 3, 4]]):
            mean = hidden[:, node].mean()
            name.set_ylabel(f"node {node}", rotation=0, ha="right", va="center", fontsize=10)
            fires.bar(bins[:-1], shares[node], width=0.02, align="edge", color=GREY)
            fires.axvline(target, color=BLUE, linestyle="--", linewidth=1.2)
            fires.axvline(mean, color=ORANGE, linewidth=1.2)
            side, align = (0.015, "left") if mean < 0.7 else (-0.015, "right")  # of the line: where there is room
            fires.text(mean + side, 0.97 * tallest, f"mean {mean:.2f}", color=ORANGE, va="top", ha=align)
            fires.set(xlim=(-0.01, 1.01), ylim=(0, 1.02 * tallest), xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[])
            bars = counts.bar(range(10), label_counts[node], color=GREY)
            counts.bar_label(bars, [count or "" for count in label_counts[node]], fontsize=7)
            counts.set(xticks=range(10), yticks=[], ylim=(0, 112))
            for ax in (fires, counts):
                ax.spines["left"].set_visible(False)
                ax.tick_params(labelsize=7, pad=1.5, length=2)
        axes[-1, 3].set_xlabel(f"activation over all {len(hidden):,} images\n(bars: share of them, one scale for all rows;\n"
                               f"orange: mean; blue, dashed: target {target})")
        axes[-1, 4].set_xlabel("digit (number above: images of it)")
    save(figure, path)


def save_losses(history, folder, about, references):
    """Save loss.png and losses.csv into `folder`. history is a list of (loss, mse), one an epoch;
    references, a dict {epoch: loss}, is marked beside them."""
    rows = "".join(f"{epoch},{loss:.6f},{mse:.6f},{loss - mse:.6f}\n" for epoch, (loss, mse) in enumerate(history, 1))
    write_whole(Path(folder) / "losses.csv", ("epoch,loss,mse,weighted_penalty\n" + rows).encode())
    epochs = range(1, len(history) + 1)
    losses, mses = zip(*history)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6, 3.7))
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw=dict(
            height_ratios=[2.2, 1], left=0.12, right=0.97, top=0.88, bottom=0.12, hspace=0.15))
        figure.text(0.02, 0.975, f"Training loss and its two parts. {about}", fontsize=10, va="top")
        upper.plot(epochs, losses, color=ORANGE, marker="o", markersize=3, label="loss: MSE + weighted penalty")
        upper.plot(epochs, mses, color=BLUE, linestyle="--", linewidth=1, label="MSE alone")
        if references:
            upper.plot(*zip(*references.items()), "kx", markersize=7, label="the assignment sheet's loss")
            for epoch, loss in references.items():
                upper.annotate(f"{loss:.4f}", (epoch, loss), (0, 8), textcoords="offset points", ha="center")
        upper.set_ylabel("mean over the epoch's batches")
        upper.legend(frameon=False)
        lower.plot(epochs, [loss - mse for loss, mse in history], color=GREY, marker="o", markersize=3)
        lower.set(xlabel="epoch", ylabel="weighted penalty", ylim=(0, None))
        lower.xaxis.get_major_locator().set_params(integer=True)
    save(figure, Path(folder) / "loss.png")
