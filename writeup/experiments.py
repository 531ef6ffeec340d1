"""The measurements behind codelet7.pdf.

    python writeup/experiments.py

trains eighteen autoencoders on MNIST with codelet7's own functions and writes, beside this file:
results.json (the numbers), results.tex (the same as LaTeX macros, which codelet7.tex reads), and
the pictures node_*.png, tree.png, kinds.png, shares.png and ruler.png. Ten minutes on one core.
With --macros it only writes results.tex again, from results.json.

A node "fires" for an image if its activation there is above 0.5, and its "answer" is then yes. What
a function measures comes as numbers with the keys that codelet7.tex uses in \\result{key}, or as
rows of a table. Whatever is looked up, read or fitted is fitted on the 60,000 training images and
tested on the 10,000 test images. `data` is what load() returns.
"""

import contextlib
import functools
import io
import itertools
import json
import math
import os
import re
import statistics
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn
from torchvision.utils import make_grid

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import codelet7
import digits
import utils
from codelet7 import (BATCH_SIZE, EPOCHS, HIDDEN_DIMS, LEARNING_RATE, RHO, SEED, SPARSITY_WEIGHT,
                      SparseAutoencoder)

SIDE = 28      # pixels
SPOT = (5, 5)  # pixels: a stroke, 3 wide, with its soft edges


# --- The runs ---

class QuietStart(SparseAutoencoder):
    """The same autoencoder, whose nodes are quiet before training."""

    def __init__(self, *args):
        super().__init__(*args)
        nn.init.constant_(self.encoder.bias, -3)


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


SEEDS = [f"seed {seed}" for seed in range(8)]
RUNS = {  # name: what differs from `python codelet7.py`
    **{name: {"seed": seed} for seed, name in enumerate(SEEDS)},
    "batch order 1": {"order": 1}, "no penalty": {"weight": 0.0},
    **{f"weight {weight:g}": {"weight": weight} for weight in (1e-3, 1e-2, 1e-1, 1.0)},
    "quiet start": {"kind": QuietStart},
    "running mean, weight 1": {"kind": RunningMean, "weight": 1.0},
    "100 nodes": {"hidden_dims": 100, "lr": 1e-3},
    "100 nodes, weight 0.01": {"hidden_dims": 100, "lr": 1e-3, "weight": 1e-2},
}
SOME_SEEDS = SEEDS[:3]  # where a measurement takes long, or would fill a table
WEIGHTS = {0.0: "no penalty", SPARSITY_WEIGHT: "seed 0", 1e-3: "weight 0.001",
           1e-2: "weight 0.01", 1e-1: "weight 0.1", 1.0: "weight 1"}
KINDS = {"blobs": "seed 0", "digits": "weight 0.1", "strokes": "100 nodes, weight 0.01"}


def untrained(seed, kind=SparseAutoencoder, hidden_dims=HIDDEN_DIMS, weight=SPARSITY_WEIGHT):
    torch.manual_seed(seed)
    return kind(SIDE * SIDE, hidden_dims, weight)


def trained(data, name, seed=SEED, order=None, epochs=EPOCHS, lr=LEARNING_RATE, **model_settings):
    """Train as codelet7's run() does. order seeds the order of the batches, where it is not to be
    the run's. Returns the model and its (loss, mse) of each epoch; prints a line with `name`."""
    model = untrained(seed, **model_settings)
    if order is not None:
        torch.manual_seed(order)
    loader = codelet7.make_dataloader(data.images, data.labels, BATCH_SIZE)
    next(iter(loader))  # as the sheet's snippet does before the training
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


def correlation(a, b):
    """Pearson's, of the columns of a (n, k) with those of b (n, l): (k, l)."""
    a, b = (v.double() - v.double().mean(0) for v in (a, b))
    return (a / a.norm(dim=0)).t() @ (b / b.norm(dim=0))


def basis(vectors):
    """An orthonormal basis of the span of the columns."""
    return torch.linalg.qr(vectors.double())[0]


def cosines(a, b):
    """Of the principal angles between the spans of the columns (Bjorck, Golub 1973). Between
    centred activations they are the canonical correlations."""
    return torch.linalg.svdvals(basis(a).t() @ basis(b)).clamp(max=1)


def rotation(generator):
    """A random one of ten dimensions: Q of a normal matrix, uniform once signs are free."""
    return basis(torch.randn(HIDDEN_DIMS, HIDDEN_DIMS, generator=generator, dtype=torch.float64))


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


# --- The four nodes of page 1 ---

