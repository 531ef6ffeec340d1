"""How long one waits for codelet7: beside the loop the sheet leads to, beside a floor, and busy.

    python extras/benchmark.py             about ten minutes; reads MNIST from $MNIST_ROOT or data

Epochs, with one thread, all from the same weights on the same batches; unless their losses then
agree to 4 decimals, no ratio is printed:
- sheet: torchvision's transforms on every image, a plain DataLoader, a plain Adam, loss.item().
- ours: codelet7's own train().
- floor: the same arithmetic with gradients derived by hand, written into buffers that stay, with
  neither autograd nor a DataLoader. Its Adam is the same fused one.
Then both sets of figures, as multiples of an epoch; an epoch of ours beside three other trainings,
as a multiple of a quiet one; and whole processes, from start to the last file. Of these plain.py
takes as many threads as torch does by itself, as its users would have it.
"""

import contextlib
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import codelet7
import digits
from digits import MEAN, STD

DATA = os.environ.get("MNIST_ROOT") or ROOT / "data"
ROUNDS = 5
NEIGHBOUR = """
import os, torch, codelet7
parent = os.getppid()
torch.set_num_threads(2)
model = codelet7.SparseAutoencoder(28 * 28, codelet7.HIDDEN_DIMS)
loader = codelet7.make_dataloader(torch.rand(640, 1, 28, 28), torch.zeros(640), 64)
optimizer = torch.optim.Adam(model.parameters(), fused=True)
print('ready', flush=True)
while os.getppid() == parent: codelet7.train_epoch(model, loader, optimizer)
"""


# --- Three ways to train an epoch ---

def new_model():
    """A model to train, the same each time; the batches that follow are the same too."""
    torch.manual_seed(codelet7.SEED)
    return codelet7.SparseAutoencoder(28 * 28, codelet7.HIDDEN_DIMS)


def sheet_epoch(dataset):
    """The sheet's recipe as one writes it down. Returns the mean loss over the batches."""
    model = new_model()
    train_dataloader = DataLoader(dataset, batch_size=codelet7.BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE)
    total = 0.0
    for images, _ in train_dataloader:
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(train_dataloader)


def our_epoch(images, labels):
    """codelet7's own epoch. Returns the mean loss over the batches."""
    train_dataloader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE)
    with contextlib.redirect_stdout(io.StringIO()):
        history = codelet7.train(new_model(), train_dataloader, 1, codelet7.LEARNING_RATE)
    return history[0][0]


