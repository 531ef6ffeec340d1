"""The experiments behind codelet7.pdf.

    python -m writeup.experiments

trains the models of RUNS, measures them, and writes beside this file results.json (the numbers),
results.tex (those that codelet7.tex uses) and the figures. Training takes about 40 minutes on one
core; what is trained is kept in writeup/runs, and only runs that are not there are trained.

What is measured for several seeds has three results: "mine" (seed 0, the default run's), "min" and
"max". Everything fitted is fitted on the training images and evaluated on the test images.
"""

import contextlib
import copy
import functools
import itertools
import json
import os
import statistics

import numpy as np
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
LONG = 100  # epochs of the run for the curve of Appendix C
LOOKS = [*range(1, EPOCHS + 1), *range(EPOCHS + 5, LONG + 1, 5)]  # the epochs that it shows
SEEDS, ALL_SEEDS = range(SEED, SEED + 3), range(SEED, SEED + 8)

ONE, THREE = {SEED: EPOCHS}, dict.fromkeys(SEEDS, EPOCHS)
STRONG, FAST = {"sparsity_weight": 0.08}, {"lr": 1e-3}  # 0.08 is UFLDL's: see penalty_numbers()
DECAY, LIMIT = {"weight_decay": 8e-5}, {"limit": 10.0}
HUNDRED = {"hDims": 100, "sparsity_weight": 0.01}
RUNS = {  # name: epochs by seed; how model and training differ from those of `python codelet7.py`
    "blobs": (dict.fromkeys(ALL_SEEDS, EPOCHS) | {SEED: LONG}, {}, {}),
    "fast": (THREE, {}, FAST),
    "fast-decay": (THREE, {}, FAST | DECAY),
    "whispers": (THREE, STRONG, FAST),
    "digits": (THREE, STRONG, FAST | DECAY),
    "hundred": (THREE, HUNDRED, FAST),
    "strokes": (THREE, HUNDRED, FAST | {"weight_decay": 2e-5}),
    # The switch: a second stage of training goes on from the final weights of another run.
    "limited": (THREE, STRONG, FAST | LIMIT),
    "whispers-limited": (THREE, STRONG, FAST | LIMIT | {"start": "whispers"}),
    "limited-freed": (THREE, STRONG, FAST | {"start": "limited"}),
    "whispers-decay": (ONE, STRONG, FAST | DECAY | {"start": "whispers"}),
    # Controls of the switch: nothing is switched; the norm is large from the first step on.
    "whispers-on": (ONE, STRONG, FAST | {"start": "whispers"}),
    "limited-on": (ONE, STRONG, FAST | LIMIT | {"start": "limited"}),
    "fixed": (ONE, STRONG, FAST | {"norm": 40.0}),
    # Other controls.
    "no-penalty": (ONE, {"sparsity_weight": 0.0}, {}),
    "slow": ({SEED: 60}, STRONG, {}),
    "winner": (ONE, STRONG | {"variant": "winner"}, FAST),
    "encoder-decay": (ONE, STRONG, FAST | DECAY | {"part": "encoder"}),
    "decoder-decay": (ONE, STRONG, FAST | DECAY | {"part": "decoder"}),
    "decay-8e-6": (ONE, STRONG, FAST | {"weight_decay": 8e-6}),
    "decay-8e-4": (ONE, STRONG, FAST | {"weight_decay": 8e-4}),
    "linear-output": (ONE, {"variant": "linear"}, {}),
    **{f"rho-{rho}": (ONE, STRONG | {"rho": rho}, FAST | DECAY) for rho in (0.01, 0.2)},
    **{f"weight-{weight}": (ONE, {"sparsity_weight": weight}, FAST | DECAY)
       for weight in (0.01, 0.2)},
}


class LinearOutput(codelet7.SparseAutoencoder):
    """Without the decoder's tanh."""

    def decode(self, hidden):
        return self.decoder(hidden)


