"""The measurements behind codelet7.pdf.

    python writeup/experiments.py

trains some thirty autoencoders on MNIST with codelet7's own functions and writes, beside this file:
results.json (every number), results.tex (the same numbers as LaTeX macros, which codelet7.tex reads)
and interventions.png. 6 to 15 minutes on two cores.
"""

import contextlib
import io
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import matplotlib.style
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import codelet7
import digits
import utils

SEEDS = range(12)
WEIGHTS = [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
DISCUSSED = [3, 6, 8, 9]  # the nodes that the text discusses and interventions.png shows
# Where a node's decoder weights are most negative, ink should silence it; next to it, as a control, not.
PATCHES = {3: ((14, 19, 10, 17), (9, 14, 10, 17)), 6: ((16, 21, 8, 14), (16, 21, 14, 20)),
           8: ((11, 18, 20, 23), (11, 18, 13, 16)), 9: ((17, 22, 19, 24), (17, 22, 4, 9))}  # top, bottom, left, right
FIRES = 0.5  # a node fires for an image if its activation there is above this


class LinearOutput(codelet7.SparseAutoencoder):
    """The same autoencoder without the tanh."""

    def decode(self, hidden):
        return self.decoder(hidden)


def run(images, labels, seed=codelet7.SEED, hidden_dims=codelet7.HIDDEN_DIMS, kind=codelet7.SparseAutoencoder, **settings):
    """Train as main() does. Returns the model and its (loss, mse) of each epoch."""
    torch.manual_seed(seed)
    model = kind(28 * 28, hidden_dims)
    with contextlib.redirect_stdout(io.StringIO()):
        history = codelet7.train(model, codelet7.make_dataloader(images, labels, seed=seed), **settings)
    return model, history


@torch.no_grad()
def decoded_mse(model, images, hidden):
    """The mean squared error, for each image, of what the model decodes from `hidden`: (n,)."""
    parts = zip(images.flatten(1).split(1000), hidden.split(1000))
    return torch.cat([(model.decode(h) - x).square().mean(1) for x, h in parts])


def seeds(images, labels, test_images):
    rows = []
    for seed in SEEDS:
        model, history = run(images, labels, seed)
        rows.append({"seed": seed, "first": history[0][0], "last": history[-1][0],
                     "test": codelet7.evaluate(model, test_images)})
        print(f"seed {seed}: {rows[-1]['first']:.4f} to {rows[-1]['last']:.4f}, test {rows[-1]['test']:.4f}", flush=True)
    return rows


def nodes(model, images, labels):
    """What each node of the model responds to, and what decoding without it costs."""
    hidden = codelet7.activations(model, images, model.encoder.out_features)
    mse = decoded_mse(model, images, hidden)
    correlation = torch.corrcoef(hidden.t())
    rows = []
    for node, activation in enumerate(hidden.t()):
        counts = labels[codelet7.top_images(activation)].bincount(minlength=10)
        silenced = hidden.clone()
        silenced[:, node] = 0
        cost = decoded_mse(model, images, silenced) - mse
        rows.append({
            "mean": activation.mean().item(), "fires": (activation > FIRES).float().mean().item(),
            "top": counts.tolist(),
            "fires_by_digit": [(activation[labels == digit] > FIRES).float().mean().item() for digit in range(10)],
            "silenced_cost": cost.mean().item(),
            "silenced_cost_by_digit": [cost[labels == digit].mean().item() for digit in range(10)]})
    others = correlation - torch.eye(len(rows))
    return {"nodes": rows, "largest_correlation": others.abs().max().item(),
            "firing_at_once": (hidden > FIRES).sum(1).float().mean().item(), "mean": hidden.mean().item(),
            "codes_used": len(torch.unique(hidden > FIRES, dim=0))}


@torch.no_grad()
def plot_interventions(model, images, rows, path):
    """Save, for some nodes: the mean reconstruction with the node at 0, at 1, and the difference; how
    often it fires for each digit, and what the MSE of each gains without it (rows: nodes()'s)."""
    hidden = codelet7.activations(model, images, model.encoder.out_features)
    with matplotlib.style.context(["default", utils.STYLE]):
        figure = Figure(figsize=(7, 5.6))
        panels = figure.subplots(5, len(DISCUSSED), gridspec_kw=dict(
            left=0.17, right=0.87, top=0.95, bottom=0.05, wspace=0.12, hspace=0.1, height_ratios=[1.3, 1.3, 1.3, 0.8, 0.8]))
        for column, node in zip(panels.T, DISCUSSED):
            means = []
            for value in (0.0, 1.0):
                changed = hidden.clone()
                changed[:, node] = value
                means.append(torch.stack([model.decode(h).mean(0) for h in changed.split(1000)]).mean(0).view(28, 28))
            for ax, picture in zip(column[:2], means):
                grey = ax.imshow(picture.numpy(), cmap="gray", vmin=-1, vmax=1)
            change = column[2].imshow((means[1] - means[0]).numpy(), cmap="RdBu_r", vmin=-1.5, vmax=1.5)
            column[0].set_title(f"node {node}", fontsize=10)
            for ax in column[:3]:
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            for ax, key, ticks in ((column[3], "fires_by_digit", [0, 1]), (column[4], "silenced_cost_by_digit", [0, 0.08])):
                ax.bar(range(10), rows[node][key], color=utils.GREY)
                ax.set(ylim=(0, ticks[1] * 1.05), yticks=ticks, xticks=range(10))
                ax.tick_params(labelsize=7, length=2, pad=1.5, labelbottom=ax is column[4], labelleft=node == DISCUSSED[0])
        for ax, name in zip(panels[:, 0], ("set to 0", "set to 1", "difference", "fires for\n(share)", "MSE gained\nwithout it")):
            ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=4)
        for drawn, row in ((grey, slice(0, 2)), (change, slice(2, 3))):
            top, bottom = panels[row, -1][0].get_position().y1, panels[row, -1][-1].get_position().y0
            figure.colorbar(drawn, cax=figure.add_axes([0.89, bottom, 0.013, top - bottom]))
        figure.text(0.52, 0.005, "digit", ha="center", va="bottom")
    utils.save(figure, path)


