"""Codelet 7: a sparse autoencoder on MNIST, 784 pixels -> 10 sigmoid nodes -> 784 tanh pixels.

    python codelet7.py          trains for 20 epochs, prints the losses, saves figures and model

The first epoch prints about 0.80 and the last about 0.53; the sheet's author had 0.8029 and 0.5329.
The class comes first, as in the sheet; run(), near the end, tells the whole story. Five things are
not done in the most obvious way:

- MNIST is normalized once and kept as one tensor, instead of image by image in every epoch.
- A batch is cut from that tensor whole. To pick and stack 64 single images takes longer.
- Adam is the fused one: the same steps, in one call instead of dozens of tiny ones.
- Training takes one thread. The operations are so small that several threads gain nothing, and
  beside another program they mostly wait for each other.
- The penalty takes its mean in double precision, because in single precision 1 - 1e-8 is 1, and
  the sheet's clamp would not keep log(0) away.
"""

import os
import sys

# A notebook hands the name of its plotting backend on to the programs that it starts. Where that
# backend is not installed, `import matplotlib` would fail. IPython's own process still needs it.
if __name__ == "__main__" and "IPython" not in sys.modules:
    os.environ.pop("MPLBACKEND", None)

import argparse
import io
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms import functional as TF
from torchvision.utils import make_grid

import digits
from digits import MEAN, STD, write_whole
from utils import plot_losses, plot_nodes, show

EPOCHS = 20
BATCH_SIZE = 64          # the sheet's snippet plots a batch as 4 rows of 16
LEARNING_RATE = 1e-4     # Adam's
HIDDEN_DIMS = 10         # hidden nodes
RHO = 0.05               # target for every hidden node's mean activation
SPARSITY_WEIGHT = 1e-4   # weight of the sparsity penalty in the loss
SEED = 0                 # for the initial weights and the order of the batches
MAX_NODE_FIGURES = 32    # of more hidden nodes only the first ones are drawn
SHEET_LOSSES = {1: 0.8029, 20: 0.5329}  # by epoch: what the author of the assignment got


class SparseAutoencoder(nn.Module):
    """A sigmoid encoder and a tanh decoder, kept sparse by a penalty on the mean activations.

        hidden         = sigmoid(W_e x + b_e)         (batch, hDims), in 0..1
        reconstruction = tanh(W_d hidden + b_d)       (batch, inputDims), in -1..1
        loss           = MSE(reconstruction, x) + sparsity_weight * sum_j KL(RHO || rho_hat_j)
    """

    def __init__(self, inputDims, hDims, sparsity_weight=SPARSITY_WEIGHT):
        super().__init__()
        self.encoder = nn.Linear(inputDims, hDims)
        self.decoder = nn.Linear(hDims, inputDims)
        self.init_weights(self.encoder)
        self.init_weights(self.decoder)
        self.sparsity_weight = sparsity_weight

    def init_weights(self, linear):
        """Xavier (Glorot and Bengio, AISTATS 2010, equation 16): weights uniform within
        sqrt(6 / (fan_in + fan_out)), zero biases."""
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)

    def encode(self, x):
        """x (batch, inputDims) or (batch, 1, 28, 28) -> hidden (batch, hDims)."""
        return torch.sigmoid(self.encoder(x.flatten(1)))

    def forward(self, x):
        """x (batch, inputDims) or (batch, 1, 28, 28) -> (hidden, reconstruction)."""
        hidden = self.encode(x)
        reconstruction = torch.tanh(self.decoder(hidden))
        return hidden, reconstruction

    def batched_sparsity_penalty(self, hidden):
        """sum_j RHO log(RHO / rho_hat_j) + (1 - RHO) log((1 - RHO) / (1 - rho_hat_j)), a scalar.

        hidden is (batch, hDims), in 0..1; rho_hat_j is node j's mean over the batch. The sum is the
        Kullback-Leibler divergence between Bernoulli distributions of means RHO and rho_hat_j. It
        has two terms because the first charges a node that fires too rarely, and the second one
        that fires too often.

        >>> h = torch.tensor([[.3, 0, .1], [.2, 0, .2], [.5, 0, .1], [.5, 0, .3], [.5, 0, .3]])
        >>> SparseAutoencoder(784, 3).batched_sparsity_penalty(h)
        tensor(1.1490)
        """
        rho_hat = torch.clamp(hidden.mean(0, dtype=torch.float64), 1e-8, 1 - 1e-8)
        kl = RHO * torch.log(RHO / rho_hat) + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))
        return kl.sum().to(torch.promote_types(hidden.dtype, torch.float32))

    def loss_function(self, x, reconstruction, hidden):
        """MSE over pixels and batch plus the weighted sparsity penalty, a scalar."""
        mse = F.mse_loss(reconstruction, x.flatten(1))
        return mse + self.sparsity_weight * self.batched_sparsity_penalty(hidden)


