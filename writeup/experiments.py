"""The experiments behind codelet7.pdf.

    python -m writeup.experiments

trains the models of RUNS, measures them, and writes beside this file results.json (the numbers),
results.tex (those that codelet7.tex uses) and the figures. Training takes about half an hour on one
core; what is trained is kept in writeup/runs, and only runs that are not there are trained.

What is measured for several seeds has three results: "mine" (seed 0, the default run's), "min" and
"max". Everything fitted is fitted on the training images and evaluated on the test images.
"""

import copy
import functools
import itertools
import json
import os
import statistics

import torch
from torch.optim.optimizer import (register_optimizer_step_post_hook,
                                   register_optimizer_step_pre_hook)

import codelet7
import digits
import utils
from codelet7 import BATCH_SIZE, EPOCHS, HIDDEN_DIMS, INSTRUCTOR_LOSSES, RHO, SEED, SPARSITY_WEIGHT
from digits import STD
from utils import BACKGROUND, INK, ON
from writeup import macros, measures, plots
from writeup.measures import over_seeds

KEPT = macros.HERE / "runs"
LONG = 100  # epochs of the runs for the curve of Appendix C
LOOKS = [*range(1, EPOCHS + 1), *range(EPOCHS + 5, LONG + 1, 5)]  # the epochs that it shows
SEEDS, ALL_SEEDS = range(SEED, SEED + 3), range(SEED, SEED + 8)

THREE = dict.fromkeys(SEEDS, EPOCHS)
SIXTY = THREE | {SEED: 60}
STRONG, DECAY = {"sparsity_weight": 0.08}, {"weight_decay": 8e-5}  # UFLDL's: see penalty_numbers()
FAST = {"lr": 1e-3}
HUNDRED = {"hDims": 100, "sparsity_weight": 0.01}
RUNS = {  # name: epochs by seed; how model and training differ from those of `python codelet7.py`
    "default": (dict.fromkeys(ALL_SEEDS, EPOCHS) | dict.fromkeys(SEEDS, LONG), {}, {}),
    "no-penalty": (THREE, {"sparsity_weight": 0.0}, {}),
    "decay": (THREE, {}, DECAY),
    "strong": (SIXTY, STRONG, {}),
    "strong-decay": (SIXTY, STRONG, DECAY),
    "fast": (THREE, {}, FAST),
    "strong-fast": (SIXTY, STRONG, FAST),
    "strong-decay-fast": (SIXTY, STRONG, FAST | DECAY),
    "strong-encoder-decay-fast": (THREE, STRONG, FAST | DECAY | {"part": "encoder"}),
    "strong-decoder-decay-fast": (THREE, STRONG, FAST | DECAY | {"part": "decoder"}),
    "limit-5": ({SEED: EPOCHS}, STRONG, FAST | {"limit": 5.0}),
    "limit-10": (THREE, STRONG, FAST | {"limit": 10.0}),
    "limit-20": ({SEED: EPOCHS}, STRONG, FAST | {"limit": 20.0}),
    "limit-40": ({SEED: EPOCHS}, STRONG, FAST | {"limit": 40.0}),
    "hundred": (THREE, HUNDRED, FAST),
    "hundred-decay": (THREE, HUNDRED, FAST | {"weight_decay": 2e-5}),
    "other-order": (THREE, {}, {"order": SEED + 100}),  # the seed of the weights stays
    "linear-output": (THREE, {"linear": True}, {}),
}


class LinearOutput(codelet7.SparseAutoencoder):
    """Without the decoder's tanh."""

    def decode(self, hidden):
        return self.decoder(hidden)


# --- Data and training ---

@functools.cache
def load():
    mnist = codelet7.load_data("mnist", digits.default_root())
    return mnist._replace(images=codelet7.normalize(mnist.images),
                          test_images=codelet7.normalize(mnist.test_images))


def new_model(seed, hDims=HIDDEN_DIMS, linear=False, sparsity_weight=SPARSITY_WEIGHT):
    model = codelet7.new_model(seed, hDims, sparsity_weight=sparsity_weight)
    if linear:
        model.__class__ = LinearOutput  # with the same initial weights
    return model.requires_grad_(False)


