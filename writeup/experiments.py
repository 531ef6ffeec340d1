"""The measurements behind codelet7.pdf.

    python writeup/experiments.py

trains thirty autoencoders on MNIST with codelet7's own functions and writes, beside this file:
results.json (the numbers), results.tex (the same as LaTeX macros, which codelet7.tex reads), and
the pictures sparsity.png, patches.png and angles.png. A quarter of an hour on one core. With
--macros it only writes results.tex again, from results.json.

What a function measures comes as rows of plain numbers, or as {key: number} where codelet7.tex
states the number by \\result{key}. Readings of nodes are made from the decoder, or from training
images, and tested on the 10,000 test images. A node "fires" for an image if its activation there is
above FIRES. `data` is what load() returns.
"""

import contextlib
import functools
import io
import itertools
import json
import math
import os
import statistics
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

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
SIDE = 28                      # pixels
PATCH = 5                      # pixels: a stroke, 3 wide, with its soft edges
PLACES = SIDE - PATCH + 1      # for a patch in a row or column, by its upper left corner
MIDDLE = 14.5                  # pixels from the upper left: where MNIST has its centres of mass
ROWS = range(4, 24)            # the ink's width is measured in five rows around each of them
BLANK = torch.full((1, 1, SIDE, SIDE), utils.PAPER)


# --- The runs ---

class Watched(SparseAutoencoder):
    """The same autoencoder, which at every 20th step notes what the two parts of the loss ask of
    the encoder: the gradients of the MSE and of the weighted penalty, (hDims, inputDims) each. The
    training is not touched."""

    def __init__(self, *args):
        super().__init__(*args)
        self.steps, self.noted = 0, {}

    def loss_function(self, x, reconstruction, hidden):
        if torch.is_grad_enabled() and self.steps % 20 == 0:
            parts = (F.mse_loss(reconstruction, x.flatten(1)),
                     self.sparsity_weight * self.batched_sparsity_penalty(hidden))
            self.noted[self.steps] = [
                torch.autograd.grad(part, self.encoder.weight, retain_graph=True)[0]
                for part in parts]
        self.steps += 1
        return super().loss_function(x, reconstruction, hidden)


class LinearOutput(SparseAutoencoder):
    """The same autoencoder without the tanh."""

    def forward(self, x):
        hidden = torch.sigmoid(self.encoder(x.flatten(1)))
        return hidden, self.decoder(hidden)


class RunningMean(SparseAutoencoder):
    """Its penalty sees a running mean over some hundred batches in the place of one batch's mean.
    The gradient goes through the batch's own mean, so it is as strong as before."""
    running = None

    def batched_sparsity_penalty(self, hidden):
        mean = hidden.mean(0, dtype=torch.float64)
        old = mean.detach() if self.running is None else self.running
        self.running = 0.99 * old + (1 - 0.99) * mean.detach()
        seen = mean + (self.running - mean).detach()
        return super().batched_sparsity_penalty(seen.unsqueeze(0)).to(hidden.dtype)


RUNS = {  # name: what differs from `python codelet7.py`
    "seed 0": {"kind": Watched}, **{f"seed {seed}": {"seed": seed} for seed in range(1, 12)},
    "batch order 1": {"order": 1}, "batch order 2": {"order": 2},
    "no penalty": {"weight": 0.0}, "seed 1, no penalty": {"seed": 1, "weight": 0.0},
    **{f"weight {weight:g}": {"weight": weight} for weight in (1e-5, 1e-3, 1e-2, 1e-1, 1.0)},
    "running mean, weight 1": {"kind": RunningMean, "weight": 1.0},
    "learning rate 0.001": {"lr": 1e-3}, "100 epochs": {"epochs": 100},
    "20 nodes": {"hidden_dims": 20}, "100 nodes": {"hidden_dims": 100},
    "no tanh": {"kind": LinearOutput},
    "no tanh, learning rate 0.001": {"kind": LinearOutput, "lr": 1e-3},
    "100 nodes, learning rate 0.001": {"hidden_dims": 100, "lr": 1e-3},
    "100 nodes, learning rate 0.001, weight 0.01": {"hidden_dims": 100, "lr": 1e-3, "weight": 1e-2},
}
# Which of them the tables and pictures show, in their order.
SEEDS = [f"seed {seed}" for seed in range(12)]
CHANGES = ["learning rate 0.001", "100 epochs", "20 nodes", "100 nodes", "no tanh", "no penalty",
           "no tanh, learning rate 0.001", "100 nodes, learning rate 0.001"]
WEIGHTS = {0.0: "no penalty", 1e-5: "weight 1e-05", SPARSITY_WEIGHT: "seed 0",
           1e-3: "weight 0.001", 1e-2: "weight 0.01", 1e-1: "weight 0.1", 1.0: "weight 1"}
KINDS = {"dense": "seed 0", "digits": "weight 0.1",
         "strokes": "100 nodes, learning rate 0.001, weight 0.01",
         "dense100": "100 nodes, learning rate 0.001"}


def untrained(seed, kind=SparseAutoencoder, hidden_dims=HIDDEN_DIMS, weight=SPARSITY_WEIGHT):
    torch.manual_seed(seed)
    return kind(SIDE * SIDE, hidden_dims, weight)


def trained(data, name, seed=SEED, order=None, epochs=EPOCHS, lr=LEARNING_RATE, **model_settings):
    """Train as codelet7's run() does; order seeds the order of the batches, where it is not `seed`.
    Returns the model and its (loss, mse) of each epoch; prints a line that starts with `name`."""
    model = untrained(seed, **model_settings)
    loader = codelet7.make_dataloader(data.images, data.labels, BATCH_SIZE,
                                      seed if order is None else order)
    with contextlib.redirect_stdout(io.StringIO()):
        history = codelet7.train(model, loader, epochs, lr)
    print(f"{name}: {history[0][0]:.4f} to {history[-1][0]:.4f}", flush=True)
    return model, history


