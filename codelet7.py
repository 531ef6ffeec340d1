"""A sparse autoencoder on MNIST: 784 pixels -> 10 sigmoid nodes -> 784 tanh outputs.

    python codelet7.py          trains for 20 epochs, prints the losses, saves the figures

Top to bottom: the constants, the model, the data, training, the two visualizations, main().
Finding (or drawing) the digits is in digits.py, how pictures are saved in utils.py.
"""

import signal
import sys

if __name__ == "__main__":  # set before the slow imports below, so that Ctrl-C is heard from here on
    def interrupted(*_):
        print("\ncodelet7.py: interrupted", file=sys.stderr)
        raise SystemExit(130)
    signal.signal(signal.SIGINT, interrupted)

import argparse
import math
import os
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision.utils import make_grid

import digits
import utils
from utils import show

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 1e-4
HIDDEN_DIMS = 10
RHO = 0.05               # the mean activation that the penalty asks of every hidden node
SPARSITY_WEIGHT = 1e-4   # of the penalty, beside the mean squared error
SEED = 0
SHEET_LOSSES = {1: 0.8029, 20: 0.5329}  # epoch: what the assignment's author got
MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, scaled to 0..1
MAX_NODE_FIGURES = 32    # a run with more hidden nodes draws the first 32: one figure for each


class SparseAutoencoder(nn.Module):
    """A sigmoid encoder and a tanh decoder, kept sparse by a penalty on the mean activations.

        hidden         = sigmoid(W_e x + b_e)           (batch, hDims), in 0..1
        reconstruction = tanh(W_d hidden + b_d)         (batch, inputDims), in -1..1
        loss           = MSE(x, reconstruction) + sparsity_weight * sum_j KL(RHO || rho_hat_j)
    """

    def __init__(self, inputDims, hDims):
        super().__init__()
        self.encoder = nn.Linear(inputDims, hDims)
        self.decoder = nn.Linear(hDims, inputDims)
        self.init_weights(self.encoder)
        self.init_weights(self.decoder)

    @staticmethod
    def init_weights(linear):
        """Xavier: weights uniform within sqrt(6 / (fan_in + fan_out)), zero biases.

        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
        networks", AISTATS 2010, equation 16.
        """
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)

    def encode(self, x):
        """x (batch, inputDims) or images of that many pixels -> hidden (batch, hDims)."""
        return torch.sigmoid(self.encoder(x.flatten(1)))

    def decode(self, hidden):
        """hidden (batch, hDims) -> reconstruction (batch, inputDims)."""
        return torch.tanh(self.decoder(hidden))

    def forward(self, x):
        """x (batch, inputDims) or (batch, 1, 28, 28) -> (hidden, reconstruction)."""
        hidden = self.encode(x)
        return hidden, self.decode(hidden)

    @staticmethod
    def batched_sparsity_penalty(hidden):
        """sum_j RHO log(RHO / rho_hat_j) + (1 - RHO) log((1 - RHO) / (1 - rho_hat_j)), a scalar.

        hidden is (batch, hDims), each in 0..1; rho_hat_j is node j's mean over the batch. The sum is
        the Kullback-Leibler divergence of a coin that shows RHO from one that shows rho_hat_j.

        >>> h = torch.tensor([[.3, 0, .1], [.2, 0, .2], [.5, 0, .1], [.5, 0, .3], [.5, 0, .3]])
        >>> SparseAutoencoder.batched_sparsity_penalty(h)
        tensor(1.1490)
        """
        # In double precision, because in float32 the sheet's upper limit 1 - 1e-8 rounds to 1: for a
        # node that always fires the second logarithm would divide by zero, and the loss be infinite.
        rho_hat = hidden.mean(0, dtype=torch.float64)
        # The sum above is the cross-entropy of the two coins less the first one's entropy. PyTorch has the
        # cross-entropy as one operation; term by term it takes eleven, and a model this small feels each
        # of them in every step. It takes logits, and torch.logit's eps is the sheet's clamp.
        logits = torch.logit(rho_hat, eps=1e-8)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, RHO), reduction="sum")
        entropy = -len(logits) * (RHO * math.log(RHO) + (1 - RHO) * math.log(1 - RHO))
        return (cross_entropy - entropy).to(hidden.dtype)

    @classmethod
    def loss_function(cls, x, reconstruction, hidden, sparsity_weight=SPARSITY_WEIGHT):
        """MSE over pixels and batch plus sparsity_weight times the penalty, a scalar."""
        mse = F.mse_loss(reconstruction, x.flatten(1))
        penalty = cls.batched_sparsity_penalty(hidden)
        return torch.add(mse, penalty, alpha=sparsity_weight)  # mse + sparsity_weight * penalty


