"""Build the interactive explorer: draw a digit, inspect the hidden nodes, change them.

    python -m extras.explorer

trains three sparse autoencoders on MNIST with codelet7's own functions and writes explorer.html
beside this file, from explorer_template.html; this takes about two minutes on one core. The page is
self-contained: the models and some digits of the test set are in it. Double-click it to open it.
"""

import base64
import json
import sys
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

import codelet7
import digits
from digits import MEAN, STD
from utils import ON, WHITE

HERE = Path(__file__).resolve().parent
TEMPLATE, PAGE = HERE / "explorer_template.html", HERE / "explorer.html"
DATA, CHECKSUM = "{{data}}", "{{checksum}}"  # placeholders in the template
MODELS = {  # named for what their nodes draw: number of nodes, penalty weight, learning rate
    "Blobs": (10, 1e-4, 1e-4),  # the assignment's settings
    "Digits": (10, 0.1, 1e-4),
    "Strokes": (100, 1e-2, 1e-3),
}
SAMPLES = 3  # per digit: the first ones in the test set's order, not hand-picked


def train_model(images, labels, hidden_dims, sparsity_weight, lr):
    """Train as codelet7.run() does, silently. Returns the model and one (loss, mse) per epoch."""
    torch.manual_seed(codelet7.SEED)
    model = codelet7.SparseAutoencoder(28 * 28, hidden_dims, sparsity_weight=sparsity_weight)
    train_dataloader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE)
    history = codelet7.train(model, train_dataloader, codelet7.EPOCHS, lr, codelet7.SEED,
                             after_epoch=lambda epoch, epochs, loss: None)
    return model, history


# --- Contents of the page ---

def base64_of(tensor, dtype):
    """A tensor's numbers, little-endian and in the order of its dimensions, as base64 text."""
    return base64.b64encode(tensor.detach().cpu().numpy().astype(dtype).tobytes()).decode()


def pick_samples(labels):
    """The indices of the first SAMPLES images of each digit, sorted by digit."""
    return torch.cat([(labels == digit).nonzero()[:SAMPLES, 0] for digit in range(10)])


@torch.no_grad()
def describe(model, images, labels, facts, samples):
    """Everything that the page contains about a trained model: a dict, with numbers in 16 bits.

    images: the training images, normalized (n, 1, 28, 28), with their labels (n,). facts: rows of
    the page's table, {name: value}; the results measured here are added to them. samples:
    normalized (k, 1, 28, 28); the page checks its own results for them against PyTorch's.
    """
    x = images.flatten(1)
    hidden, reconstruction = model(images)
    mse = F.mse_loss(reconstruction, x)
    unavoidable = (x - WHITE).clamp(min=0).square().mean()  # no reconstruction exceeds WHITE
    only_on = model.decode(hidden * (hidden > ON))
    sample_hidden, sample_reconstruction = model(samples)

    def layer(linear):
        return {"weight": base64_of(linear.weight, "<f2"), "bias": base64_of(linear.bias, "<f2")}

    return {
        "nodes": model.encoder.out_features,
        "facts": facts | {
            "nodes on": f"{(hidden > ON).double().mean():.1%}",
            "MSE": round(mse.item(), 3), "unavoidable": round(unavoidable.item(), 3),
            "excess": round((mse - unavoidable).item(), 3),
            "MSE with only the nodes that are on": round(F.mse_loss(only_on, x).item(), 3)},
        "means": base64_of(hidden.mean(0, dtype=torch.float64), "<f2"),
        "means by digit": base64_of(
            torch.stack([hidden[labels == digit].mean(0) for digit in range(10)]), "<f2"),
        "encoder": layer(model.encoder), "decoder": layer(model.decoder),
        "check": {"hidden": base64_of(sample_hidden, "<f2"),
                  "reconstruction": base64_of(sample_reconstruction, "<f2")},
    }


@torch.no_grad()
def lookup_table(model, images, pixels):
    """For each pattern of answers that occurs among the images, their number and mean: a dict.

    images: normalized (n, 1, 28, 28); pixels: the same ones as uint8 (n, 28, 28). A pattern is a
    number whose bit j is 1 where node j is on. The means are in half resolution, 14 by 14, 8 bits.
    """
    on = (model.encode(images) > ON).long()
    patterns = (on << torch.arange(on.shape[1])).sum(1)
    patterns, which, counts = patterns.unique(return_inverse=True, return_counts=True)
    small = F.avg_pool2d(pixels.unsqueeze(1).float(), 2).flatten(1)
    means = torch.zeros(len(patterns), small.shape[1]).index_add_(0, which, small)
    return {"patterns": patterns.tolist(), "counts": counts.tolist(),
            "means": base64_of((means / counts.unsqueeze(1)).round(), "u1")}


def write_page(path, data):
    """Write the page with its data, a dict for JSON, to `path`."""
    text = json.dumps(data).replace("<", "\\u003c")  # nothing can end the script early
    page = TEMPLATE.read_text(encoding="utf-8")
    page = page.replace(CHECKSUM, f"{zlib.crc32(text.encode()):08x}").replace(DATA, text)
    path.write_text(page, encoding="utf-8", newline="\n")


def make_page(path, data):
    """Train the models on `data`, a digits.Digits, and write the page to `path`."""
    images = codelet7.normalize(data.images)
    picked = pick_samples(data.test_labels)
    samples, labels = data.test_images[picked], data.test_labels[picked]
    check = codelet7.normalize(samples[::SAMPLES])  # one of each digit
    models, table = {}, None
    for name, (hidden_dims, sparsity_weight, lr) in MODELS.items():
        print(f"{name}: {hidden_dims} nodes, penalty weight {sparsity_weight}, learning rate {lr}")
        model, history = train_model(images, data.labels, hidden_dims, sparsity_weight, lr)
        facts = {"hidden nodes": hidden_dims, "penalty weight": sparsity_weight,
                 "learning rate": lr, "epochs": len(history), "batch size": codelet7.BATCH_SIZE,
                 "rho": codelet7.RHO, "seed": codelet7.SEED}
        models[name] = describe(model, images, data.labels, facts, check)
        table = table or lookup_table(model, images, data.images)  # of the first model
    mean = images.mean(0)
    write_page(path, {
        "mean": MEAN, "std": STD, "on": ON, "models": models, "lookup table": table,
        "mean image": base64_of(data.images.float().mean(0).round(), "u1"),
        "MSE of the mean image": round((images - mean).square().mean().item(), 3),
        "samples": {"labels": labels.tolist(), "pixels": base64_of(samples, "u1")}})


def main():
    torch.set_num_threads(1)  # as in codelet7: the result does not depend on the number of cores
    try:
        make_page(PAGE, codelet7.load_data("mnist", digits.default_root()))
    except (digits.DataError, OSError) as error:
        sys.exit(f"explorer.py: error: {error}")
    print(f"Page: {PAGE} ({PAGE.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