PAPER, INK = utils.PAPER, utils.INK
TESTS = {  # name: what it is, node, digit, colour painted, and its rectangle's place and size
    "foot-erased": ("2s, foot erased", 1, 2, PAPER, (18, 0), (6, 28)),
    "foot-painted": ("7s, foot painted", 1, 7, INK, (19, 8), (3, 13)),
    "stroke-erased": ("8s, stroke erased", 2, 8, PAPER, (12, 12), (8, 4)),
    "stroke-painted": ("0s, stroke painted", 2, 0, INK, (12, 12), (8, 4)),
    "bar-erased": ("4s, crossbar erased", 7, 4, PAPER, (13, 6), (5, 16)),
    "bar-painted": ("7s, crossbar painted", 7, 7, INK, (14, 8), (3, 13)),
    "corner-erased": ("2s, corner erased", 9, 2, PAPER, (18, 16), (6, 9)),
    "corner-painted": ("7s, corner painted", 9, 7, INK, (18, 17), SPOT),
    "left-erased": ("6s, lower left erased", 6, 6, PAPER, (14, 4), (8, 9)),
    "left-painted": ("2s, left of middle painted", 6, 2, INK, (10, 8), SPOT),
}
PAGE_ONE = [1, 2, 7, 9]


@torch.no_grad()
def painted_everywhere(model, node, images, colour, size):
    """The share of images (n, 1, 28, 28) that fires the node when a rectangle of that colour is
    painted over them: (places down, places across), by its upper left corner. The encoder is
    linear, so its input changes by w . (colour - what was there)."""
    weights = model.encoder.weight[node].view(1, 1, SIDE, SIDE)
    before = model.encoder(images.flatten(1))[:, node].view(-1, 1, 1)
    change = F.avg_pool2d((colour - images) * weights, size, stride=1).squeeze(1)
    return (before + math.prod(size) * change > 0).double().mean(0)


@torch.no_grad()
def intervention(model, data, node, digit, colour, place, size):
    """One of TESTS on the test images of a digit: the share that fires the node as they are, with
    the rectangle painted, and, for comparison, with it painted elsewhere without touching the
    place: at the middle one of those places, and at the one where it does the most."""
    images = data.test_images[data.test_labels == digit]
    before = (model.encode(images)[:, node] > 0.5).double().mean().item()
    shares = painted_everywhere(model, node, images, colour, size)
    after = shares[place].item()
    down, across = torch.meshgrid(*map(torch.arange, shares.shape), indexing="ij")
    apart = ((down - place[0]).abs() >= size[0]) | ((across - place[1]).abs() >= size[1])
    elsewhere = shares[apart]
    return {"before": before, "after": after, "usual": elsewhere.median().item(),
            "most": (elsewhere.max() if after > before else elsewhere.min()).item()}


def spot_predictions(model, images):
    """What the decoder says of the encoder. In each node's decoder column, the spot where it is
    highest on average, and the spot where it is lowest: ink on the highest should make more images
    fire the node, paper there fewer, and ink on the lowest fewer. How many of these predictions
    hold; and, as a control, how many on average with the spots of another node."""
    means = F.avg_pool2d(columns(model).unsqueeze(1), SPOT, stride=1).flatten(1)
    spots = list(zip(means.argmax(1).tolist(), means.argmin(1).tolist()))
    held = torch.zeros(len(spots), len(spots))
    for node in range(len(spots)):
        before = (model.encode(images)[:, node] > 0.5).double().mean()
        ink, paper = (painted_everywhere(model, node, images, colour, SPOT).flatten() - before
                      for colour in (INK, PAPER))
        for other, (high, low) in enumerate(spots):
            held[node, other] = sum((ink[high] > 0, paper[high] < 0, ink[low] < 0))
    own = held.trace().item()
    return {"predictions": 3 * len(spots), "predictions-held": int(own),
            "predictions-others": (held.sum().item() - own) / (len(spots) - 1)}


def favourite_numbers(model, start, data):
    """The digits among a node's 100 favourite images: how many of node 9's are 7s; and the most of
    one digit that any node has before training."""
    def counts(model):
        top = model.encoder(data.images.flatten(1)).topk(100, dim=0).indices
        return torch.stack([data.labels[node].bincount(minlength=10) for node in top.t()])

    with torch.no_grad():
        return {"top-9-7": counts(model)[9, 7].item(),
                "untrained-purest": counts(start).max().item()}


# --- Ten answers ---

def answers(code):
    """A code (n, k) -> its answers, as one number for each image, 0..2^k - 1: (n,)."""
    return ((code > 0).long() << torch.arange(code.shape[1])).sum(1)


def entropy(code):
    """Of the answers to a code (n, k), in bits: of the patterns that occur (too low, where there
    are not many more images than patterns), and of the nodes one by one (an upper bound)."""
    counts = torch.unique(code > 0, dim=0, return_counts=True)[1].double()
    share = counts / counts.sum()
    on = (code > 0).double().mean(0)
    each = torch.special.entr(on) + torch.special.entr(1 - on)
    return {"bits": -(share * share.log2()).sum().item(), "patterns": len(counts),
            "bits-most": each.sum().item() / math.log(2)}