def normalize(images):
    """uint8 (n, 28, 28) -> float32 (n, 1, 28, 28) of mean 0 and standard deviation 1 on MNIST:
    what torchvision's ToTensor and Normalize give, for all the images at once."""
    return images.unsqueeze(1).float().div_(255).sub_(MEAN).div_(STD)


class ShuffledBatches(IterableDataset):
    """(images, labels) in batches of a new order each epoch, cut whole from two tensors: collecting a
    batch from 64 separate images would cost more than training on it. The last batch is short if it
    must be. The order depends on the seed alone, not on the device that holds the tensors."""

    def __init__(self, images, labels, batch_size, seed):
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self):
        order = torch.randperm(len(self.images), generator=self.generator).to(self.images.device)
        for index, labels in zip(order.split(self.batch_size), self.labels[order].split(self.batch_size)):
            yield self.images.index_select(0, index), labels


def make_dataloader(images, labels, batch_size=BATCH_SIZE, seed=SEED):
    """A DataLoader of shuffled (images, labels) batches, cut from two tensors of equal length."""
    return DataLoader(ShuffledBatches(images, labels, batch_size, seed), batch_size=None, collate_fn=tuple)


def train_epoch(model, train_dataloader, optimizer, sparsity_weight=SPARSITY_WEIGHT):
    """One pass over the data. Returns two floats, means over the batches: the loss, and its part
    that is mean squared error."""
    # What is measured stays on the device, in one place: reading a loss in every step would make a
    # GPU wait, and keeping the losses in a list breaks up memory that the next batch would reuse.
    device = model.encoder.weight.device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    rho_hats = torch.empty(len(train_dataloader), model.encoder.out_features, device=device)
    parameters = list(model.parameters())
    for (images, _), rho_hat in zip(train_dataloader, rho_hats):
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden, sparsity_weight)
        for parameter in parameters:
            parameter.grad = None  # zero_grad(), which would look the parameters up in every step
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        torch.mean(hidden.detach(), 0, out=rho_hat)
    # A batch's penalty depends on its mean activations alone, node by node: summed over all batches
    # it is that of one image with as many nodes as all of them together.
    penalty = model.batched_sparsity_penalty(rho_hats.view(1, -1)).item() / len(train_dataloader)
    loss = loss_sum.item() / len(train_dataloader)
    return loss, loss - sparsity_weight * penalty


