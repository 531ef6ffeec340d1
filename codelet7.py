"""Codelet 7: a sparse autoencoder on MNIST, 784 pixels -> 10 sigmoid nodes -> 784 tanh pixels.

    python codelet7.py            trains for 20 epochs, prints the losses, saves the figures

Seed 0 prints 0.8040 for the first epoch and 0.5308 for the last. Over seeds, it is 0.8051 in the
first epoch (mean of 12 seeds; 0.8015 to 0.8085) and 0.5328 in the last (0.5308 to 0.5355); the
sheet's author had 0.8029 and 0.5329. Start reading at run(), near the end.
"""

import argparse
import math
import os
import sys

if __name__ == "__main__":  # a notebook passes its matplotlib backend on to the programs it starts:
    os.environ.pop("MPLBACKEND", None)  # it may not be installed here, and saving takes none

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torchvision.utils import make_grid

import digits
from commandline import as_program, errors_in_one_line, number, usable_device, user_path
from utils import MEAN, STD, check_folder, framed, plot_nodes, save_losses, show

EPOCHS = 20
BATCH_SIZE = 64          # the sheet's snippet plots a batch as 4 rows of 16
LEARNING_RATE = 1e-4     # Adam's
HIDDEN_DIMS = 10         # hidden nodes
RHO = 0.05               # target for every hidden node's mean activation
SPARSITY_WEIGHT = 1e-4   # weight of the sparsity penalty in the loss
SEED = 0                 # for the initial weights and the order of the batches
MAX_NODE_FIGURES = 32    # of more hidden nodes only the first 32 are drawn, in a figure each
SHEET_SETTINGS = dict(epochs=20, batch_size=64, lr=1e-4, hidden_dims=10, sparsity_weight=1e-4)
SHEET_LOSSES = {1: 0.8029, 20: 0.5329}  # epoch: the loss that the assignment's author had


class SparseAutoencoder(nn.Module):
    """A sigmoid encoder and a tanh decoder, kept sparse by a penalty on the mean activations.

        hidden         = sigmoid(W_e x + b_e)         (batch, hDims), in 0..1
        reconstruction = tanh(W_d hidden + b_d)       (batch, inputDims), in -1..1
        loss           = MSE(reconstruction, x) + sparsity_weight * sum_j KL(RHO || rho_hat_j)
    """

    def __init__(self, inputDims, hDims, sparsity_weight=None):
        super().__init__()
        self.encoder = nn.Linear(inputDims, hDims)
        self.decoder = nn.Linear(hDims, inputDims)
        self.init_weights(self.encoder)
        self.init_weights(self.decoder)
        self.sparsity_weight = SPARSITY_WEIGHT if sparsity_weight is None else sparsity_weight

    def init_weights(self, linear):
        """Xavier (Glorot and Bengio, AISTATS 2010, equation 16): weights uniform within
        sqrt(6 / (fan_in + fan_out)), zero biases."""
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)

    def forward(self, x):
        """x (batch, inputDims) or (batch, 1, 28, 28) -> (hidden, reconstruction)."""
        hidden = torch.sigmoid(self.encoder(x.flatten(1)))
        reconstruction = torch.tanh(self.decoder(hidden))
        return hidden, reconstruction

    def batched_sparsity_penalty(self, hidden):
        """sum_j RHO log(RHO / rho_hat_j) + (1 - RHO) log((1 - RHO) / (1 - rho_hat_j)), a scalar.

        hidden is (batch, hDims), in 0..1; rho_hat_j is node j's mean over the batch. The sum is the
        Kullback-Leibler divergence between Bernoulli distributions of means RHO and rho_hat_j.

        >>> h = torch.tensor([[.3, 0, .1], [.2, 0, .2], [.5, 0, .1], [.5, 0, .3], [.5, 0, .3]])
        >>> SparseAutoencoder(784, 3).batched_sparsity_penalty(h)
        tensor(1.1490)
        """
        # In double precision, since in float32 the limit 1 - 1e-8 rounds to 1: for a node that
        # always fires the second logarithm would divide by zero, and the loss be infinite.
        rho_hat = torch.clamp(hidden.mean(0, dtype=torch.float64), 1e-8, 1 - 1e-8)
        kl = RHO * torch.log(RHO / rho_hat) + (1 - RHO) * torch.log((1 - RHO) / (1 - rho_hat))
        return kl.sum().to(hidden.dtype)

    def loss_function(self, x, reconstruction, hidden):
        """MSE over pixels and batch plus the weighted sparsity penalty, a scalar."""
        mse = F.mse_loss(reconstruction, x.flatten(1))
        penalty = self.batched_sparsity_penalty(hidden)
        self.mse = mse.detach()  # for train_epoch's record of it
        return mse + self.sparsity_weight * penalty


