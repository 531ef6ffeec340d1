"""Measurements: tensors in, numbers out. Nothing here trains an autoencoder or reads a file, and no
tensor or layer that comes in may require a gradient.

A node fires for an image (it is on) if its activation is above utils.ON; its "answer" is then yes.
Answers are bool tensors `on` (n, nodes). Images are normalized, (n, 1, 28, 28) or (n, 784), also
in `data`, a digits.Digits. What is fitted is fitted on the training images given first and
evaluated on the test images.
"""

import functools
import math
import statistics

import torch
import torch.nn.functional as F

from codelet7 import weak_share
from utils import BACKGROUND, INK, ON

SIDE = 28      # pixels
SPOT = (5, 5)  # pixels, rows and columns: about as wide as a pen stroke with its soft edges


def median(values):
    """The median of a tensor. (torch.median returns the lower of two middle values.)"""
    return statistics.median(values.flatten().tolist())


def over_seeds(rows):
    """Numbers, or dicts of them (nested), one per seed, mine first -> {"mine": ..., "min": ...,
    "max": ...}."""
    def pick(choose, values):
        if isinstance(values[0], dict):
            return {key: pick(choose, [value[key] for value in values]) for key in values[0]}
        return choose(values)
    return {"mine": rows[0], "min": pick(min, rows), "max": pick(max, rows)}


# --- Activations and answers ---

def saturated(hidden):
    """The share of activations within 0.1 of 0 or 1."""
    return ((hidden - 0.5).abs() > 0.4).double().mean().item()


def describe_activations(hidden):
    """How sparse activations (n, nodes) are.

    on: nodes on per image; none: share of images with no node on; weak: share of the total
    activation that is weak.
    """
    count = (hidden > ON).sum(1)
    return {"mean": hidden.mean().item(), "on": count.double().mean().item(),
            "none": (count == 0).double().mean().item(), "weak": weak_share(hidden)}


def activation_profile(hidden, bins=20):
    """The share of the total activation of hidden (n, nodes) that comes from each of some equal
    intervals from 0 to 1: (bins,)."""
    interval = (hidden.flatten() * bins).long().clamp(max=bins - 1)
    sums = interval.bincount(hidden.flatten().double(), minlength=bins)
    return sums / sums.sum()


def pattern_numbers(on):
    """Answers (n, nodes) -> each image's pattern as one number, 0..2^nodes - 1: (n,)."""
    return (on.long() << torch.arange(on.shape[1])).sum(1)


def look_up(on, images, test_on, shrink=5):
    """Decode test images from their answers alone: reconstructions (n, 784).

    The table holds for each pattern the mean of the training images with that pattern and `shrink`
    copies of the mean image, within tanh's range.
    """
    pixels, pattern, size = images.flatten(1), pattern_numbers(on), 2 ** on.shape[1]
    sums = torch.zeros(size, pixels.shape[1]).index_add_(0, pattern, pixels)
    counts = pattern.bincount(minlength=size).unsqueeze(1)
    table = ((sums + shrink * pixels.mean(0)) / (counts + shrink)).clamp(-1, 1)
    return table[pattern_numbers(test_on)]


def test_mse(reconstruction, data):
    return F.mse_loss(reconstruction, data.test_images.flatten(1)).item()


def grow_tree(on, images, labels, depth):
    """A tree of questions about images (n, ...) with answers `on` (n, nodes).

    Returns {"mean": image, "count": n, "digits": label counts} and, above depth 0, "asks", the node
    whose answer reduces the squared error most (each answer's images against their mean), with the
    trees of the images that answer "no" and "yes".
    """
    pixels, count = images.flatten(1), len(images)
    tree = {"mean": pixels.mean(0), "count": count, "digits": labels.bincount(minlength=10)}
    if depth:
        yes, total, sums = on.sum(0), pixels.sum(0), on.to(pixels.dtype).t() @ pixels
        gain = sums.square().sum(1) / yes + (total - sums).square().sum(1) / (count - yes)
        gain[(yes == 0) | (yes == count)] = -math.inf  # every image gives the same answer
        tree["asks"] = node = gain.argmax().item()
        for answer, inside in (("no", ~on[:, node]), ("yes", on[:, node])):
            tree[answer] = grow_tree(on[inside], images[inside], labels[inside], depth - 1)
    return tree


# --- Subspaces and matches ---

def correlation(a, b):
    """Pearson correlations of the columns of a (n, k) with those of b (n, l): (k, l)."""
    a, b = (v.double() - v.double().mean(0) for v in (a, b))
    return (a / a.norm(dim=0)).t() @ (b / b.norm(dim=0))


def orthonormal(vectors):
    """An orthonormal basis of the span of the columns."""
    return torch.linalg.qr(vectors.double())[0]


def cosines(a, b):
    """The cosines of the principal angles between the spans of the columns (Bjorck and Golub 1973).
    Of centred activations they are the canonical correlations."""
    return torch.linalg.svdvals(orthonormal(a).t() @ orthonormal(b)).clamp(max=1)