def looked_up(code, test_code, data):
    """Test images painted, and their digits read, from their ten answers alone: the MSE of a table
    with the mean of the training images that give the same answers (shrunk to the mean of all, by
    the weight of five images; clipped to tanh's range); the share of digits that a majority of
    those training images gets right."""
    pixels, pattern = data.images.flatten(1), answers(code)
    size, overall = 2 ** code.shape[1], pixels.mean(0)
    counts = pattern.bincount(minlength=size).unsqueeze(1)
    sums = torch.zeros(size, pixels.shape[1]).index_add_(0, pattern, pixels)
    table = ((sums + 5 * overall) / (counts + 5)).clamp(-1, 1)
    votes = torch.zeros(size, 10).index_put_((pattern, data.labels), torch.ones(len(pattern)),
                                             accumulate=True)
    asked = answers(test_code)
    return {"looked-up": F.mse_loss(table[asked], data.test_images.flatten(1)).item(),
            "majority": (votes.argmax(1)[asked] == data.test_labels).double().mean().item()}


def standardized(code, test_code):
    mean, deviation = code.mean(0), code.std(0).clamp(min=0.1)  # pixels may be all alike
    return (code - mean) / deviation, (test_code - mean) / deviation


@torch.enable_grad()
def linear_accuracy(code, test_code, data):
    """The share of test images that a softmax regression on a code (n, k) gets right. It is convex:
    L-BFGS, in double precision, goes to its minimum."""
    code, test_code = standardized(code.double(), test_code.double())
    linear = nn.Linear(code.shape[1], 10, dtype=torch.float64)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=300, tolerance_grad=1e-5,
                                  tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(linear(code), data.labels)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (linear(test_code).argmax(1) == data.test_labels).double().mean().item()


@torch.enable_grad()
def network(code, test_code, targets, layers, loss, epochs=10):
    """What a network with two hidden layers makes of a code (n, k), for the test images."""
    code, test_code = standardized(code.float(), test_code.float())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(code.shape[1], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                          *layers(128))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(code)).split(256):
            optimizer.zero_grad()
            loss(model(code[batch]), targets[batch]).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return model(test_code)


def read_numbers(code, test_code, data):
    """What ten numbers tell, not only their answers: the digit, to a linear and to a nonlinear
    reader; the image, to a nonlinear decoder."""
    digit = network(code, test_code, data.labels, lambda width: [nn.Linear(width, 10)],
                    F.cross_entropy).argmax(1)
    image = network(code, test_code, data.images.flatten(1),
                    lambda width: [nn.Linear(width, SIDE * SIDE), nn.Tanh()], F.mse_loss)
    return {"linear": linear_accuracy(code, test_code, data),
            "nonlinear": (digit == data.test_labels).double().mean().item(),
            "painted": F.mse_loss(image, data.test_images.flatten(1)).item()}


@torch.no_grad()
def judge_numbers(model, pca, data):
    """The share of test images, of their reconstructions, and of those of as many principal
    components, that a network takes for the right digit. It learns from real images; all is clipped
    to tanh's range."""
    shown = {"real": data.test_images.flatten(1), "mine": model(data.test_images)[1],
             "pca": pca.decode(pca.encode(data.test_images))}
    says = network(data.images.flatten(1).clamp(-1, 1), torch.cat([*shown.values()]).clamp(-1, 1),
                   data.labels, lambda width: [nn.Linear(width, 10)], F.cross_entropy).argmax(1)
    return {f"judge-{name}": (part == data.test_labels).double().mean().item()
            for name, part in zip(shown, says.view(len(shown), -1))}


# --- The tree ---

def grow(on, data, inside, depth):
    """A tree of questions about the training images `inside`, whose answers are on (n, k), bool:
    {"mean" image, "count", "digits"} and, above depth 0, the node whose answer, as a table of two
    mean images, lowers their squared error most ("asks"), with a tree for each answer."""
    pixels = data.images.flatten(1)[inside]
    tree = {"mean": pixels.mean(0), "count": len(inside),
            "digits": data.labels[inside].bincount(minlength=10)}
    if depth:
        says = on[inside].float()
        yes, total = says.sum(0), pixels.sum(0)
        sums = says.t() @ pixels
        gain = sums.square().sum(1) / yes + (total - sums).square().sum(1) / (len(inside) - yes)
        gain[(yes == 0) | (yes == len(inside))] = -math.inf  # all answer alike
        tree["asks"] = gain.argmax().item()
        says = on[inside, tree["asks"]]
        tree |= {"no": grow(on, data, inside[~says], depth - 1),
                 "yes": grow(on, data, inside[says], depth - 1)}
    return tree


def leaf_of(tree, says):
    """The leaf that the answers of one image, a list of bools, lead to."""
    while "asks" in tree:
        tree = tree["yes" if says[tree["asks"]] else "no"]
    return tree