def train(model, train_dataloader, epochs=EPOCHS, lr=LEARNING_RATE, sparsity_weight=SPARSITY_WEIGHT):
    """Adam for `epochs` epochs, a printed line each. Returns a list of (loss, mse), one an epoch.

    Raises FloatingPointError when the loss of an epoch is not finite.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    history = []
    for epoch in range(1, epochs + 1):
        loss, mse = train_epoch(model, train_dataloader, optimizer, sparsity_weight)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {epoch}: training has diverged. "
                                     "Try a smaller --lr or --sparsity-weight")
        print(f"Epoch: {epoch}/{epochs} - Train Loss: {loss:.4f}", flush=True)
        history.append((loss, mse))
    return history


@torch.no_grad()
def evaluate(model, images, batch_size=BATCH_SIZE, sparsity_weight=SPARSITY_WEIGHT):
    """The mean loss over the batches of `images` (n, 1, 28, 28), in file order."""
    losses = []
    for batch in images.split(batch_size):
        hidden, reconstruction = model(batch)
        losses.append(model.loss_function(batch, reconstruction, hidden, sparsity_weight))
    return torch.stack(losses).mean().item()


@torch.no_grad()
def activations(model, images, nodes):
    """The activations (n, nodes) of the first `nodes` hidden nodes for images (n, 1, 28, 28)."""
    return torch.cat([model.encode(batch)[:, :nodes] for batch in images.split(1000)])


def top_images(activation, count=100):
    """The indices of the `count` highest of one node's activations (n,), highest first; the
    earlier image first where two are equal, so that every run draws the same figure."""
    return activation.sort(descending=True, stable=True).indices[:count]


@torch.no_grad()
def show_reconstructions(model, images, path, about):
    """Save 16 rows of 4 images (64, 1, 28, 28), each beside its reconstruction."""
    _, reconstruction = model(images)
    pairs = torch.stack([utils.framed(images, utils.GREY),
                         utils.framed(reconstruction.view_as(images), utils.ORANGE)], 1).flatten(0, 1)
    show(make_grid(pairs, 8, padding=3, pad_value=utils.WHITE), path,
         f"The first {len(images)} training images (grey frames), each with its reconstruction to "
         f"the right (orange frames). {about}")


def show_top_images(images, activation, node, path, about):
    """Save the 100 of `images` (n, 1, 28, 28) with the highest `activation` (n,) of a node."""
    top = top_images(activation)
    high, low = activation[top[0]].item(), activation[top[-1]].item()
    show(make_grid(images[top], 10), path,
         f"Node {node}: the {len(top)} training images that activate it most, strongest first, "
         f"activation {high:.6f} to {low:.6f}. {about}")


def visualize(model, images, labels, folder, about):
    """Save reconstruction.png, node_0.png ... and nodes.png, the overview, into `folder`."""
    show_reconstructions(model, images[:64], folder / "reconstruction.png", about)
    drawn = min(model.encoder.out_features, MAX_NODE_FIGURES)
    hidden = activations(model, images, drawn)
    tops = [top_images(activation) for activation in hidden.t()]
    for node, activation in enumerate(hidden.t()):
        show_top_images(images, activation, node, folder / f"node_{node}.png", about)
    utils.plot_nodes(
        encoder=model.encoder.weight.detach()[:drawn].view(-1, 28, 28),
        decoder=model.decoder.weight.detach().t()[:drawn].reshape(-1, 28, 28),
        top_means=torch.stack([images[top].mean((0, 1)) for top in tops]),
        label_counts=torch.stack([labels[top].bincount(minlength=10) for top in tops]),
        hidden=hidden, target=RHO, path=folder / "nodes.png", title=f"What each hidden node responds to. {about}")
    for path in folder.glob("node_*.png"):  # of an earlier run with more nodes
        if re.fullmatch(r"node_\d+\.png", path.name) and int(path.stem[5:]) >= drawn:
            path.unlink(missing_ok=True)  # another run may have been quicker


def number(kind, least, most=math.inf):
    """An argparse type: a finite int or float from `least` to `most`."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and value < math.inf):
            wanted = f"a {'whole ' * (kind is int)}number from {least} " + (f"to {most}" if most < math.inf else "up")
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value
    return parse


def device(text):
    """An argparse type: a torch device on which this machine can compute in double precision."""
    try:
        torch.zeros(1, dtype=torch.float64, device=text).item()
    except Exception:  # of many kinds, from a name that torch does not know to a driver that fails
        raise argparse.ArgumentTypeError(f"this machine has no usable device {text!r}; cpu always works")
    return torch.device(text)


