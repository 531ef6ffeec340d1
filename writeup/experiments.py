"""The experiments behind codelet7.pdf.

    python -m writeup.experiments             trains the models, measures them, draws the figures
    python -m writeup.experiments --macros    writes results.tex again, from results.json

It writes beside this file results.json (the numbers), results.tex (those that codelet7.tex uses)
and the figures node_*, tree, curve, kinds and shares (png), in about 25 minutes on one core.

What is trained with several seeds has three results: "mine" (seed 0, the default run's), "min" and
"max". Everything fitted is fitted on the training images and evaluated on the test images.
"""

import copy
import itertools
import json
import os
import statistics
import sys

import torch
from torch import nn

import codelet7
import digits
import utils
from codelet7 import (BATCH_SIZE, EPOCHS, HIDDEN_DIMS, INSTRUCTOR_LOSSES, LEARNING_RATE, RHO, SEED,
                      SPARSITY_WEIGHT, SparseAutoencoder, variance_explained)
from digits import STD
from utils import BACKGROUND, INK, ON
from writeup import macros, measures, plots
from writeup.measures import over_seeds

LONG = 100          # epochs of the runs for the curve
LOOKS = [*range(1, EPOCHS + 1), *range(EPOCHS + 5, LONG + 1, 5)]  # the epochs that it shows
SEEDS, ALL_SEEDS = range(SEED, SEED + 3), range(SEED, SEED + 8)
LONGER = {"lr": 1e-3}  # ten times as large steps: trained further in the same 20 epochs


class LinearOutput(SparseAutoencoder):
    """Without the decoder's tanh."""

    def decode(self, hidden):
        return self.decoder(hidden)