def train(model, data, seed, epochs=EPOCHS, lr=codelet7.LEARNING_RATE, order=None, weight_decay=0.0,
          part=None, limit=None):
    """Train as codelet7's run() does. Returns the losses by epoch and the weights after each, from
    epoch 0 (untrained) on.

    order: another seed for the order of the batches. part: "encoder" or "decoder": only its weights
    and biases decay, as Adam's weight_decay would let all of them. limit: the largest norm of the
    decoder's columns, to which they are scaled down after each step.
    """
    hooks, weights = [], [copy.deepcopy(model.state_dict())]

    def decay_part(*_):
        for parameter in getattr(model, part).parameters():
            parameter.grad.add_(parameter.detach(), alpha=weight_decay)

    def limit_norm(*_):
        columns = model.decoder.weight.detach()
        columns.mul_((limit / columns.norm(dim=0)).clamp(max=1))

    if part:
        hooks.append(register_optimizer_step_pre_hook(decay_part))
    if limit:
        hooks.append(register_optimizer_step_post_hook(limit_norm))
    loader = codelet7.make_dataloader(data.images, data.labels, BATCH_SIZE)
    history = codelet7.train(
        model.requires_grad_(True), loader, epochs, lr, seed if order is None else order,
        weight_decay=0.0 if part else weight_decay,
        after_epoch=lambda *_: weights.append(copy.deepcopy(model.state_dict())))
    for hook in hooks:
        hook.remove()
    return [loss for loss, _ in history], weights


@functools.cache
def run(name, seed):
    """The losses and weights by epoch of one of RUNS: kept ones, or trained now."""
    epochs, of_model, of_training = RUNS[name]
    path, setup = KEPT / f"{name}-{seed}.pt", [epochs[seed], of_model | of_training]
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["setup"] == setup:
            return kept["losses"], kept["weights"]
    losses, weights = train(new_model(seed, **of_model), load(), seed, epochs[seed], **of_training)
    print(f"{name}, seed {seed}: {losses[0]:.4f} to {losses[-1]:.4f}", flush=True)
    KEPT.mkdir(exist_ok=True)
    torch.save({"setup": setup, "losses": losses, "weights": weights}, path)
    return losses, weights


def model_at(name, seed=SEED, epoch=EPOCHS):
    """One of RUNS as it was after an epoch."""
    model = new_model(seed, **RUNS[name][1])
    model.load_state_dict(run(name, seed)[1][epoch])
    return model


# --- What is measured, section by section ---

def measure_losses():
    """Page 1: the losses of eight seeds."""
    data = load()
    rows = []
    for seed in ALL_SEEDS:
        losses = run("default", seed)[0]
        rows.append({"first": losses[0], "last": losses[EPOCHS - 1],
                     "test": codelet7.evaluate(model_at("default", seed), data.test_images)})
    return over_seeds(rows) | {"seeds": len(rows), "instructor-first": INSTRUCTOR_LOSSES[1],
                               "instructor-last": INSTRUCTOR_LOSSES[EPOCHS]}


def model_row(model):
    """A model's test error and decoder, and how sparse its activations for training images are."""
    data = load()
    hidden, reconstruction = model.encode(data.images), model(data.test_images)[1]
    return measures.describe_activations(hidden) | {
        "mse": measures.test_mse(reconstruction, data),
        "variance-explained": codelet7.variance_explained(data.test_images, reconstruction),
        "norm": measures.mean_norm(model)}


def rows_of(name, epoch=EPOCHS):
    """model_row() of three seeds of a run, after an epoch."""
    return over_seeds([model_row(model_at(name, seed, epoch)) for seed in SEEDS])


def row_at_same_mse(name, other):
    """The row of `name` at the first epoch at which its test MSE is no higher than that of the run
    `other` at its end; seed 0."""
    mse = model_row(model_at(other))["mse"]
    for epoch in range(1, EPOCHS + 1):
        row = model_row(model_at(name, epoch=epoch))
        if row["mse"] <= mse:
            return row | {"epoch": epoch}


def measure_sparsity():
    """Page 2: what the penalty does alone, and with a limit to the decoder's norm."""
    runs = {name: rows_of(name) for name in (
        "no-penalty", "decay", "fast", "strong", "strong-decay", "strong-fast",
        "strong-decay-fast", "strong-encoder-decay-fast", "strong-decoder-decay-fast", "limit-10",
        "hundred", "hundred-decay")}
    return {
        "runs": runs | {"default": rows_of("default")},
        "longer": {name: model_row(model_at(name, epoch=60)) for name in (
            "strong", "strong-decay", "strong-fast", "strong-decay-fast")},
        "low-limit": model_row(model_at("limit-5")),
        "spread": max(100 * (rows["max"]["weak"] - rows["min"]["weak"]) for rows in runs.values()),
        "early": {name: model_row(model_at(name, epoch=1)) for name in ("fast", "strong-fast")},
        "ten-images": measures.test_mse(measures.nearest_of(10, load()), load()),
        "same-mse": {"ten": row_at_same_mse("strong", "strong-decay"),
                     "ten-fast": row_at_same_mse("strong-fast", "strong-decay-fast"),
                     "hundred": row_at_same_mse("hundred", "hundred-decay")},
        "penalty": penalty_numbers()}