@torch.no_grad()
def painted(model, images):
    """Of the images that fire a node, the share that still do with white ink painted into a patch."""
    rows = {}  # keyed by text, as JSON does it
    for node, patches in PATCHES.items():
        firing = images[codelet7.activations(model, images, model.encoder.out_features)[:, node] > FIRES]
        shares = []
        for top, bottom, left, right in patches:
            inked = firing.clone()
            inked[:, :, top:bottom, left:right] = utils.WHITE
            after = codelet7.activations(model, inked, model.encoder.out_features)[:, node]
            shares.append((after > FIRES).float().mean().item())
        rows[str(node)] = {"images": len(firing), "patch": shares[0], "control": shares[1]}
        print(f"node {node}: of {len(firing):,} firing images {shares[0]:.1%} still fire, control {shares[1]:.1%}", flush=True)
    return rows


def untrained(images, labels):
    """The digit counts of each node's top 100 in the model before training."""
    torch.manual_seed(codelet7.SEED)
    model = codelet7.SparseAutoencoder(28 * 28, codelet7.HIDDEN_DIMS)
    hidden = codelet7.activations(model, images, codelet7.HIDDEN_DIMS)
    return [labels[codelet7.top_images(activation)].bincount(minlength=10).tolist() for activation in hidden.t()]


def sparsity(images, labels):
    rows = []
    for weight in WEIGHTS:
        model, history = run(images, labels, sparsity_weight=weight)
        hidden = codelet7.activations(model, images, model.encoder.out_features)
        fires = hidden > FIRES
        rows.append({"weight": weight, "mse": history[-1][1], "mean": hidden.mean().item(),
                     "lowest": hidden.mean(0).min().item(), "highest": hidden.mean(0).max().item(),
                     "at_once": fires.sum(1).float().mean().item(), "silent_images": (~fires.any(1)).float().mean().item(),
                     "dead": int((~fires.any(0)).sum())})
        print(f"weight {weight:g}: mean activation {rows[-1]['mean']:.3f}, MSE {rows[-1]['mse']:.4f}", flush=True)
    return rows


def floors(images, test_images):
    """MSE over the training pixels of what no training could better, or only a better code could."""
    x = images.flatten(1)
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh((x - mean).t().double() @ (x - mean).double())
    components = vectors[:, -codelet7.HIDDEN_DIMS:].float()
    linear = torch.cat([mean + (part - mean) @ components @ components.t() for part in x.split(1000)])
    test = test_images.flatten(1)
    return {"tanh": F.mse_loss(x.clamp(-1, 1), x).item(), "tanh_test": F.mse_loss(test.clamp(-1, 1), test).item(),
            "bright_pixels": (x > 1).float().mean().item(),
            "mean_image": F.mse_loss(mean.clamp(-1, 1).expand_as(x), x).item(),
            "mean_image_unclipped": F.mse_loss(mean.expand_as(x), x).item(),
            "pca": F.mse_loss(linear.clamp(-1, 1), x).item(), "pca_unclipped": F.mse_loss(linear, x).item()}