def normalize(images):
    """uint8 (n, 28, 28) -> float32 (n, 1, 28, 28), as torchvision's ToTensor and Normalize do."""
    return images.unsqueeze(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def make_dataloader(images, labels, batch_size, seed, pin_memory=False):
    """A DataLoader of (images, labels) batches, reshuffled each epoch; the last may be short."""
    dataset = TensorDataset(images, labels)
    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
    # The sampler asks for 64 indices at once, and the data set cuts a whole batch: to stack single
    # images would take a quarter of an epoch. batch_size=None: what comes is a batch already.
    sampler = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None, pin_memory=pin_memory)


def show_batch(train_dataloader, path, about):
    """The sheet's snippet: save the first 64 images of a batch, in 4 rows of 16."""
    batch = next(iter(train_dataloader))
    images, _ = batch
    g = [image for image in images[:64]]
    grid = make_grid(g, 16)
    show(grid, path, f"{len(g)} training images of one batch. {about}")


def train_epoch(model, train_dataloader, optimizer):
    """One pass over the data. Returns the loss and its MSE part, each a mean over the batches."""
    device = model.encoder.weight.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # there, so no step waits for a GPU
    for images, _ in train_dataloader:
        images = images.to(device, non_blocking=True)
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums += torch.stack([loss.detach(), model.mse])
    return (sums / len(train_dataloader)).tolist()


def train(model, train_dataloader, epochs, lr):
    """Adam for `epochs` epochs, a printed line each. Returns a list of (loss, mse), one an epoch.
    Raises ValueError without images, FloatingPointError for a loss that is not finite."""
    if not len(train_dataloader):
        raise ValueError("there is nothing to train on: the data loader holds no images")
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    history = []
    for epoch in range(1, epochs + 1):
        loss, mse = train_epoch(model, train_dataloader, optimizer)
        if not math.isfinite(loss):
            good = all(images.isfinite().all() for images, _ in train_dataloader)
            advice = "try a smaller --lr or --sparsity-weight" if good else "and so are some pixels"
            raise FloatingPointError(f"the loss is {loss} in epoch {epoch}: {advice}")
        print(f"Epoch: {epoch}/{epochs} - Train Loss: {loss:.4f}", flush=True)
        history.append((loss, mse))
    return history


@torch.no_grad()
def evaluate(model, images):
    """The loss of `images` (n, 1, 28, 28) as one batch: the penalty depends on the batches."""
    images = images.to(model.encoder.weight.device)
    hidden, reconstruction = model(images)
    return model.loss_function(images, reconstruction, hidden).item()


@torch.no_grad()
def activations(model, images, nodes=None):
    """How strongly images (n, 1, 28, 28) activate the first `nodes` hidden nodes: (n, nodes). The
    sigmoid is in double precision: in single many of the largest would round to 1, and tie."""
    batches = (batch.to(model.encoder.weight.device).flatten(1) for batch in images.split(1000))
    return torch.cat([model.encoder(x)[:, :nodes].double().sigmoid().cpu() for x in batches])


@torch.no_grad()
def show_reconstructions(model, images, path, about):
    """Save 16 rows of 4 of the `images` (n, 1, 28, 28), each beside its reconstruction."""
    rows, images_a_row = 16, 4
    images = images[:rows * images_a_row]
    _, reconstruction = model(images.to(model.encoder.weight.device))
    pairs = [framed(images, "grey"), framed(reconstruction.view_as(images), "darkorange")]
    grid = make_grid(torch.stack(pairs, 1).flatten(0, 1), 2 * images_a_row, padding=3, pad_value=1)
    show(grid, path, f"The first {len(images)} training images (grey frames), each with its "
                     f"reconstruction to the right (orange frames). {about}")


def show_top_images(images, activation, node, path, about):
    """Save the 100 images that activate a node most, 10 a row; return their indices, (100,)."""
    top = activation.sort(descending=True, stable=True).indices[:100]
    grid = make_grid(images[top], 10)
    show(grid, path, f"The {len(top)} training images that activate node {node} most, strongest "
                     f"first (by {math.floor(1000 * activation[top[-1]]) / 1000} or more). {about}")
    return top


