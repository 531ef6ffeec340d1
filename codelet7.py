"""Codelet 7: a sparse autoencoder on MNIST, 784 pixels -> 10 sigmoid nodes -> 784 tanh pixels.

    python codelet7.py          trains for 20 epochs, prints the losses, saves figures and model

It needs the utils.py and digits.py of this folder (the course's own utils.py has only show()).
The loss falls from about 0.80 in the first epoch to about 0.53 in the last (instructor: 0.8029 and
0.5329). The class comes first, as in the assignment; together with train() it is the whole method.
run(), near the end, is the main program. Five choices are less obvious:

- MNIST is normalized once and kept as one tensor, instead of image by image in every epoch.
- Each batch is indexed from that tensor in one operation; fetching and stacking 64 single images is
  slower.
- Adam is fused: the same update in one call instead of dozens of small ones.
- Training uses one thread. The operations are too small to benefit from more, and on a busy machine
  several threads mostly wait for each other.
- The penalty computes the mean in double precision: in single precision 1 - 1e-8 rounds to 1, so
  the assignment's clamp would not prevent an infinite penalty.
"""

import argparse
import io
import math
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torchvision.transforms import functional as TF
from torchvision.utils import make_grid

import digits
from utils import ON, plot_losses, plot_nodes, show

EPOCHS = 20
BATCH_SIZE = 64          # the assignment plots a batch as 4 rows of 16
LEARNING_RATE = 1e-4     # Adam's
HIDDEN_DIMS = 10         # hidden nodes
RHO = 0.05               # target for every hidden node's mean activation
SPARSITY_WEIGHT = 1e-4   # weight of the sparsity penalty in the loss
WEIGHT_DECAY = 0.0       # Adam's
SEED = 0                 # for the initial weights and the order of the batches
MAX_NODE_FIGURES = 32    # with more hidden nodes, only the first ones are plotted
WEAK = 0.25              # activations below this are weak
INSTRUCTOR_LOSSES = {1: 0.8029, 20: 0.5329}  # by epoch, from the assignment


class SparseAutoencoder(nn.Module):
    """A sigmoid encoder and a tanh decoder, with a penalty that pulls the mean activations to rho.

        hidden         = sigmoid(W_e x + b_e)         (batch, hDims), in 0..1
        reconstruction = tanh(W_d hidden + b_d)       (batch, inputDims), in -1..1
        loss           = MSE(reconstruction, x) + sparsity_weight * sum_j KL(rho || rho_hat_j)
    """

    def __init__(self, inputDims, hDims, *, rho=RHO, sparsity_weight=SPARSITY_WEIGHT):
        super().__init__()
        self.encoder = nn.Linear(inputDims, hDims)
        self.decoder = nn.Linear(hDims, inputDims)
        self.init_weights(self.encoder)
        self.init_weights(self.decoder)
        self.rho = rho
        self.sparsity_weight = sparsity_weight

    def init_weights(self, linear):
        """Xavier initialization (Glorot and Bengio, AISTATS 2010, equation 16): weights uniform in
        +-sqrt(6 / (fan_in + fan_out)), biases zero."""
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)

    def encode(self, x):
        """x (batch, inputDims) or (batch, 1, 28, 28) -> hidden (batch, hDims)."""
        return torch.sigmoid(self.encoder(x.flatten(1)))

    def decode(self, hidden):
        """hidden (batch, hDims) -> reconstruction (batch, inputDims)."""
        return torch.tanh(self.decoder(hidden))

    def forward(self, x):
        """x (batch, inputDims) or (batch, 1, 28, 28) -> (hidden, reconstruction)."""
        hidden = self.encode(x)
        return hidden, self.decode(hidden)

    def batched_sparsity_penalty(self, hidden):
        """sum_j rho log(rho / rho_hat_j) + (1 - rho) log((1 - rho) / (1 - rho_hat_j)), a scalar.

        hidden is (batch, hDims), in 0..1; rho_hat_j is node j's mean over the batch. The sum is the
        Kullback-Leibler divergence between Bernoulli distributions with means rho and rho_hat_j.
        It is 0 if all rho_hat_j are rho, and otherwise above 0.

        >>> h = torch.tensor([[.3, 0, .1], [.2, 0, .2], [.5, 0, .1], [.5, 0, .3], [.5, 0, .3]])
        >>> SparseAutoencoder(784, 3, rho=0.05).batched_sparsity_penalty(h)
        tensor(1.1490)
        """
        rho = self.rho
        rho_hat = hidden.mean(0, dtype=torch.float64)  # in float32, 1 - 1e-8 would be 1
        rho_hat = torch.clamp(rho_hat, 1e-8, 1 - 1e-8)
        kl = rho * torch.log(rho / rho_hat) + (1 - rho) * torch.log((1 - rho) / (1 - rho_hat))
        return kl.sum().float()

    def loss_function(self, x, reconstruction, hidden):
        """MSE over pixels and batch plus the weighted sparsity penalty, a scalar."""
        mse = F.mse_loss(reconstruction, x.flatten(1))
        return mse + self.sparsity_weight * self.batched_sparsity_penalty(hidden)