@torch.no_grad()
def floor_epoch(images):
    """The same steps by hand. Returns the mean loss over the batches."""
    model = new_model()
    images, rho, weight = images.flatten(1), codelet7.RHO, codelet7.SPARSITY_WEIGHT
    W_e, b_e, W_d, b_d = (parameter.detach() for parameter in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    dW_e, db_e, dW_d, db_d = (parameter.grad for parameter in model.parameters())
    numbers = torch.arange(len(images))  # a loader of these gives the batches in the same order
    loader = codelet7.make_dataloader(numbers, numbers, codelet7.BATCH_SIZE)
    batches = [index for index, _ in loader]
    loss_sum = torch.zeros((), dtype=torch.float64)
    size = None
    for index in batches:
        if len(index) != size:  # the first batch, and a short last one
            size = len(index)
            x, reconstruction, error = torch.empty(3, size, images.shape[1])
            hidden, d_hidden = torch.empty(2, size, len(b_e))
        torch.index_select(images, 0, index, out=x)
        torch.addmm(b_e, x, W_e.t(), out=hidden).sigmoid_()
        torch.addmm(b_d, hidden, W_d.t(), out=reconstruction).tanh_()

        torch.sub(reconstruction, x, out=error)
        loss_sum += torch.dot(error.view(-1), error.view(-1)) / error.numel()
        rho_hat = hidden.mean(0, dtype=torch.float64).clamp_(1e-8, 1 - 1e-8)
        silent = 1 - rho_hat
        kl = rho * torch.log(rho / rho_hat) + (1 - rho) * torch.log((1 - rho) / silent)
        loss_sum += weight * kl.sum()

        # d MSE / d output is 2 error / n; tanh' = 1 - tanh^2; sigmoid' = sigmoid (1 - sigmoid)
        error.mul_(2 / error.numel())
        torch.ops.aten.tanh_backward.grad_input(error, reconstruction, grad_input=error)
        torch.mm(error.t(), hidden, out=dW_d)
        torch.sum(error, 0, out=db_d)
        torch.mm(error, W_d, out=d_hidden)
        d_rho_hat = ((1 - rho) / silent - rho / rho_hat) * (weight / size)
        d_hidden.add_(d_rho_hat)
        torch.ops.aten.sigmoid_backward.grad_input(d_hidden, hidden, grad_input=d_hidden)
        torch.mm(d_hidden.t(), x, out=dW_e)
        torch.sum(d_hidden, 0, out=db_e)
        optimizer.step()
    return loss_sum.item() / len(batches)


def compare_epochs(images, labels):
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    with digits.mnist_folder(DATA) as folder:
        dataset = MNIST(folder, transform=transform)
    epochs = {"sheet": lambda: sheet_epoch(dataset), "ours": lambda: our_epoch(images, labels),
              "floor": lambda: floor_epoch(images)}
    seconds = {name: [] for name in epochs}
    for _ in range(ROUNDS):
        runs = {name: timed(epoch) for name, epoch in epochs.items()}
        losses = {name: loss for name, (_, loss) in runs.items()}
        if max(losses.values()) - min(losses.values()) > 5e-5:
            sys.exit(f"The losses differ, so the times are not of the same work: {losses}")
        for name, (took, _) in runs.items():
            seconds[name].append(took)
    say("an epoch of ours, seconds", seconds["ours"])
    say("sheet / ours", ratios(seconds["sheet"], seconds["ours"]))
    say("ours / floor", ratios(seconds["ours"], seconds["floor"]))


# --- What else one waits for ---

def time_figures(images, labels):
    """Both sets of figures, beside an epoch."""
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            epoch, _ = timed(our_epoch, images, labels)
            took = sum(timed(codelet7.visualize, new_model(), images, labels, Path(folder), name)[0]
                       for name in ("untrained", "trained"))
            shares.append(took / epoch)
    say("both sets of figures / an epoch", shares)


def time_busy(images, labels):
    """An epoch beside three trainings of two threads each, as a multiple of a quiet one."""
    busy = {1: [], 2: []}  # by our own number of threads
    for _ in range(3):
        quiet, _ = timed(our_epoch, images, labels)
        neighbours = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR], cwd=ROOT,
                                       stdout=subprocess.PIPE) for _ in range(3)]
        try:
            for process in neighbours:
                process.stdout.readline()  # "ready"
            for threads, epochs in busy.items():
                torch.set_num_threads(threads)
                epochs.append(timed(our_epoch, images, labels)[0] / quiet)
        finally:
            torch.set_num_threads(1)
            for process in neighbours:
                process.kill()
                process.communicate()
    for threads, epochs in busy.items():
        say(f"an epoch beside three trainings / a quiet one, {threads} thread(s)", epochs)


def time_processes():
    """Whole processes: codelet7.py, and plain.py, whose 20 epochs are computed from 1 and 3."""
    def run(*arguments):
        return timed(subprocess.run, [sys.executable, *map(str, arguments)], cwd=ROOT, check=True,
                     stdout=subprocess.DEVNULL)[0]

    ours, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            ours.append(run("codelet7.py", "--data-dir", DATA, "--figures-dir", folder))
            one, three = (run("extras/plain.py", epochs, folder) for epochs in (1, 3))
            plain.append(one + (codelet7.EPOCHS - 1) * (three - one) / 2)
    say("the whole run, seconds", ours)
    say("plain.py / codelet7.py", ratios(plain, ours))


# --- Around all of them ---

def timed(function, *arguments, **options):
    """The seconds one call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def ratios(ones, others):
    return [one / other for one, other in zip(ones, others)]


def say(what, values):
    """A printed line: the median of some measurements, and their range."""
    print(f"{what:64} {statistics.median(values):6.2f}  ({min(values):.2f} to {max(values):.2f}, "
          f"n = {len(values)})", flush=True)


def main():
    torch.set_num_threads(1)
    data = codelet7.load_data("mnist", DATA)
    images, labels = codelet7.normalize(data.images), data.labels
    print(f"{platform.platform(terse=True)}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"torchvision {torchvision.__version__}: medians (ranges)\n", flush=True)
    compare_epochs(images, labels)
    time_figures(images, labels)
    time_busy(images, labels)
    time_processes()


if __name__ == "__main__":
    main()