def visualize(model, images, labels, folder, about):
    """Save reconstruction.png, node_0.png ... and nodes.png, the overview, into `folder`."""
    show_reconstructions(model, images, folder / "reconstruction.png", about)
    hidden = activations(model, images, MAX_NODE_FIGURES)
    tops = [show_top_images(images, activation, node, folder / f"node_{node}.png", about)
            for node, activation in enumerate(hidden.t())]
    for node in range(len(tops), MAX_NODE_FIGURES):  # of an earlier run with more nodes
        (folder / f"node_{node}.png").unlink(missing_ok=True)
    plot_nodes(model.encoder.weight, model.decoder.weight.t(), hidden, RHO, images, labels, tops,
               folder / "nodes.png", about)


def run(args):
    """The assignment from its first step to its last, with the settings in `args`."""
    check_folder(args.figures_dir)  # before a download, which may take long
    data = digits.load(args.dataset, args.data_dir)
    is_mnist = data.name == "MNIST"
    figures = args.figures_dir if is_mnist else args.figures_dir / "standin"
    check_folder(figures / "trained")  # before training, which takes long too
    settings = (f"{data.name}: nodes {args.hidden_dims}, rho {RHO:g}, penalty weight "
                f"{args.sparsity_weight:g}, learning rate {args.lr:g}, batch size "
                f"{args.batch_size}, epochs {args.epochs}, seed {args.seed}.")
    print(f"Data: {data.name}, {len(data.images):,} training and {len(data.test_images):,} test "
          f"images. Device: {args.device}.\n{settings}", flush=True)
    torch.manual_seed(args.seed)
    model = SparseAutoencoder(28 * 28, args.hidden_dims, args.sparsity_weight).to(args.device)
    images, labels = normalize(data.images), data.labels
    loader = images, labels, args.batch_size, args.seed, args.device.type == "cuda"
    show_batch(make_dataloader(*loader), figures / "batch.png", settings)
    train_dataloader = make_dataloader(*loader)  # anew: to take a batch moves the shuffle on
    visualize(model, images, labels, figures / "untrained", f"Before training. {settings}")
    history = train(model, train_dataloader, args.epochs, args.lr)
    print(f"Test Loss: {evaluate(model, normalize(data.test_images)):.4f}", flush=True)
    visualize(model, images, labels, figures / "trained", f"After training. {settings}")
    as_the_sheet = is_mnist and RHO == 0.05 and vars(args).items() >= SHEET_SETTINGS.items()
    save_losses(history, figures / "trained", settings, SHEET_LOSSES if as_the_sheet else {})
    few = f" (of the first {MAX_NODE_FIGURES} nodes)" * (args.hidden_dims > MAX_NODE_FIGURES)
    print(f"Figures: {figures / 'untrained'} and {figures / 'trained'}{few}", flush=True)


def parse_args(argv):
    """The settings from a list of flags; where there is no flag, from the constants above."""
    parser = argparse.ArgumentParser("codelet7.py", description="A sparse autoencoder on MNIST.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--epochs", type=number(int, 1), default=EPOCHS, help="passes over the images")
    add("--batch-size", type=number(int, 1, 60000), default=BATCH_SIZE, help="images in a batch")
    add("--lr", type=number(float, 1e-12), default=LEARNING_RATE, help="Adam's learning rate")
    add("--hidden-dims", type=number(int, 1, 10000), default=HIDDEN_DIMS, help="hidden nodes")
    add("--sparsity-weight", type=number(float, 0), default=SPARSITY_WEIGHT, help="of the penalty")
    add("--seed", type=number(int, 0, 2**63 - 1), default=SEED, help="for weights and batches")
    add("--dataset", choices=["auto", "mnist", "standin"], default="auto",
        help="auto: MNIST where it can be had, else stand-in digits drawn from fonts")
    add("--data-dir", type=user_path, default=os.environ.get("MNIST_ROOT") or "data",
        help="where MNIST is or will be; $MNIST_ROOT if that is set")
    add("--figures-dir", type=user_path, default="figures", help="where the figures go")
    add("--device", type=usable_device, default="auto", help="auto: a GPU if it works, else cpu")
    return parser.parse_args(argv)


def main(argv=None):
    """Run with the flags in the list `argv`; main() in a notebook takes the defaults, not sys.argv.
    Raises SystemExit, after one line on stderr: 2 for a bad flag, 1 for any other trouble."""
    args = parse_args(argv or [])
    # A step is some sixty tiny operations: two threads gain nothing on them and, on a busy machine,
    # wait for each other. With one, the losses do not depend on the number of cores either.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    with errors_in_one_line():
        run(args)


if __name__ == "__main__":
    with as_program():
        main(sys.argv[1:])