def tree_numbers(tree, test_on, data):
    """Test images painted, and their digits read, from the leaf that they come to."""
    leaves = [leaf_of(tree, says) for says in test_on.tolist()]
    painted = torch.stack([leaf["mean"] for leaf in leaves]).clamp(-1, 1)
    read = torch.stack([leaf["digits"].argmax() for leaf in leaves])
    return {"leaf": F.mse_loss(painted, data.test_images.flatten(1)).item(),
            "leaf-digit": (read == data.test_labels).double().mean().item()}


@torch.no_grad()
def answer_rows(models, pca, data):
    """All of this, for the trained nodes, and for the controls: untrained nodes, the principal
    components, and these at random rotated. {name: one row, or one for each seed or rotation}; the
    first one's tree, too."""
    def row(code, numbers=None):
        """code: images -> ten numbers, above 0 for a yes; numbers: what of these is read."""
        train, test = code(data.images), code(data.test_images)
        tree = grow(train > 0, data, torch.arange(len(train)), 4)
        off = correlation(train > 0, train > 0).abs().fill_diagonal_(0)
        result = entropy(train) | looked_up(train, test, data) | tree_numbers(tree, test > 0, data)
        if numbers:
            result |= read_numbers(numbers(train), numbers(test), data)
        return result | {"related": off.sum().item() / 90, "related-most": off.max().item(),
                         "tree": tree}

    def node_row(model):
        return row(lambda images: model.encoder(images.flatten(1)), torch.sigmoid)

    generator = torch.Generator().manual_seed(0)
    rows = {"trained": [node_row(models[name]) for name in SOME_SEEDS],
            "untrained": [node_row(untrained(seed)) for seed in range(len(SOME_SEEDS))],
            "pca": [row(pca.encode, torch.clone)],
            "rotated": [row(lambda images: pca.encode(images) @ turn)
                        for turn in (rotation(generator) for _ in range(5))]}
    trees = [found.pop("tree") for found in itertools.chain(*rows.values())]
    return rows, trees[0]


# --- Quiet nodes ---

@torch.no_grad()
def firing_row(model, data):
    """Over the training images: the mean activation; how many nodes fire for an image; the share of
    images that fire none, and of those that fire a single one; the entropy of the answers; the
    share of activations that lie within 0.1 of 0 or 1, and of all activation that is in activations
    under a quarter. And the MSE."""
    hidden = model.encode(data.images)
    fires = hidden > 0.5
    return {"mse": mse(model, data.test_images), "mean": hidden.mean().item(),
            "on": fires.sum(1).double().mean().item(),
            "none": (~fires.any(1)).double().mean().item(),
            "alone": (fires.sum(1) == 1).double().mean().item(), **entropy(hidden - 0.5),
            "clear": ((hidden - 0.5).abs() > 0.4).double().mean().item(),
            "faint": (hidden[hidden < 0.25].sum() / hidden.sum()).item()}


@torch.no_grad()
def kind_row(model, data):
    """And what the features look like, medians over the nodes: how large a column's picture is
    (pixels of more than half its largest weight), and how like a whole digit (correlation with the
    most similar of ten mean digits, less the mean of all). Then the same with a quarter for the
    half that a node has to reach; and the MSE if all activations are rounded to 0 or 1."""
    pictures, pixels = columns(model).flatten(1).double(), data.images.flatten(1)
    size = (pictures.abs() > pictures.abs().amax(1, keepdim=True) / 2).sum(1).double()
    means = torch.stack([pixels[data.labels == digit].mean(0) for digit in range(10)])
    likeness = correlation(pictures.t(), (means - pixels.mean(0)).t()).amax(1)
    quarter = model.encode(data.images) - 0.25
    rounded = torch.tanh(model.decoder(model.encode(data.test_images).round()))
    return {**firing_row(model, data), "nodes": len(pictures), "size": size.median().item(),
            "likeness": likeness.median().item(),
            "quarter-on": (quarter > 0).sum(1).double().mean().item(),
            **{f"quarter-{key}": value for key, value in entropy(quarter).items()},
            "rounded": F.mse_loss(rounded, data.test_images.flatten(1)).item()}


def penalty_numbers():
    """The unweighted penalty of a node that is 0.05 for every image, and of one that is 1 for one
    image in 20 and else 0: expected over random batches, of which a binomial number of images fire
    it. What one such answer holds, in bits. Then the trap in the sheet's float32 clamp: the penalty
    as the sheet writes it, of a node that always fires, and ours."""
    def penalty(rho_hat):
        hidden = torch.full((1, 1), rho_hat, dtype=torch.float64)
        return SparseAutoencoder(1, 1).batched_sparsity_penalty(hidden).item()

    rare = sum(math.comb(BATCH_SIZE, count) * RHO ** count * (1 - RHO) ** (BATCH_SIZE - count)
               * penalty(count / BATCH_SIZE) for count in range(BATCH_SIZE + 1))
    rho_hat = torch.clamp(torch.ones(1), 1e-8, 1 - 1e-8)
    literal = RHO * torch.log(RHO / rho_hat) + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))
    bits = -(RHO * math.log2(RHO) + (1 - RHO) * math.log2(1 - RHO))
    return {"sees-always": abs(penalty(RHO)), "sees-rare": rare, "rare-bits": bits,
            "clamp-always": penalty(1.0), "clamp-literal": str(literal.item())}  # JSON has no inf