# --- The data ---

def load_data(dataset, root):
    """digits.Digits: MNIST, from or into root/MNIST/raw, or the stand-in.

    dataset is "mnist", "standin", or "auto": MNIST where it can be had, else, said on stderr, the
    stand-in. Raises digits.DataError for files that are not MNIST's, for a set that stays
    incomplete, and for "mnist" if there is none; OSError for files that cannot be read or written.
    """
    if dataset == "standin":
        return digits.draw_standin()
    try:
        with digits.mnist_folder(root) as folder:
            train, test = MNIST(folder, train=True, download=True), MNIST(folder, train=False)
    except digits.NoMNIST as error:
        if dataset == "mnist":
            raise
        print(f"{error}\nGoing on with stand-in digits drawn from fonts: the losses and figures "
              "are not those of the assignment.", file=sys.stderr, flush=True)
        return digits.draw_standin()
    return digits.Digits("MNIST", train.data, train.targets, test.data, test.targets)


def normalize(images):
    """uint8 (n, 28, 28) -> float (n, 1, 28, 28), as torchvision's ToTensor and Normalize do."""
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize() takes 8-bit images, with pixels 0 to 255, not {images.dtype}")
    return TF.normalize(images.unsqueeze(1) / 255, (MEAN,), (STD,))


def make_dataloader(images, labels, batch_size):
    """A DataLoader of (images, labels) batches, reshuffled each epoch; the last may be short."""
    dataset = TensorDataset(images, labels)
    sampler = BatchSampler(RandomSampler(dataset), batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)  # a sample is a batch already


def show_batch(train_dataloader, path, title):
    """The sheet's snippet: the first 64 images of a batch, in 4 rows of 16."""
    batch = next(iter(train_dataloader))
    images, _ = batch
    g = [image for image in images[:64]]
    grid = make_grid(g, 16)
    show(grid, path, f"{len(g)} training images of one batch. {title}")


# --- Training ---

def train_epoch(model, train_dataloader, optimizer):
    """One pass over the data. Returns the loss and its MSE part, each a mean over the batches."""
    total, total_mse = 0.0, 0.0
    for images, _ in train_dataloader:
        images = images.to(model.encoder.weight.device)
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        total_mse += F.mse_loss(reconstruction.detach(), images.flatten(1)).item()
    return total / len(train_dataloader), total_mse / len(train_dataloader)


