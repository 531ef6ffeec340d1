"""Time codelet7 against a straightforward loop, against a hand-written lower bound, and on a busy
machine.

    python -m extras.benchmark       about five minutes; reads MNIST from $MNIST_ROOT or data

It trains an epoch in three ways, with one thread and identical initial weights and batches, and
reports the timings only if the losses agree to 4 decimals:
- straightforward: plain.py, with torchvision's transforms on every image, a plain DataLoader and a
  plain Adam.
- codelet7: its own train().
- lower bound: hand-derived gradients in preallocated buffers, no autograd or DataLoader, the same
  fused Adam.

It then times plotting (in epochs), an epoch beside three other trainings (relative to an
undisturbed one) and whole processes, of which plain.py uses torch's default number of threads.
"""

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

import codelet7
import digits
from extras import plain

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
    """An untrained model, always the same; the random numbers that follow are the same, too, as in
    codelet7.train()."""
    model = codelet7.new_model(codelet7.SEED)
    torch.manual_seed(codelet7.SEED)
    return model


def straightforward_epoch(dataset):
    """plain.py's epoch. Returns the mean loss over the batches."""
    model = new_model()
    train_dataloader = DataLoader(dataset, batch_size=codelet7.BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE,
                                 weight_decay=codelet7.WEIGHT_DECAY)
    return plain.train_epoch(model, train_dataloader, optimizer)


def codelet7_epoch(images, labels):
    """codelet7's own epoch. Returns the mean loss over the batches."""
    train_dataloader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE)
    history = codelet7.train(new_model(), train_dataloader, 1, codelet7.LEARNING_RATE,
                             codelet7.SEED, after_epoch=lambda *_: None)
    return history[0][0]