def penalty_numbers():
    """The unweighted penalty of one node that is always on, and the assignment's in float32;
    UFLDL's settings in the units of this loss: there, half the squared error over pixels in 0..1,
    a penalty of weight 3 and a weight decay of 0.003 / 2 times the squared weights."""
    hidden = torch.ones(1, 1)
    rho_hat = torch.clamp(hidden, 1e-8, 1 - 1e-8)
    literal = RHO * torch.log(RHO / rho_hat) + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))
    units = 28 * 28 * STD ** 2 / 2
    return {"always": codelet7.SparseAutoencoder(1, 1).batched_sparsity_penalty(hidden).item(),
            "literal-always": str(literal.item()),  # JSON has no inf
            "ufldl": 3 / units, "ufldl-times": 3 / units / SPARSITY_WEIGHT,
            "ufldl-decay": 0.003 / units}


def norm_points(name, seed):
    """One row for each epoch of a run: norm, weak share, effective number of nodes."""
    rows = []
    for epoch in range(1, RUNS[name][0][seed] + 1):
        model = model_at(name, seed, epoch)
        hidden = model.encode(load().images)
        rows.append((measures.mean_norm(model), codelet7.weak_share(hidden),
                     measures.effective_nodes(hidden)))
    return rows


def answer_row(model):
    """A model of ten nodes: its activations, its test MSE, its lookup table."""
    data = load()
    hidden, (test_hidden, reconstruction) = model.encode(data.images), model(data.test_images)
    two_values = measures.two_values(hidden, test_hidden)
    return (measures.table_row(hidden > ON, test_hidden > ON, data)
            | {"saturated": measures.saturated(hidden),
               "mse": measures.test_mse(reconstruction, data),
               "rounded": measures.test_mse(model.decode(test_hidden.round()), data),
               "two-values": measures.test_mse(model.decode(two_values), data)})


def fitted_decoder(seed):
    """Train the default run's decoder alone to the end, with falling learning rates: how much of
    the gap between the model and its lookup table that closes."""
    data, model = load(), model_at("default", seed)
    row = answer_row(model)
    model.decoder.requires_grad_(True)
    loader = codelet7.make_dataloader(data.images, data.labels, 256)
    for lr, epochs in ((1e-2, 4), (1e-3, 2), (1e-4, 2)):
        codelet7.train(model, loader, epochs, lr, SEED, after_epoch=lambda *_: None)
    with torch.no_grad():
        mse = measures.test_mse(model(data.test_images)[1], data)
    return (row["mse"] - mse) / (row["mse"] - row["table"])


def measure_answers(curves, components, scores):
    """Appendix C: the activations as ten yes/no answers. curves: answer_row() by epoch, one dict a
    seed; components: the mean image and the principal components; scores: theirs of the training
    and of the test images."""
    data, untrained = load(), []
    for seed in SEEDS:
        encoder = new_model(seed).encoder
        train, test = encoder(data.images.flatten(1)), encoder(data.test_images.flatten(1))
        untrained.append(measures.table_row(train > 0, test > 0, data))
    train, test = scores
    return {
        "epochs": over_seeds([{str(epoch): rows[epoch] for epoch in (0, 5, EPOCHS, LONG)}
                              for rows in curves]),
        "crossing": over_seeds([min(epoch for epoch, row in rows.items()
                                    if row["mse"] < row["table"]) for rows in curves]),
        "fast": over_seeds([answer_row(model_at("fast", seed)) for seed in SEEDS]),
        "untrained": over_seeds(untrained),
        "pca": measures.table_row(train > 0, test > 0, data),
        "closed": over_seeds([fitted_decoder(seed) for seed in SEEDS]),
        "patterns": len(torch.unique(model_at("default").encode(data.images) > ON, dim=0)),
        "reference": measures.reference_numbers(components, test, data)}


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
}