def train(model, train_dataloader, epochs, lr):
    """Adam for `epochs` epochs, a printed line each. Returns a list of (loss, mse), one an epoch.
    Raises FloatingPointError for a loss that is not finite."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    history = []
    for epoch in range(1, epochs + 1):
        loss, mse = train_epoch(model, train_dataloader, optimizer)
        check_finite(loss, f"in epoch {epoch}")
        print(f"Epoch: {epoch}/{epochs} - Train Loss: {loss:.4f}", flush=True)
        history.append((loss, mse))
    return history


@torch.no_grad()
def evaluate(model, images):
    """The loss of `images` (n, 1, 28, 28) as one batch: the penalty depends on the batches."""
    images = images.to(model.encoder.weight.device)
    hidden, reconstruction = model(images)
    return model.loss_function(images, reconstruction, hidden).item()


def check_finite(loss, where):
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} {where}: try a smaller --lr or "
                                 "--sparsity-weight")


# --- The two visualizations ---

@torch.no_grad()
def show_reconstructions(model, images, path, title):
    """Save 16 rows of 4 of the `images` (n, 1, 28, 28), each beside its reconstruction."""
    images = images[:64]
    _, reconstruction = model(images)
    pairs = torch.cat([images, reconstruction.view_as(images)], dim=3)  # side by side
    show(make_grid(pairs, 4, padding=4, pad_value=1), path,
         f"The first {len(images)} training images, each with its reconstruction to its right. "
         f"{title}")


def show_top_images(images, activation, node, path, title):
    """Save the 100 images (n, 1, 28, 28) with the highest `activation` (n,), 10 in a row."""
    top = activation.topk(100).indices
    show(make_grid(images[top], 10), path,
         f"The {len(top)} training images that activate node {node} most, strongest first. {title}")


@torch.no_grad()
def visualize(model, images, labels, folder, title):
    """Save reconstruction.png, node_0.png ... and nodes.png, the overview, into `folder`."""
    images = images.to(model.encoder.weight.device)
    show_reconstructions(model, images, folder / "reconstruction.png", title)
    # Before the sigmoid the order is the same, without the ties that it makes by rounding to 1.
    before_sigmoid = model.encoder(images.flatten(1))[:, :MAX_NODE_FIGURES]
    for node, activation in enumerate(before_sigmoid.t()):
        show_top_images(images, activation, node, folder / f"node_{node}.png", title)
    hidden = model.encode(images)[:, :MAX_NODE_FIGURES]
    plot_nodes(model.decoder.weight.t(), hidden, RHO, images, labels, folder / "nodes.png", title)


# --- The run ---

def run(args):
    """The assignment from its first step to its last, with the settings in `args`."""
    args.figures_dir.mkdir(parents=True, exist_ok=True)  # if it cannot be made, say so now
    data = load_data(args.dataset, args.data_dir)
    figures = args.figures_dir if data.name == "MNIST" else args.figures_dir / "standin"
    untrained, trained = figures / "untrained", figures / "trained"
    for folder in (untrained, trained):
        folder.mkdir(parents=True, exist_ok=True)
    settings = (f"{data.name}: nodes {args.hidden_dims}, rho {RHO:g}, penalty weight "
                f"{args.sparsity_weight:g}, learning rate {args.lr:g}, batch size "
                f"{args.batch_size}, epochs {args.epochs}, seed {args.seed}.")
    print(f"Data: {data.name}, {len(data.images):,} training and {len(data.test_images):,} test "
          f"images. Device: {args.device}.\n{settings}", flush=True)

    images, labels = normalize(data.images), data.labels
    torch.manual_seed(args.seed)  # the weights, the sheet's batch and the epochs draw from it
    model = SparseAutoencoder(28 * 28, args.hidden_dims, args.sparsity_weight).to(args.device)
    train_dataloader = make_dataloader(images, labels, args.batch_size)
    show_batch(train_dataloader, figures / "batch.png", settings)
    visualize(model, images, labels, untrained, f"Before training. {settings}")

    history = train(model, train_dataloader, args.epochs, args.lr)
    test_loss = evaluate(model, normalize(data.test_images))
    check_finite(test_loss, "after the last step")
    print(f"Test Loss: {test_loss:.4f}", flush=True)

    save_model(model, trained / "model.pt")
    visualize(model, images, labels, trained, f"After training. {settings}")
    save_losses(history, trained / "losses.csv")
    plot_losses(history, SHEET_LOSSES, trained / "loss.png", settings)
    print(f"Figures: {untrained} and {trained}", flush=True)


def save_model(model, path):
    """Save the weights, as a state_dict of CPU tensors for torch.load()."""
    buffer = io.BytesIO()
    torch.save({name: weights.cpu() for name, weights in model.state_dict().items()}, buffer)
    write_whole(path, buffer.getvalue())


def save_losses(history, path):
    """Save a table with a row for each epoch's (loss, mse)."""
    table = "epoch,loss,mse,weighted_penalty\n"
    for epoch, (loss, mse) in enumerate(history, 1):
        penalty = loss - mse
        table += f"{epoch},{loss:.6f},{mse:.6f},{penalty:.6f}\n"
    write_whole(path, table.encode())