@torch.no_grad()
def lower_bound_epoch(images):
    """The same steps by hand. Returns the mean loss over the batches."""
    model = new_model()
    images, rho, weight = images.flatten(1), codelet7.RHO, codelet7.SPARSITY_WEIGHT
    W_e, b_e, W_d, b_d = (parameter.detach() for parameter in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE,
                                 weight_decay=codelet7.WEIGHT_DECAY, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    dW_e, db_e, dW_d, db_d = (parameter.grad for parameter in model.parameters())
    numbers = torch.arange(len(images))  # a loader of these has the same order of batches
    loader = codelet7.make_dataloader(numbers, numbers, codelet7.BATCH_SIZE)
    batches = [index for index, _ in loader]
    loss_sum = torch.zeros((), dtype=torch.float64)
    size = None
    for index in batches:
        if len(index) != size:  # the first batch, and a smaller last one
            size = len(index)
            x, reconstruction, error = torch.empty(3, size, images.shape[1])
            hidden, d_hidden = torch.empty(2, size, len(b_e))
        torch.index_select(images, 0, index, out=x)
        torch.addmm(b_e, x, W_e.t(), out=hidden).sigmoid_()
        torch.addmm(b_d, hidden, W_d.t(), out=reconstruction).tanh_()

        torch.sub(reconstruction, x, out=error)
        loss_sum += torch.dot(error.view(-1), error.view(-1)) / error.numel()
        rho_hat = hidden.mean(0, dtype=torch.float64).clamp_(1e-8, 1 - 1e-8)
        off = 1 - rho_hat
        kl = rho * torch.log(rho / rho_hat) + (1 - rho) * torch.log((1 - rho) / off)
        loss_sum += weight * kl.sum()

        # d MSE / d output is 2 error / n; tanh' = 1 - tanh^2; sigmoid' = sigmoid (1 - sigmoid)
        error.mul_(2 / error.numel())
        torch.ops.aten.tanh_backward.grad_input(error, reconstruction, grad_input=error)
        torch.mm(error.t(), hidden, out=dW_d)
        torch.sum(error, 0, out=db_d)
        torch.mm(error, W_d, out=d_hidden)
        d_rho_hat = ((1 - rho) / off - rho / rho_hat) * (weight / size)
        d_hidden.add_(d_rho_hat)
        torch.ops.aten.sigmoid_backward.grad_input(d_hidden, hidden, grad_input=d_hidden)
        torch.mm(d_hidden.t(), x, out=dW_e)
        torch.sum(d_hidden, 0, out=db_e)
        optimizer.step()
    return loss_sum.item() / len(batches)


def compare_epochs(images, labels):
    dataset = plain.load_data()
    epochs = {"straightforward": lambda: straightforward_epoch(dataset),
              "codelet7": lambda: codelet7_epoch(images, labels),
              "lower bound": lambda: lower_bound_epoch(images)}
    seconds = {name: [] for name in epochs}
    for _ in range(ROUNDS):
        runs = {name: timed(epoch) for name, epoch in epochs.items()}
        losses = {name: loss for name, (_, loss) in runs.items()}
        if max(losses.values()) - min(losses.values()) > 5e-5:
            sys.exit(f"The losses differ, so the timings are not comparable: {losses}")
        for name, (took, _) in runs.items():
            seconds[name].append(took)
    report("an epoch of codelet7, seconds", seconds["codelet7"])
    report("straightforward / codelet7", ratios(seconds["straightforward"], seconds["codelet7"]))
    report("codelet7 / lower bound", ratios(seconds["codelet7"], seconds["lower bound"]))


# --- Other timings ---

def time_figures(images, labels):
    """Both sets of figures, relative to an epoch."""
    epochs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            epoch, _ = timed(codelet7_epoch, images, labels)
            took = sum(timed(codelet7.visualize, new_model(), images, labels, Path(folder), name)[0]
                       for name in ("untrained", "trained"))
            epochs.append(took / epoch)
    report("both sets of figures / an epoch", epochs)


def time_busy(images, labels):
    """An epoch while three other trainings of two threads each run, relative to an undisturbed
    one."""
    busy = {1: [], 2: []}  # by the epoch's own number of threads
    for _ in range(3):
        undisturbed, _ = timed(codelet7_epoch, images, labels)
        neighbours = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE)
                      for _ in range(3)]
        try:
            for process in neighbours:
                process.stdout.readline()  # "ready"
            for threads, epochs in busy.items():
                torch.set_num_threads(threads)
                epochs.append(timed(codelet7_epoch, images, labels)[0] / undisturbed)
        finally:
            torch.set_num_threads(1)
            for process in neighbours:
                process.kill()
                process.communicate()
    for threads, epochs in busy.items():
        report(f"an epoch beside three trainings / undisturbed, {threads} thread(s)", epochs)


def time_processes():
    """Whole processes: codelet7.py, and plain.py, whose 20 epochs are extrapolated from 1 and 3."""
    def run(*arguments):
        return timed(subprocess.run, [sys.executable, *map(str, arguments)], check=True,
                     stdout=subprocess.DEVNULL)[0]

    ours, plain_times = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            ours.append(run("codelet7.py", "--dataset=mnist", "--figures-dir", folder))
            one, three = (run("-m", "extras.plain", epochs, folder) for epochs in (1, 3))
            plain_times.append(one + (codelet7.EPOCHS - 1) * (three - one) / 2)
    report("the whole run, seconds", ours)
    report("plain.py / codelet7.py", ratios(plain_times, ours))


# --- Helpers ---

def timed(function, *arguments, **options):
    """Call a function. Returns the seconds that it took, and its result."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def ratios(ones, others):
    return [one / other for one, other in zip(ones, others)]


def report(what, values):
    """Print a line: the median of some measurements, and their range."""
    print(f"{what:64} {statistics.median(values):6.2f}  ({min(values):.2f} to {max(values):.2f}, "
          f"n = {len(values)})", flush=True)


def main():
    torch.set_num_threads(1)
    data = codelet7.load_data("mnist", digits.default_root())
    images, labels = codelet7.normalize(data.images), data.labels
    print(f"{platform.platform(terse=True)}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"torchvision {torchvision.__version__}: medians (ranges)\n", flush=True)
    compare_epochs(images, labels)
    time_figures(images, labels)
    time_busy(images, labels)
    time_processes()


if __name__ == "__main__":
    main()
