"""Build the interactive explorer: see the features form, draw a digit, change the hidden nodes.

    python -m extras.explorer

trains four sparse autoencoders on MNIST with codelet7's own functions and writes explorer.html
beside this file, from explorer_template.html; this takes about five minutes on one core. The page
is self-contained: the models and some digits of MNIST are in it. Double-click it to open it.
"""

import base64
import copy
import itertools
import json
import math
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import codelet7
import digits
from digits import MEAN, STD
from utils import ON, WHITE

HERE = Path(__file__).resolve().parent
TEMPLATE, PAGE = HERE / "explorer_template.html", HERE / "explorer.html"
DATA, CHECKSUM = "{{data}}", "{{checksum}}"  # placeholders in the template
SAMPLES = 3   # per digit: the first ones in the test set's order, not hand-picked
CHECKED = 10  # the page checks its results for every tenth of these samples
TOP = 9       # training images per node, in a square
BINS = 10     # of a node's histogram


class Recipe(NamedTuple):
    """How a model of the page is trained, and the stops, in epochs, at which the page shows it."""
    hDims: int
    sparsity_weight: float
    lr: float
    weight_decay: float
    stops: tuple = (0, 0.1, 0.2, 0.5, 1, 2, 4, 8, codelet7.EPOCHS)

    @property
    def settings(self):
        return dict(zip(("nodes", "penaltyWeight", "learningRate", "weightDecay"), self))


MODELS = {  # named for what their nodes draw or do; a pair that is compared differs in one setting
    "Blobs": Recipe(codelet7.HIDDEN_DIMS, codelet7.SPARSITY_WEIGHT, codelet7.LEARNING_RATE,
                    codelet7.WEIGHT_DECAY),
    "Digits": Recipe(codelet7.HIDDEN_DIMS, 0.08, 1e-3, 8e-5),
    "Whispers": Recipe(codelet7.HIDDEN_DIMS, 0.08, 1e-3, 0.0),
    "Strokes": Recipe(100, 0.01, 1e-3, 2e-5, stops=(codelet7.EPOCHS,)),
}


def train_model(images, labels, recipe):
    """Train as codelet7.run() does, silently. Returns the model at each stop, {epoch: model}."""
    model = codelet7.new_model(codelet7.SEED, recipe.hDims, sparsity_weight=recipe.sparsity_weight)
    train_dataloader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE)
    stops = {round(stop * len(train_dataloader)): stop for stop in recipe.stops}
    steps, states = itertools.count(), {}

    def keep(*_):
        stop = stops.get(next(steps))
        if stop is not None:
            states[stop] = copy.deepcopy(model)

    keep()  # before the first step
    with register_optimizer_step_post_hook(keep):
        codelet7.train(model, train_dataloader, codelet7.EPOCHS, recipe.lr, codelet7.SEED,
                       weight_decay=recipe.weight_decay, after_epoch=lambda *_: None)
    return states


# --- Contents of the page ---

def base64_of(tensor, dtype):
    """A tensor's numbers, little-endian and in the order of its dimensions, as base64 text."""
    return base64.b64encode(tensor.detach().cpu().numpy().astype(dtype).tobytes()).decode()