class SparseStart(SparseAutoencoder):
    """Initialized so that nodes are almost always off."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        nn.init.constant_(self.encoder.bias, -3)


class RunningMean(SparseAutoencoder):
    """Applies the penalty to a moving average over about 100 batches; the gradient still flows
    through the batch mean."""
    running = None

    def batched_sparsity_penalty(self, hidden):
        mean = hidden.mean(0, dtype=torch.float64)
        old = mean.detach() if self.running is None else self.running
        self.running = 0.99 * old + 0.01 * mean.detach()
        seen = mean + (self.running - mean).detach()
        return super().batched_sparsity_penalty(seen.unsqueeze(0)).to(hidden.dtype)


MODELS = {  # name: its seeds, and what differs from `python codelet7.py`, which is "dense"
    "no-penalty": ([SEED], {"weight": 0.0}),
    "weight-1e-2": ([SEED], {"weight": 1e-2}),
    "weight-1e-1": (SEEDS, {"weight": 1e-1}),
    "weight-1": (SEEDS, {"weight": 1.0}),
    "dense-longer": (SEEDS, LONGER),
    "weight-1e-1-longer": (SEEDS, {"weight": 1e-1} | LONGER),
    "weight-1-longer": (SEEDS, {"weight": 1.0} | LONGER),
    "hundred-longer": (SEEDS, {"nodes": 100} | LONGER),
    "hundred-weight-1e-2-longer": (SEEDS, {"nodes": 100, "weight": 1e-2} | LONGER),
    "linear-output": (SEEDS, {"kind": LinearOutput}),
    "sparse-start": (SEEDS, {"kind": SparseStart}),
    "running-mean-weight-1": (SEEDS, {"kind": RunningMean, "weight": 1.0}),
    "running-mean-weight-1-longer": (SEEDS, {"kind": RunningMean, "weight": 1.0} | LONGER),
    "other-order": (SEEDS, {"order": SEED + 100}),  # the seed of the weights stays
}
KINDS = {  # the models of kinds.png, and their heads there
    "dense": "my run: weight 1e-4, lr 1e-4", "dense-longer": "10 nodes, weight 1e-4, lr 1e-3",
    "weight-1e-1": "10 nodes, weight 0.1, lr 1e-4",
    "weight-1e-1-longer": "10 nodes, weight 0.1, lr 1e-3",
    "hundred-weight-1e-2-longer": "100 nodes, weight 0.01, lr 1e-3"}

PAGE_ONE = [1, 2, 7, 9]  # the nodes of the first page
TESTS = {  # name: node, digit, colour painted, and its rectangle's upper left corner and size
    "foot-erased": (1, 2, BACKGROUND, (18, 0), (6, 28)),
    "foot-painted": (1, 7, INK, (19, 8), (3, 13)),
    "stroke-erased": (2, 8, BACKGROUND, (12, 12), (8, 4)),
    "stroke-painted": (2, 0, INK, (12, 12), (8, 4)),
    "bar-painted": (7, 7, INK, (14, 8), (3, 13)),
    "left-bar-painted": (7, 7, INK, (14, 8), (3, 6)),
    "right-bar-painted": (7, 7, INK, (14, 15), (3, 6)),
    "corner-erased": (9, 2, BACKGROUND, (18, 16), (6, 9)),
    "corner-painted": (9, 7, INK, (18, 17), measures.SPOT),
    "lower-left-erased": (6, 6, BACKGROUND, (14, 4), (8, 9)),
}


# --- Data and training ---

def load():
    mnist = codelet7.load_data("mnist", digits.default_root())
    return measures.Normalized(codelet7.normalize(mnist.images), mnist.labels,
                               codelet7.normalize(mnist.test_images), mnist.test_labels)


def new_model(seed=SEED, kind=SparseAutoencoder, nodes=HIDDEN_DIMS, weight=SPARSITY_WEIGHT):
    torch.manual_seed(seed)
    return kind(28 * 28, nodes, sparsity_weight=weight)


def untrained(seed=SEED, kind=SparseAutoencoder):
    return new_model(seed, kind).requires_grad_(False)


def train(model, data, seed, lr=LEARNING_RATE, epochs=EPOCHS, look=lambda *_: None):
    """Train as codelet7's run() does. seed fixes the order of the batches; look is called after
    each epoch. Returns one (loss, mse) per epoch."""
    loader = codelet7.make_dataloader(data.images, data.labels, BATCH_SIZE)
    history = codelet7.train(model, loader, epochs, lr, seed, after_epoch=look)
    model.requires_grad_(False)
    return history


def train_named(name, seed, data):
    """Train one of MODELS. Returns the model."""
    settings = dict(MODELS[name][1])
    lr, order = settings.pop("lr", LEARNING_RATE), settings.pop("order", seed)
    model = new_model(seed, **settings)
    history = train(model, data, order, lr)
    print(f"{name}, seed {seed}: {history[0][0]:.4f} to {history[-1][0]:.4f}", flush=True)
    return model


def train_curve(seed, data):
    """Train the default model for LONG epochs. Returns it as it was after EPOCHS and after LONG,
    its history, and {epoch: measurements} for the curve, from epoch 0 (untrained) on."""
    model, kept = new_model(seed), []
    rows = {0: answer_row(model, data)}

    def look(epoch, *_):
        if epoch in LOOKS:
            rows[epoch] = answer_row(model, data)
        if epoch == EPOCHS:
            kept.append(copy.deepcopy(model).requires_grad_(False))

    history = train(model, data, seed, epochs=LONG, look=look)
    print(f"curve, seed {seed}: {history[0][0]:.4f}, {history[EPOCHS - 1][0]:.4f} after {EPOCHS} "
          f"epochs, {history[-1][0]:.4f} after {LONG}", flush=True)
    return kept[0], model, history[:EPOCHS], rows


def mean_start_row(seed, data):
    """A control for the first epoch: the activations after it if the decoder starts at the mean
    image, through its bias, for nodes that are half on."""
    model = new_model(seed)
    mean = data.images.flatten(1).mean(0).clamp(-0.99, 0.99)
    with torch.no_grad():
        model.decoder.bias.copy_(torch.atanh(mean) - model.decoder.weight.sum(1) / 2)
    train(model, data, seed, epochs=1)
    return measures.describe_activations(model.encode(data.images))


# --- What is measured ---

def model_row(model, data):
    """A model's test error, penalty and features, and how sparse its activations for the training
    images are."""
    hidden, reconstruction = model.encode(data.images), model(data.test_images)[1]
    features, quarter = model.decoder.weight.t().double(), hidden > 0.25
    return measures.describe_activations(hidden) | {
        "mse": measures.test_mse(reconstruction, data),
        "variance-explained": variance_explained(data.test_images, reconstruction),
        "penalty": (model.sparsity_weight
                    * SparseAutoencoder.batched_sparsity_penalty(model, hidden).item()),
        "likeness": measures.median(
            measures.digit_likeness(features, data.images, data.labels)),
        "size": measures.median(measures.feature_sizes(features)),
        "rounded": measures.test_mse(model.decode(model.encode(data.test_images).round()), data),
        "patterns": 2 ** measures.entropy_bits(hidden > ON),  # the effective number
        "bits-most": measures.entropy_bound_bits(hidden > ON),
        "quarter-l0": quarter.sum(1).double().mean().item(),
        "quarter-bits": measures.entropy_bits(quarter),
        "quarter-bits-most": measures.entropy_bound_bits(quarter)}


def model_rows(models, data):
    """{name: model_row() of each seed}, with the test MSE relative to that of the dense model which
    was trained as long."""
    rows = {name: [model_row(model, data) for model in some] for name, some in models.items()}
    for name, some in rows.items():
        dense = rows["dense-longer" if name.endswith("-longer") else "dense"]
        for row, base in zip(some, dense):
            row["over-dense"] = row["mse"] - base["mse"]
    return rows


@torch.no_grad()
def answer_row(model, data):
    """A model of ten nodes during training: its activations, its test MSE, its lookup table."""
    hidden, (test_hidden, reconstruction) = model.encode(data.images), model(data.test_images)
    return (measures.describe_activations(hidden)
            | measures.table_row(hidden > ON, test_hidden > ON, data)
            | {"mse": measures.test_mse(reconstruction, data),
               "variance-explained": variance_explained(data.test_images, reconstruction)})


def answer_controls(pca, data):
    """Lookup tables for other answers: untrained nodes, the same with their thresholds at their
    medians, principal components, random rotations of these."""
    half, medians = [], []
    for seed in SEEDS:
        encoder = untrained(seed).encoder
        train, test = encoder(data.images.flatten(1)), encoder(data.test_images.flatten(1))
        middle = train.quantile(0.5, dim=0)
        half.append(measures.table_row(train > 0, test > 0, data))
        medians.append(measures.table_row(train > middle, test > middle, data))
    train, test = pca
    generator = torch.Generator().manual_seed(0)
    turns = [measures.random_rotation(HIDDEN_DIMS, generator) for _ in range(5)]
    return {"untrained": over_seeds(half), "medians": over_seeds(medians),
            "pca": measures.table_row(train > 0, test > 0, data),
            "rotated": over_seeds([measures.table_row(train @ turn > 0, test @ turn > 0, data)
                                   for turn in turns])}


def fitted_decoder(model, row, data):
    """Train the decoder alone to the end, with falling learning rates: its test MSE, and how much
    of the gap between the model and its lookup table that closes. (L-BFGS on all images at once
    ends within 0.0002.)"""
    model = copy.deepcopy(model)
    model.decoder.requires_grad_(True)
    loader = codelet7.make_dataloader(data.images, data.labels, 256)
    for lr, epochs in ((1e-2, 4), (1e-3, 2), (1e-4, 2)):
        codelet7.train(model, loader, epochs, lr, SEED, after_epoch=lambda *_: None)
    with torch.no_grad():
        mse = measures.test_mse(model(data.test_images)[1], data)
    return {"mse": mse, "closed": (row["mse"] - mse) / (row["mse"] - row["table"])}


def classifier_rows(models, later, data):
    """How well reconstructions of test images are classified, by a network trained on images
    (unfamiliar) and by one trained on the training images' reconstructions (familiar). later: a
    model after LONG epochs, for the first one."""
    reader, rows = measures.fit_classifier(data.images.flatten(1), data.labels), []
    for model in models:
        own = measures.fit_classifier(model(data.images)[1], data.labels)
        rows.append({"unfamiliar": measures.classify(reader, model(data.test_images)[1], data),
                     "familiar": measures.classify(own, model(data.test_images)[1], data),
                     "familiar-originals": measures.classify(own, data.test_images, data)})
    return over_seeds(rows) | {
        "originals": measures.classify(reader, data.test_images, data),
        "later": measures.classify(reader, later(data.test_images)[1], data)}


def penalty_numbers():
    """The unweighted penalty of one node, by its mean activation, and expected over batches if it
    is on for one image in twenty; the pitfall in float32; UFLDL's weight in this loss's units."""
    def penalty(rho_hat):
        hidden = torch.full((1, 1), rho_hat, dtype=torch.float64)
        return SparseAutoencoder(1, 1, rho=RHO).batched_sparsity_penalty(hidden).item()

    rare, empty = measures.expected_penalty(penalty, RHO, BATCH_SIZE)
    rho_hat = torch.clamp(torch.ones(1), 1e-8, 1 - 1e-8)
    literal = RHO * torch.log(RHO / rho_hat) + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))
    ufldl = 2 * 3 / (28 * 28 * STD ** 2)  # half the squared error over pixels in 0..1, weight 3
    return {"rare": rare, "empty-share": empty / rare, "empty-batches": (1 - RHO) ** BATCH_SIZE,
            "half": penalty(0.5), "never": penalty(0.0), "always": penalty(1.0),
            "literal-always": str(literal.item()),  # JSON has no inf
            "rare-bits": measures.entropy_bound_bits(torch.arange(20).unsqueeze(1) == 0),
            "ufldl": ufldl, "ufldl-times": ufldl / SPARSITY_WEIGHT}


def match_numbers(models, reordered, pca, data):
    """Whether models have the same nodes, and the same subspace. Controls: random rotations."""
    hidden = [model.encode(data.images) for model in models]
    random = [untrained(seed).encode(data.images) for seed in ALL_SEEDS]
    generator = torch.Generator().manual_seed(0)

    def rotate(values):
        basis = measures.orthonormal(values - values.mean(0))
        return basis @ measures.random_rotation(HIDDEN_DIMS, generator)

    pairs = {"seeds": [*itertools.combinations(hidden, 2)],
             "order": [(a, b.encode(data.images)) for a, b in zip(hidden, reordered)],
             "rotated": [(a, rotate(b)) for a, b in itertools.combinations(hidden, 2)],
             "pca": [(some, rotate(pca[0])) for some in hidden],
             "untrained": [*itertools.combinations(random, 2)]}
    return {name: {"nodes": statistics.mean(measures.node_match(a, b) for a, b in some),
                   "subspace": statistics.mean(measures.subspace_overlap(a, b) for a, b in some),
                   "pairs": len(some)} for name, some in pairs.items()}


# --- All of it ---

def measure(data):
    """Train, measure, draw. Returns the results."""
    curves = [train_curve(seed, data) for seed in SEEDS]
    dense, finished, histories, rows = map(list, zip(*curves))
    models = {"dense": dense} | {name: [train_named(name, seed, data) for seed in seeds]
                                 for name, (seeds, _) in MODELS.items()}
    all_dense = dense + [new_model(seed) for seed in ALL_SEEDS[len(SEEDS):]]
    histories += [train(model, data, seed)
                  for seed, model in zip(ALL_SEEDS, all_dense) if seed not in SEEDS]
    components = measures.principal_components(data.images, HIDDEN_DIMS)
    pca = [(images.flatten(1).double() - components[0]) @ components[1]
           for images in (data.images, data.test_images)]
    mine, rows_at_end = dense[0], [row[EPOCHS] for row in rows]
    hidden = mine.encode(data.images)
    shares = utils.firing_shares(hidden, data.labels)
    related = measures.correlation(hidden > ON, hidden > ON).abs().fill_diagonal_(0)
    curve = over_seeds([{str(epoch): row for epoch, row in some.items()} for some in rows])
    draw(mine, hidden, curve, shares, [models[name][0] for name in KINDS], data)
    return {
        "seeds": len(ALL_SEEDS),
        "instructor": {"first": INSTRUCTOR_LOSSES[1], "last": INSTRUCTOR_LOSSES[EPOCHS]},
        "losses": over_seeds([{"first": history[0][0], "last": history[-1][0],
                               "test": codelet7.evaluate(model, data.test_images)}
                              for history, model in zip(histories, all_dense)]),
        "curve": curve,
        "crossing": over_seeds([min(epoch for epoch, row in some.items()
                                    if row["mse"] < row["table"]) for some in rows]),
        "decoder": over_seeds([fitted_decoder(*pair, data) for pair in zip(dense, rows_at_end)]),
        "models": {name: over_seeds(some) for name, some in model_rows(models, data).items()},
        "sparse-start": model_row(untrained(kind=SparseStart), data),
        "mean-start": over_seeds([mean_start_row(seed, data) for seed in SEEDS]),
        "answers": answer_controls(pca, data),
        "answer-correlation": related.sum().item() / (HIDDEN_DIMS * (HIDDEN_DIMS - 1)),
        "classifier": classifier_rows(dense, finished[0], data),
        "tests": {name: measures.intervention(
            mine.encoder, data.test_images[data.test_labels == digit], node, *painted)
            for name, (node, digit, *painted) in TESTS.items()},
        "spots": over_seeds([measures.summarize_spots(measures.spot_effects(
            model.encoder, model.decoder.weight.t(), data.test_images)) for model in dense]),
        "shift": over_seeds([measures.shift_changes(model.encode, data.test_images)
                             for model in dense]),
        "top": {str(node): dict(zip("0123456789", counts)) for node, counts in enumerate(
            measures.count_top_digits(mine.encoder, data.images, data.labels).tolist())},
        "top-untrained": over_seeds([
            int(measures.count_top_digits(untrained(seed).encoder, data.images, data.labels).max())
            for seed in SEEDS]),
        "least-digits": int((shares > 0.5).sum(1).min()),
        "start-correlation": {part: measures.correlation(*(
            getattr(model, part).weight.view(-1, 1) for model in (mine, untrained()))).item()
            for part in ("encoder", "decoder")},
        "match": match_numbers(all_dense, models["other-order"], pca, data),
        "penalty": penalty_numbers(),
        "reference": measures.reference_numbers(components, pca[1], data)}


def draw(model, hidden, curve, shares, kinds, data):
    """Draw the figures."""
    covariance = utils.pixel_covariance(data.images, hidden)
    examples = utils.pick_examples(model.encoder(data.images.flatten(1)))
    for node in PAGE_ONE:
        plots.plot_node(model.decoder.weight[:, node], covariance[node],
                        data.images[examples[:, node]], macros.HERE / f"node_{node}.png",
                        heads=node == PAGE_ONE[0])
    tree = measures.grow_tree(hidden > ON, data.images, data.labels, 4)
    plots.plot_tree(tree, covariance, macros.HERE / "tree.png")
    plots.plot_curve(curve, EPOCHS, macros.HERE / "curve.png")
    plots.plot_kinds(kinds, KINDS.values(), data.test_images[1:2], macros.HERE / "kinds.png")
    plots.plot_shares(shares, macros.HERE / "shares.png")


def main():
    if "--macros" not in sys.argv:
        if not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(1)  # as codelet7.main() does
        # Floats are cut to six digits: runs on other processors differ in the last ones.
        results = json.loads(json.dumps(measure(load())),
                             parse_float=lambda text: float(f"{float(text):.6g}"))
        text = json.dumps(results, indent=1) + "\n"
        (macros.HERE / "results.json").write_text(text, encoding="utf-8", newline="\n")
        print(f"losses of {results['seeds']} seeds: {results['losses']}")
    macros.write_macros()


if __name__ == "__main__":
    main()
