"""Build the interactive explorer: see the features form, draw a digit, change the hidden nodes.

    python -m extras.explorer

trains three sparse autoencoders on MNIST with codelet7's own functions and writes explorer.html
beside this file, from explorer_template.html; this takes about four minutes on one core. The page
is self-contained: the models and some digits of MNIST are in it. Double-click it to open it.
"""

import base64
import copy
import json
import math
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import codelet7
import digits
from digits import MEAN, STD
from utils import ON, WHITE

HERE = Path(__file__).resolve().parent
TEMPLATE, PAGE = HERE / "explorer_template.html", HERE / "explorer.html"
DATA, CHECKSUM = "{{data}}", "{{checksum}}"  # placeholders in the template
SAMPLES = 3        # per digit: the first ones in the test set's order, not hand-picked
TOP = 9            # training images per node, in a square
SATURATED = 0.1    # an activation is saturated if it is closer than this to 0 or 1
FAINT = 0.1        # the page counts the nodes above this, beside those that are on


class Recipe(NamedTuple):
    """How a model of the page is trained, and what the page has of it in its final state."""
    hDims: int
    sparsity_weight: float
    lr: float
    weight_decay: float
    snapshots: tuple = ()    # other epochs whose state the page has
    has_table: bool = False  # a lookup table of the answers
    has_top: bool = True     # the images that activate each node most

    @property
    def settings(self):
        return {"nodes": self.hDims, "penaltyWeight": self.sparsity_weight,
                "learningRate": self.lr, "weightDecay": self.weight_decay}


MODELS = {  # named for what their nodes draw or do; a pair that is compared differs in one setting
    "Blobs": Recipe(codelet7.HIDDEN_DIMS, codelet7.SPARSITY_WEIGHT, codelet7.LEARNING_RATE,
                    codelet7.WEIGHT_DECAY, snapshots=(0, 1, 2, 4, 8)),
    "Digits": Recipe(10, 0.08, 1e-3, 8e-5, snapshots=(0, 1, 2, 4, 8)),
    "Whispers": Recipe(10, 0.08, 1e-3, 0.0, snapshots=(0, 1, 2, 4, 8)),
    "Strokes": Recipe(100, 0.01, 1e-3, 2e-5, has_top=False),  # they would double the page's size
}


def train_model(images, labels, recipe):
    """Train as codelet7.run() does, silently. Returns the model after each epoch that the page
    shows, {epoch: model}."""
    model = codelet7.new_model(codelet7.SEED, recipe.hDims, sparsity_weight=recipe.sparsity_weight)
    wanted = sorted({codelet7.EPOCHS, *recipe.snapshots})
    states = {0: copy.deepcopy(model)}

    def keep(epoch, epochs, loss):
        if epoch in wanted:
            states[epoch] = copy.deepcopy(model)

    train_dataloader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE)
    codelet7.train(model, train_dataloader, wanted[-1], recipe.lr, codelet7.SEED,
                   weight_decay=recipe.weight_decay, after_epoch=keep)
    return {epoch: states[epoch] for epoch in wanted}


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
    counts and means are over the training images, normalized (n, 1, 28, 28), with their labels
    (n,)."""
    hidden, reconstruction = model(images)
    x = images.flatten(1)
    only_on = model.decode(hidden * (hidden > ON))

    def layer(linear):
        return {"weight": base64_of(linear.weight, "<f2"), "bias": base64_of(linear.bias, "<f2")}

    return {
        "encoder": layer(model.encoder), "decoder": layer(model.decoder),
        "means": base64_of(hidden.mean(0, dtype=torch.float64), "<f2"),
        "meansByDigit": base64_of(
            torch.stack([hidden[labels == digit].mean(0) for digit in range(10)]), "<f2"),
        "results": {name: round(float(value), 4) for name, value in {
            "error": F.mse_loss(reconstruction, x), "errorOfOn": F.mse_loss(only_on, x),
            "mean": hidden.mean(dtype=torch.float64), "on": (hidden > ON).sum(1).double().mean(),
            "faint": (hidden > FAINT).sum(1).double().mean(),
            "weak": codelet7.weak_share(hidden),
            "saturated": ((hidden - 0.5).abs() > 0.5 - SATURATED).double().mean()}.items()},
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


def pattern_of(on):
    """The answers of one image, bool (nodes,), as a string: 1 for yes."""
    return "".join("1" if answer else "0" for answer in on.tolist())


@torch.no_grad()
def lookup_table(model, images, pixels):
    """For each pattern of answers that occurs among the images, their number and mean: a dict.

    images: normalized (n, 1, 28, 28); pixels: the same ones as uint8 (n, 28, 28). A pattern is a
    string with a 1 for each node that is on. The means are in half resolution, 14 by 14, 8 bits.
    """
    patterns, which, counts = torch.unique(model.encode(images) > ON, dim=0, return_inverse=True,
                                           return_counts=True)
    small = F.avg_pool2d(pixels.unsqueeze(1).float(), 2).flatten(1)
    means = torch.zeros(len(patterns), small.shape[1]).index_add_(0, which, small)
    return {"patterns": list(map(pattern_of, patterns)), "counts": counts.tolist(),
            "means": base64_of((means / counts.unsqueeze(1)).round(), "u1")}


# --- What the page's text claims ---

class WrongText(Exception):
    """The models do not do what the template's text says: the text has to change."""