def measure_nodes(shares):
    """Page 1 and Appendix A: what the default run's nodes respond to. shares: for how many of each
    digit's images each node fires."""
    data, mine, untrained = load(), model_at("default"), new_model(SEED)
    return {
        "tests": {name: measures.intervention(
            mine.encoder, data.test_images[data.test_labels == digit], node, *painted)
            for name, (node, digit, *painted) in TESTS.items()},
        "spots": over_seeds([measures.summarize_spots(measures.spot_effects(
            model.encoder, model.decoder.weight.t(), data.test_images))
            for model in (model_at("default", seed) for seed in SEEDS)]),
        "top-9-7": int(measures.count_top_digits(mine.encoder, data.images, data.labels)[9, 7]),
        "top-untrained": int(measures.count_top_digits(untrained.encoder, data.images,
                                                       data.labels).max()),
        "least-digits": int((shares > 0.5).sum(1).min()),
        "start-correlation": {part: measures.correlation(*(
            getattr(model, part).weight.view(-1, 1) for model in (mine, untrained))).item()
            for part in ("encoder", "decoder")}}


def measure_seeds():
    """Appendix B: whether models have the same nodes, and the same subspace. Control: random
    rotations."""
    data = load()
    hidden = [model_at("default", seed).encode(data.images) for seed in ALL_SEEDS]
    reordered = [model_at("other-order", seed).encode(data.images) for seed in SEEDS]
    random = [new_model(seed).encode(data.images) for seed in ALL_SEEDS]
    generator = torch.Generator().manual_seed(0)

    def rotate(values):
        basis = measures.orthonormal(values - values.mean(0))
        return basis @ measures.random_rotation(HIDDEN_DIMS, generator)

    pairs = {"seeds": [*itertools.combinations(hidden, 2)], "order": [*zip(hidden, reordered)],
             "rotated": [(a, rotate(b)) for a, b in itertools.combinations(hidden, 2)],
             "untrained": [*itertools.combinations(random, 2)]}
    return {name: {"nodes": statistics.mean(measures.node_match(a, b) for a, b in some),
                   "subspace": statistics.mean(measures.subspace_overlap(a, b) for a, b in some),
                   "pairs": len(some)} for name, some in pairs.items()}


# --- All of it ---

def measure_and_draw():
    """Train what is not kept, measure, draw. Returns the results."""
    data = load()
    curves = [{epoch: answer_row(model_at("default", seed, epoch)) for epoch in (0, *LOOKS)}
              for seed in SEEDS]
    mine = model_at("default")
    hidden = mine.encode(data.images)
    shares = utils.firing_shares(hidden, data.labels)
    mean, axes = measures.principal_components(data.images, HIDDEN_DIMS)
    scores = [(images.flatten(1).double() - mean) @ axes
              for images in (data.images, data.test_images)]
    draw(mine, hidden, curves, shares)
    return {"losses": measure_losses(), "sparsity": measure_sparsity(),
            "answers": measure_answers(curves, (mean, axes), scores),
            "nodes": measure_nodes(shares), "seeds": measure_seeds(),
            "linear-output": rows_of("linear-output")}


def draw(model, hidden, curves, shares):
    """Draw the figures: `model` is the default run's, `hidden` its activations."""
    data = load()
    covariance = utils.pixel_covariance(data.images, hidden)
    examples = utils.pick_examples(model.encoder(data.images.flatten(1)))
    for node in PAGE_ONE:
        plots.plot_node(model.decoder.weight[:, node], covariance[node],
                        data.images[examples[:, node]], macros.HERE / f"node_{node}.png",
                        heads=node == PAGE_ONE[0])
    plots.plot_norms({name: [norm_points(name, seed) for seed in RUNS[name][0]]
                      for name in plots.NORM_RUNS}, macros.HERE / "norms.png")
    plots.plot_kinds([model_at(name) for name in plots.KINDS], data.test_images[1:2],
                     macros.HERE / "kinds.png")
    tree = measures.grow_tree(hidden > ON, data.images, data.labels, 3)
    plots.plot_tree(tree, covariance, macros.HERE / "tree.png")
    plots.plot_curve(curves, EPOCHS, macros.HERE / "curve.png")
    plots.plot_shares(shares, macros.HERE / "shares.png")


def main():
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)  # as codelet7.main() does
    # Floats are cut to six digits: runs on other processors differ in the last ones.
    results = json.loads(json.dumps(measure_and_draw()),
                         parse_float=lambda text: float(f"{float(text):.6g}"))
    text = json.dumps(results, indent=1) + "\n"
    (macros.HERE / "results.json").write_text(text, encoding="utf-8", newline="\n")
    macros.write_macros()


if __name__ == "__main__":
    main()