class OneWinner(codelet7.SparseAutoencoder):
    """The decoder sees only the most active node of each image; the penalty sees all nodes."""

    def decode(self, hidden):
        return super().decode(hidden * (hidden == hidden.amax(1, keepdim=True)))


VARIANTS = {"linear": LinearOutput, "winner": OneWinner}


# --- Data and training ---

@functools.cache
def load():
    mnist = codelet7.load_data("mnist", digits.default_root())
    return mnist._replace(images=codelet7.normalize(mnist.images),
                          test_images=codelet7.normalize(mnist.test_images))


def new_model(seed, hDims=HIDDEN_DIMS, variant=None, **settings):
    """An untrained model, as codelet7 makes it; a variant has the same initial weights."""
    model = codelet7.new_model(seed, hDims, **settings)
    model.__class__ = VARIANTS.get(variant, type(model))
    return model.requires_grad_(False)


def train(model, data, seed, epochs=EPOCHS, lr=codelet7.LEARNING_RATE, weight_decay=0.0, part=None,
          limit=None, norm=None):
    """Train as codelet7's run() does. Returns (loss, mse) by epoch and the weights after each, from
    epoch 0 (untrained) on.

    part: "encoder" or "decoder": only its weights and biases decay, as Adam's weight_decay would
    let all of them. limit, norm: after each step, each of the decoder's columns is scaled down to
    a norm of at most `limit`, or scaled to `norm`.
    """
    weights = [copy.deepcopy(model.state_dict())]

    def decay_part(*_):
        for parameter in getattr(model, part).parameters():
            parameter.grad.add_(parameter.detach(), alpha=weight_decay)

    def scale_columns(*_):
        columns = model.decoder.weight.detach()
        factor = (norm or limit) / columns.norm(dim=0)
        columns.mul_(factor if norm else factor.clamp(max=1))

    with contextlib.ExitStack() as hooks:
        if part:
            hooks.callback(register_optimizer_step_pre_hook(decay_part).remove)
        if limit or norm:
            hooks.callback(register_optimizer_step_post_hook(scale_columns).remove)
        loader = codelet7.make_dataloader(data.images, data.labels, BATCH_SIZE)
        history = codelet7.train(
            model.requires_grad_(True), loader, epochs, lr, seed,
            weight_decay=0.0 if part else weight_decay,
            after_epoch=lambda *_: weights.append(copy.deepcopy(model.state_dict())))
    return history, weights


def setup(name, seed):
    """What the result of a run depends on: its epochs and settings, and its start's."""
    epochs, of_model, of_training = RUNS[name]
    start = of_training.get("start")
    return [epochs[seed], of_model, of_training, start and setup(start, seed)]


@functools.cache
def run(name, seed):
    """(loss, mse) and the weights by epoch of one of RUNS: kept ones, or trained now."""
    path, (epochs, of_model, of_training, _) = KEPT / f"{name}-{seed}.pt", setup(name, seed)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["setup"] == setup(name, seed):
            return kept["history"], kept["weights"]
    options, model = dict(of_training), new_model(seed, **of_model)
    if start := options.pop("start", None):
        model = model_at(start, seed, RUNS[start][0][seed])
    history, weights = train(model, load(), seed, epochs, **options)
    print(f"{name}, seed {seed}: {history[0][0]:.4f} to {history[-1][0]:.4f}", flush=True)
    KEPT.mkdir(exist_ok=True)
    torch.save({"setup": setup(name, seed), "history": history, "weights": weights}, path)
    return history, weights


def model_at(name, seed=SEED, epoch=EPOCHS):
    """One of RUNS as it was after an epoch."""
    model = new_model(seed, **RUNS[name][1])
    model.load_state_dict(run(name, seed)[1][epoch])
    return model


# --- What is measured, section by section ---