# --- Tools ---

@torch.no_grad()
def mse(model, images):
    return F.mse_loss(model(images)[1], images.flatten(1)).item()


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
    """How often a positive's score (n,) exceeds a negative's, ties counting half (Mann-Whitney)."""
    negatives = score[~positive].sort().values
    below, not_above = (torch.searchsorted(negatives, score[positive], right=right)
                        for right in (False, True))
    return (below + not_above).double().mean().item() / (2 * len(negatives))


def basis(vectors):
    """An orthonormal basis of the span of the columns."""
    return torch.linalg.qr(vectors.double())[0]


def cosines(a, b):
    """Of the principal angles between the spans of the columns (Bjorck, Golub 1973). Between
    centred activations they are the canonical correlations."""
    return torch.linalg.svdvals(basis(a).t() @ basis(b)).clamp(max=1)


def matched(a, b):
    """The mean |correlation| of the nodes of two sets of activations (n, k), matched for its sake.
    No sign: the decoder has none either, since sigmoid(-z) = 1 - sigmoid(z) and a bias takes the 1.
    """
    score = correlation(a, b).abs().tolist()

    @functools.cache
    def largest_sum(free):
        """Of the last rows of score, as many as there are columns in free, a column each."""
        return max((score[-len(free)][column] + largest_sum(free - {column}) for column in free),
                   default=0.0)

    return largest_sum(frozenset(range(len(score)))) / len(score)


class PCA:
    """The first principal components of images (n, 1, 28, 28), in double precision."""

    def __init__(self, images, count):
        pixels = images.flatten(1)
        mean = pixels.mean(0)
        covariance = (pixels - mean).t().double() @ (pixels - mean).double() / len(pixels)
        self.mean = mean.double()
        self.components = torch.linalg.eigh(covariance)[1][:, -count:].flip(1)  # (784, count)

    def encode(self, images):
        return (images.flatten(1).double() - self.mean) @ self.components

    def decode(self, code):
        return (self.mean + code @ self.components.t()).float()


# --- What the MSE is made of ---

def floors(model, pca, data):
    """The finished model's MSE, beside what no training, or only a better code, could better."""
    pixels, test = data.images.flatten(1), data.test_images.flatten(1)
    mine, mine_test = mse(model, data.images), mse(model, data.test_images)
    tanh, tanh_test = (F.mse_loss(part.clamp(-1, 1), part).item() for part in (pixels, test))
    linear = pca.decode(pca.encode(data.images))
    flat = pca.mean.float().clamp(-1, 1).expand_as(pixels)
    return {"train-mse": mine, "test-mse": mine_test, "gap-mse": mine_test - mine,
            "tanh": tanh, "tanh_test": tanh_test, "gap-tanh": tanh_test - tanh,
            "above-tanh-train": mine - tanh, "above-tanh-test": mine_test - tanh_test,
            "tanh-share": tanh / mine, "bright_pixels": (pixels > 1).double().mean().item(),
            "mean_image": F.mse_loss(flat, pixels).item(),
            "pca": F.mse_loss(linear.clamp(-1, 1), pixels).item(),
            "pca_unclipped": F.mse_loss(linear, pixels).item()}


# --- The ten nodes, over the training images ---

def top_counts(model, data):
    """How many of each node's 100 strongest images are of each digit: (hDims, 10)."""
    hidden = activations(model, data.images)
    order = hidden.sort(dim=0, descending=True, stable=True).indices[:100]
    return torch.stack([data.labels[top].bincount(minlength=10) for top in order.t()])


@torch.no_grad()
def node_rows(model, data):
    """What each node responds to, and the MSE gained if it is held at its mean."""
    hidden, whole = activations(model, data.images), mse(model, data.images)
    rows = []
    for node, top in enumerate(top_counts(model, data).tolist()):
        fires = (hidden[:, node] > FIRES).double()
        held = hidden.clone()
        held[:, node] = hidden[:, node].mean()
        reconstruction = torch.tanh(model.decoder(held.float()))
        rows.append({"mean": hidden[:, node].mean().item(), "fires": fires.mean().item(),
                     "fires_by_digit": [fires[data.labels == digit].mean().item()
                                        for digit in range(10)], "top": top,
                     "at-mean": F.mse_loss(reconstruction, data.images.flatten(1)).item() - whole})
    return rows


# --- Readings of single nodes ---

@torch.no_grad()
def patch_maps(model, images):
    """What a patch of ink, and one of paper, over the images (n, 1, 28, 28) does to the share of
    them that fires each node: (2, hDims, places, places). The encoder is linear, so its input
    changes by w . (what is painted - what was there)."""
    weights = F.unfold(model.encoder.weight.view(-1, 1, SIDE, SIDE), PATCH)  # (hDims, 25, 576)
    before = model.encoder(images.flatten(1)).unsqueeze(2)
    cleared = before - torch.einsum("nkp,hkp->nhp", F.unfold(images, PATCH), weights)
    maps = torch.stack([(cleared + paint * weights.sum(1) > 0).double().mean(0)
                        for paint in (utils.INK, utils.PAPER)]) - (before > 0).double().mean(0)
    return maps.view(2, -1, PLACES, PLACES)