# --- The data ---

def load_data(dataset, root):
    """Return MNIST from root/MNIST/raw (downloaded if necessary) or the stand-in digits.

    dataset is "mnist", "standin", or "auto": MNIST if it is available, otherwise the stand-in
    digits, with a message on stderr. Returns digits.Digits. Raises digits.DataError and OSError as
    digits.read_mnist() does; digits.NoMNIST only if dataset is "mnist".
    """
    if dataset != "standin":
        try:
            return digits.read_mnist(root)
        except digits.NoMNIST as error:
            if dataset == "mnist":
                raise
            print(f"{error}\nContinuing with stand-in digits rendered from fonts: losses and "
                  "figures will not match the assignment's.", file=sys.stderr, flush=True)
    return digits.draw_standin()


def normalize(images):
    """uint8 (n, 28, 28) -> float (n, 1, 28, 28), as torchvision's ToTensor and Normalize do."""
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize() expects uint8 pixels, 0 to 255, not {images.dtype}")
    return TF.normalize(images.unsqueeze(1) / 255, (digits.MEAN,), (digits.STD,))


def make_dataloader(images, labels, batch_size):
    """A DataLoader of (images, labels) batches, reshuffled in each epoch; the last batch may be
    smaller."""
    dataset = TensorDataset(images, labels)
    sampler = BatchSampler(RandomSampler(dataset), batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)  # dataset[indices] is a batch


def show_batch(train_dataloader, path, title):
    """The assignment's snippet: the first 64 images of a batch, in 4 rows of 16."""
    batch = next(iter(train_dataloader))
    images, _ = batch
    g = [image for image in images[:64]]
    grid = make_grid(g, 16)
    show(grid, path, f"{len(g)} training images of one batch. {title}")


# --- Training ---

def train_epoch(model, train_dataloader, optimizer):
    """One pass over the data. Returns the loss and its MSE part, averaged over the batches."""
    total, total_mse = 0.0, 0.0
    for images, _ in train_dataloader:
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        # loss_function returns only the sum, as the assignment asks; the loss curve shows both.
        total_mse += F.mse_loss(reconstruction.detach(), images.flatten(1)).item()
    return total / len(train_dataloader), total_mse / len(train_dataloader)


def print_loss(epoch, epochs, loss):
    """Print the assignment's line for an epoch."""
    print(f"Epoch: {epoch}/{epochs} - Train Loss: {loss:.4f}", flush=True)


@torch.enable_grad()  # a notebook may have switched gradients off
def train(model, train_dataloader, epochs, lr, seed, *, weight_decay=WEIGHT_DECAY,
          after_epoch=print_loss):
    """Train with Adam. Returns one (loss, mse) per epoch.

    seed fixes the order of the batches, even if, for example, show_batch() drew random numbers
    before. after_epoch(epoch, epochs, loss) is called after each epoch, for experiments that
    look at the model in between; random numbers that it draws would change the batches that follow.
    Raises FloatingPointError if the loss is not finite.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    history = []
    for epoch in range(1, epochs + 1):
        loss, mse = train_epoch(model, train_dataloader, optimizer)
        check_finite(loss, f"in epoch {epoch}")
        history.append((loss, mse))
        after_epoch(epoch, epochs, loss)
    return history


def check_finite(loss, where):
    """Raise FloatingPointError if the loss is not finite; `where` says when it was measured."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} {where}: try a smaller --lr, "
                                 "--sparsity-weight or --weight-decay")


@torch.no_grad()
def evaluate(model, images):
    """The loss on `images` (n, 1, 28, 28) as a single batch (the penalty depends on the batch)."""
    hidden, reconstruction = model(images)
    return model.loss_function(images, reconstruction, hidden).item()


def variance_explained(images, reconstruction):
    """The share of the variance of `images` (n, ...) that their reconstructions explain.

    1 - (sum of squared errors) / (sum of squared deviations from each pixel's mean): 1 for perfect
    copies, 0 for always predicting their mean, below 0 for anything worse.
    """
    x = images.flatten(1)
    error = (reconstruction.flatten(1) - x).square().sum(dtype=torch.float64)
    deviation = (x - x.mean(0)).square().sum(dtype=torch.float64)
    return (1 - error / deviation).item()