def measure_losses():
    """Page 1: the losses of eight seeds, and the best that a tanh output allows."""
    data = load()
    rows, test = [], data.test_images.flatten(1)
    for seed in ALL_SEEDS:
        losses = [loss for loss, _ in run("blobs", seed)[0]]
        rows.append({"first": losses[0], "last": losses[EPOCHS - 1],
                     "test": codelet7.evaluate(model_at("blobs", seed), data.test_images)})
    loss, mse = run("blobs", SEED)[0][EPOCHS - 1]
    example = torch.tensor([[.3, 0, .1], [.2, 0, .2], [.5, 0, .1], [.5, 0, .3], [.5, 0, .3]])
    return over_seeds(rows) | {
        "seeds": len(rows), "instructor-first": INSTRUCTOR_LOSSES[1],
        "instructor-last": INSTRUCTOR_LOSSES[EPOCHS], "penalty-part": loss - mse,
        "example": new_model(SEED, rho=0.05).batched_sparsity_penalty(example).item(),
        "tanh": measures.test_mse(test.clamp(-1, 1), data),
        "tanh-explained": codelet7.variance_explained(test, test.clamp(-1, 1))}


def model_row(model):
    """A model's test error and decoder, and how sparse its activations for training images are."""
    data = load()
    hidden, reconstruction = model.encode(data.images), model(data.test_images)[1]
    return measures.describe_activations(hidden) | {
        "mse": measures.test_mse(reconstruction, data),
        "variance-explained": codelet7.variance_explained(data.test_images, reconstruction),
        "norm": measures.mean_norm(model)}


def rows_of(name, epoch=EPOCHS):
    """model_row() of all seeds of a run, after an epoch."""
    seeds = [seed for seed in SEEDS if seed in RUNS[name][0]]
    return over_seeds([model_row(model_at(name, seed, epoch)) for seed in seeds])


@functools.cache
def weak_by_epoch(name, seed=SEED):
    """The weak share after each epoch of a run, from 0 (its start) on: a list."""
    return [codelet7.weak_share(model_at(name, seed, epoch).encode(load().images))
            for epoch in range(RUNS[name][0][seed] + 1)]


def weak_at_mse(rows, mse):
    """The weak share of a run at some test MSE, interpolated between epochs. rows: model_row() by
    epoch, with falling test MSE."""
    return float(np.interp(mse, *zip(*sorted((row["mse"], row["weak"]) for row in rows))))


def measure_switch():
    """Page 2: the weak share before a switch, one epoch after it, and at the end, for the seeds of
    a run; and of a norm that is large from the first step on."""
    shares = {name: over_seeds([dict(zip(("before", "next", "end"), (weak[0], weak[1], weak[-1])))
                                for weak in (weak_by_epoch(name, seed) for seed in RUNS[name][0])])
              for name in ("whispers-limited", "limited-freed", "whispers-decay", "whispers-on",
                           "limited-on")}
    fixed = weak_by_epoch("fixed")
    return shares | {"fixed": {str(epoch): fixed[epoch] for epoch in (1, 5, EPOCHS)}}


def weak_drawing(model):
    """How much a weak activation draws: the root mean square change of the test images' pixels if a
    node below 0.1 is raised by 0.1."""
    hidden, reconstruction = model(load().test_images)
    changes = []
    for node, activation in enumerate(hidden.t()):
        silent = activation < 0.1
        raised = hidden[silent]
        raised[:, node] += 0.1
        changes.append((model.decode(raised) - reconstruction[silent]).flatten())
    return torch.cat(changes).square().mean().sqrt().item()