def spot_rows(model, images, maps):
    """Predictions from the decoder alone, tested on what the encoder does. The spots are the places
    (0..575) of the patches where a node's column has the highest mean, and the lowest: ink on the
    highest makes the node fire and paper there stops it; ink on the lowest stops it; and the ink in
    the first less that in the second tells which images fire it. Ranks: 1 is the largest rise, or
    fall, of all places. Control: random pairs of patches in which images differ."""
    fires = activations(model, images) > FIRES
    means = patch_means(images.squeeze(1)).flatten(1)
    inked = (means.std(0) > 0.3).nonzero().flatten()
    pairs = inked[torch.randint(len(inked), (200, 2), generator=torch.Generator().manual_seed(0))]
    rows = []
    for node, column in enumerate(patch_means(columns(model)).flatten(1)):
        high, low = column.argmax().item(), column.argmin().item()
        both = auc(means[:, high] - means[:, low], fires[:, node])
        chance = [auc(means[:, a] - means[:, b], fires[:, node]) for a, b in pairs]
        row = {"high": high, "low": low, "auc": both,
               "random-better": sum(max(value, 1 - value) > both for value in chance)}
        ink, paper = maps[:, node].flatten(1)
        for key, change, spot, sign in (("ink-high", ink, high, 1), ("paper-high", paper, high, -1),
                                        ("ink-low", ink, low, -1)):
            row |= {key: change[spot].item(),
                    f"{key}-rank": int((sign * change > sign * change[spot]).sum()) + 1}
        rows.append(row)
    return rows


def lean(images):
    """How far the principal axis of the ink (n, 1, 28, 28) leans from the vertical, to the right:
    (n,), in degrees. The axis is at atan2(2 cov(x, y), var(x) - var(y)) / 2 to the x axis."""
    ink = (images.squeeze(1).double() - utils.PAPER).clamp(min=0)
    ink = ink / ink.sum((1, 2), keepdim=True)
    down, right = torch.meshgrid(*[torch.arange(SIDE)] * 2, indexing="ij")
    x = right - (ink * right).sum((1, 2), keepdim=True)
    y = (ink * down).sum((1, 2), keepdim=True) - down
    xx, yy, xy = ((ink * product).sum((1, 2)) for product in (x * x, y * y, x * y))
    axis = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)  # -90..90
    return torch.where(axis > 0, 90 - axis, -90 - axis)


def ones_by_lean(model, images, labels, edges):
    """The share of the 1s that fires each node, by how far they lean: (bins, hDims)."""
    ones = images[labels == 1]
    fires, leans = (activations(model, ones) > FIRES).double(), lean(ones)
    return torch.stack([fires[(leans >= low) & (leans < high)].mean(0)
                        for low, high in itertools.pairwise(edges)])


def lean_within_digits(model, data):
    """Within each digit, over test images: the correlation of a node with the lean, for three
    nodes. And for node 9 after what the ink in two corners explains of both is taken away; the
    corners are where its decoder column is lowest, and lowest in the upper left quarter."""
    hidden, leans = activations(model, data.test_images), lean(data.test_images)
    column, ink = patch_means(columns(model))[9], patch_means(data.test_images.squeeze(1)).double()
    half = PLACES // 2
    corners = torch.stack([ink.flatten(1)[:, column.argmin()],
                           ink[:, :half, :half].flatten(1)[:, column[:half, :half].argmin()]], 1)
    result = {"5": [], "7": [], "9": [], "9, corners fixed": []}
    for digit in range(10):
        inside = data.test_labels == digit
        for node in (5, 7, 9):
            result[str(node)].append(correlation(hidden[inside, node], leans[inside]).item())
        both = torch.stack([hidden[inside, 9], leans[inside]], 1)
        known = torch.cat([torch.ones(len(both), 1), corners[inside]], 1)
        rest = both - known @ torch.linalg.lstsq(known, both).solution
        result["9, corners fixed"].append(correlation(*rest.t()).item())
    return result


def width_rows(model, images):
    """The correlation of each node with the width of the ink, in pixels from its leftmost to its
    rightmost column, in five rows around each of ROWS: (rows, hDims), as lists."""
    hidden, column = activations(model, images), torch.arange(SIDE)
    rows = []
    for row in ROWS:
        inked = (images[:, 0, row - 2:row + 3] > (utils.PAPER + utils.INK) / 2).any(1)
        right, left = torch.where(inked, column, -1), torch.where(inked, column, SIDE)
        widths = (right.amax(1) - left.amin(1) + 1).clamp(min=0)
        rows.append(correlation(hidden, widths).flatten().tolist())
    return rows


def bars(angles, length=20, y=MIDDLE):
    """How much of each pixel a round-ended bar covers, 0..1, sampled at 8 x 8 points: (angles, 1,
    28, 28). Angles are in degrees, + leans right; length and width (3) are those of MNIST's 1s."""
    grid = (torch.arange(SIDE * 8) + 0.5) / 8
    down, right = torch.meshgrid(grid - y, grid - MIDDLE, indexing="ij")
    angle = torch.deg2rad(torch.tensor(angles, dtype=torch.float64)).view(-1, 1, 1, 1)
    along = right * angle.sin() - down * angle.cos()
    across = right * angle.cos() + down * angle.sin()
    beyond = (along.abs() - (length - 3) / 2).clamp(min=0)  # the straight part
    return F.avg_pool2d((torch.hypot(beyond, across) <= 3 / 2).float(), 8)


def painted(images, covered, colour):
    """Images with a colour over them where covered (0..1)."""
    return images * (1 - covered) + colour * covered