# --- Spaces, and what the MSE is made of ---

def space_numbers(model, start, components):
    """The span of the decoder's columns, trained and untrained, beside that of as many principal
    components (784, k): the mean squared cosine of the principal angles, 1 for the same space. And
    how like its start the encoder is, and the decoder."""
    result = {f"space-{name}": cosines(part.decoder.weight.detach(),
                                       components).square().mean().item()
              for name, part in (("trained", model), ("untrained", start))}
    for name in ("encoder", "decoder"):
        now, then = (getattr(part, name).weight.detach().flatten() for part in (model, start))
        result[f"start-{name}"] = correlation(now.unsqueeze(1), then.unsqueeze(1)).item()
    return result


@torch.no_grad()
def match_numbers(models, data, scores):
    """Are the nodes of two models the same, and is their space? models: {name: model}. scores: the
    images' on the principal components, (n, 10). `nodes`: matched(); `space`: the mean squared
    canonical correlation. Controls: spaces at random rotated."""
    pairs = list(itertools.combinations(SEEDS, 2))
    compared = {"seeds": pairs, "order": [("seed 0", "batch order 1")],
                "untrained": [(f"untrained {a}", f"untrained {b}") for a, b in pairs]}
    models = models | {f"untrained {name}": untrained(seed) for seed, name in enumerate(SEEDS)}
    centred = {}
    for name in {name for names in compared.values() for pair in names for name in pair}:
        hidden = models[name].encode(data.images)
        centred[name] = hidden - hidden.mean(0)
    generator = torch.Generator().manual_seed(0)
    found = {f"{key}-nodes": [matched(centred[a], centred[b]) for a, b in names]
             for key, names in compared.items()}
    found |= {f"{key}-space": [cosines(centred[a], centred[b]).square().mean().item()
                               for a, b in names] for key, names in compared.items()}
    found["rotated-nodes"] = [matched(centred[a], basis(centred[b]) @ rotation(generator))
                              for a, b in pairs]
    found["pca-nodes"] = [matched(centred[name], basis(scores) @ rotation(generator))
                          for name in SEEDS]
    found["pca-space"] = [cosines(centred[name], scores).square().mean().item() for name in SEEDS]
    return {"match-pairs": len(pairs),
            **{f"match-{key}": statistics.mean(values) for key, values in found.items()}}


def floor_numbers(model, pca, data):
    """The finished model's MSE, beside what no training, or only a better code, could better."""
    pixels, test = data.images.flatten(1), data.test_images.flatten(1)
    flat = pca.mean.float().clamp(-1, 1).expand_as(test)
    linear = pca.decode(pca.encode(data.test_images)).clamp(-1, 1)
    tanh = F.mse_loss(pixels.clamp(-1, 1), pixels).item()
    return {"tanh": tanh, "tanh-test": F.mse_loss(test.clamp(-1, 1), test).item(),
            "tanh-share": tanh / mse(model, data.images), "test-mse": mse(model, data.test_images),
            "bright-pixels": (pixels > 1).double().mean().item(),
            "mean-image": F.mse_loss(flat, test).item(), "pca-mse": F.mse_loss(linear, test).item()}


# --- The pictures, drawn at the size they are printed in: 6.9 inches, the width of the text ---

WIDE = 1380  # pixels, 200 to the inch


def axes_at(figure, left, top, width, height):
    """Axes at a place in the figure in pixels, from its upper left corner."""
    whole_width, whole_height = figure.get_size_inches() * utils.DPI
    return figure.add_axes([left / whole_width, 1 - (top + height) / whole_height,
                            width / whole_width, height / whole_height])


def say(figure, left, top, text, **style):
    """Text at a place in the figure in pixels, from its upper left corner."""
    width, height = figure.get_size_inches() * utils.DPI
    figure.text(left / width, 1 - top / height, text, **{"va": "top", "fontsize": 7.5} | style)


def draw_grey(figure, left, top, picture, size):
    """A normalized image, or a grid of them, `size` pixels wide, as the figures draw them."""
    pixels = utils.to_grey(picture)
    pixels = pixels.view(SIDE, SIDE) if pixels.numel() == SIDE * SIDE else pixels[0]
    axes = axes_at(figure, left, top, size, size * pixels.shape[0] / pixels.shape[1])
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")


def draw_weights(figure, left, top, weights, size, limit=None):
    axes = axes_at(figure, left, top, size, size)
    utils.draw_weights(axes, weights, limit or weights.abs().max())