def measure_sparsity():
    """Page 2: what the penalty does alone, and with a limit on the decoder's norm."""
    runs = {name: rows_of(name) for name in RUNS if not name.startswith(("rho-", "weight-"))}
    grid = [model_row(model_at(name)) for name in RUNS
            if name == "digits" or name.startswith(("rho-", "weight-"))]
    slow = weak_by_epoch("slow")
    free = [model_row(model_at("whispers", epoch=epoch)) for epoch in range(1, EPOCHS + 1)]
    hundred = [model_row(model_at("hundred", epoch=epoch)) for epoch in range(1, EPOCHS + 1)]
    return {
        "runs": runs, "switch": measure_switch(),
        "early": {"whispers": free[0]},
        "slow": {str(epoch): slow[epoch] for epoch in (1, EPOCHS, 60)}
        | {"least": min(slow[1:]), "least-epoch": slow.index(min(slow[1:]))},
        "grid": {key: {"min": min(row[key] for row in grid), "max": max(row[key] for row in grid)}
                 for key in ("weak", "on")},
        "same-mse": {"hundred": weak_at_mse(hundred, runs["strokes"]["mine"]["mse"])},
        "spread": max(100 * (rows["max"]["weak"] - rows["min"]["weak"]) for rows in runs.values()),
        "weak-drawing": {name: weak_drawing(model_at(name)) for name in ("limited", "whispers")},
        "parts": {name: {"penalty": loss - mse, "mse": mse} for name in ("limited", "whispers")
                  for loss, mse in run(name, SEED)[0][-1:]},
        "at-norm-40": float(np.interp(40, [row["norm"] for row in free],
                                      [row["weak"] for row in free])),
        "mean-image": measures.test_mse(load().images.mean(0).flatten().clamp(-1, 1).expand(
            len(load().test_images), -1), load()),
        "ten-images": measures.test_mse(measures.nearest_of(10, load()), load()),
        "penalty": penalty_numbers()}


def penalty_numbers():
    """The unweighted penalty of one node that is always on, and the assignment's in float32;
    UFLDL's penalty weight in the units of this loss: there, half the squared error over pixels in
    0..1 and a penalty of weight 3."""
    hidden = torch.ones(1, 1)
    rho_hat = torch.clamp(hidden, 1e-8, 1 - 1e-8)
    literal = RHO * torch.log(RHO / rho_hat) + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))
    units = 28 * 28 * STD ** 2 / 2
    return {"always": codelet7.SparseAutoencoder(1, 1).batched_sparsity_penalty(hidden).item(),
            "literal-always": str(literal.item()),  # JSON has no inf
            "ufldl": 3 / units, "ufldl-times": 3 / units / SPARSITY_WEIGHT}


def answer_row(model):
    """A model of ten nodes: its activations, its test MSE, its lookup table's."""
    data = load()
    hidden, (test_hidden, reconstruction) = model.encode(data.images), model(data.test_images)
    table = measures.look_up(hidden > ON, data.images, test_hidden > ON)
    return {"saturated": measures.saturated(hidden), "table": measures.test_mse(table, data),
            "mse": measures.test_mse(reconstruction, data)}


def measure_answers(curve):
    """Appendix C: the activations as ten yes/no answers. curve: answer_row() by epoch."""
    return {
        "epochs": {str(epoch): curve[epoch] for epoch in (5, EPOCHS, LONG)},
        "crossing": min(epoch for epoch, row in curve.items() if row["mse"] < row["table"]),
        "patterns": len(torch.unique(model_at("blobs").encode(load().images) > ON, dim=0))}


PAGE_ONE = [1, 2, 7, 9]  # the nodes of the first page
TESTS = {  # name: node, digit, colour painted, and its rectangle's upper left corner and size
    "foot-erased": (1, 2, BACKGROUND, (18, 0), (6, 28)),
    "foot-painted": (1, 7, INK, (19, 8), (3, 13)),
    "stroke-erased": (2, 8, BACKGROUND, (12, 12), (8, 4)),
    "stroke-painted": (2, 0, INK, (12, 12), (8, 4)),
    "right-painted": (2, 8, INK, (1, 19), (8, 4)),
    "bar-painted": (7, 7, INK, (14, 8), (3, 13)),
    "left-bar-painted": (7, 7, INK, (14, 8), (3, 6)),
    "right-bar-painted": (7, 7, INK, (14, 15), (3, 6)),
    "above-painted": (7, 7, INK, (8, 4), (3, 6)),
    "corner-erased": (9, 2, BACKGROUND, (18, 16), (6, 9)),
    "corner-painted": (9, 7, INK, (18, 17), measures.SPOT),
}


