"""The page to play with: draw a digit, watch the hidden nodes, move them.

    python writeup/explorer.py

trains three sparse autoencoders on MNIST with codelet7's own functions and writes explorer.html
beside this file, from explorer_template.html; one and a half to three minutes on one core. The page
holds the models and some digits of the test set and needs nothing else: open it by a double click.
"""

import base64
import json
import os
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import codelet7
import digits
import utils

TEMPLATE, PAGE = HERE / "explorer_template.html", HERE / "explorer.html"
PLACE = "{{data}}"  # in the template, where the page's data go
MODELS = [  # hidden nodes, weight of the sparsity penalty, learning rate
    (codelet7.HIDDEN_DIMS, codelet7.SPARSITY_WEIGHT, codelet7.LEARNING_RATE),
    (codelet7.HIDDEN_DIMS, 0.1, codelet7.LEARNING_RATE),
    (100, 1e-2, 1e-3),
]
SAMPLES = 3  # of each digit: the first ones in the test set's order, so that nobody picked them
ON = 0.5     # a node is on for an image if its activation there is above this


def base64_of(tensor, dtype):
    """A tensor's numbers, little-endian and in the order of its dimensions, as base64 text."""
    return base64.b64encode(tensor.detach().cpu().numpy().astype(dtype).tobytes()).decode()


def pick_samples(labels):
    """The indices of the first SAMPLES images of each digit, sorted by digit."""
    return torch.cat([(labels == digit).nonzero()[:SAMPLES, 0] for digit in range(10)])


@torch.no_grad()
def describe(model, images, history, lr, sample):
    """What the page holds of a model: a dict.

    images: the normalized training images (n, 1, 28, 28), for the nodes' means. history: a list of
    (loss, mse), one an epoch. sample: the normalized image (1, 1, 28, 28) that the page feeds to
    its own copy of the model, to compare the outcome with the one from here.
    """
    hidden = codelet7.activations(model, images)
    code, reconstruction = model(sample)
    loss, mse = history[-1]
    return {
        "nodes": model.encoder.out_features,
        "settings": {"penalty weight": model.sparsity_weight, "learning rate": lr,
                     "epochs": len(history), "batch size": codelet7.BATCH_SIZE,
                     "rho": codelet7.RHO, "seed": codelet7.SEED},
        "loss": round(loss, 4),
        "mse": round(mse, 4),
        "on": round((hidden > ON).double().mean().item(), 4),
        "means": base64_of(hidden.mean(0, dtype=torch.float64), "<f2"),
        "encoder": {"weight": base64_of(model.encoder.weight, "<f2"),
                    "bias": base64_of(model.encoder.bias, "<f2")},
        "decoder": {"weight": base64_of(model.decoder.weight, "<f2"),
                    "bias": base64_of(model.decoder.bias, "<f2")},
        "check": {"hidden": base64_of(code, "<f4"),
                  "reconstruction": base64_of(reconstruction, "<f4")},
    }


def write_page(path, models, samples, labels):
    """Write the page to `path`. models: describe()'s dicts, each for the first of the samples.
    samples: uint8 images (k, 28, 28), with their labels (k,)."""
    data = {"mean": utils.MEAN, "std": utils.STD, "white": utils.WHITE, "on": ON,
            "samples": {"labels": labels.tolist(), "pixels": base64_of(samples, "u1")},
            "models": models}
    text = json.dumps(data, indent=1).replace("<", "\\u003c")  # nothing can end the script early
    page = TEMPLATE.read_text(encoding="utf-8").replace(PLACE, text)
    utils.write_whole(path, page.encode())


def train_model(images, labels, hidden_dims, sparsity_weight, lr):
    """Train as codelet7.run() does. Returns the model and its (loss, mse) of each epoch."""
    print(f"{hidden_dims} nodes, penalty weight {sparsity_weight:g}, learning rate {lr:g}")
    torch.manual_seed(codelet7.SEED)
    model = codelet7.SparseAutoencoder(28 * 28, hidden_dims, sparsity_weight)
    loader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE, codelet7.SEED)
    return model, codelet7.train(model, loader, codelet7.EPOCHS, lr)


def main():
    torch.set_num_threads(1)  # as in codelet7: the result does not depend on the number of cores
    try:
        data = digits.load("mnist", os.environ.get("MNIST_ROOT") or HERE.parent / "data")
        images = codelet7.normalize(data.images)
        chosen = pick_samples(data.test_labels)
        samples, labels = data.test_images[chosen], data.test_labels[chosen]
        models = []
        for hidden_dims, sparsity_weight, lr in MODELS:
            model, history = train_model(images, data.labels, hidden_dims, sparsity_weight, lr)
            check = codelet7.normalize(samples[:1])
            models.append(describe(model, images, history, lr, check))
        write_page(PAGE, models, samples, labels)
    except (utils.Refusal, OSError) as error:
        sys.exit(f"explorer.py: error: {error}")
    print(f"Page: {PAGE} ({PAGE.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