def parse_args(argv):
    """The command line's flags. Returns the parser, for its errors, and the parsed flags."""
    parser = argparse.ArgumentParser(prog="codelet7.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                                     description="Train a sparse autoencoder on MNIST; print losses, save figures.")
    add = parser.add_argument
    add("--epochs", type=number(int, 1), default=EPOCHS, help="passes over the training images")
    add("--batch-size", type=number(int, 1, 60000), default=BATCH_SIZE, help="images in a batch")
    add("--lr", type=number(float, 1e-12), default=LEARNING_RATE, help="Adam's learning rate")
    add("--hidden-dims", type=number(int, 1, 10000), default=HIDDEN_DIMS, help="hidden nodes")
    add("--sparsity-weight", type=number(float, 0), default=SPARSITY_WEIGHT, help="weight of the sparsity penalty")
    add("--seed", type=number(int, 0, 2**63 - 1), default=SEED, help="of the initial weights and the batch order")
    add("--dataset", choices=["auto", "mnist", "standin"], default="auto",
        help="auto is MNIST where it can be had, else stand-in digits drawn from fonts")
    add("--data-dir", type=Path, default=os.environ.get("MNIST_ROOT") or "data",
        help="holds MNIST/raw/*-ubyte, or will; the default is $MNIST_ROOT if that is set")
    add("--figures-dir", type=Path, default="figures", help="where the figures go")
    add("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="where to train")
    return parser, parser.parse_args(argv)


def main(argv=None):
    """The command line. Raises SystemExit: 2 for a bad flag, 1 for any other trouble."""
    parser, args = parse_args(argv)
    try:
        utils.check_folder(args.figures_dir)
    except OSError as error:
        parser.error(f"argument --figures-dir: {error}")
    try:
        data = digits.load(args.dataset, args.data_dir)
    except OSError as error:
        parser.error(f"argument --data-dir (or $MNIST_ROOT): {error}")
    except digits.DataError as error:
        parser.exit(1, f"codelet7.py: error: {error}\n")
    is_mnist = data.name == "MNIST"
    figures = args.figures_dir if is_mnist else args.figures_dir / "standin"
    try:
        utils.check_folder(figures / "untrained")
        utils.check_folder(figures / "trained")
    except OSError as error:
        parser.error(f"argument --figures-dir: {error}")
    names = ("batch_size", "lr", "hidden_dims", "sparsity_weight", "seed")
    changed = {name: getattr(args, name) for name in names if getattr(args, name) != parser.get_default(name)}
    settings = data.name + "".join(f", --{name.replace('_', '-')} {value}" for name, value in changed.items())

    torch.manual_seed(args.seed)
    model = SparseAutoencoder(28 * 28, args.hidden_dims).to(args.device)
    images, labels = normalize(data.images.to(args.device)), data.labels.to(args.device)
    train_dataloader = make_dataloader(images, labels, args.batch_size, args.seed)
    try:
        print(f"Data: {data.name}, {len(data.images):,} training and {len(data.test_images):,} test images. "
              f"Device: {args.device}. Seed: {args.seed}.", flush=True)
        visualize(model, images, labels, figures / "untrained", f"{settings}, before training.")
        history = train(model, train_dataloader, args.epochs, args.lr, args.sparsity_weight)
        test_images = normalize(data.test_images.to(args.device))
        print(f"Test Loss: {evaluate(model, test_images, args.batch_size, args.sparsity_weight):.4f}", flush=True)
        about = f"{settings}, after {args.epochs} epoch{'s' * (args.epochs > 1)}."
        visualize(model, images, labels, figures / "trained", about)
        batch, _ = next(iter(train_dataloader))  # after training: taking a batch moves the shuffle on
        show(make_grid([image for image in batch], 16), figures / "batch.png",
             f"A shuffled batch of {len(batch)} training images. {data.name}.")
        references = {epoch: loss for epoch, loss in SHEET_LOSSES.items() if is_mnist and epoch <= args.epochs}
        utils.save_losses(history, figures / "trained", about, references)
        few = f" (of the first {MAX_NODE_FIGURES} nodes)" if args.hidden_dims > MAX_NODE_FIGURES else ""
        print(f"Figures: {figures / 'untrained'} and {figures / 'trained'}{few}", flush=True)
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        parser.exit(1)
    except (OSError, FloatingPointError) as error:
        parser.exit(1, f"codelet7.py: error: {error}\n")


if __name__ == "__main__":
    main()