def changes(images, labels):
    """The final loss after one change at a time."""
    rows = []
    for key, change, settings in [
            ("rate", "learning rate $10^{-3}$", {"lr": 1e-3}), ("epochs", "100 epochs", {"epochs": 100}),
            ("nodes20", "20 nodes", {"hidden_dims": 20}), ("nodes100", "100 nodes", {"hidden_dims": 100}),
            ("linear", "no tanh", {"kind": LinearOutput}), ("nopenalty", "no penalty", {"sparsity_weight": 0.0}),
            ("linear-rate", "no tanh, and learning rate $10^{-3}$", {"kind": LinearOutput, "lr": 1e-3}),
            ("nodes100-rate", "100 nodes, and learning rate $10^{-3}$", {"hidden_dims": 100, "lr": 1e-3})]:
        _, history = run(images, labels, **settings)
        rows.append({"key": key, "change": change, "loss": history[-1][0]})
        print(f"{change}: {rows[-1]['loss']:.4f}", flush=True)
    return rows


def clamp_trap():
    """The sheet's penalty as it stands, in float32, for a node that always fires; and ours."""
    hidden = torch.ones(5, 1, requires_grad=True)
    rho, rho_hat = codelet7.RHO, torch.clamp(hidden.mean(0), 1e-8, 1 - 1e-8)
    literal = (rho * torch.log(rho / rho_hat) + (1 - rho) * torch.log((1 - rho) / (1 - rho_hat))).sum()
    literal.backward()
    ours = torch.ones(5, 1, requires_grad=True)
    penalty = codelet7.SparseAutoencoder.batched_sparsity_penalty(ours)
    penalty.backward()
    return {"literal": str(literal.item()), "literal_gradient": str(hidden.grad[0].item()),
            "ours": penalty.item(), "ours_gradient": ours.grad[0].item(),
            "never": codelet7.SparseAutoencoder.batched_sparsity_penalty(torch.zeros(5, 1)).item()}