def weak_share(hidden):
    """The share of the total activation of hidden (n, nodes) that comes from activations below
    WEAK."""
    weak = hidden[hidden < WEAK].sum(dtype=torch.float64)
    return (weak / hidden.sum(dtype=torch.float64)).item()


@torch.no_grad()
def describe(model, images):
    """One sentence on `images` (n, 1, 28, 28): how well the model reconstructs them, and how
    sparse its hidden nodes are."""
    hidden, reconstruction = model(images)
    explained, fires = variance_explained(images, reconstruction), hidden > ON
    on, never = fires.sum(1).float().mean(), (~fires).all(0).sum()
    return (f"{explained:.0%} of the variance explained; mean activation {hidden.mean():.2f} "
            f"(target {model.rho:g}); {on:.1f} of {hidden.shape[1]} nodes on per image (above "
            f"{ON:g}), {never} never on; {weak_share(hidden):.0%} of the total activation is weak "
            f"(below {WEAK:g}).")


# --- The two visualizations ---

@torch.no_grad()
def show_reconstructions(model, images, path, title):
    """Save the first 64 of `images` (n, 1, 28, 28), 4 per row, each next to its reconstruction."""
    images = images[:64]
    _, reconstruction = model(images)
    pairs = torch.cat([images, reconstruction.view_as(images)], dim=3)  # side by side
    show(make_grid(pairs, 4, padding=4, pad_value=1), path,
         f"The first {len(images)} images, each with its reconstruction to its right. {title}")


def show_top_images(images, activation, node, path, title):
    """Save the 100 of `images` (n, 1, 28, 28) with the highest activation (n,) of a hidden node, 10
    per row."""
    top = activation.topk(min(100, len(images))).indices
    show(make_grid(images[top], 10), path,
         f"The {len(top)} images that activate node {node} most, strongest first. {title}")


@torch.no_grad()
def visualize(model, images, labels, folder, title):
    """Save reconstruction.png, node_0.png ... and nodes.png, the node overview, in `folder`."""
    show_reconstructions(model, images, folder / "reconstruction.png", title)
    # Pre-activations rank images as activations do, but the sigmoid rounds large ones to 1.
    pre_activation = model.encoder(images.flatten(1))[:, :MAX_NODE_FIGURES]
    for node, activation in enumerate(pre_activation.t()):
        show_top_images(images, activation, node, folder / f"node_{node}.png", title)
    plot_nodes(model.decoder.weight.t(), torch.sigmoid(pre_activation), model.rho, images, labels,
               folder / "nodes.png", title)


# --- The run ---

def run(args):
    """Run the whole assignment with the settings in `args`."""
    args.figures_dir.mkdir(parents=True, exist_ok=True)  # fail early if it cannot be created
    data = load_data(args.dataset, args.data_dir)
    figures = args.figures_dir if data.name == "MNIST" else args.figures_dir / "standin"
    untrained, trained = figures / "untrained", figures / "trained"
    trained.mkdir(parents=True, exist_ok=True)
    for path in filter(Path.exists, (trained / "model.pt", trained / "losses.csv")):
        path.open("r+b").close()  # fail before the training if it is write-protected
    settings = (f"{data.name}: nodes {args.hidden_dims}, rho {args.rho:g}, penalty weight "
                f"{args.sparsity_weight:g}, learning rate {args.lr:g}, weight decay "
                f"{args.weight_decay:g}, batch size {args.batch_size}, epochs {args.epochs}, seed "
                f"{args.seed}.")
    print(f"Data: {data.name}, {len(data.images):,} training and {len(data.test_images):,} test "
          f"images. Device: {args.device}.\n{settings}", flush=True)

    images, labels = normalize(data.images).to(args.device), data.labels
    test_images = normalize(data.test_images).to(args.device)
    model = new_model(args.seed, args.hidden_dims, rho=args.rho,
                      sparsity_weight=args.sparsity_weight).to(args.device)
    train_dataloader = make_dataloader(images, labels, args.batch_size)
    show_batch(train_dataloader, figures / "batch.png", settings)
    visualize(model, images, labels, untrained, f"Training images, untrained model. {settings}")

    history = train(model, train_dataloader, args.epochs, args.lr, args.seed,
                    weight_decay=args.weight_decay)
    test_loss = evaluate(model, test_images)
    check_finite(test_loss, "after the last step")
    print(f"Test Loss: {test_loss:.4f}\nTest images: {describe(model, test_images)}", flush=True)

    save_model(model, trained / "model.pt")
    visualize(model, images, labels, trained, f"Training images, trained model. {settings}")
    save_losses(history, trained / "losses.csv")
    plot_losses(history, INSTRUCTOR_LOSSES, trained / "loss.png", settings)
    print(f"Figures: {untrained} and {trained}. Model: {trained / 'model.pt'}", flush=True)