def reading_numbers(model, data):
    """Single nodes: 1s that lean; blank paper; an upright bar drawn, painted over the test images,
    erased from them, all else erased; 2s with the foot's rows erased, 7s with a foot painted."""
    def firing(images, node):
        return (activations(model, images)[:, node] > FIRES).double().mean().item()

    left, _, nearly_upright, right = ones_by_lean(model, data.images, data.labels,
                                                  range(-20, 21, 10)).tolist()
    images, upright = data.test_images, bars([0])
    twos, sevens = (images[data.test_labels == digit] for digit in (2, 7))
    erased = twos.clone()
    erased[:, :, 18:24] = utils.PAPER
    foot = painted(BLANK, bars([90], length=14, y=20.5), utils.INK)
    blank, bar = activations(model, torch.cat([BLANK, painted(BLANK, upright, utils.INK)])).tolist()
    return {"ones-5--20": left[5], "ones-5-10": right[5], "ones-9-0": nearly_upright[9],
            "blank-2": blank[2], "bar-2-0": bar[2], "blank-9": blank[9],
            "upright-as-is-9": firing(images, 9),
            "upright-painted-9": firing(painted(images, upright, utils.INK), 9),
            "upright-erased-9": firing(painted(images, upright, utils.PAPER), 9),
            "upright-only-on-9": firing(painted(images, 1 - upright, utils.PAPER), 9),
            "foot-as-is-2": firing(twos, 1), "foot-erased-2": firing(erased, 1),
            "foot-as-is-7": firing(sevens, 1),
            "foot-painted-7": firing(torch.maximum(sevens, foot), 1)}


# --- What the nodes are: digits, a space, themselves? ---

def one_digit(code, labels, test_code, test_labels):
    """How well one column of a code (n, k) tells one digit from the rest: (k, 10), the mean of the
    shares of right answers among the digit and among the rest, on test images. Threshold and
    direction are the best on the training images."""
    accuracy, digit, truth = [], torch.arange(10), F.one_hot(test_labels).double()
    for column, test in zip(code.t(), test_code.t()):
        values, order = column.sort()
        inside = F.one_hot(labels[order]).double()
        below = inside.cumsum(0) / inside.sum(0) - (1 - inside).cumsum(0) / (1 - inside).sum(0)
        below[:-1][values[1:] == values[:-1]] = 0  # no threshold between equals
        best = below.abs().argmax(0)
        says = ((test.unsqueeze(1) <= values[best]) == (below[best, digit] > 0)).double()
        accuracy.append(((says * truth).sum(0) / truth.sum(0)
                         + ((1 - says) * (1 - truth)).sum(0) / (1 - truth).sum(0)) / 2)
    return torch.stack(accuracy)


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
    return (linear(test_code).argmax(1) == test_labels).double().mean().item()


def code_numbers(codes, data):
    """How much ten numbers for an image tell of its digit: all of them, the best one, the best one
    for each digit. codes: {name: (of the training images, of the test images)}."""
    result = {}
    for name, (code, test_code) in codes.items():
        given = code, data.labels, test_code, data.test_labels
        accuracy = one_digit(*given)
        result |= {f"linear-{name}": linear_accuracy(*given), f"one-{name}": accuracy.max().item(),
                   f"one-{name}-mean": accuracy.amax(0).mean().item()}
        if name == "trained":
            node, digit = divmod(accuracy.argmax().item(), 10)
            result |= {"one-trained-node": node, "one-trained-digit": digit}
    return result


def space_numbers(model, start, components):
    """The span of the decoder's columns, trained and untrained, beside that of as many principal
    components (784, k): the mean squared cosine of the principal angles, 1 for the same space; and
    the angles in degrees, beside those of random directions."""
    generator = torch.Generator().manual_seed(0)
    after, before = (cosines(part.decoder.weight.detach(), components) for part in (model, start))
    chance = [cosines(torch.randn(components.shape, generator=generator, dtype=torch.float64),
                      components) for _ in range(100)]
    angles, random = torch.rad2deg(after.acos()), torch.rad2deg(torch.stack(chance).acos()).mean(0)
    return {"space-decoder": after.square().mean().item(),
            "space-untrained": before.square().mean().item(),
            **{f"angle-decoder-{index}": angles[index].item() for index in (0, 5, 9)},
            **{f"angle-random-{index}": random[index].item() for index in (0, 9)}}


def match_numbers(models, data, scores):
    """Are the nodes of two models the same, and is their space? models: {name: model}. scores: the
    images' on the principal components, (n, 10). `absolute`: matched(); `canonical`: the mean
    squared canonical correlation. Controls: spaces at random rotated."""
    pairs = list(itertools.combinations(range(len(SEEDS)), 2))
    compared = {"seeds": [(f"seed {a}", f"seed {b}") for a, b in pairs],
                "untrained": [(f"untrained {a}", f"untrained {b}") for a, b in pairs],
                "order": [("seed 0", "batch order 1"), ("seed 0", "batch order 2")],
                "no-penalty": [("seed 0", "no penalty"), ("seed 1", "seed 1, no penalty")]}
    models = models | {f"untrained {seed}": untrained(seed) for seed in range(len(SEEDS))}
    centred = {}
    for name in {name for names in compared.values() for pair in names for name in pair}:
        hidden = activations(models[name], data.images)
        centred[name] = hidden - hidden.mean(0)
    generator = torch.Generator().manual_seed(0)

    def rotated(space):
        """By Q of a normal matrix, which is uniformly random once signs are free."""
        return basis(space) @ basis(torch.randn(HIDDEN_DIMS, HIDDEN_DIMS, generator=generator,
                                                dtype=torch.float64))

    absolute = {"seeds-rotated": [matched(centred[a], rotated(centred[b]))
                                  for a, b in compared["seeds"]]}
    once = rotated(scores)  # whose mean is 0, as PCA's are
    absolute["components-rotated"] = [matched(once, rotated(scores)) for _ in range(50)]
    absolute |= {key: [matched(centred[a], centred[b]) for a, b in names]
                 for key, names in compared.items()}
    canonical = {key: [cosines(centred[a], centred[b]).square().mean().item() for a, b in names]
                 for key, names in compared.items()}
    return {"match-seeds-absolute-n": len(pairs),
            **{f"match-{key}-absolute-mean": statistics.mean(absolute[key]) for key in absolute},
            **{f"match-{key}-canonical-mean": statistics.mean(canonical[key]) for key in canonical},
            **{f"match-{key}-absolute-{pick.__name__}": pick(absolute[key])
               for key in ("seeds", "seeds-rotated") for pick in (min, max)}}