def macros(results):
    """The results as the text of results.tex: \\defresult{key}{value} for each number the PDF states."""
    values = {}

    def put(key, value, form=".4f"):
        values[key] = format(value, form).replace("%", "\\%")

    def range_of(key, numbers):
        put(f"{key}-mean", statistics.mean(numbers))
        put(f"{key}-sd", statistics.stdev(numbers))
        put(f"{key}-min", min(numbers))
        put(f"{key}-max", max(numbers))

    for key, value in results["setting"].items():
        put(key, value, "")
    for key, value in results["default"].items():
        put(key, value)
    put("penalty-share", (results["default"]["last"] - results["default"]["last_mse"]) / results["default"]["last"], ".2%")
    put("seeds", len(results["seeds"]), "d")
    for key in ("first", "last", "test"):
        range_of(f"seeds-{key}", [row[key] for row in results["seeds"]])
    put("seeds-gap", statistics.mean(row["test"] - row["last"] for row in results["seeds"]))
    for key, epoch in (("first", 1), ("last", codelet7.EPOCHS)):
        sheet = codelet7.SHEET_LOSSES[epoch]
        put(f"sheet-{key}", sheet)
        put(f"sheet-{key}-below", sum(row[key] < sheet for row in results["seeds"]), "d")
        put(f"sheet-{key}-sds", abs(sheet - statistics.mean(row[key] for row in results["seeds"]))
            / statistics.stdev(row[key] for row in results["seeds"]), ".1f")
    for key in ("ours", "never"):
        put(f"clamp-{key}", results["clamp"][key])
    for key in ("literal", "literal_gradient"):
        put(f"clamp-{key}", float(results["clamp"][key]), "g")
    for key, value in results["floors"].items():
        put(key, value, ".1%" if key == "bright_pixels" else ".4f")
    put("tanh-share", results["floors"]["tanh"] / results["default"]["last_mse"], ".0%")
    put("clip-gap", results["floors"]["pca"] - results["floors"]["pca_unclipped"])
    put("code-gap", results["floors"]["pca"] - results["floors"]["tanh"])
    put("training-gap", results["default"]["last_mse"] - results["floors"]["pca"])

    purest = max(range(len(results["untrained_top"])), key=lambda node: max(results["untrained_top"][node]))
    put("untrained-purest", purest, "d")
    put("untrained-purest-count", max(results["untrained_top"][purest]), "d")
    put("untrained-purest-digit", results["untrained_top"][purest].index(max(results["untrained_top"][purest])), "d")
    put("untrained-9", max(results["untrained_top"][9]), "d")
    for node, row in results["painted"].items():
        put(f"painted-{node}", row["patch"], ".0%")
        put(f"control-{node}", row["control"], ".0%")
    features = results["features"]
    put("correlation", features["largest_correlation"], ".2f")
    put("at-once", features["firing_at_once"], ".1f")
    put("codes", features["codes_used"], "d")
    put("mean", features["mean"], ".2f")
    for key, pick in (("least", min), ("most", max)):
        put(f"mean-{key}", pick(node["mean"] for node in features["nodes"]), ".2f")
        put(f"fires-{key}", pick(node["fires"] for node in features["nodes"]), ".0%")
        put(f"cost-{key}", pick(node["silenced_cost"] for node in features["nodes"]), ".3f")
    rows = []
    for number, node in enumerate(features["nodes"]):
        for digit in range(10):
            put(f"top-{number}-{digit}", node["top"][digit], "d")
            put(f"fires-{number}-{digit}", node["fires_by_digit"][digit], ".0%")
            put(f"cost-{number}-{digit}", node["silenced_cost_by_digit"][digit], ".3f")
        by_top = sorted(range(10), key=lambda digit: -node["top"][digit])[:3]
        by_fires = sorted(range(10), key=lambda digit: -node["fires_by_digit"][digit])

        def digits_with(chosen, key):
            return ", ".join(rf"{digit}\,({values[f'{key}-{number}-{digit}']})" for digit in chosen)

        rows.append(rf"{number} & {node['mean']:.2f} & {100 * node['fires']:.0f}\% & {digits_with(by_top, 'top')} & "
                    rf"{digits_with(by_fires[:3], 'fires')} & {digits_with(by_fires[-2:], 'fires')} & "
                    rf"{node['silenced_cost']:.3f} \\")
    values["node-rows"] = "\n".join(rows)

    rows = []
    for row in results["sparsity"]:
        power = "$0$" if row["weight"] == 0 else f"$10^{{{round(math.log10(row['weight']))}}}$"
        rows.append(rf"{power} & {row['mean']:.3f} & {row['lowest']:.2f} to {row['highest']:.2f} & {row['at_once']:.1f} & "
                    rf"{100 * row['silent_images']:.1f} & {row['dead']} & {row['mse']:.4f} \\")
        name = f"{row['weight']:g}"
        put(f"weight-{name}-mean", row["mean"], ".3f")
        put(f"weight-{name}-mse", row["mse"])
        put(f"weight-{name}-silent", row["silent_images"], ".0%")
        put(f"weight-{name}-at-once", row["at_once"], ".1f")
    values["sparsity-rows"] = "\n".join(rows)
    values["change-rows"] = "\n".join(rf"{row['change']} & {row['loss']:.4f} \\" for row in results["changes"])
    for row in results["changes"]:
        put(f"change-{row['key']}", row["loss"])
    return "% Written by experiments.py from results.json.\n" + "".join(
        f"\\defresult{{{key}}}{{{value}}}\n" for key, value in values.items())


def main():
    start = time.perf_counter()
    try:
        data = digits.load("mnist", os.environ.get("MNIST_ROOT") or HERE.parent / "data")
    except (digits.DataError, OSError) as error:
        sys.exit(f"experiments.py: error: {error}")
    images, labels = codelet7.normalize(data.images), data.labels
    test_images = codelet7.normalize(data.test_images)
    model, history = run(images, labels)
    results = {
        "setting": {"torch": torch.__version__.split("+")[0], "threads": torch.get_num_threads()},
        "default": {"first": history[0][0], "last": history[-1][0], "last_mse": history[-1][1],
                    "test": codelet7.evaluate(model, test_images)},
        "clamp": clamp_trap(), "floors": floors(images, test_images), "features": nodes(model, images, labels),
        "painted": painted(model, images), "untrained_top": untrained(images, labels)}
    plot_interventions(model, images, results["features"]["nodes"], HERE / "interventions.png")
    results["changes"] = changes(images, labels)
    results["sparsity"] = sparsity(images, labels)
    results["seeds"] = seeds(images, labels, test_images)
    for key in ("first", "last", "test"):
        values = [row[key] for row in results["seeds"]]
        print(f"{key} loss of {len(values)} seeds: mean {statistics.mean(values):.4f}, {min(values):.4f} to {max(values):.4f}")
    for key, value in results["floors"].items():
        print(f"{key}: {value:.4f}")
    utils.write_whole(HERE / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    utils.write_whole(HERE / "results.tex", macros(results).encode())
    print(f"results.json, results.tex and interventions.png written after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