def measure_nodes(shares):
    """Page 1 and Appendix A: what the default run's nodes respond to. shares: for how many of each
    digit's images each node fires."""
    data, mine = load(), model_at("blobs")
    return {
        "tests": {name: measures.intervention(
            mine.encoder, data.test_images[data.test_labels == digit], node, *painted)
            for name, (node, digit, *painted) in TESTS.items()},
        "spots": over_seeds([measures.summarize_spots(measures.spot_effects(
            model.encoder, model.decoder.weight.t(), data.test_images))
            for model in (model_at("blobs", seed) for seed in SEEDS)]),
        "top-9-7": int(measures.count_top_digits(mine.encoder, data.images, data.labels)[9, 7]),
        "least-digits": int((shares > 0.5).sum(1).min())}


def measure_seeds():
    """Appendix B: whether models have the same nodes, and the same subspace. Control: random
    rotations."""
    data = load()
    hidden = [model_at("blobs", seed).encode(data.images) for seed in ALL_SEEDS]
    random = [new_model(seed).encode(data.images) for seed in ALL_SEEDS]
    generator = torch.Generator().manual_seed(0)

    def rotate(values):
        basis = measures.orthonormal(values - values.mean(0))
        return basis @ measures.random_rotation(HIDDEN_DIMS, generator)

    pairs = {"seeds": [*itertools.combinations(hidden, 2)],
             "rotated": [(a, rotate(b)) for a, b in itertools.combinations(hidden, 2)],
             "untrained": [*itertools.combinations(random, 2)]}
    return {name: {"nodes": statistics.mean(measures.node_match(a, b) for a, b in some),
                   "subspace": statistics.mean(measures.subspace_overlap(a, b) for a, b in some),
                   "pairs": len(some)} for name, some in pairs.items()}


# --- Train what is not kept, measure, draw ---

def measure_and_draw():
    """Returns the results, after drawing the figures."""
    curve = {epoch: answer_row(model_at("blobs", epoch=epoch)) for epoch in (0, *LOOKS)}
    mine = model_at("blobs")
    hidden = mine.encode(load().images)
    shares = utils.firing_shares(hidden, load().labels)
    draw(mine, hidden, curve, shares)
    return {"losses": measure_losses(), "sparsity": measure_sparsity(),
            "answers": measure_answers(curve), "nodes": measure_nodes(shares),
            "seeds": measure_seeds()}


def draw(model, hidden, curve, shares):
    """Draw the figures: `model` is the default run's, `hidden` its activations."""
    data = load()
    covariance = utils.pixel_covariance(data.images, hidden)
    examples = utils.pick_examples(model.encoder(data.images.flatten(1)))
    for node in PAGE_ONE:
        plots.plot_node(model.decoder.weight[:, node], covariance[node],
                        data.images[examples[:, node]], macros.HERE / f"node_{node}.png")
    plots.plot_switch(
        {(name, then): [weak_by_epoch(name, seed) + weak_by_epoch(then, seed)[1:]
                        for seed in SEEDS]
         for name, then in (("whispers", "whispers-limited"), ("limited", "limited-freed"))},
        {name: model_at(name).encode(data.images) for name in plots.PROFILES},
        macros.HERE / "switch.png")
    plots.plot_kinds([model_at(name) for name in plots.KINDS], data.test_images[1:2],
                     macros.HERE / "kinds.png")
    tree = measures.grow_tree(hidden > ON, data.images, data.labels, 3)
    plots.plot_tree(tree, covariance, macros.HERE / "tree.png")
    plots.plot_curve(curve, EPOCHS, macros.HERE / "curve.png")
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