# --- The command line ---

def parse_args(argv):
    """The settings from a list of flags; where there is no flag, from the constants above."""
    parser = argparse.ArgumentParser("codelet7.py", description="A sparse autoencoder on MNIST.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--epochs", type=int, default=EPOCHS, help="passes over the images")
    add("--batch-size", type=int, default=BATCH_SIZE, help="images in a batch")
    add("--lr", type=float, default=LEARNING_RATE, help="Adam's learning rate")
    add("--hidden-dims", type=int, default=HIDDEN_DIMS, help="hidden nodes")
    add("--sparsity-weight", type=float, default=SPARSITY_WEIGHT, help="of the penalty")
    add("--seed", type=int, default=SEED, help="for weights and batches")
    add("--dataset", choices=["auto", "mnist", "standin"], default="auto",
        help="auto: MNIST where it can be had, else stand-in digits drawn from fonts")
    add("--data-dir", default=os.environ.get("MNIST_ROOT") or "data",
        help="where MNIST is or will be; $MNIST_ROOT if that is set")
    add("--figures-dir", default="figures", help="where figures and model go")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="what to train on")
    args = parser.parse_args(argv)

    # Checked here, and not by argparse, because a constant may be edited to anything, too.
    for flag, value, least in (("--epochs", args.epochs, 1), ("--batch-size", args.batch_size, 1),
                               ("--hidden-dims", args.hidden_dims, 1), ("--seed", args.seed, 0),
                               ("MAX_NODE_FIGURES", MAX_NODE_FIGURES, 1)):
        if not isinstance(value, int) or not least <= value < 2**63:  # torch takes no larger one
            parser.error(f"{flag} is {value}: it must be a whole number from {least} to 2**63 - 1")
    if not 0 < args.lr < math.inf:
        parser.error(f"--lr is {args.lr}: it must be a number above 0")
    if not 0 <= args.sparsity_weight < math.inf:
        parser.error(f"--sparsity-weight is {args.sparsity_weight}: it must be a number from 0 up")
    if not 0 < RHO < 1:
        parser.error(f"RHO is {RHO}: it must lie between 0 and 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    args.data_dir, args.figures_dir = (Path(os.path.expanduser(path))
                                       for path in (args.data_dir, args.figures_dir))
    return args


def main(argv=None):
    """Run with the flags in the list `argv`; main() takes the defaults, whatever sys.argv holds.
    Trouble raises SystemExit: for a bad flag with code 2, after argparse's words on stderr, else
    with one line about it, which Python prints there before it ends with exit code 1."""
    args = parse_args(argv or [])
    threads = torch.get_num_threads()
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
    problem = None
    try:
        run(args)
    except (digits.DataError, FloatingPointError) as error:
        problem = error
    except OSError as error:
        if error.errno and not error.filename:  # print() names no file
            error.filename = "standard output"
        problem = error
    except (MemoryError, RuntimeError) as error:  # without memory, torch raises a RuntimeError
        wanting = re.search("Allocator|Storage size|out of memory", str(error))
        if isinstance(error, RuntimeError) and not wanting:
            raise
        problem = "out of memory: a smaller --batch-size or --hidden-dims needs less"
    finally:
        torch.set_num_threads(threads)
    if problem:
        sys.exit(f"codelet7.py: error: {problem}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # a letter that the console lacks is printed as \u03b1
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ncodelet7.py: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