# --- Sparsity ---

def firing_row(model, data):
    """How often nodes fire over the training images; the share of images that fire none, by FIRES
    and by half of each node's own maximum; the nodes that fire for none; and the share of all
    activation that is in activations under a quarter."""
    hidden = activations(model, data.images)
    fires, own, means = hidden > FIRES, hidden > hidden.amax(0) / 2, hidden.mean(0)
    return {"mse": mse(model, data.images), "mean": means.mean().item(),
            "lowest": means.min().item(), "highest": means.max().item(),
            "on": fires.sum(1).double().mean().item(),
            "none": (~fires.any(1)).double().mean().item(),
            "none-own": (~own.any(1)).double().mean().item(),
            "dead": int((~fires.any(0)).sum()),
            "faint": (hidden[hidden < 0.25].sum() / hidden.sum()).item()}


def kind_row(model, data):
    """What the features look like, in numbers, medians over the nodes: how large a column's picture
    is (pixels of more than half its largest weight), and how like a whole digit (correlation with
    the most similar of ten mean digits, less the mean of all)."""
    pictures, pixels = columns(model).flatten(1).double(), data.images.flatten(1)
    size = (pictures.abs() > pictures.abs().amax(1, keepdim=True) / 2).sum(1).double()
    means = torch.stack([pixels[data.labels == digit].mean(0) for digit in range(10)])
    likeness = correlation(pictures.t(), (means - pixels.mean(0)).t()).amax(1)
    return {**firing_row(model, data), "nodes": len(pictures), "size": size.median().item(),
            "likeness": likeness.median().item()}