def tensor_of(text, dtype, *shape):
    """The inverse of base64_of()."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).copy()).view(shape)


def two_bits(images):
    """uint8 images in four shades of grey, four pixels to a byte, the first in the lowest bits."""
    shades = (images.reshape(-1, 4) / 85).round().long()
    return base64_of((shades << torch.arange(0, 8, 2)).sum(1), "u1")


def pick_samples(labels):
    """The indices of the first SAMPLES images of each digit, sorted by digit."""
    return torch.cat([(labels == digit).nonzero()[:SAMPLES, 0] for digit in range(10)])


@torch.no_grad()
def describe(model, images, labels):
    """What the page says of a model in one of its states: a dict, with weights in 16 bits. Errors,
    shares and means are over the training images, normalized (n, 1, 28, 28), with their labels
    (n,)."""
    hidden, reconstruction = model(images)
    x, on = images.flatten(1), (hidden > ON).sum(1)
    only_on = model.decode(hidden * (hidden > ON))

    def layer(linear):
        return {"weight": base64_of(linear.weight, "<f2"), "bias": base64_of(linear.bias, "<f2")}

    return {
        "encoder": layer(model.encoder), "decoder": layer(model.decoder),
        "histograms": base64_of(
            torch.stack([torch.histc(h, BINS, 0, 1) for h in hidden.t()]) / len(x), "<f2"),
        "meansByDigit": base64_of(
            torch.stack([hidden[labels == digit].mean(0) for digit in range(10)]), "<f2"),
        "results": {name: round(float(value), 4) for name, value in {
            "error": F.mse_loss(reconstruction, x), "errorOfOn": F.mse_loss(only_on, x),
            "mean": hidden.mean(dtype=torch.float64), "on": on.double().mean(),
            "none": (on == 0).double().mean(), "weak": codelet7.weak_share(hidden)}.items()},
    }


@torch.no_grad()
def check_values(model, samples):
    """The model's results for normalized samples (k, 1, 28, 28): the page compares its own."""
    hidden, reconstruction = model(samples)
    return {"hidden": base64_of(hidden, "<f2"), "reconstruction": base64_of(reconstruction, "<f2")}


@torch.no_grad()
def top_images(model, images, pixels, labels):
    """The TOP training images that activate each node most, as in codelet7.show_top_images(): their
    digits, strongest first, and one square of rows for each node. pixels: uint8 (n, 28, 28)."""
    top = model.encoder(images.flatten(1)).topk(TOP, 0).indices.t()
    rows = pixels[top].unflatten(1, (math.isqrt(TOP), -1)).transpose(2, 3)
    return {"labels": labels[top].tolist(), "pixels": two_bits(rows)}


# --- The page ---

def fill_in(data):
    """The template with its data, a dict for JSON: the page's text."""
    text = json.dumps(data).replace("<", "\\u003c")  # nothing can end the script early
    page = TEMPLATE.read_text(encoding="utf-8")
    return page.replace(CHECKSUM, f"{zlib.crc32(text.encode()):08x}").replace(DATA, text)


def make_page(data):
    """Train the models on `data`, a digits.Digits, and return the page's text."""
    images, labels = codelet7.normalize(data.images), data.labels
    picked = pick_samples(data.test_labels)
    samples = data.test_images[picked]
    start, about = {}, []
    for name, recipe in MODELS.items():
        print(f"{name}: {recipe.settings}", flush=True)
        models = train_model(images, labels, recipe)
        states = {epoch: {"epoch": epoch} | describe(model, images, labels)
                  for epoch, model in models.items()}
        model, final = models[codelet7.EPOCHS], states[codelet7.EPOCHS]
        final["check"] = check_values(model, codelet7.normalize(samples[::CHECKED]))
        final["top"] = top_images(model, images, data.images, labels)
        start = states.pop(0, start)  # models of one size start from the same weights
        about.append({"name": name, "settings": recipe.settings, "states": [*states.values()]})
    mean = images.mean(0)
    return fill_in({
        "mean": MEAN, "std": STD, "on": ON, "weak": codelet7.WEAK, "rho": codelet7.RHO,
        "bins": BINS, "perDigit": SAMPLES, "checked": CHECKED, "epochs": codelet7.EPOCHS,
        "batchSize": codelet7.BATCH_SIZE, "seed": codelet7.SEED, "start": start, "models": about,
        "unavoidable": round((images - WHITE).clamp(min=0).square().mean().item(), 4),
        "errorOfMeanImage": round((images - mean).square().mean().item(), 4),
        "samples": {"labels": data.test_labels[picked].tolist(),
                    "pixels": base64_of(samples, "u1")}})


def main():
    torch.set_num_threads(1)  # as in codelet7: the result does not depend on the number of cores
    try:
        page = make_page(codelet7.load_data("mnist", digits.default_root()))
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    except (digits.DataError, OSError) as error:
        sys.exit(f"explorer.py: error: {error}")
    print(f"Page: {PAGE} ({PAGE.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