def new_model(seed, hDims=HIDDEN_DIMS, **settings):
    """An untrained model whose weights depend on `seed` alone. settings: rho, sparsity_weight."""
    torch.manual_seed(seed)
    return SparseAutoencoder(28 * 28, hDims, **settings)


def save_model(model, path):
    """Save the weights, as a state_dict of CPU tensors for torch.load()."""
    data = io.BytesIO()
    torch.save({name: weights.cpu() for name, weights in model.state_dict().items()}, data)
    digits.write_whole(path, data.getvalue())


def load_model(path):
    """The model that save_model() saved at `path`; its number of nodes is in the file, its rho and
    sparsity_weight are the constants above. Raises digits.DataError if the file holds anything
    else, OSError if it cannot be read."""
    data = io.BytesIO(Path(path).read_bytes())
    try:
        weights = torch.load(data, weights_only=True)
        model = SparseAutoencoder(28 * 28, len(weights["encoder.bias"]))
        model.load_state_dict(weights)
    except Exception:  # its kind depends on what the file holds, and on the version of torch
        raise digits.DataError(f"{path} is not a model that codelet7.py saved") from None
    return model


def save_losses(history, path):
    """Save a CSV file with one row per epoch."""
    rows = [f"{epoch},{loss:.6f},{mse:.6f},{loss - mse:.6f}\n"
            for epoch, (loss, mse) in enumerate(history, 1)]
    digits.write_whole(path, "".join(["epoch,loss,mse,weighted_penalty\n", *rows]).encode())


# --- The command line ---

def number_type(convert, is_valid, description):
    """A type for argparse: converts a text and rejects values that are not valid."""
    def number(text):
        if not is_valid(convert(text)):
            raise argparse.ArgumentTypeError(f"{text} is not {description}")
        return convert(text)
    return number


def parse_args(argv):
    """Parse a list of flags; the constants above are the defaults."""
    whole = number_type(int, lambda n: 1 <= n < 2**63, "a whole number from 1")  # torch's limit
    seed = number_type(int, lambda n: 0 <= n < 2**63, "a whole number from 0")
    not_negative = number_type(float, lambda x: 0 <= x < math.inf, "0 or a positive number")
    share = number_type(float, lambda x: 0 < x < 1, "a number between 0 and 1")
    folder = lambda text: Path(os.path.expanduser(text))
    parser = argparse.ArgumentParser("codelet7.py", allow_abbrev=False,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def add(flag, kind, default, help, **options):
        # As a text, the default is checked like a flag's value: an edited constant may be wrong.
        parser.add_argument(flag, type=kind, default=str(default), help=help, **options)

    add("--epochs", whole, EPOCHS, "training epochs")
    add("--batch-size", whole, BATCH_SIZE, "images per batch")
    add("--lr", not_negative, LEARNING_RATE, "Adam's learning rate")
    add("--hidden-dims", whole, HIDDEN_DIMS, "number of hidden nodes")
    add("--rho", share, RHO, "target for each hidden node's mean activation")
    add("--sparsity-weight", not_negative, SPARSITY_WEIGHT, "weight of the sparsity penalty")
    add("--weight-decay", not_negative, WEIGHT_DECAY, "Adam's weight decay")
    add("--seed", seed, SEED, "seed for initial weights and batch order")
    add("--dataset", str, "auto", "auto: MNIST if available, else stand-in digits from fonts",
        choices=["auto", "mnist", "standin"])
    add("--data-dir", folder, digits.default_root(), "folder for MNIST; $MNIST_ROOT if set")
    add("--figures-dir", folder, "figures", "output folder for figures and model")
    add("--device", str, "cpu", "cpu, or cuda where PyTorch finds a GPU",
        choices=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    return parser.parse_args(argv)


def main(argv=None):
    """Run with the flags in the list `argv`; main() takes the defaults, whatever sys.argv holds.

    Raises SystemExit: with code 2 for a bad flag, after argparse's message on stderr; otherwise
    with a one-line message, which Python prints there before it exits with code 1.
    """
    threads = torch.get_num_threads()
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
    try:
        run(parse_args(argv or []))
    except (digits.DataError, FloatingPointError, OSError) as error:
        sys.exit(f"codelet7.py: error: {error}")
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # a path may have letters that the console lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ncodelet7.py: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
