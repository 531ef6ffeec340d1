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
LONG = 100  # epochs of the runs for the curve of Appendix A
LOOKS = [*range(1, EPOCHS + 1), *range(EPOCHS + 5, LONG + 1, 5)]  # the epochs that it shows
SEEDS, ALL_SEEDS = range(SEED, SEED + 3), range(SEED, SEED + 8)

THREE = dict.fromkeys(SEEDS, EPOCHS)
STRONG, DECAY = {"sparsity_weight": 0.08}, {"weight_decay": 8e-5}  # UFLDL's: see penalty_numbers()
FAST = {"lr": 1e-3}
HUNDRED = {"hDims": 100, "sparsity_weight": 0.01} | FAST
RUNS = {  # name: the epochs for each seed, and what differs from `python codelet7.py`
    "default": (dict.fromkeys(ALL_SEEDS, EPOCHS) | dict.fromkeys(SEEDS, LONG), {}),
    "no-penalty": (THREE, {"sparsity_weight": 0.0}),
    "decay": (THREE, DECAY),
    "strong": (THREE | {SEED: 60}, STRONG),
    "strong-decay": (THREE | {SEED: 60}, STRONG | DECAY),
    "fast": (THREE, FAST),
    "strong-fast": (THREE | {SEED: 60}, STRONG | FAST),
    "strong-decay-fast": (THREE | {SEED: 60}, STRONG | DECAY | FAST),
    "strong-encoder-decay-fast": (THREE, STRONG | DECAY | FAST | {"part": "encoder"}),
    "strong-decoder-decay-fast": (THREE, STRONG | DECAY | FAST | {"part": "decoder"}),
    "limit-5": ({SEED: EPOCHS}, STRONG | FAST | {"limit": 5.0}),
    "limit-10": (THREE, STRONG | FAST | {"limit": 10.0}),
    "limit-20": ({SEED: EPOCHS}, STRONG | FAST | {"limit": 20.0}),
    "limit-40": ({SEED: EPOCHS}, STRONG | FAST | {"limit": 40.0}),
    "hundred": (THREE, HUNDRED),
    "hundred-decay": (THREE, HUNDRED | {"weight_decay": 2e-5}),
    "other-order": (THREE, {"order": SEED + 100}),  # the seed of the weights stays
    "linear-output": (THREE, {"linear": True}),
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
    epochs, settings = RUNS[name][0][seed], RUNS[name][1]
    path, setup = KEPT / f"{name}-{seed}.pt", [epochs, settings]
    if path.exists():
        kept = torch.load(path)
        if kept["setup"] == setup:
            return kept["losses"], kept["weights"]
    of_model = {key: settings[key] for key in ("hDims", "linear", "sparsity_weight")
                if key in settings}
    of_training = {key: value for key, value in settings.items() if key not in of_model}
    losses, weights = train(new_model(seed, **of_model), load(), seed, epochs, **of_training)
    print(f"{name}, seed {seed}: {losses[0]:.4f} to {losses[-1]:.4f} in {epochs} epochs", flush=True)
    KEPT.mkdir(exist_ok=True)
    torch.save({"setup": setup, "losses": losses, "weights": weights}, path)
    return losses, weights


def model_at(name, seed=SEED, epoch=EPOCHS):
    """One of RUNS as it was after an epoch."""
    settings = RUNS[name][1]
    model = new_model(seed, **{key: settings[key] for key in ("hDims", "linear", "sparsity_weight")
                               if key in settings})
    model.load_state_dict(run(name, seed)[1][epoch])
    return model
