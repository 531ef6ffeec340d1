"""The measurements behind codelet7.pdf.

    python writeup/experiments.py

trains some thirty autoencoders on MNIST with codelet7's own functions and writes, beside this file:
results.json (every number), results.tex (those that codelet7.tex states, as LaTeX macros, which it
reads), and the pictures sparsity.png, patches.png and angles.png. 12 to 20 minutes on two cores.

    python writeup/experiments.py --macros

only writes results.tex again from results.json: for a codelet7.tex that states other numbers.

Top to bottom: training, tools, what is measured (a function each, in the order of the PDF, that
returns plain numbers), the pictures, the macros, main(). Readings of nodes are made from the
decoder, or from training images, and tested on the 10,000 test images. A node "fires" for an image
if its activation there is above FIRES.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import make_grid

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import codelet7
import digits
import utils
from codelet7 import (BATCH_SIZE, EPOCHS, HIDDEN_DIMS, LEARNING_RATE, RHO, SEED, SPARSITY_WEIGHT,
                      SparseAutoencoder, activations)

FIRES = 0.5
SEEDS = range(12)
WEIGHTS = [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
SIDE = 28        # pixels
PATCH = 5        # pixels: a stroke, 3 wide, with its soft edges, and smaller than the spots it maps
PLACES = SIDE - PATCH + 1                        # in a row or column, for the upper left corner
ANGLES = range(-90, 90, 5)                       # of drawn bars, in degrees, + leaning right
LEANS = range(-20, 51, 10)                       # edges of the bins that 1s are sorted into
FINE_LEANS = range(-15, 46, 5)                   # the same for the picture
LENGTH, THICKNESS = 20, 3                        # of a bar: what the 1s among MNIST's images have
MIDDLE = 14.5    # from the upper left corner, in pixels: where MNIST has its centres of mass
FOOT, HEAD = slice(18, 24), slice(4, 10)         # rows: where node 1's stroke would be, a control


class Data(NamedTuple):
    images: torch.Tensor        # float32 (60000, 1, 28, 28), normalized
    labels: torch.Tensor        # int64 (60000,)
    test_images: torch.Tensor   # the same for 10,000 images
    test_labels: torch.Tensor


# --- Training ---

class LinearOutput(SparseAutoencoder):
    """The same autoencoder without the tanh."""

    def forward(self, x):
        hidden = torch.sigmoid(self.encoder(x.flatten(1)))
        return hidden, self.decoder(hidden)


class RunningMean(SparseAutoencoder):
    """Its penalty sees a running mean over some hundred batches in the place of one batch's mean.

    The gradient goes through the batch's own mean, so it is as strong as before: nearly a sample
    of the gradient that the penalty on the mean over all the images would have.
    """
    KEPT = 0.99
    running = None

    def batched_sparsity_penalty(self, hidden):
        if not torch.is_grad_enabled():
            return super().batched_sparsity_penalty(hidden)
        mean = hidden.mean(0, dtype=torch.float64)
        old = mean.detach() if self.running is None else self.running
        self.running = self.KEPT * old + (1 - self.KEPT) * mean.detach()
        seen = mean + (self.running - mean).detach()
        return super().batched_sparsity_penalty(seen.unsqueeze(0)).to(hidden.dtype)


class Watched(SparseAutoencoder):
    """The same autoencoder, which at every 20th step notes what the two parts of the loss ask of
    the encoder: (step, gradient of the MSE, of the weighted penalty), each (hDims, inputDims + 1),
    the bias in the last column. The training is not touched."""
    EVERY = 20

    def __init__(self, *args):
        super().__init__(*args)
        self.steps, self.noted = 0, []

    def loss_function(self, x, reconstruction, hidden):
        if torch.is_grad_enabled():
            if self.steps % self.EVERY == 0:
                parts = (F.mse_loss(reconstruction, x.flatten(1)),
                         self.sparsity_weight * self.batched_sparsity_penalty(hidden))
                gradients = (torch.autograd.grad(part, list(self.encoder.parameters()),
                                                 retain_graph=True) for part in parts)
                self.noted.append((self.steps, *(torch.cat([weight, bias.unsqueeze(1)], 1)
                                                 for weight, bias in gradients)))
            self.steps += 1
        return super().loss_function(x, reconstruction, hidden)


class Literal(SparseAutoencoder):
    """The sheet's penalty as it stands, in float32."""

    def batched_sparsity_penalty(self, hidden):
        rho_hat = torch.clamp(hidden.mean(0), 1e-8, 1 - 1e-8)
        return (RHO * torch.log(RHO / rho_hat)
                + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))).sum()


def untrained(seed, kind=SparseAutoencoder, hidden_dims=HIDDEN_DIMS, weight=SPARSITY_WEIGHT):
    torch.manual_seed(seed)
    return kind(SIDE * SIDE, hidden_dims, weight)


def trained(data, name, seed=SEED, order=None, epochs=EPOCHS, lr=LEARNING_RATE, **model_settings):
    """Train as codelet7's run() does; order seeds the order of the batches, where it is not `seed`.
    Returns the model and its (loss, mse) of each epoch; prints a line that starts with `name`."""
    start = time.perf_counter()
    model = untrained(seed, **model_settings)
    loader = codelet7.make_dataloader(data.images, data.labels, BATCH_SIZE,
                                      seed if order is None else order)
    with contextlib.redirect_stdout(io.StringIO()):
        history = codelet7.train(model, loader, epochs, lr)
    print(f"{name}: {history[0][0]:.4f} to {history[-1][0]:.4f}, "
          f"{time.perf_counter() - start:.0f} s", flush=True)
    return model, history


# --- Tools ---

@torch.no_grad()
def mse(model, images, hidden=None):
    """The MSE over all the images, or of what the model decodes from hidden (n, hDims) instead."""
    if hidden is None:
        return F.mse_loss(model(images)[1], images.flatten(1)).item()
    return F.mse_loss(torch.tanh(model.decoder(hidden.float())), images.flatten(1)).item()


def firing(model, images):
    """The share of the images that fires each node: (hDims,)."""
    return (activations(model, images) > FIRES).double().mean(0)


def columns(model):
    """The decoder's weights, a picture for each node: (hDims, 28, 28)."""
    return model.decoder.weight.detach().t().reshape(-1, SIDE, SIDE)


def patch_means(pictures):
    """Pictures (n, 28, 28) -> the mean of each patch, (n, places, places), by upper left corner."""
    return F.avg_pool2d(pictures.unsqueeze(1), PATCH, stride=1).squeeze(1)