def gradient_numbers(noted, steps_per_epoch):
    """How large the penalty's gradient is beside the MSE's, by epoch: by the mean of the batches'
    norms; and by the norm of the batches' mean, in which the MSE's noise from batch to batch has
    averaged out. noted: Watched's."""
    gradients = {epoch: [torch.stack(part).flatten(1) for part in zip(*(
        pair for step, pair in noted.items() if step // steps_per_epoch == epoch - 1))]
        for epoch in (1, 2, 5, 20)}
    of_mse, of_penalty = (part.mean(0) for part in gradients[2])
    return {"gradient-weights-mean-2": (of_penalty.norm() / of_mse.norm()).item()} | {
        f"gradient-weights-{epoch}": (of_penalty.norm(dim=1).mean()
                                      / of_mse.norm(dim=1).mean()).item()
        for epoch, (of_mse, of_penalty) in gradients.items()}


def penalty_numbers():
    """The unweighted penalty of a node that in a batch is on average 0.05, never fires, always
    fires; and of one that is 1 for one image in 20 and else 0: expected over random batches, of
    which a binomial number of images fire it. Then the trap in the sheet's float32 clamp: of a node
    that always fires beside one at 0.2 in a batch of 5, the penalty and a row's gradients."""
    def penalty(rho_hat):
        hidden = torch.full((1, 1), rho_hat, dtype=torch.float64)
        return SparseAutoencoder(1, 1).batched_sparsity_penalty(hidden).item()

    rare = sum(math.comb(BATCH_SIZE, count) * RHO ** count * (1 - RHO) ** (BATCH_SIZE - count)
               * penalty(count / BATCH_SIZE) for count in range(BATCH_SIZE + 1))
    hidden = torch.tensor([[1, 0.2]] * 5, requires_grad=True)
    rho_hat = torch.clamp(hidden.mean(0), 1e-8, 1 - 1e-8)
    literal = (RHO * torch.log(RHO / rho_hat)
               + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))).sum()
    literal.backward()
    return {"sees-always": abs(penalty(RHO)), "sees-rare": rare,
            "sees-silent-batch": penalty(0.0), "sees-silent-batches": (1 - RHO) ** BATCH_SIZE,
            "clamp-never": penalty(0.0), "clamp-always": penalty(1.0),
            "clamp-literal-penalty": str(literal.item()),  # JSON has no infinity
            "clamp-literal-gradient-0": hidden.grad[0, 0].item(),
            "clamp-literal-gradient-1": hidden.grad[0, 1].item()}


# --- What the reconstructions show ---

def judge_numbers(model, pca, data):
    """What a classifier reads in test images, in their reconstructions, and in those of as many
    principal components: how much is right, and the shares of 4s read as 9, 7s as 9, 5s as 5. All
    is clipped to what tanh can give: the range that the classifier learned in."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(SIDE * SIDE, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3, fused=True)
    loader = codelet7.make_dataloader(data.images.flatten(1).clamp(-1, 1), data.labels, BATCH_SIZE,
                                      seed=0)
    for batch, answers in itertools.chain.from_iterable(itertools.repeat(loader, 5)):
        optimizer.zero_grad()
        F.cross_entropy(judge(batch), answers).backward()
        optimizer.step()
    result = {}
    with torch.no_grad():
        for name, pictures in (("real", data.test_images.flatten(1)),
                               ("reconstruction", model(data.test_images)[1]),
                               ("pca", pca.decode(pca.encode(data.test_images)))):
            says = judge(pictures.clamp(-1, 1)).argmax(1)
            result[f"network-{name}-accuracy"] = (says == data.test_labels).double().mean().item()
            for digit, read in ((4, 9), (7, 9), (5, 5)):
                share = (says[data.test_labels == digit] == read).double().mean().item()
                result[f"network-{name}-{digit}-{read}"] = share
    return result


# --- The pictures, drawn at the size they are printed in: 6.7 inches, the width of the text ---

WIDE = 1340  # pixels, 200 to the inch


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
    axes.imshow(mosaic.permute(1, 2, 0).numpy(), aspect="auto")
    axes.axis("off")
    return axes


@utils.styled
def plot_sparsity(models, rows, path):
    """Save three kinds of features: two models of ten nodes to the left, one of a hundred to the
    right. Each column is on its own scale. rows: kind_row()s."""
    figure = Figure(figsize=(WIDE / utils.DPI, 735 / utils.DPI))
    for kind, head, left, top, across, zoom, between in (
            ("dense", "Blobs: 10 nodes, weight 0.0001 (the sheet's)", 0, 0, 5, 5, "; "),
            ("digits", "Digits: 10 nodes, weight 0.1", 0, 375, 5, 5, "; "),
            ("strokes", "Strokes: 100 nodes, weight 0.01, learning rate 0.001", 755, 0, 10, 2,
             "\n")):
        row, weights = rows[kind], columns(models[KINDS[kind]]).unsqueeze(1)
        pictures = utils.in_colours(weights / weights.abs().amax((1, 2, 3), keepdim=True))
        bottom = top + 32 + (len(pictures) // across * 29 + 1) * zoom
        say(figure, left + zoom, top + 5, head, fontsize=7.5)
        draw_mosaic(figure, left, top + 32, pictures, across, zoom)
        say(figure, left + zoom, bottom + 3,
            f"mean activation {row['mean']:.2f}; {row['on']:.1f} of {row['nodes']} nodes fire"
            f"{between}MSE {row['mse']:.3f}; {row['dead']} dead nodes")
    utils.save(figure, path)


@utils.styled
def plot_patches(model, maps, tests, path):
    """Save, for each node, its weights and what patches do to it (patch_maps()), one scale to a
    row, with the two spots of its row in tests (spot_rows()): solid where the decoder is highest,
    dashed where it is lowest. A map's value stands at the middle of its patch."""
    encoder = model.encoder.weight.detach().view(-1, 1, SIDE, SIDE)
    ink, paper = (F.pad(change.unsqueeze(1), [PATCH // 2] * 4) for change in maps)
    rows = {"encoder,\nsmoothed": gaussian_blur(encoder, kernel_size=9, sigma=1.5),
            "decoder": columns(model).unsqueeze(1),
            "ink in a\n5 x 5 patch": ink, "paper in a\n5 x 5 patch": paper}
    zoom, left, top = 4, WIDE - 291 * 4, 30
    below = top + 117 * zoom + 6
    figure = Figure(figsize=(WIDE / utils.DPI, (below + 29) / utils.DPI))
    axes = draw_mosaic(figure, left, top, torch.cat([*map(utils.in_colours, rows.values())]),
                       len(tests), zoom)
    for row, (name, values) in enumerate(rows.items()):
        largest = values.abs().max().item()
        scale = f"{largest:.2f}" if row < 2 else f"{100 * largest:.0f} points"
        say(figure, 2, top + (row * 29 + 14) * zoom, f"{name}\n\N{PLUS-MINUS SIGN}{scale}",
            va="center", linespacing=1.25)
    for node, test in enumerate(tests):
        middle = left + (node * 29 + 15) * zoom
        say(figure, middle, 4, f"node {node}", ha="center", fontsize=7.5)
        say(figure, middle, below, f"{test['auc']:.2f}", ha="center", fontsize=7.5)
        for row, (key, line) in itertools.product(range(len(rows)),
                                                  (("high", "-"), ("low", (0, (1.5, 1))))):
            down, right = divmod(test[key], PLACES)
            axes.add_patch(Rectangle((node * 29 + right + 0.5, row * 29 + down + 0.5), PATCH, PATCH,
                                     fill=False, linewidth=0.7, linestyle=line))
    say(figure, 2, below, "AUC of the two")
    utils.save(figure, path)


@utils.styled
def plot_angles(model, data, widths, path):
    """Save what slanted strokes do to four nodes, and wide ones to all. widths: width_rows()."""
    four = {5: {"color": utils.ORANGE, "marker": "o"}, 9: {"color": utils.BLUE, "marker": "s"},
            4: {"color": utils.GREY, "marker": "^"}, 7: {"color": "black", "marker": "D"}}
    filled = {"markersize": 3, "linewidth": 1.2}
    hollow = {"markersize": 5, "linestyle": "", "markerfacecolor": "none", "markeredgewidth": 0.6}
    leans, angles = range(-15, 46, 5), range(-60, 61, 5)  # edges of the bins of 1s; of the bars
    figure = Figure(figsize=(WIDE / utils.DPI, 430 / utils.DPI))
    ones, bar, width = (axes_at(figure, left, 35, 350, 275) for left in (55, 505, 975))

    middle = [(low + high) / 2 for low, high in itertools.pairwise(leans)]
    for images, labels, style in ((data.images, data.labels, filled),
                                  (data.test_images, data.test_labels, hollow)):
        shares = ones_by_lean(model, images, labels, leans)
        for node, look in four.items():
            ones.plot(middle, shares[:, node], **look, **style)
    ones.set(title="1s: share that fires the node", xlabel="lean of the 1 (degrees)",
             xticks=range(-15, 46, 15))

    hidden = activations(model, painted(BLANK, bars(angles), utils.INK))
    for node, look in four.items():
        bar.plot(angles, hidden[:, node], label=f"node {node}", **look, **filled)
    bar.set(title="a drawn bar: activation", xlabel="lean of the bar (degrees)",
            xticks=range(-60, 61, 30))

    shown = {1: {"color": utils.ORANGE, "label": "node 1"},
             3: {"color": utils.BLUE, "label": "node 3", "linestyle": "--"}}
    for node, series in enumerate(zip(*widths)):
        width.plot(ROWS, series, **shown.get(node, {"color": "#cccccc", "linewidth": 0.7,
                                                    "zorder": 0}))
    width.set(title="correlation with the ink's width", xlabel="in five rows around row",
              xticks=range(5, 25, 5), yticks=[-0.5, 0, 0.5])

    for axes in figure.axes:
        axes.tick_params(labelsize=7, length=2, pad=2)
        axes.xaxis.labelpad = 2
    for axes, center in ((bar, 455), (width, 1150)):
        figure.legend(*axes.get_legend_handles_labels(), loc="lower center", frameon=False,
                      bbox_to_anchor=(center / WIDE, 0), ncols=4, fontsize=7.5, handlelength=1.8,
                      columnspacing=1.2)
    utils.save(figure, path)


# --- The macros ---

FORMATS = {  # of Python, and of points(), for the keys' numbers: the first that fits; else ".4f"
    ".2%": "penalty-share",
    ".1%": "linear-* network-*-accuracy sees-silent-batches",
    "share": "tanh-share bright_pixels fires-* ones-* upright-* foot-* one-* weight-1-* "
             "running-none running-faint kind-strokes-faint gradient-* network-*",
    "points": "ink-* paper-*",
    ".3f": "at-mean-* running-mean",
    ".2f": "auc-* blank-* bar-* corner-* width-* space-* match-* kind-*-likeness",
    ".1f": "sheet-*-sds at-once kind-*-on",
    ".0f": "angle-* kind-*-size",
    ".4g": "clamp-literal-*",
}


def share(value):
    """In per cent; with a decimal where whole ones would make most of all, or some of none."""
    form = ".1%" if 0 < value < 0.005 or 0.995 <= value < 1 else ".0%"
    return format(value, form).replace("%", r"\%")


def latex(key, value):
    if not isinstance(value, float):  # a count, or a text
        return str(value)
    form = next((form for form, patterns in FORMATS.items()
                 if any(fnmatchcase(key, pattern) for pattern in patterns.split())), ".4f")
    if form == "points":  # a change of a share, in percentage points
        return f"${100 * value:+.0f}$"
    return share(value) if form == "share" else format(value, form).replace("%", r"\%")


def row_numbers(results):
    """The numbers that codelet7.tex states of the rows in results.json."""
    nodes, spots, kinds = results["nodes"], results["spots"], results["kinds"]
    within, widths = results["lean_within_digits"], results["widths"]
    values = {"seeds": len(SEEDS), "places": PLACES ** 2, "at-once": kinds["dense"]["on"],
              "change-nopenalty": results["changes"]["no penalty"],
              "top-9-7": nodes[9]["top"][7], "fires-2-0": nodes[2]["fires_by_digit"][0],
              "lean-5-negative": sum(value < 0 for value in within["5"]),
              "width-1-most": max(row[1] for row in widths),
              "width-3-8": widths[ROWS.index(10)][3],  # from row 8 on: the five rows around 10
              "width-3-20": widths[ROWS.index(22)][3],
              "right-signs": sum((row["ink-high"] > 0) + (row["paper-high"] < 0)
                                 + (row["ink-low"] < 0) for row in spots)}
    for key, losses in results["seeds"].items():
        values |= {key: losses[SEED], f"seeds-{key}-mean": statistics.mean(losses),
                   f"seeds-{key}-min": min(losses), f"seeds-{key}-max": max(losses)}
    for key, epoch in (("first", 1), ("last", EPOCHS)):
        sheet, losses = codelet7.SHEET_LOSSES[epoch], results["seeds"][key]
        away = abs(sheet - statistics.mean(losses)) / statistics.stdev(losses)
        values |= {f"sheet-{key}": sheet, f"sheet-{key}-sds": away}
    # Node 9's lean within all digits but 1, whose lean is of another kind.
    leans, fixed = (within[key][:1] + within[key][2:] for key in ("9", "9, corners fixed"))
    values |= {"corner-lean-mean": statistics.mean(leans),
               "corner-lean-without-ink-mean": statistics.mean(fixed)}
    for name, found in (("corner-lean", leans), ("auc", [row["auc"] for row in spots]),
                        ("at-mean", [row["at-mean"] for row in nodes])):
        values |= {f"{name}-least": min(found), f"{name}-most": max(found)}
    for node, keys in ((1, "random-better"), (2, "paper-high paper-high-rank"),
                       (3, "ink-low ink-low-rank"), (4, "random-better"), (7, "ink-high"),
                       (8, "ink-high ink-high-rank ink-low random-better"), (9, "ink-low")):
        values |= {f"{key}-{node}": spots[node][key] for key in keys.split()}
    for kind, keys in (("dense", "likeness"), ("digits", "on size likeness"),
                       ("strokes", "on size faint"), ("dense100", "on size mse")):
        values |= {f"kind-{kind}-{key}": kinds[kind][key] for key in keys.split()}
    heaviest = results["weights"][-1]
    return values | {f"weight-1-{key}": heaviest[key] for key in ("none", "none-own", "faint")}


def tables(results):
    def table(rows):
        return "\n".join(" & ".join(row) + r" \\" for row in rows)

    def listed(values, chosen, form):
        return ", ".join(rf"{digit}\,({form(values[digit])})" for digit in chosen)

    nodes = []
    for node, row in enumerate(results["nodes"]):
        top, fires = row["top"], row["fires_by_digit"]
        on_top, often = (sorted(range(10), key=lambda digit: -values[digit])
                         for values in (top, fires))
        nodes.append([str(node), f"{row['mean']:.2f}", share(row["fires"]),
                      listed(top, on_top[:3], str), listed(fires, often[:3], share),
                      listed(fires, often[-2:], share), f"{row['at-mean']:.3f}"])
    weights = [["$0$" if row["weight"] == 0 else f"$10^{{{math.log10(row['weight']):.0f}}}$",
                f"{row['mean']:.3f}", f"{row['lowest']:.2f} to {row['highest']:.2f}",
                f"{row['on']:.1f}", f"{100 * row['none']:.1f}", f"{100 * row['none-own']:.1f}",
                str(row["dead"]), f"{row['mse']:.4f}", f"{row['same']:.2f}"]
               for row in results["weights"]]
    changes = [[change.replace("0.001", "$10^{-3}$"), f"{loss:.4f}"]
               for change, loss in results["changes"].items()]
    return {"node-rows": table(nodes), "sparsity-rows": table(weights),
            "change-rows": table(changes)}


def macros(results):
    """results.json's contents as the text of results.tex: \\defresult{key}{value} for each
    \\result{key} of codelet7.tex."""
    numbers = results["numbers"] | row_numbers(results)
    values = {key: latex(key, value) for key, value in numbers.items()} | tables(results)
    return "% Written by experiments.py from results.json.\n" + "".join(
        f"\\defresult{{{key}}}{{{value}}}\n" for key, value in values.items())


# --- All of it ---

def measure(data):
    """Train, measure, draw. Returns the results."""
    runs = {name: trained(data, name, **settings) for name, settings in RUNS.items()}
    models = {name: model for name, (model, _) in runs.items()}
    model, start, pca = models["seed 0"], untrained(SEED), PCA(data.images, HIDDEN_DIMS)
    codes = {name: (of(data.images), of(data.test_images)) for name, of in (
        ("trained", functools.partial(activations, model)),
        ("untrained", functools.partial(activations, start)), ("pca", pca.encode))}
    last, last_mse = runs["seed 0"][1][-1]
    running = firing_row(models["running mean, weight 1"], data)
    counts = top_counts(start, data)
    purest, purest_digit = divmod(counts.argmax().item(), 10)
    numbers = {"torch": torch.__version__.split("+")[0], "penalty-share": 1 - last_mse / last,
               "untrained-purest": purest, "untrained-purest-digit": purest_digit,
               "untrained-purest-count": counts.max().item(),
               **floors(model, pca, data), **reading_numbers(model, data),
               **code_numbers(codes, data), **space_numbers(model, start, pca.components),
               **match_numbers(models, data, codes["pca"][0]),
               **{f"running-{key}": running[key] for key in ("mean", "none", "faint", "mse")},
               **gradient_numbers(model.noted, math.ceil(len(data.images) / BATCH_SIZE)),
               **penalty_numbers(), **judge_numbers(model, pca, data)}
    maps = patch_maps(model, data.test_images)
    free = activations(models["no penalty"], data.images)
    results = {"numbers": numbers,
               "seeds": {"first": [runs[seed][1][0][0] for seed in SEEDS],
                         "last": [runs[seed][1][-1][0] for seed in SEEDS],
                         "test": [codelet7.evaluate(models[seed], data.test_images)
                                  for seed in SEEDS]},
               "changes": {name: runs[name][1][-1][0] for name in CHANGES},
               "nodes": node_rows(model, data), "spots": spot_rows(model, data.test_images, maps),
               "lean_within_digits": lean_within_digits(model, data),
               "widths": width_rows(model, data.test_images),
               "weights": [{"weight": weight, **firing_row(models[name], data),
                            "same": matched(activations(models[name], data.images), free)}
                           for weight, name in WEIGHTS.items()],
               "kinds": {kind: kind_row(models[name], data) for kind, name in KINDS.items()}}
    plot_sparsity(models, results["kinds"], HERE / "sparsity.png")
    plot_patches(model, maps, results["spots"], HERE / "patches.png")
    plot_angles(model, data, results["widths"], HERE / "angles.png")
    return results


def load():
    """MNIST as digits.Digits, but with images as codelet7 trains on them: normalized, float32
    (n, 1, 28, 28). Or an end with one line that says why not."""
    try:
        mnist = digits.load("mnist", os.environ.get("MNIST_ROOT") or HERE.parent / "data")
    except (utils.Refusal, OSError) as error:
        sys.exit(f"experiments.py: error: {error}")
    return mnist._replace(images=codelet7.normalize(mnist.images),
                          test_images=codelet7.normalize(mnist.test_images))


def main():
    if "--macros" not in sys.argv:
        start = time.perf_counter()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # as codelet7.main() does
        # Floats are cut to six digits: runs on other processors differ in the last ones.
        results = json.loads(json.dumps(measure(load())),
                             parse_float=lambda text: float(f"{float(text):.6g}"))
        utils.write_whole(HERE / "results.json", (json.dumps(results, indent=1) + "\n").encode())
        for key, losses in results["seeds"].items():
            print(f"{key} loss of {len(losses)} seeds: mean {statistics.mean(losses):.4f}, "
                  f"{min(losses):.4f} to {max(losses):.4f}")
        print(f"measured in {time.perf_counter() - start:.0f} s")
    results = json.loads((HERE / "results.json").read_text("utf-8"))
    utils.write_whole(HERE / "results.tex", macros(results).encode())


if __name__ == "__main__":
    main()