def claim(is_so, text):
    if not is_so:
        raise WrongText(f"this is no longer so: {text}")


@torch.no_grad()
def check_text(models, samples, about):
    """Raise WrongText unless the models do what the template says of single nodes and epochs.

    models: {name: {epoch: model}}. samples: the page's, uint8 (30, 28, 28). about: what the page
    contains about each model, a list.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    x = codelet7.normalize(samples).flatten(1)
    blobs, ten, hundred = finals = [states[codelet7.EPOCHS] for states in models.values()]
    about = [next(state for state in model["states"] if state["epoch"] == codelet7.EPOCHS)
             for model in about]
    means = samples.view(10, SAMPLES, 28, 28).float().mean(1, keepdim=True)
    error = lambda reconstruction, sample: F.mse_loss(reconstruction[0], x[sample])

    def similar(image):
        """The correlation of `image` with each digit's mean image, in the resolution of `image`."""
        small = F.adaptive_avg_pool2d(means, math.isqrt(image.numel())).flatten(1)
        return torch.corrcoef(torch.cat([image.view(1, -1), small]))[0, 1:]

    digit_in = lambda image: similar(image).argmax().item()

    def pin(model, sample, node):
        """(hidden, reconstruction) before and after a link sets a node that is off to 1."""
        link = f"#model={finals.index(model) + 1}&sample={sample}&node={node}&pin={node}:1"
        hidden, reconstruction = model(x[[sample]])
        claim(f'"{link}"' in template and hidden[0, node] < ON / 2, f"{link} changes a node")
        pinned = hidden.index_fill(1, torch.tensor(node), 1)
        return hidden, reconstruction, pinned, model.decode(pinned)

    def likeness(epoch):
        """The mean correlation between the decoder weights of two nodes."""
        correlations = torch.corrcoef(models["Blobs"][epoch].decoder.weight.t())
        return correlations[~torch.eye(len(correlations), dtype=bool)].mean()

    hidden, drawn = models["Blobs"][1](x)
    claim((hidden > ON).double().mean() > 0.9 and likeness(1) > 0.35
          and torch.corrcoef(torch.stack([drawn.mean(0), x.mean(0)]))[0, 1] > 0.9,
          "after one epoch, nodes are alike, nearly always on, and draw the mean digit")
    claim(all(abs(likeness(epoch)) < 0.2 for epoch in (0, 8, 20, 100)),
          "before the first epoch and from the eighth on, nodes differ")

    weights = blobs.decoder.weight.t().view(-1, 28, 28)
    claim(max(weights[8, 10:19, 4:8].mean(), weights[8, 10:19, 20:24].mean(),
              weights[9, 14:24, 16:25].mean()) < -0.3,
          "node 8 is blue on the left and on the right, node 9 in the lower right corner")
    _, before, _, after = pin(blobs, 1, 8)
    change, gain = (after - before).view(28, 28)[10:19], similar(after) - similar(before)
    claim(change[:, 11:17].mean() > 0.2 and change[:, 4:8].mean() < -0.2
          and change[:, 20:24].mean() < -0.2 and error(after, 1) > error(before, 1) + 0.1,
          "node 8 fills the hole of the second 0 and fades its sides")
    claim(gain[0] < -0.08 and gain[[3, 8]].min() > 0.08,
          "node 8 makes the second 0 less like a 0, and more like a 3 and an 8")

    table = about[0]["table"]
    rows = dict(zip(table["patterns"], tensor_of(table["means"], "u1", -1, 14 * 14).float()))
    hidden, _, pinned, after = pin(blobs, 6, 6)
    claim([digit_in(rows[pattern_of(row)]) for row in (hidden[0] > ON, pinned[0] > ON)] == [2, 3]
          and digit_in(after) == 3, "node 6 turns the first 2 and its lookup image into a 3")

    top = torch.tensor(about[0]["top"]["labels"][9])
    by_digit = tensor_of(about[0]["meansByDigit"], "<f2", 10, -1)[:, 9]
    claim((top == 7).sum() >= TOP - 1 and by_digit[1] > by_digit[7] - 0.05
          and (by_digit > ON).sum() >= 4 and blobs.encode(x[[3, 21]])[:, 9].min() > ON,
          "node 9 is most active for 7s, but as active for 1s, and on for the first 7 and 1")

    claim(0.8 < about[1]["results"]["on"] < 1.3, "usually one node of the second model is on")
    for node, digit in ((8, 1), (2, 0), (5, 3), (4, 9)):
        hidden, _, _, after = pin(ten, 7, node)
        claim(hidden.max() < ON and digit_in(after) == digit,
              f"no node of the second model is on for the second 2; node {node} draws a {digit}")

    hidden, before = hundred(x[[0]])
    after = hundred.decode(hidden * (hidden > ON))
    claim(error(after, 0) < error(before, 0) + 0.1 < error(x.mean(0, True), 0)
          and digit_in(after) == 0,
          "the nodes of the third model that are on draw most of the first 0")


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
    models, about = {}, []
    for name, recipe in MODELS.items():
        print(f"{name}: {recipe.settings}", flush=True)
        models[name] = train_model(images, labels, recipe)
        states = {epoch: {"epoch": epoch} | describe(model, images, labels)
                  for epoch, model in models[name].items()}
        model, final = models[name][codelet7.EPOCHS], states[codelet7.EPOCHS]
        final["check"] = check_values(model, codelet7.normalize(samples[::SAMPLES]))
        if recipe.has_top:
            final["top"] = top_images(model, images, data.images, labels)
        if recipe.has_table:
            final["table"] = lookup_table(model, images, data.images)
        about.append({"name": name, "settings": recipe.settings, "states": [*states.values()]})
    check_text(models, samples, about)
    mean = images.mean(0)
    return fill_in({
        "mean": MEAN, "std": STD, "on": ON, "saturated": SATURATED, "faint": FAINT,
        "epochs": codelet7.EPOCHS, "batchSize": codelet7.BATCH_SIZE, "rho": codelet7.RHO,
        "seed": codelet7.SEED, "models": about,
        "unavoidable": round((images - WHITE).clamp(min=0).square().mean().item(), 4),
        "meanImage": base64_of(data.images.float().mean(0).round(), "u1"),
        "errorOfMeanImage": round((images - mean).square().mean().item(), 4),
        "samples": {"labels": data.test_labels[picked].tolist(),
                    "pixels": base64_of(samples, "u1")}})


def main():
    torch.set_num_threads(1)  # as in codelet7: the result does not depend on the number of cores
    try:
        page = make_page(codelet7.load_data("mnist", digits.default_root()))
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    except (digits.DataError, WrongText, OSError) as error:
        sys.exit(f"explorer.py: error: {error}")
    print(f"Page: {PAGE} ({PAGE.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