def subspace_overlap(a, b):
    """The mean squared canonical correlation of two sets of activations (n, k): 1 for the same
    subspace, 0 for uncorrelated ones."""
    return cosines(a - a.mean(0), b - b.mean(0)).square().mean().item()


def node_match(a, b):
    """The mean |correlation| of two sets of activations (n, k) under the best one-to-one matching.

    Signs are ignored because the decoder can undo a flip: sigmoid(-z) = 1 - sigmoid(z), and its
    bias absorbs the 1.
    """
    score = correlation(a, b).abs().tolist()

    @functools.cache
    def best_total(free):
        """The best total for matching the last len(free) rows to the columns in `free`."""
        return max((score[-len(free)][column] + best_total(free - {column}) for column in free),
                   default=0.0)

    return best_total(frozenset(range(len(score)))) / len(score)


def random_rotation(count, generator):
    """A random orthogonal matrix (count, count): Q of a Gaussian matrix."""
    return orthonormal(torch.randn(count, count, generator=generator, dtype=torch.float64))


# --- Features ---

def mean_norm(model):
    """The mean norm of the decoder's columns, one for each node."""
    return model.decoder.weight.norm(dim=0).mean().item()


def count_top_digits(encoder, images, labels):
    """Label counts among each node's top 100 images: (nodes, 10)."""
    top = encoder(images.flatten(1)).topk(100, dim=0).indices
    return torch.stack([labels[node].bincount(minlength=10) for node in top.t()])


# --- Painting and erasing ---

def firing_if_painted(encoder, node, images, colour, size):
    """The share of images (n, 1, 28, 28) for which the node fires if a rectangle of `size` (rows,
    columns) is painted in `colour`, for each position of its upper left corner: (places down,
    places across). The pre-activation is linear: it changes by weights . (colour - pixels)."""
    weights = encoder.weight[node].view(1, 1, SIDE, SIDE)
    before = encoder(images.flatten(1))[:, node].view(-1, 1, 1)
    change = F.avg_pool2d((colour - images) * weights, size, stride=1).squeeze(1)
    return (before + math.prod(size) * change > 0).double().mean(0)  # sigmoid(0) = ON


def intervention(encoder, images, node, colour, place, size):
    """The share of images for which the node fires: unchanged ("before"), with the rectangle
    painted ("after"), and, as a control, painted where it does not overlap that place: the median
    and the most extreme position, in the direction of the effect."""
    shares = firing_if_painted(encoder, node, images, colour, size)
    before = (encoder(images.flatten(1))[:, node] > 0).double().mean().item()
    after = shares[place].item()
    down, across = torch.meshgrid(*map(torch.arange, shares.shape), indexing="ij")
    apart = shares[((down - place[0]).abs() >= size[0]) | ((across - place[1]).abs() >= size[1])]
    extreme = apart.max() if after > before else apart.min()
    return {"before": before, "after": after, "median": median(apart), "extreme": extreme.item()}


def spot_effects(encoder, features, images):
    """Test whether the decoder predicts what the encoder responds to.

    features (nodes, 784) are the decoder's weights. On a node's spot, the place where they are
    highest on average, or lowest, ink or background is painted. Returns the change of the share of
    images for which a node fires: (nodes, spots of node, 4), for ink and background at the highest
    and ink and background at the lowest spot. The prediction is more, fewer, fewer, more.
    """
    means = F.avg_pool2d(features.view(-1, 1, SIDE, SIDE), SPOT, stride=1).flatten(1)
    high, low = means.argmax(1), means.argmin(1)
    effects = []
    for node in range(len(features)):
        before = (encoder(images.flatten(1))[:, node] > 0).double().mean()
        ink, erased = (firing_if_painted(encoder, node, images, colour, SPOT).flatten() - before
                       for colour in (INK, BACKGROUND))
        effects.append(torch.stack([ink[high], erased[high], ink[low], erased[low]], 1))
    return torch.stack(effects)


def summarize_spots(effects):
    """How many of the predictions of spot_effects() hold on a node's own spots, and on average on
    another node's."""
    nodes, signs = len(effects), torch.tensor([1.0, -1.0, -1.0, 1.0])
    held, own = (effects * signs > 0).double(), torch.eye(nodes).bool()
    return {"held": int(held[own].sum()), "others-held": held[~own].sum().item() / (nodes - 1)}


# --- Reference values ---

def nearest_of(count, data, steps=30):
    """The test images, each replaced by the nearest of `count` images within tanh's range, which
    k-means finds (Lloyd's algorithm), from the first training images on: (n, 784)."""
    pixels, test = data.images.flatten(1), data.test_images.flatten(1)
    means = pixels[:count].clone()
    for _ in range(steps):
        nearest = torch.cdist(pixels, means).argmin(1)
        means = torch.stack([pixels[nearest == index].mean(0) for index in range(count)])
    means = means.clamp(-1, 1)
    return means[torch.cdist(test, means).argmin(1)]