def correlation(a, b):
    """Pearson's, of the columns of a (n, k) with those of b (n, l): (k, l); (n,) is one column."""
    a, b = (v.double().view(len(v), -1) for v in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    return (a / a.norm(dim=0)).t() @ (b / b.norm(dim=0))


def auc(score, positive):
    """How often a positive's score (n,) exceeds a negative's, ties counting half: the Mann-Whitney
    statistic, from the sum of the positives' ranks."""
    _, value, ties = torch.unique(score, return_inverse=True, return_counts=True)
    ranks = (ties.cumsum(0) - (ties - 1) / 2)[value].double()
    positives = positive.sum().item()
    above = ranks[positive].sum().item() - positives * (positives + 1) / 2
    return above / (positives * (len(score) - positives))


def aucs(hidden, labels):
    """Of each column of hidden (n, k), for each digit against the rest: (k, 10)."""
    return torch.tensor([[auc(column, labels == digit) for digit in range(10)]
                         for column in hidden.t()])


def balanced_accuracies(hidden, labels, test_hidden, test_labels):
    """How well one column of hidden (n, k) tells one digit from the rest: (k, 10), the mean of the
    shares of right answers among the digit and among the rest, on test images. Threshold and
    direction are the best on the training images."""
    result = torch.empty(hidden.shape[1], 10)
    for column, test in enumerate(test_hidden.t()):
        values, order = hidden[:, column].sort()
        cuts = torch.cat([values[1:] > values[:-1], torch.tensor([True])])  # not between equals
        for digit in range(10):
            inside = labels[order] == digit
            at_most = ((inside.double().cumsum(0) / inside.sum() + 1
                        - (~inside).double().cumsum(0) / (~inside).sum()) / 2 - 0.5) * cuts
            best = at_most.abs().argmax()
            says = (test <= values[best]) == (at_most[best] > 0)
            truth = test_labels == digit
            rates = says[truth].double().mean(), (~says[~truth]).double().mean()
            result[column, digit] = sum(rates) / 2
    return result


def basis(vectors):
    """An orthonormal basis of the span of the columns."""
    return torch.linalg.qr(vectors.double())[0]


def whitened(hidden):
    """Uncorrelated columns of one length that span what the centred columns of hidden do."""
    return basis(hidden.double() - hidden.double().mean(0))


def cosines(a, b):
    """Of the principal angles between the spans of two orthonormal bases (Bjorck, Golub 1973)."""
    return torch.linalg.svdvals(a.t() @ b).clamp(max=1)


def overlap(a, b):
    """The mean squared cosine: 1 for the same space, 0 for orthogonal ones, k/n for random ones.
    Between whitened activations the cosines are the canonical correlations."""
    return cosines(a, b).square().mean().item()


def random_orthogonal(size, generator):
    """A rotation or reflection, uniform once signs are free: Q of a normal matrix."""
    return basis(torch.randn(size, size, generator=generator, dtype=torch.float64))


def assignment(score):
    """The column for each row of score (k, k), all different, of the largest sum: a list. By
    dynamic programming over the 2^k sets of columns that the first rows can use up."""
    best = {0: (0.0, [])}
    for row in score.tolist():
        longer = {}
        for used, (total, chosen) in best.items():
            for column, gain in enumerate(row):
                now = used | 1 << column
                if now != used and total + gain > longer.get(now, (-math.inf,))[0]:
                    longer[now] = (total + gain, chosen + [column])
        best = longer
    (_, chosen), = best.values()
    return chosen


def matched(correlations):
    """The mean over the nodes of the matched |correlation|; and of the correlation, signs counting.

    For the decoder the sign is free, since sigmoid(-z) = 1 - sigmoid(z) and its bias takes up the
    1: so |correlation| tells whether two models have the same nodes. The penalty prefers a sign.
    """
    rows = range(len(correlations))
    return {"absolute": correlations.abs()[rows, assignment(correlations.abs())].mean().item(),
            "signed": correlations[rows, assignment(correlations)].mean().item()}


def summary(values):
    values = list(values)
    return {"n": len(values), "mean": statistics.mean(values),
            "min": min(values), "max": max(values)}


def principal_components(images, count):
    """Of (n, 1, 28, 28): their mean (784,), the first components (784, count), and a square root of
    the pixels' covariance (784, 784), each in double precision."""
    pixels = images.flatten(1)
    mean = pixels.mean(0)
    covariance = (pixels - mean).t().double() @ (pixels - mean).double() / len(pixels)
    variances, vectors = torch.linalg.eigh(covariance)
    return mean.double(), vectors[:, -count:].flip(1), vectors * variances.clamp(min=0).sqrt()


# --- The loss: seeds, whole sets, what is out of reach, one change at a time ---

def seed_row(seed, model, history, data):
    """The loss and its MSE: of the first and the last epoch, then of the finished model."""
    row = {"seed": seed, "first": history[0][0], "last": history[-1][0],
           "last_mse": history[-1][1]}
    for key, images in (("train", data.images), ("test", data.test_images)):
        row[key], row[f"{key}_mse"] = codelet7.evaluate(model, images), model.mse.item()
    return row


def floors(data, components, mean):
    """MSE over the training pixels of what no training, or only a better code, could better."""
    pixels, test = data.images.flatten(1), data.test_images.flatten(1)
    linear = torch.cat([(mean + (part.double() - mean) @ components @ components.t()).float()
                        for part in pixels.split(5000)])
    flat = mean.float().expand_as(pixels)
    return {"tanh": F.mse_loss(pixels.clamp(-1, 1), pixels).item(),
            "tanh_test": F.mse_loss(test.clamp(-1, 1), test).item(),
            "bright_pixels": (pixels > 1).double().mean().item(),
            "mean_image": F.mse_loss(flat.clamp(-1, 1), pixels).item(),
            "mean_image_unclipped": F.mse_loss(flat, pixels).item(),
            "pca": F.mse_loss(linear.clamp(-1, 1), pixels).item(),
            "pca_unclipped": F.mse_loss(linear, pixels).item()}


def change_row(key, change, run, data):
    model, history = run
    return {"key": key, "change": change, "loss": history[-1][0],
            "train_mse": mse(model, data.images), "test_mse": mse(model, data.test_images)}


# --- The ten nodes ---

def top_counts(hidden, labels):
    """The digits among each node's 100 strongest images: (hDims, 10), as lists."""
    order = hidden.sort(dim=0, descending=True, stable=True).indices[:100]
    return [labels[top].bincount(minlength=10).tolist() for top in order.t()]


def nodes(model, data):
    """What each node responds to over the training images, and what it costs to take away what it
    says: set to 0, as if it never fired, and to its mean, as if it fired alike for all."""
    hidden = activations(model, data.images)
    fires = hidden > FIRES
    whole = mse(model, data.images)
    rows = []
    for node, top in enumerate(top_counts(hidden, data.labels)):
        costs = []
        for value in (0.0, hidden[:, node].mean()):
            changed = hidden.clone()
            changed[:, node] = value
            costs.append(mse(model, data.images, changed) - whole)
        rows.append({"mean": hidden[:, node].mean().item(),
                     "fires": fires[:, node].double().mean().item(),
                     "top": top, "at_zero": costs[0], "at_mean": costs[1],
                     "fires_by_digit": [fires[data.labels == digit, node].double().mean().item()
                                        for digit in range(10)]})
    between = correlation(hidden, hidden) - torch.eye(len(rows))
    return {"nodes": rows, "largest_correlation": between.abs().max().item(),
            "on": fires.sum(1).double().mean().item(), "mean": hidden.mean().item(),
            "codes": len(torch.unique(fires, dim=0))}


# --- Readings of single nodes, tested on the test images ---

@torch.no_grad()
def patch_maps(model, images):
    """What a patch of ink, and one of paper, over the images (n, 1, 28, 28) does to the share of
    them that fires each node: two maps (hDims, places, places), by the patch's upper left corner.

    The encoder is linear, so its input changes by w . (what is painted - what was there).
    """
    weights = model.encoder.weight.view(-1, SIDE, SIDE)
    before = model.encoder(images.flatten(1))
    share = (before > 0).double().mean(0)
    maps = torch.empty(2, len(weights), PLACES, PLACES, dtype=torch.float64)
    for row, column in itertools.product(range(PLACES), repeat=2):
        rows, across = slice(row, row + PATCH), slice(column, column + PATCH)
        seen = weights[:, rows, across].flatten(1)
        cleared = before - images[:, 0, rows, across].flatten(1) @ seen.t()
        for paint, change in zip((utils.INK, utils.PAPER), maps):
            change[:, row, column] = ((cleared + paint * seen.sum(1)) > 0).double().mean(0) - share
    return maps


def spots(model):
    """For each node the patch where its decoder column has the highest mean, and the lowest:
    [[row, column], [row, column]] of their upper left corners."""
    return [[list(divmod(place.item(), PLACES)) for place in (means.argmax(), means.argmin())]
            for means in patch_means(columns(model)).flatten(1)]


def rank_of(change, spot, rising):
    """The place of a patch's effect among those of all patches (places, places); 1 is the largest
    rise, or fall."""
    here = change[tuple(spot)]
    return int(((change > here) if rising else (change < here)).sum()) + 1


def spot_tests(model, images, ink, erased):
    """Predictions from the decoder alone, tested on what the encoder does: ink on the highest spot
    makes a node fire and paper there stops it; ink on the lowest stops it; and the ink in the first
    less that in the second tells which images fire it (AUC; beside random pairs of patches)."""
    fires = activations(model, images) > FIRES
    found = patch_means(images.squeeze(1))
    inked = (found.std(0) > 0.3).nonzero()  # patches in which images differ
    pairs = inked[torch.randint(len(inked), (200, 2), generator=torch.Generator().manual_seed(0))]

    def seen(spot):
        return found[:, spot[0], spot[1]]

    rows = []
    for node, (high, low) in enumerate(spots(model)):
        row = {"high": high, "low": low}
        for key, change, spot, rising in (("ink_high", ink[node], high, True),
                                          ("paper_high", erased[node], high, False),
                                          ("ink_low", ink[node], low, False)):
            row |= {key: change[tuple(spot)].item(), f"{key}_rank": rank_of(change, spot, rising)}
        chance = [auc(seen(a) - seen(b), fires[:, node]) for a, b in pairs.tolist()]
        chance = [max(value, 1 - value) for value in chance]  # either order of the two
        both = auc(seen(high) - seen(low), fires[:, node])
        rows.append(row | {"auc": both, "random_better": sum(value > both for value in chance),
                           "random_pairs": len(chance),
                           "auc_high": auc(seen(high), fires[:, node]),
                           "auc_low": auc(-seen(low), fires[:, node]),
                           "random_auc_best": max(chance),
                           "random_auc_mean": statistics.mean(chance)})
    return rows


def lean(images):
    """How far the principal axis of the ink (n, 1, 28, 28) leans from the vertical, to the right:
    (n,), in degrees. The axis is at atan2(2 cov(x, y), var(x) - var(y)) / 2 to the x axis."""
    ink = (images.squeeze(1).double() - utils.PAPER).clamp(min=0)
    ink = ink / ink.sum((1, 2), keepdim=True)
    place = torch.arange(SIDE, dtype=torch.float64)
    x = place - (ink.sum(1) @ place).view(-1, 1)
    up = (ink.sum(2) @ place).view(-1, 1) - place
    horizontal, vertical = (ink.sum(1) * x ** 2).sum(1), (ink.sum(2) * up ** 2).sum(1)
    both = torch.einsum("nyx,ny,nx->n", ink, up, x)
    axis = torch.rad2deg(torch.atan2(2 * both, horizontal - vertical) / 2)  # -90..90
    return torch.where(axis > 0, 90 - axis, -90 - axis)


def lean_bins(hidden, leans, edges):
    """The share of images that fires each node, by how far they lean: (bins, hDims), as lists."""
    return [{"from": low, "to": high, "n": int(inside.sum()),
             "fires": (hidden[inside] > FIRES).double().mean(0).tolist()}
            for low, high in itertools.pairwise(edges)
            for inside in [(leans >= low) & (leans < high)]]


def bars(angles, length=LENGTH, x=MIDDLE, y=MIDDLE, fineness=8):
    """How much of each pixel a round-ended bar covers, 0..1: (angles, 1, 28, 28). Each pixel is
    sampled at fineness^2 points."""
    grid = (torch.arange(SIDE * fineness) + 0.5) / fineness
    down, right = torch.meshgrid(grid - y, grid - x, indexing="ij")
    covered = []
    for angle in angles:
        sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        along, across = right * sin - down * cos, right * cos + down * sin
        beyond = (along.abs() - (length - THICKNESS) / 2).clamp(min=0)  # the straight part
        inside = torch.hypot(beyond, across) <= THICKNESS / 2
        covered.append(inside.float().view(SIDE, fineness, SIDE, fineness).mean((1, 3)))
    return torch.stack(covered).unsqueeze(1)


def painted(images, covered, colour):
    """Images with a colour over them where covered (0..1)."""
    return images * (1 - covered) + colour * covered


def slants(model, data):
    """Nodes and the slant of strokes: drawn bars, real 1s, and all digits, each for itself."""
    ones, test_ones = data.images[data.labels == 1], data.test_images[data.test_labels == 1]
    hidden, test_hidden = activations(model, ones), activations(model, test_ones)
    leans, test_leans = lean(ones), lean(test_ones)
    test = activations(model, data.test_images)
    all_leans = lean(data.test_images)
    inside = [data.test_labels == digit for digit in range(10)]
    drawn = painted(torch.tensor(utils.PAPER), bars(ANGLES), utils.INK)
    return {"angles": list(ANGLES), "bars": activations(model, drawn).tolist(),
            "ones": lean_bins(hidden, leans, LEANS), "fine": lean_bins(hidden, leans, FINE_LEANS),
            "test_ones": lean_bins(test_hidden, test_leans, LEANS),
            "test_fine": lean_bins(test_hidden, test_leans, FINE_LEANS),
            "by_digit": [correlation(test[digit], all_leans[digit]).flatten().tolist()
                         for digit in inside]}


def with_corners_fixed(model, data, node, corners):
    """Within each digit, over test images: the correlation of a node with the ink in two patches,
    and with the lean, before and after what those two patches explain of both is taken away."""
    ink = patch_means(data.test_images.squeeze(1)).double()
    corner_ink = torch.stack([ink[:, row, column] for row, column in corners], 1)
    hidden, leans = activations(model, data.test_images)[:, node], lean(data.test_images)
    rows = []
    for digit in range(10):
        inside = data.test_labels == digit
        known = torch.cat([torch.ones(int(inside.sum()), 1), corner_ink[inside]], 1)
        both = torch.stack([hidden[inside], leans[inside]], 1)
        rest = both - known @ torch.linalg.lstsq(known, both).solution
        rows.append({"ink": correlation(corner_ink[inside].sum(1), both[:, 0]).item(),
                     "lean": correlation(both[:, 0], both[:, 1]).item(),
                     "lean_without_ink": correlation(rest[:, 0], rest[:, 1]).item()})
    return rows


def stroke_or_emptiness(model, images):
    """Each node: a blank page, an upright bar that grows from the middle; images with that bar
    painted or erased, and with only what lies on it, or off it."""
    upright = bars([0])
    blank = torch.full((1, 1, SIDE, SIDE), utils.PAPER)
    lengths = [4, 8, 12, 16, 20]
    grown = torch.cat([painted(blank, bars([0], length), utils.INK) for length in lengths])
    return {"blank": activations(model, blank)[0].tolist(),
            "lengths": lengths, "grown": activations(model, grown).tolist(),
            "as_is": firing(model, images).tolist(),
            "painted": firing(model, painted(images, upright, utils.INK)).tolist(),
            "erased": firing(model, painted(images, upright, utils.PAPER)).tolist(),
            "only_on": firing(model, painted(images, 1 - upright, utils.PAPER)).tolist()}


def widths(images, rows):
    """From the leftmost to the rightmost column with ink in these rows, in pixels: (n,)."""
    inked = (images[:, 0, rows] > (utils.PAPER + utils.INK) / 2).any(1)
    column = torch.arange(SIDE)
    left = torch.where(inked, column, SIDE).amin(1)
    right = torch.where(inked, column, -1).amax(1)
    return (right - left + 1).clamp(min=0)


def rows_of_ink(model, images):
    """Each node: how its activation goes with the width of the ink in five rows; what a bar painted
    across, 14 pixels long, and five rows erased, change in the share of images that fires it."""
    share, hidden = firing(model, images), activations(model, images)
    starts = list(range(2, 22))
    result = {"starts": starts, "width": [], "painted": [], "erased": []}
    for start in starts:
        rows = slice(start, start + 5)
        across = bars([90], length=14, y=start + 2.5)
        erased = images.clone()
        erased[:, :, rows] = utils.PAPER
        result["width"].append(correlation(hidden, widths(images, rows)).flatten().tolist())
        result["painted"].append((firing(model, torch.maximum(images, painted(
            torch.tensor(utils.PAPER), across, utils.INK))) - share).tolist())
        result["erased"].append((firing(model, erased) - share).tolist())
    return result


def foot(model, data, node):
    """By digit: the share that fires a node, with a foot painted, and with the foot's rows, or as
    many at the head, erased."""
    drawn = painted(torch.tensor(utils.PAPER), bars([90], length=14, y=20.5), utils.INK)
    rows = []
    for digit in range(10):
        images = data.test_images[data.test_labels == digit]
        row = {"as_is": images, "painted": torch.maximum(images, drawn)}
        for key, where in (("erased", FOOT), ("head_erased", HEAD)):
            row[key] = images.clone()
            row[key][:, :, where] = utils.PAPER
        rows.append({key: firing(model, changed)[node].item() for key, changed in row.items()})
    return rows


def readings(model, data, maps):
    """The tests of single nodes. maps: patch_maps() of the test images."""
    ink, erased = maps
    tests = spot_tests(model, data.test_images, ink, erased)
    quarter = patch_means(columns(model))[9, :PLACES // 2, :PLACES // 2]
    corner = list(divmod(quarter.argmin().item(), PLACES // 2))
    return {"spots": tests, "slants": slants(model, data),
            "corner": {"at": corner, "ink": ink[9][tuple(corner)].item(),
                       "rank": rank_of(ink[9], corner, False)},
            "corners": with_corners_fixed(model, data, 9, [tests[9]["low"], corner]),
            "stroke": stroke_or_emptiness(model, data.test_images),
            "rows": rows_of_ink(model, data.test_images), "foot": foot(model, data, 1)}


# --- What the nodes are: digits, a space, themselves? ---

def one_digit(data, codes):
    """How well a single number of a code tells one digit. codes: {name: (training, test) codes}."""
    result = {}
    for name, (code, test_code) in codes.items():
        accuracy = balanced_accuracies(code, data.labels, test_code, data.test_labels)
        curve = aucs(test_code, data.test_labels)
        node, digit = divmod(accuracy.argmax().item(), 10)
        result[name] = {"best": accuracy.max().item(), "node": node, "digit": digit,
                        "by_digit": accuracy.amax(0).tolist(),
                        "auc": ((curve - 0.5).abs().max() + 0.5).item()}
    return result


def spaces(model, start, hidden, scores, components, root):
    """The span of the decoder's columns, and of the encoder's rows, beside that of as many
    principal components; and beside random spaces. root: a root of the pixels' covariance."""
    generator = torch.Generator().manual_seed(0)

    def random(count):
        return torch.randn(SIDE * SIDE, count, generator=generator, dtype=torch.float64)

    def against(vectors):
        return overlap(basis(vectors), components)

    decoder, encoder = model.decoder.weight.detach(), model.encoder.weight.detach().t()
    size = components.shape[1]
    chance = torch.stack([cosines(basis(random(size)), components) for _ in range(100)])

    def degrees(found):
        return torch.rad2deg(torch.acos(found))

    return {"decoder_angles": degrees(cosines(basis(decoder), components)).tolist(),
            "encoder_angles": degrees(cosines(basis(encoder), components)).tolist(),
            "random_angles": degrees(chance).mean(0).tolist(),
            "decoder": against(decoder), "encoder": against(encoder),
            "untrained": against(start.decoder.weight.detach()),
            "random": chance.square().mean().item(),
            "random_pictures": statistics.mean(against(root @ random(size)) for _ in range(50)),
            "canonical": cosines(whitened(hidden), whitened(scores)).tolist()}


def matching(models, data, scores):
    """Are the nodes of two models the same, is the space? models: {name: model}; the seeds' are
    called by their number. scores (n, 10): of the images on the principal components."""
    generator = torch.Generator().manual_seed(0)
    models = models | {f"start{seed}": untrained(seed) for seed in SEEDS}
    hidden = {name: activations(model, data.images) for name, model in models.items()}
    white = {name: whitened(values) for name, values in hidden.items()}
    decoder = {name: basis(model.decoder.weight.detach()) for name, model in models.items()}

    def compare(pairs):
        found = [matched(correlation(hidden[a], hidden[b])) for a, b in pairs]
        return {"absolute": summary(row["absolute"] for row in found),
                "signed": summary(row["signed"] for row in found),
                "canonical": summary(overlap(white[a], white[b]) for a, b in pairs),
                "decoder": summary(overlap(decoder[a], decoder[b]) for a, b in pairs)}

    def rotated(values, others):
        """The nodes `values` against one random rotation of the space of each of the `others`."""
        found = [matched(correlation(values, other) @ random_orthogonal(HIDDEN_DIMS, generator))
                 for other in others]
        return {key: summary(row[key] for row in found) for key in ("absolute", "signed")}

    pairs = list(itertools.combinations(SEEDS, 2))
    components = whitened(scores)
    chance = [rotated(hidden[a], [white[b]])["absolute"]["mean"] for a, b in pairs]
    return {"seeds": compare(pairs), "order": compare([(0, "order1"), (0, "order2")]),
            "no_penalty": compare([(0, "free0"), (1, "free1")]),
            "untrained": compare([(f"start{a}", f"start{b}") for a, b in pairs]),
            "own_start": compare([(seed, f"start{seed}") for seed in SEEDS]),
            "seeds_rotated": {"absolute": summary(chance)},
            "components_rotated": rotated(components @ random_orthogonal(HIDDEN_DIMS, generator),
                                          [components] * 50),
            "trained_components_rotated": rotated(hidden[0], [components] * 50)}


def linear_accuracy(code, labels, test_code, test_labels):
    """The share of test images that a softmax regression on a code (n, k) gets right. It is convex:
    L-BFGS, on standardized numbers in double precision, goes to its minimum."""
    mean, deviation = code.double().mean(0), code.double().std(0)
    code, test_code = ((part.double() - mean) / deviation for part in (code, test_code))
    linear = nn.Linear(code.shape[1], 10, dtype=torch.float64)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=500, tolerance_grad=1e-6,
                                  tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(linear(code), labels)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (linear(test_code).argmax(1) == test_labels).double().mean().item()


def linear_readout(data, codes):
    return {name: linear_accuracy(code, data.labels, test_code, data.test_labels)
            for name, (code, test_code) in codes.items()}


# --- Sparsity ---

def firing_row(model, data):
    """How often nodes fire over the training images, by FIRES and by half of each node's own
    maximum; the share of all activation that is in activations under a quarter; and, with no
    threshold, among how many nodes an image shares its activation: (sum h)^2 / sum h^2."""
    hidden = activations(model, data.images)
    fires, own = hidden > FIRES, hidden > hidden.amax(0) / 2
    means = hidden.mean(0)
    return {"mse": mse(model, data.images), "mean": means.mean().item(),
            "lowest": means.min().item(), "highest": means.max().item(),
            "on": fires.sum(1).double().mean().item(), "on_own": own.sum(1).double().mean().item(),
            "none": (~fires.any(1)).double().mean().item(),
            "none_own": (~own.any(1)).double().mean().item(),
            "dead": int((~fires.any(0)).sum()), "dead_own": int((~own.any(0)).sum()),
            "faint": (hidden[hidden < 0.25].sum() / hidden.sum()).item(),
            "shared_by": (hidden.sum(1).square() / hidden.square().sum(1)).mean().item()}


def weight_rows(models, data):
    """The penalty's weight. models: {weight: model}, from the same initial weights. `same_nodes`:
    how the nodes match those without a penalty."""
    free = activations(models[0.0], data.images)
    return [{"weight": weight, **firing_row(model, data),
             "same_nodes": matched(correlation(activations(model, data.images), free))["absolute"]}
            for weight, model in models.items()]


def kind_row(model, data):
    """What the features look like, in numbers, medians over the nodes: how large a column's picture
    is (pixels of more than half its largest weight), how like a whole digit (correlation with the
    most similar of ten mean digits, less the mean of all), how well a node tells its best digit
    (AUC), and the commonest digit's share among the images that fire it."""
    pictures = columns(model).flatten(1).double()
    size = (pictures.abs() > pictures.abs().amax(1, keepdim=True) / 2).sum(1).double()
    pixels = data.images.flatten(1)
    means = torch.stack([pixels[data.labels == digit].mean(0) for digit in range(10)])
    means = means - pixels.mean(0)
    fires = activations(model, data.images) > FIRES
    purity = [data.labels[column].bincount(minlength=10).max() / column.sum()
              for column in fires.t() if column.any()]
    best = aucs(activations(model, data.test_images), data.test_labels).amax(1)
    return {**firing_row(model, data), "nodes": len(pictures), "size": size.median().item(),
            "digit_likeness": correlation(pictures.t(), means.t()).amax(1).median().item(),
            "auc": best.median().item(), "purity": statistics.median(map(float, purity))}


def gradient_rows(watched, steps_per_epoch):
    """How large the penalty's gradient is beside the MSE's, on the encoder's weights and on its
    biases, epoch by epoch: the mean of the batches' norms, and the norm of the batches' mean, in
    which the MSE's noise from batch to batch has averaged out."""
    rows = []
    for epoch in range(1, EPOCHS + 1):
        parts = [torch.stack([noted[part] for noted in watched.noted
                              if noted[0] // steps_per_epoch == epoch - 1]) for part in (1, 2)]
        row = {"epoch": epoch, "batches": len(parts[0])}
        for key, where in (("weights", slice(-1)), ("biases", slice(-1, None))):
            (of_mse, mean_mse), (of_penalty, mean_penalty) = (
                (part[..., where].flatten(1).norm(dim=1).mean().item(),
                 part[..., where].mean(0).norm().item()) for part in parts)
            row[key] = {"mse": of_mse, "penalty": of_penalty, "ratio": of_penalty / of_mse,
                        "mean_ratio": mean_penalty / mean_mse}
        rows.append(row)
    return rows


def what_the_penalty_sees():
    """The unweighted penalty of a node that is always 0.05, and of one that is 1 for one image in
    20 and else 0: expected over random batches, of which a binomial number of images fire it."""
    def penalty(rho_hat):
        rho_hat = torch.full((1, 1), rho_hat, dtype=torch.float64)
        return SparseAutoencoder.batched_sparsity_penalty(None, rho_hat).item()

    def expected(batch):
        return sum(math.comb(batch, count) * RHO ** count * (1 - RHO) ** (batch - count)
                   * penalty(count / batch) for count in range(batch + 1))

    return {"always": penalty(RHO), "one_in_20": expected(BATCH_SIZE),
            "silent_batch": penalty(0.0), "silent_batches": (1 - RHO) ** BATCH_SIZE}


# --- The clamp, and what the reconstructions show ---

def clamp_trap(images):
    """A node that always fires, beside one at 0.2, in the sheet's float32 penalty and in ours: the
    penalty and the gradient on each. Then in the whole model, on a batch of images: the loss, and
    whether the other nodes' gradients are ours."""
    result = {"never": SparseAutoencoder.batched_sparsity_penalty(None, torch.zeros(5, 1)).item(),
              "always": SparseAutoencoder.batched_sparsity_penalty(None, torch.ones(5, 1)).item()}
    gradients = []
    for key, kind in (("literal", Literal), ("ours", SparseAutoencoder)):
        hidden = torch.tensor([[1, 0.2]] * 5, requires_grad=True)
        penalty = kind.batched_sparsity_penalty(None, hidden)
        penalty.backward()
        model = untrained(SEED, kind)
        with torch.no_grad():
            model.encoder.bias[0] = 1000  # always on, to float32's last digit
        hidden_batch, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden_batch)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        result[key] = {"penalty": str(penalty.item()), "gradient": hidden.grad[0].tolist(),
                       "loss": str(loss.item()),
                       "finite": all(grad.isfinite().all().item() for grad in gradients[-1])}
    result["same_gradients"] = all(torch.allclose(*pair) for pair in zip(*gradients))
    return result


def trained_judge(pixels, labels):
    """A classifier of digits, 784 -> 128 -> 10, from real images."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(SIDE * SIDE, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3, fused=True)
    loader = codelet7.make_dataloader(pixels, labels, BATCH_SIZE, seed=0)
    for _ in range(5):
        for batch, answers in loader:
            optimizer.zero_grad()
            F.cross_entropy(judge(batch), answers).backward()
            optimizer.step()
    return judge


@torch.no_grad()
def read_as(data, model, components, mean):
    """What two judges read in test images, in their reconstructions, and in those of as many
    principal components: {judge: {pictures: rates}}, rates[digit][read as]. One is a small network,
    the other takes the nearest of ten mean digits. All is clipped to what tanh can give: the range
    that the judges learned in."""
    pixels, test = (images.flatten(1).clamp(-1, 1) for images in (data.images, data.test_images))
    centred = data.test_images.flatten(1).double() - mean
    pictures = {"real": test, "reconstruction": model(data.test_images)[1],
                "pca": (mean + centred @ components @ components.t()).float().clamp(-1, 1)}
    with torch.enable_grad():
        network = trained_judge(pixels, data.labels)
    means = torch.stack([pixels[data.labels == digit].mean(0) for digit in range(10)])
    judges = {"network": network, "nearest": lambda x: -torch.cdist(x, means)}
    result = {}
    for name, judge in judges.items():
        result[name] = {}
        for key, shown in pictures.items():
            says = judge(shown).argmax(1)
            rates = [says[data.test_labels == digit].bincount(minlength=10)
                     / (data.test_labels == digit).sum() for digit in range(10)]
            result[name][key] = {"accuracy": (says == data.test_labels).double().mean().item(),
                                 "rates": torch.stack(rates).tolist()}
    return result


# --- The pictures, drawn at the size they are printed in: 6.7 inches, the width of the text ---

WIDE = 1340  # pixels, 200 to the inch


def canvas(height):
    return Figure(figsize=(WIDE / utils.DPI, height / utils.DPI))


def axes_at(figure, left, top, width, height):
    """Axes at a place in the figure in pixels, from its upper left corner."""
    whole_width, whole_height = figure.get_size_inches() * utils.DPI
    return figure.add_axes([left / whole_width, 1 - (top + height) / whole_height,
                            width / whole_width, height / whole_height])


def say(figure, left, top, text, **style):
    """Text at a place in the figure in pixels, from its upper left corner."""
    width, height = figure.get_size_inches() * utils.DPI
    figure.text(left / width, 1 - top / height, text, **{"va": "top", "fontsize": 7} | style)


def draw_mosaic(figure, left, top, pictures, across, zoom):
    """8-bit pictures (k, 3, h, w), `across` of them in a row, each pixel zoom^2 pixels: sharp."""
    mosaic = make_grid(pictures, across, padding=1, pad_value=255)
    axes = axes_at(figure, left, top, mosaic.shape[2] * zoom, mosaic.shape[1] * zoom)
    axes.imshow(mosaic.permute(1, 2, 0), aspect="auto")
    axes.axis("off")
    return axes


def feature_panel(model):
    """The decoder's columns as 8-bit pictures (hDims, 3, 28, 28), each on its own scale."""
    pictures = columns(model).unsqueeze(1)
    return utils.in_colours(pictures / pictures.abs().amax((1, 2, 3), keepdim=True))


def feature_words(row, between):
    """What is said under a panel, from its kind_row()."""
    return (f"mean activation {row['mean']:.2f}; {row['on']:.1f} of {row['nodes']} nodes fire"
            f"{between}MSE {row['mse']:.3f}; {row['dead']} dead nodes")


@utils.styled
def plot_sparsity(models, rows, path):
    """Three kinds of features: two models of ten nodes to the left, one of a hundred to the right.
    models and rows (their kind_row()s) in that order."""
    figure = canvas(735)
    heads = ["Blobs: 10 nodes, weight 0.0001 (the sheet's)", "Digits: 10 nodes, weight 0.1",
             "Strokes: 100 nodes, weight 0.01, learning rate 0.001"]
    places = [(0, 0, 5, 5), (0, 375, 5, 5), (755, 0, 10, 2)]  # left, top, across, zoom
    for head, model, row, (left, top, across, zoom) in zip(heads, models, rows, places):
        pictures = feature_panel(model)
        say(figure, left + zoom, top + 5, head, fontsize=7.5)
        draw_mosaic(figure, left, top + 32, pictures, across, zoom)
        say(figure, left + zoom, top + 32 + (len(pictures) // across * 29 + 1) * zoom + 3,
            feature_words(row, "; " if across == 5 else "\n"))
    utils.save(figure, path)


def patch_panels(model, maps):
    """The rows of patches.png: {name: (8-bit pictures (hDims, 3, 28, 28), the end of their scale)},
    one scale to a row. A map's value stands at the middle of its patch."""
    encoder = model.encoder.weight.detach().view(-1, 1, SIDE, SIDE)
    ink, erased = (F.pad(change.unsqueeze(1), [PATCH // 2] * 4) for change in maps)
    rows = {"encoder,\nsmoothed": gaussian_blur(encoder, kernel_size=9, sigma=1.5),
            "decoder": columns(model).unsqueeze(1),
            "ink in a\n5 x 5 patch": ink, "paper in a\n5 x 5 patch": erased}
    return {name: (utils.in_colours(row), row.abs().max().item()) for name, row in rows.items()}


@utils.styled
def plot_patches(model, maps, tests, path):
    """Save, for each node, its weights and what patches do to it, with the two spots that tests
    (spot_tests()) were made in: solid where the decoder is highest, dashed where it is lowest."""
    zoom, left, top = 4, WIDE - 291 * 4, 30
    panels = patch_panels(model, maps)
    figure = canvas(top + 117 * zoom + 35)
    pictures = torch.cat([row for row, _ in panels.values()])
    axes = draw_mosaic(figure, left, top, pictures, len(tests), zoom)
    for row, (name, (_, largest)) in enumerate(panels.items()):
        scale = f"{largest:.2f}" if row < 2 else f"{100 * largest:.0f} points"
        say(figure, 2, top + (row * 29 + 14) * zoom, f"{name}\n\N{PLUS-MINUS SIGN}{scale}",
            va="center", linespacing=1.25)
    for node, test in enumerate(tests):
        say(figure, left + (node * 29 + 15) * zoom, 4, f"node {node}", ha="center", fontsize=7.5)
        say(figure, left + (node * 29 + 15) * zoom, top + 117 * zoom + 6, f"{test['auc']:.2f}",
            ha="center", fontsize=7.5)
        for row in range(len(panels)):
            for spot, line in ((test["high"], "-"), (test["low"], (0, (1.5, 1)))):
                corner = (node * 29 + 1 + spot[1] - 0.5, row * 29 + 1 + spot[0] - 0.5)
                axes.add_patch(Rectangle(corner, PATCH, PATCH, fill=False, linewidth=0.7,
                                         linestyle=line))
    say(figure, 2, top + 117 * zoom + 6, "AUC of the two")
    utils.save(figure, path)


FOUR = {5: {"color": utils.ORANGE, "marker": "o"}, 9: {"color": utils.BLUE, "marker": "s"},
        4: {"color": utils.GREY, "marker": "^"}, 7: {"color": "black", "marker": "D"}}  # by node
MARKS = {"markersize": 3, "linewidth": 1.2}


def slant_panel(axes, found):
    """1s by their lean: the share that fires four nodes; lines: training images, hollow: test."""
    for key, style in (("fine", {}), ("test_fine", {"linestyle": "", "markerfacecolor": "none",
                                                    "markersize": 5, "markeredgewidth": 0.6})):
        middle = [(row["from"] + row["to"]) / 2 for row in found[key]]
        for node, look in FOUR.items():
            axes.plot(middle, [row["fires"][node] for row in found[key]], **look | MARKS | style)
    axes.set(title="1s: share that fires the node", xlabel="lean of the 1 (degrees)",
             xticks=range(-15, 46, 15))


def bar_panel(axes, found):
    """Drawn bars by their angle: the activation of the same four nodes."""
    shown = slice(found["angles"].index(-60), found["angles"].index(60) + 1)
    for node, look in FOUR.items():
        axes.plot(found["angles"][shown], [row[node] for row in found["bars"][shown]],
                  label=f"node {node}", **look | MARKS)
    axes.set(title="a drawn bar: activation", xlabel="lean of the bar (degrees)",
             xticks=range(-60, 61, 30))


def width_panel(axes, found):
    """The correlation of each node with the width of the ink, by rows: two in colour."""
    middle = [start + PATCH // 2 for start in found["starts"]]
    shown = {1: {"color": utils.ORANGE}, 3: {"color": utils.BLUE, "linestyle": "--"}}
    for node, series in enumerate(zip(*found["width"])):
        others = {"color": "#cccccc", "linewidth": 0.7, "zorder": 0, "label": None}
        axes.plot(middle, series, **{"label": f"node {node}"} | shown.get(node, others))
    axes.set(title="correlation with the ink's width", xlabel="in five rows around row",
             xticks=range(5, 25, 5), yticks=[-0.5, 0, 0.5])


@utils.styled
def plot_angles(found, path):
    """Save what slanted and wide strokes do. found: readings()."""
    figure = canvas(430)
    for left, draw, key in ((55, slant_panel, "slants"), (505, bar_panel, "slants"),
                            (975, width_panel, "rows")):
        axes = axes_at(figure, left, 35, 350, 275)
        draw(axes, found[key])
        axes.tick_params(labelsize=7, length=2, pad=2)
        axes.xaxis.labelpad = 2
        if draw is not slant_panel:
            handles = axes.get_legend_handles_labels()
            middle = (left + 175 if draw is width_panel else 455) / WIDE
            figure.legend(*handles, loc="lower center", bbox_to_anchor=(middle, 0), ncols=4,
                          frameon=False, fontsize=7.5, handlelength=1.8, columnspacing=1.2)
    utils.save(figure, path)


# --- The macros: a function for each section of results.json, {key: LaTeX} ---

def number(value, form=".4f"):
    return format(value, form).replace("-", "$-$")


def percent(value, form=".0%"):
    """A share in per cent, with a decimal more where whole ones would make most of all, or some of
    none."""
    if 0 < value < 0.005 or 0.995 <= value < 1:
        form = ".1%"
    return format(value, form).replace("%", r"\%")


def two(value):
    return number(value, ".2f")


def points(value):
    """A change of a share, in percentage points, with its sign."""
    return f"${100 * value:+.0f}$"


def table(rows):
    return "\n".join(" & ".join(row) + r" \\" for row in rows)


def each(key, values, form):
    """{key-0: ..., key-1: ...}"""
    return {f"{key}-{index}": form(value) for index, value in enumerate(values)}


def loss_macros(results):
    """The default run, the sheet, the seeds; the finished model on whole sets."""
    rows, bounds = results["seeds"], results["floors"]
    mine = rows[SEED]
    values = {key: number(mine[key]) for key in ("first", "last", "last_mse", "test")}
    values |= {"torch": results["setting"]["torch"], "seeds": str(len(rows)),
               "penalty-share": format(100 * (mine["last"] - mine["last_mse"]) / mine["last"],
                                       ".2f") + r"\%",
               "seeds-rank": str(1 + sum(row["last"] < mine["last"] for row in rows)),
               "seeds-below": str(sum(row["last"] < mine["last"] for row in rows))}
    for key in ("first", "last", "test"):
        of_seeds = [row[key] for row in rows]
        values |= {f"seeds-{key}-mean": number(statistics.mean(of_seeds)),
                   f"seeds-{key}-sd": number(statistics.stdev(of_seeds)),
                   f"seeds-{key}-min": number(min(of_seeds)),
                   f"seeds-{key}-max": number(max(of_seeds))}
    for key, epoch in (("first", 1), ("last", EPOCHS)):
        sheet, of_seeds = codelet7.SHEET_LOSSES[epoch], [row[key] for row in rows]
        away = abs(sheet - statistics.mean(of_seeds)) / statistics.stdev(of_seeds)
        values |= {f"sheet-{key}": number(sheet), f"sheet-{key}-sds": number(away, ".1f"),
                   f"sheet-{key}-below": str(sum(value < sheet for value in of_seeds))}
    gaps = [row["test_mse"] - row["train_mse"] for row in rows]
    values |= {"train-loss": number(mine["train"]), "train-mse": number(mine["train_mse"]),
               "test-mse": number(mine["test_mse"]),
               "gap-loss": number(mine["test"] - mine["train"]),
               "gap-mse": number(gaps[SEED]), "seeds-gap-mean": number(statistics.mean(gaps)),
               "seeds-gap-min": number(min(gaps)), "seeds-gap-max": number(max(gaps)),
               "gap-tanh": number(bounds["tanh_test"] - bounds["tanh"]),
               "above-tanh-train": number(mine["train_mse"] - bounds["tanh"]),
               "above-tanh-test": number(mine["test_mse"] - bounds["tanh_test"])}
    return values


def floor_macros(results):
    """What the MSE is made of, and what one change does to it."""
    bounds, mine = results["floors"], results["seeds"][SEED]["train_mse"]
    values = {key: number(value) for key, value in bounds.items()}
    values |= {"bright_pixels": percent(bounds["bright_pixels"]),
               "tanh-share": percent(bounds["tanh"] / mine),
               "clip-gap": number(bounds["pca"] - bounds["pca_unclipped"]),
               "code-gap": number(bounds["pca"] - bounds["tanh"]),
               "training-gap": number(mine - bounds["pca"])}
    for row in results["changes"]:
        values |= {f"change-{row['key']}": number(row["loss"]),
                   f"change-{row['key']}-mse": number(row["train_mse"]),
                   f"change-{row['key']}-test-mse": number(row["test_mse"])}
    return values | {"change-rows": table([row["change"], number(row["loss"])]
                                          for row in results["changes"])}


def node_macros(results):
    """The ten nodes, the top images, and those of the untrained nodes."""
    found, before = results["features"], results["untrained_top"]
    purest = max(range(HIDDEN_DIMS), key=lambda node: max(before[node]))
    values = {"untrained-purest": str(purest), "untrained-purest-count": str(max(before[purest])),
              "untrained-purest-digit": str(before[purest].index(max(before[purest]))),
              "correlation": two(found["largest_correlation"]),
              "at-once": number(found["on"], ".1f"), "codes": str(found["codes"]),
              "mean": two(found["mean"])}
    for name, pick in (("least", min), ("most", max)):
        values |= {f"mean-{name}": two(pick(row["mean"] for row in found["nodes"])),
                   f"fires-{name}": percent(pick(row["fires"] for row in found["nodes"])),
                   f"at-mean-{name}": number(pick(row["at_mean"] for row in found["nodes"]), ".3f"),
                   f"at-zero-{name}": number(pick(row["at_zero"] for row in found["nodes"]), ".3f")}
    rows = []
    for node, row in enumerate(found["nodes"]):
        values |= each(f"untrained-{node}", before[node], str)
        values |= each(f"top-{node}", row["top"], str)
        values |= each(f"fires-{node}", row["fires_by_digit"], percent)
        values |= {f"fires-{node}": percent(row["fires"]),
                   f"mean-{node}": two(row["mean"]),
                   f"at-mean-{node}": number(row["at_mean"], ".3f"),
                   f"at-zero-{node}": number(row["at_zero"], ".3f")}

        def listed(key, chosen):
            return ", ".join(rf"{digit}\,({values[f'{key}-{node}-{digit}']})" for digit in chosen)

        by_top = sorted(range(10), key=lambda digit: -row["top"][digit])
        by_fires = sorted(range(10), key=lambda digit: -row["fires_by_digit"][digit])
        rows.append([str(node), values[f"mean-{node}"], values[f"fires-{node}"],
                     listed("top", by_top[:3]), listed("fires", by_fires[:3]),
                     listed("fires", by_fires[-2:]), values[f"at-mean-{node}"]])
    return values | {"node-rows": table(rows)}


def reading_macros(results):
    """The tests of single nodes."""
    found = results["readings"]
    values, rows = {"places": str(PLACES ** 2)}, []
    for node, row in enumerate(found["spots"]):
        for key in ("ink_high", "paper_high", "ink_low"):
            name = key.replace("_", "-")
            values |= {f"{name}-{node}": points(row[key]),
                       f"{name}-rank-{node}": str(row[f"{key}_rank"])}
        for key in ("auc", "auc_high", "auc_low", "random_auc_best", "random_auc_mean"):
            values[f"{key.replace('_', '-')}-{node}"] = two(row[key])
        values |= {f"random-better-{node}": str(row["random_better"]),
                   "random-pairs": str(row["random_pairs"])}
        for key in ("high", "low"):  # rows and columns from 0, first to last
            values[f"spot-{key}-{node}"] = ", ".join(
                f"{name} {start} to {start + PATCH - 1}"
                for name, start in zip(("rows", "columns"), row[key]))
        rows.append([str(node), *(f"{values[f'{name}-{node}']} ({values[f'{name}-rank-{node}']})"
                                  for name in ("ink-low", "ink-high", "paper-high")),
                     values[f"auc-{node}"], str(row["random_better"])])
    aucs_found = [row["auc"] for row in found["spots"]]
    values |= {"reading-rows": table(rows), "auc-least": two(min(aucs_found)),
               "auc-most": two(max(aucs_found)),
               "auc-nine": str(sum(round(value, 2) >= 0.9 for value in aucs_found)),
               "right-signs": str(sum((row["ink_high"] > 0) + (row["paper_high"] < 0)
                                      + (row["ink_low"] < 0) for row in found["spots"])),
               "corner-ink": points(found["corner"]["ink"]),
               "corner-rank": str(found["corner"]["rank"])}
    return values | slant_macros(found) | stroke_macros(found)


def slant_macros(found):
    """Keys: ones-NODE-FROM the training 1s of the bin that starts at FROM degrees, test-ones- the
    test images'; bar-NODE-ANGLE; lean-NODE-DIGIT."""
    values = {}
    for name, key in (("ones", "ones"), ("test-ones", "test_ones")):
        for row in found["slants"][key]:
            values[f"{name}-n-{row['from']}"] = str(row["n"])
            values |= {f"{name}-{node}-{row['from']}": percent(share)
                       for node, share in enumerate(row["fires"])}
    for angle, row in zip(found["slants"]["angles"], found["slants"]["bars"]):
        if angle % 15 == 0:
            values |= {f"bar-{node}-{angle}": two(value)
                       for node, value in enumerate(row)}
    by_node = list(zip(*found["slants"]["by_digit"]))
    for node, row in enumerate(by_node):
        values |= each(f"lean-{node}", row, two)
        values |= {f"lean-{node}-positive": str(sum(value > 0 for value in row)),
                   f"lean-{node}-negative": str(sum(value < 0 for value in row))}
    others = [row for digit, row in enumerate(found["corners"]) if digit != 1]
    for key in ("ink", "lean", "lean_without_ink"):  # of node 9, in all digits but 1
        name = "corner-" + key.replace("_", "-")
        values |= {f"{name}-least": two(min(row[key] for row in others)),
                   f"{name}-most": two(max(row[key] for row in others)),
                   f"{name}-mean": two(statistics.mean(row[key] for row in others)),
                   f"{name}-ones": two(found["corners"][1][key])}
    return values


def stroke_macros(found):
    """Bars painted and erased, and the width of the ink."""
    stroke, rows = found["stroke"], found["rows"]
    values = each("blank", stroke["blank"], two)
    for length, row in zip(stroke["lengths"], stroke["grown"]):
        values |= {f"grown-{node}-{length}": two(value) for node, value in enumerate(row)}
    for key in ("as_is", "painted", "erased", "only_on"):
        values |= each(f"upright-{key.replace('_', '-')}", stroke[key], percent)
    for name, key, form in (("width", "width", two),
                            ("across", "painted", points), ("rows-erased", "erased", points)):
        for start, row in zip(rows["starts"], rows[key]):
            values |= {f"{name}-{node}-{start}": form(value) for node, value in enumerate(row)}
    for node, series in enumerate(zip(*rows["width"])):
        values |= {f"width-{node}-most": two(max(series)),
                   f"width-{node}-most-at": str(rows["starts"][series.index(max(series))])}
    for digit, row in enumerate(found["foot"]):
        values |= {f"foot-{key.replace('_', '-')}-{digit}": percent(value)
                   for key, value in row.items()}
    return values


def space_macros(results):
    """Single nodes and digits; the space; what seeds share; the linear classifier."""
    values = {}
    for name, row in results["one_digit"].items():
        values |= {f"one-{name}": percent(row["best"]), f"one-{name}-node": str(row["node"]),
                   f"one-{name}-digit": str(row["digit"]),
                   f"one-{name}-auc": two(row["auc"]),
                   f"one-{name}-mean": percent(statistics.mean(row["by_digit"])),
                   f"one-{name}-least": percent(min(row["by_digit"]))}
        values |= each(f"one-{name}-of", row["by_digit"], percent)
    found = results["spaces"]
    for name in ("decoder", "encoder", "random"):
        values |= each(f"angle-{name}", found[f"{name}_angles"], "{:.0f}".format)
    values |= {f"space-{name.replace('_', '-')}": two(found[name])
               for name in ("decoder", "encoder", "untrained", "random", "random_pictures")}
    values |= each("canonical", found["canonical"], two)
    for name, row in results["matching"].items():
        for key, numbers in row.items():
            values |= {f"match-{name.replace('_', '-')}-{key}-{what}":
                       str(value) if what == "n" else two(value)
                       for what, value in numbers.items()}
            if key == "absolute":  # .998 is not all
                values[f"match-{name.replace('_', '-')}-precise"] = number(numbers["mean"], ".3f")
    return values | {f"linear-{name}": percent(value, ".1%")
                     for name, value in results["linear"].items()}


def sparsity_macros(results):
    """The kinds of features, the weights, the gradients, what the penalty sees."""
    values, rows = {}, []
    for row in results["weights"]:
        power = "$0$" if row["weight"] == 0 else f"$10^{{{round(math.log10(row['weight']))}}}$"
        rows.append([power, number(row["mean"], ".3f"),
                     f"{row['lowest']:.2f} to {row['highest']:.2f}", number(row["on"], ".1f"),
                     number(100 * row["none"], ".1f"), number(100 * row["none_own"], ".1f"),
                     str(row["dead"]), number(row["mse"]), two(row["same_nodes"])])
        values |= firing_macros(f"weight-{row['weight']:g}", row)
        values[f"weight-{row['weight']:g}-same"] = two(row["same_nodes"])
    values |= {"sparsity-rows": table(rows)} | firing_macros("running", results["running_mean"])
    heaviest = results["weights"][-1]
    values["bound-none"] = percent(1 - HIDDEN_DIMS * RHO)
    values["bound-none-measured"] = percent(1 - HIDDEN_DIMS * heaviest["mean"])
    for name, row in results["kinds"].items():
        values |= firing_macros(f"kind-{name}", row) | {
            f"kind-{name}-size": f"{row['size']:.0f}",
            f"kind-{name}-likeness": two(row["digit_likeness"]),
            f"kind-{name}-auc": two(row["auc"]),
            f"kind-{name}-purity": percent(row["purity"])}
    for row in results["gradients"]:
        for key in ("weights", "biases"):
            values |= {f"gradient-{key}-{row['epoch']}": percent(row[key]["ratio"]),
                       f"gradient-{key}-mean-{row['epoch']}": percent(row[key]["mean_ratio"])}
    seen = results["penalty_sees"]
    return values | {"sees-always": number(abs(seen["always"])),
                     "sees-rare": number(seen["one_in_20"]),
                     "sees-rare-ten": two(HIDDEN_DIMS * seen["one_in_20"]),
                     "sees-silent-batch": number(seen["silent_batch"]),
                     "sees-silent-batches": percent(seen["silent_batches"], ".1%")}


def firing_macros(name, row):
    """Of a firing_row()."""
    return {f"{name}-mean": number(row["mean"], ".3f"), f"{name}-mse": number(row["mse"]),
            f"{name}-on": number(row["on"], ".1f"), f"{name}-on-fine": two(row["on"]),
            f"{name}-on-own": two(row["on_own"]), f"{name}-none": percent(row["none"]),
            f"{name}-none-own": percent(row["none_own"]), f"{name}-dead": str(row["dead"]),
            f"{name}-faint": percent(row["faint"]),
            f"{name}-shared-by": number(row["shared_by"], ".1f")}


def clamp_macros(results):
    found = results["clamp"]
    values = {f"clamp-{key}": number(found[key]) for key in ("always", "never")}
    for key in ("literal", "ours"):
        values |= {f"clamp-{key}-penalty": format(float(found[key]["penalty"]), ".6g"),
                   f"clamp-{key}-loss": format(float(found[key]["loss"]), ".4g")}
        values |= each(f"clamp-{key}-gradient", found[key]["gradient"], "{:.4g}".format)
    return values


def reading_back_macros(results):
    """What judges read in the reconstructions: JUDGE-PICTURES-DIGIT-READ."""
    values = {}
    for judge, shown in results["read_as"].items():
        for pictures, row in shown.items():
            name = f"{judge}-{pictures}"
            values[f"{name}-accuracy"] = percent(row["accuracy"], ".1%")
            for digit, rates in enumerate(row["rates"]):
                values |= each(f"{name}-{digit}", rates, percent)
    return values


SECTIONS = (loss_macros, floor_macros, node_macros, reading_macros, space_macros, sparsity_macros,
            clamp_macros, reading_back_macros)


def macros(results):
    """The results as the text of results.tex: \\defresult{key}{value} for each number that
    codelet7.tex states, by \\result{key}."""
    values = {key: value for section in SECTIONS for key, value in section(results).items()}
    text = (HERE / "codelet7.tex").read_text("utf-8")
    stated = set(re.findall(r"\\result\{([^}#]*)\}", text))
    return "% Written by experiments.py from results.json.\n" + "".join(
        f"\\defresult{{{key}}}{{{value}}}\n" for key, value in values.items() if key in stated)


def plain(value):
    """The same as JSON would give it back, with floats cut to six digits: runs on other processors
    differ in the last ones."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


# --- All of it ---

def measure(data):
    """Train, measure, draw. Returns the results."""
    mean, components, root = principal_components(data.images, HIDDEN_DIMS)

    def scores(images):
        return (images.flatten(1).double() - mean) @ components

    runs = {0: trained(data, "seed 0, watched", kind=Watched)}
    model, start = runs[0][0], untrained(SEED)
    steps = math.ceil(len(data.images) / BATCH_SIZE)
    results = {"setting": {"torch": torch.__version__.split("+")[0]},
               "floors": floors(data, components, mean),
               "features": nodes(model, data),
               "untrained_top": top_counts(activations(start, data.images), data.labels),
               "gradients": gradient_rows(model, steps), "penalty_sees": what_the_penalty_sees(),
               "clamp": clamp_trap(data.images[:BATCH_SIZE])}
    del model.noted
    codes = {name: (of(data.images), of(data.test_images)) for name, of in (
        ("trained", lambda images: activations(model, images)),
        ("untrained", lambda images: activations(start, images)), ("pca", scores))}
    results["one_digit"] = one_digit(data, codes)
    results["linear"] = linear_readout(data, codes | {
        "bits": tuple((code > FIRES).double() for code in codes["trained"])})
    results["spaces"] = spaces(model, start, codes["trained"][0], codes["pca"][0], components, root)
    maps = patch_maps(model, data.test_images)
    results["readings"] = readings(model, data, maps)
    results["read_as"] = read_as(data, model, components, mean)
    plot_patches(model, maps, results["readings"]["spots"], HERE / "patches.png")
    plot_angles(results["readings"], HERE / "angles.png")
    print("one model measured", flush=True)

    weights = {weight: trained(data, f"weight {weight:g}", weight=weight)
               for weight in WEIGHTS if weight != SPARSITY_WEIGHT}
    weights = {weight: weights.get(weight, runs[0]) for weight in WEIGHTS}
    results["weights"] = weight_rows({key: run[0] for key, run in weights.items()}, data)
    results["running_mean"] = firing_row(
        trained(data, "running mean, weight 1", kind=RunningMean, weight=1.0)[0], data)
    changed = {
        "rate": ("learning rate $10^{-3}$", trained(data, "learning rate", lr=1e-3)),
        "epochs": ("100 epochs", trained(data, "100 epochs", epochs=100)),
        "nodes20": ("20 nodes", trained(data, "20 nodes", hidden_dims=20)),
        "nodes100": ("100 nodes", trained(data, "100 nodes", hidden_dims=100)),
        "linear": ("no tanh", trained(data, "no tanh", kind=LinearOutput)),
        "nopenalty": ("no penalty", weights[0.0]),
        "linear-rate": ("no tanh, learning rate $10^{-3}$",
                        trained(data, "no tanh, learning rate", kind=LinearOutput, lr=1e-3)),
        "nodes100-rate": ("100 nodes, learning rate $10^{-3}$",
                          trained(data, "100 nodes, learning rate", hidden_dims=100, lr=1e-3))}
    results["changes"] = [change_row(key, *found, data) for key, found in changed.items()]
    kinds = {"dense": model, "digits": weights[0.1][0],
             "strokes": trained(data, "100 nodes, weight 0.01, learning rate", hidden_dims=100,
                                lr=1e-3, weight=1e-2)[0],
             "dense100": changed["nodes100-rate"][1][0]}
    results["kinds"] = {name: kind_row(kind, data) for name, kind in kinds.items()}
    three = ("dense", "digits", "strokes")
    plot_sparsity([kinds[name] for name in three], [results["kinds"][name] for name in three],
                  HERE / "sparsity.png")

    runs |= {seed: trained(data, f"seed {seed}", seed) for seed in SEEDS if seed != SEED}
    results["seeds"] = [seed_row(seed, *runs[seed], data) for seed in SEEDS]
    others = {"order1": trained(data, "batch order 1", order=1)[0],
              "order2": trained(data, "batch order 2", order=2)[0],
              "free0": weights[0.0][0],
              "free1": trained(data, "seed 1, no penalty", 1, weight=0.0)[0]}
    results["matching"] = matching({seed: run[0] for seed, run in runs.items()} | others, data,
                                   codes["pca"][0])
    return plain(results)


def load():
    """MNIST, as codelet7 trains on it; or an end with one line that says why not."""
    try:
        mnist = digits.load("mnist", os.environ.get("MNIST_ROOT") or HERE.parent / "data")
    except (utils.Refusal, OSError) as error:
        sys.exit(f"experiments.py: error: {error}")
    return Data(codelet7.normalize(mnist.images), mnist.labels,
                codelet7.normalize(mnist.test_images), mnist.test_labels)


def main():
    parser = argparse.ArgumentParser("experiments.py", description="The numbers of codelet7.pdf.")
    parser.add_argument("--macros", action="store_true",
                        help="only write results.tex, from results.json as it is")
    if parser.parse_args().macros:
        results = json.loads((HERE / "results.json").read_text("utf-8"))
    else:
        start = time.perf_counter()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # as codelet7.main() does
        results = measure(load())
        utils.write_whole(HERE / "results.json", (json.dumps(results, indent=1) + "\n").encode())
        for key in ("first", "last", "test"):
            values = [row[key] for row in results["seeds"]]
            print(f"{key} loss of {len(values)} seeds: mean {statistics.mean(values):.4f}, "
                  f"{min(values):.4f} to {max(values):.4f}")
        print(f"measured in {time.perf_counter() - start:.0f} s")
    utils.write_whole(HERE / "results.tex", macros(results).encode())


if __name__ == "__main__":
    main()