def in_common(model, images):
    """What the images that fire a node have in common: the covariance of each pixel with its
    activation, (hDims, 28, 28), as in nodes.png."""
    with torch.no_grad():
        hidden = model.encode(images)
        common = (hidden - hidden.mean(0)).t() @ images.flatten(1) / len(images)
        return common.view(-1, SIDE, SIDE)


@utils.styled
def plot_node(model, common, images, node, path, heads):
    """Save a node's strip: its decoder column, what its images have in common, and eight images
    from its whole range, the middle one of each eighth; with a head over each, or without."""
    top = 32 if heads else 0
    figure = Figure(figsize=(484 / utils.DPI, (top + 118) / utils.DPI))
    for left, weights in ((0, columns(model)[node]), (122, common[node])):
        draw_weights(figure, left, top, weights, 116)
    order = model.encoder(images.flatten(1))[:, node].argsort(stable=True)
    eighths = order[[len(images) * (2 * eighth + 1) // 16 for eighth in range(8)]]
    grid = make_grid(images[eighths], 4, padding=1, pad_value=utils.WHITE)[:, 1:-1, 1:-1]
    draw_grey(figure, 250, top, grid, 232)
    for middle, head in ((58, "decoder"), (180, "in common"), (366, "least to most active")):
        say(figure, middle, 4, head if heads else "", ha="center")
    utils.save(figure, path)


@utils.styled
def plot_tree(tree, common, path):
    """Save the tree of questions: the mean image of those that a picture stands for, how many they
    are, and what the images that fire the node asked have in common; at the leaves also the
    commonest digit and its share."""
    sizes, tops, height, icon = [104, 104, 100, 92, 80], [2, 190, 378, 562, 742], 866, 58
    figure = Figure(figsize=(WIDE / utils.DPI, height / utils.DPI))
    lines = axes_at(figure, 0, 0, WIDE, height)
    lines.set(xlim=(0, WIDE), ylim=(height, 0))
    lines.axis("off")

    def draw(tree, level, index):
        slot, size, top = WIDE / 2 ** level, sizes[level], tops[level]
        middle, below = (index + 0.5) * slot, top + size + 6
        draw_grey(figure, middle - size / 2, top, tree["mean"], size)
        if "asks" not in tree:
            digit = tree["digits"].argmax().item()
            share = tree["digits"][digit].item() / tree["count"]
            say(figure, middle, below - 2, f"{tree['count']:,}\n{share:.0%} {digit}s", ha="center",
                fontsize=7)
            return
        draw_weights(figure, middle - icon / 2, below, common[tree["asks"]], icon)
        where = (middle, below + icon + 2) if level == 3 else (middle + icon / 2 + 5, below - 2)
        style = dict(ha="center", fontsize=7) if level == 3 else dict(fontsize=8, fontweight="bold")
        say(figure, *where, f"node {tree['asks']}?", **style)
        for answer, side, colour in (("no", -1, utils.BLUE), ("yes", 1, utils.ORANGE)):
            bend, end, across = middle + side * (icon / 2 + 3), middle + side * slot / 4, below + 30
            lines.plot([bend, end, end], [across, across, tops[level + 1] - 3], color=colour,
                       linewidth=1.4)
            count = f"\n{tree[answer]['count']:,}" if level < 3 else ""
            say(figure, end + side * 6, across + 3, answer + count, color=colour, linespacing=1,
                ha="right" if side < 0 else "left")
            draw(tree[answer], level + 1, 2 * index + (side > 0))

    draw(tree, 0, 0)
    say(figure, WIDE / 2 + 60, 4, f"{tree['count']:,} training images:\ntheir mean")
    utils.save(figure, path)


@utils.styled
def plot_kinds(models, rows, image, path):
    """Save three kinds of features, each column on its own scale: two models of ten nodes to the
    left, one of a hundred to the right. Below each, one image's code and reconstruction."""
    figure = Figure(figsize=(WIDE / utils.DPI, 826 / utils.DPI))
    for kind, head, left, top, across, zoom in (
            ("blobs", "10 nodes, penalty weight 0.0001: blobs", 0, 0, 5, 4),
            ("digits", "10 nodes, penalty weight 0.1: digits", 0, 420, 5, 4),
            ("strokes", "100 nodes, penalty weight 0.01: strokes", 802, 0, 10, 2)):
        model, count = models[KINDS[kind]], rows[kind]["nodes"]
        with torch.no_grad():
            hidden, reconstruction = model(image)
        say(figure, left, top + 2, head, fontsize=8, fontweight="bold")
        for node, weights in enumerate(columns(model)):
            down, right = (place * 29 * zoom for place in divmod(node, across))
            draw_weights(figure, left + right, top + 34 + down, weights, 28 * zoom)
        below = top + 34 + count // across * 29 * zoom + 10
        draw_grey(figure, left, below, image, 104)
        code = axes_at(figure, left + 132, below + 4, 322, 98)
        code.bar(range(count), hidden[0], width=0.8, color=utils.ORANGE)
        code.set(ylim=(0, 1), xlim=(-0.7, count - 0.3), yticks=[0, 1], xticks=[])
        code.tick_params(length=2, pad=1, labelsize=7.5)
        draw_grey(figure, left + 474, below, reconstruction, 104)
        for middle, text in ((52, "image"), (293, f"its code: {count} activations"),
                             (526, "returned")):
            say(figure, left + middle, below + 107, text, ha="center")
    utils.save(figure, path)


@utils.styled
def plot_shares(shares, path):
    """Save the share of each digit's images that fires each node, (nodes, 10), as a heat map."""
    figure = Figure(figsize=(620 / utils.DPI, 520 / utils.DPI))
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
    say(figure, 353, 4, "per cent of a digit's images that fire the node", ha="center", fontsize=8)
    utils.save(figure, path)


@utils.styled
def plot_ruler(marks, path):
    """Save a ruler of MSEs. marks: (value, text, where, colour); where is how far above the ruler
    the text stands, 1 or 2, or how far below it, -1 or -2."""
    figure = Figure(figsize=(WIDE / utils.DPI, 286 / utils.DPI))
    axes = axes_at(figure, 0, 0, WIDE, 286)
    axes.set(xlim=(0.285, 0.745), ylim=(-132, 154))
    axes.axis("off")
    axes.plot([0.29, 0.74], [0, 0], color="black", linewidth=1)
    axes.text(0.74, 10, "MSE of test images", fontsize=7.5, ha="right", va="bottom")
    for value, text, where, colour in marks:
        end = {1: 16, 2: 84, -1: -16, -2: -78}[where]
        axes.plot([value, value], [0, end], color=colour, linewidth=1)
        axes.plot([value], [0], "o", color=colour, markersize=4)
        axes.text(value, end + (2 if where > 0 else -2), f"{value:.3f}\n{text}", color=colour,
                  fontsize=7.5, ha="center", va="bottom" if where > 0 else "top", linespacing=1.1)
    utils.save(figure, path)


# --- The macros ---

FORMATS = {  # for the keys' numbers: the first that fits; else ".4f"
    "share": "tests.* *.fires.* bright-pixels tanh-share *.majority *.linear *.nonlinear "
             "*.leaf-digit judge-* *.clear *.none *.alone *.faint answers-keep",
    ".2%": "penalty-share",
    ".3f": "tanh-test *.looked-up *.painted *.leaf *mse *.rounded *.mean",
    ".2f": "match-* space-* start-* *.likeness *.related* rare-bits sees-*",
    ".1f": "*bits* *on predictions-others *clamp-always",
    ".0f": "*.size quiet-times",
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
    return share(value) if form == "share" else format(value, form).replace("%", r"\%")


def tables(results):
    """The rows of the tables, as LaTeX."""
    def table(rows):
        return "\n".join(" & ".join(row) + r" \\" for row in rows)

    def span(rows, key):
        """Of several rows, the lowest and the highest value."""
        if key not in rows[0]:
            return ""
        low, high = (latex(f"rows.{key}", pick(row[key] for row in rows)) for pick in (min, max))
        return low if low == high else f"{low}--{high}".replace(r"\%--", "--")

    answers = {"my nodes": results["answers"]["trained"][:1],
               "two other seeds": results["answers"]["trained"][1:],
               "three seeds, untrained": results["answers"]["untrained"],
               "principal components": results["answers"]["pca"],
               "these, five random turns": results["answers"]["rotated"]}
    weights = [["none" if row["weight"] == 0 else f"$10^{{{math.log10(row['weight']):.0f}}}$",
                *(latex(f"rows.{key}", row[key]) for key in ("mean", "on", "none", "bits")),
                f"{2 ** row['bits']:.0f}", latex("rows.mse", row["mse"])]
               for row in results["weights"]]
    return {"answers": table([name, *(span(rows, key) for key in (
                "bits", "patterns", "looked-up", "majority", "leaf", "leaf-digit", "painted",
                "nonlinear", "linear"))] for name, rows in answers.items()),
            "weights": table(weights),
            "tests": table([str(node), text, *(share(results["tests"][name][key])
                                               for key in ("before", "after", "usual", "most"))]
                           for name, (text, node, *_) in TESTS.items())}


def macros(results, keys):
    """results.json's contents as the text of results.tex: \\defresult{key}{value} for each of the
    keys, such as weights.0.bits, that are paths into it."""
    results = results | {"tables": tables(results)}

    def find(place, key):
        return functools.reduce(lambda inside, step: inside[int(step) if step.isdigit() else step],
                                key.split("."), place)

    values = {key: latex(key, find(results, key)) for key in sorted(keys)}
    return "% Written by experiments.py from results.json.\n" + "".join(
        f"\\defresult{{{key}}}{{{value}}}\n" for key, value in values.items())


def keys_used():
    """Those that codelet7.tex states as \\result{key}."""
    return set(re.findall(r"\\result\{([^}#]*)\}", (HERE / "codelet7.tex").read_text("utf-8")))


# --- All of it ---

def measure(data):
    """Train, measure, draw. Returns the results."""
    runs = {name: trained(data, name, **settings) for name, settings in RUNS.items()}
    models = {name: model for name, (model, _) in runs.items()}
    model, start, pca = models["seed 0"], untrained(SEED), PCA(data.images, HIDDEN_DIMS)
    answered, tree = answer_rows(models, pca, data)
    weights = [{"weight": weight, **firing_row(models[name], data)}
               for weight, name in WEIGHTS.items()]
    kinds = {kind: kind_row(models[name], data)
             for kind, name in {**KINDS, "loud": "100 nodes"}.items()}
    floors = floor_numbers(model, pca, data)
    last, last_mse = runs["seed 0"][1][-1]
    quiet_cost = kinds["digits"]["mse"] - kinds["blobs"]["mse"]
    mine = answered["trained"][0]
    gain = {key: floors["mean-image"] - mine[key] for key in ("looked-up", "painted")}
    numbers = {**floors, **spot_predictions(model, data.test_images),
               **favourite_numbers(model, start, data), **penalty_numbers(),
               **space_numbers(model, start, pca.components),
               **match_numbers(models, data, pca.encode(data.images)),
               **judge_numbers(model, pca, data),
               "loud-bill": last - last_mse, "penalty-share": 1 - last_mse / last,
               "quiet-cost": quiet_cost, "quiet-times": quiet_cost / (last - last_mse),
               "answers-keep": gain["looked-up"] / gain["painted"]}
    with torch.no_grad():
        fires = model.encode(data.images) > 0.5
    shares = torch.stack([fires[data.labels == digit].double().mean(0) for digit in range(10)], 1)
    losses = {"first": [runs[seed][1][0][0] for seed in SEEDS],
              "last": [runs[seed][1][-1][0] for seed in SEEDS],
              "test": [codelet7.evaluate(models[seed], data.test_images) for seed in SEEDS]}
    common = in_common(model, data.images)
    for node in PAGE_ONE:
        plot_node(model, common, data.images, node, HERE / f"node_{node}.png",
                  heads=node == PAGE_ONE[0])
    plot_tree(tree, common, HERE / "tree.png")
    plot_kinds(models, kinds, data.test_images[1:2], HERE / "kinds.png")
    plot_shares(shares, HERE / "shares.png")
    plot_ruler([
        (floors["mean-image"], "the mean image,\nwhatever comes", -1, "black"),
        (answered["untrained"][0]["looked-up"], "untrained nodes' answers,\nlooked up", 1, "black"),
        (floors["test-mse"], "my model", -1, utils.ORANGE),
        (mine["looked-up"], "my nodes' answers, looked up", -2, utils.ORANGE),
        (floors["pca-mse"], "ten principal\ncomponents", 1, "black"),
        (mine["painted"], "my nodes' activations,\npainted by a network", 2, utils.ORANGE),
        (kinds["strokes"]["mse"], "a hundred quiet nodes", -1, utils.BLUE),
        (floors["tanh-test"], "every pixel right,\nas far as tanh goes", 1, "black")],
        HERE / "ruler.png")
    return numbers | {
        "seeds": len(SEEDS),
        "losses": {key: {"mine": values[SEED], "mean": statistics.mean(values),
                         "min": min(values), "max": max(values)}
                   for key, values in losses.items()},
        "sheet": {key: codelet7.SHEET_LOSSES[epoch]
                  for key, epoch in (("first", 1), ("last", EPOCHS))},
        "tests": {name: intervention(model, data, *test) for name, (_, *test) in TESTS.items()},
        "fires": shares.tolist(), "most-digits-of-least-node": int((shares > 0.5).sum(1).min()),
        "answers": answered, "weights": weights, "kinds": kinds,
        "quiet": {"before": firing_row(untrained(SEED, kind=QuietStart), data),
                  "after": firing_row(models["quiet start"], data)},
        "untrained": firing_row(start, data),
        "running": firing_row(models["running mean, weight 1"], data)}


def load():
    """MNIST as digits.Digits, but with images as codelet7 trains on them: normalized, float32
    (n, 1, 28, 28). Or an end with one line that says why not."""
    try:
        mnist = codelet7.load_data("mnist", os.environ.get("MNIST_ROOT") or HERE.parent / "data")
    except (digits.DataError, OSError) as error:
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
        for key, losses in results["losses"].items():
            print(f"{key} loss of {results['seeds']} seeds: mean {losses['mean']:.4f}, "
                  f"{losses['min']:.4f} to {losses['max']:.4f}")
        print(f"measured in {time.perf_counter() - start:.0f} s")
    results = json.loads((HERE / "results.json").read_text("utf-8"))
    utils.write_whole(HERE / "results.tex", macros(results, keys_used()).encode())


if __name__ == "__main__":
    main()
