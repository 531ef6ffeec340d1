"""How fast codelet7 trains, beside the loop the sheet leads to and beside a floor.

    python writeup/benchmark.py             three ways to train an epoch, in turn, and peak memory
    python writeup/benchmark.py --scale     seconds an epoch as the model and the data grow

- sheet: torchvision's transforms on every image, a plain DataLoader, a plain Adam, loss.item().
- ours: codelet7's own train_epoch.
- floor: the same arithmetic with gradients derived by hand, written into buffers that stay, with
  neither autograd nor a DataLoader. Its Adam is the same fused one.

All three start from the same weights and see the same batches; unless their losses then agree to 4
decimals, no ratio is printed.
"""

import argparse
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
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import codelet7
import digits

SHORT_TURNS = 5  # epochs of ours and of the floor, in turn, after one of the sheet's: it takes as long as all of them


class EachImage(Dataset):
    """Images (n, 28, 28) uint8, transformed one by one as torchvision.datasets.MNIST does it."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((codelet7.MEAN,), (codelet7.STD,))])

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def sheet_epoch(model, raw_images, labels, order):
    """The sheet's recipe as one writes it down. Returns the mean loss over the batches."""
    train_dataloader = DataLoader(EachImage(raw_images, labels), batch_size=codelet7.BATCH_SIZE, sampler=order.tolist())
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


def our_epoch(model, images, labels, seed):
    """codelet7's own epoch. Returns the mean loss over the batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE, fused=True)
    loss, _ = codelet7.train_epoch(model, codelet7.make_dataloader(images, labels, seed=seed), optimizer)
    return loss


@torch.no_grad()
def floor_epoch(model, images, order):
    """The same steps by hand, on the CPU. Returns the mean loss over the batches."""
    images, rho, weight = images.flatten(1), codelet7.RHO, codelet7.SPARSITY_WEIGHT
    W_e, b_e, W_d, b_d = (parameter.detach() for parameter in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    dW_e, db_e, dW_d, db_d = (parameter.grad for parameter in model.parameters())
    batches = order.split(codelet7.BATCH_SIZE)
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
        loss_sum += weight * (rho * torch.log(rho / rho_hat) + (1 - rho) * torch.log((1 - rho) / silent)).sum()

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


def new_model(hidden_dims=codelet7.HIDDEN_DIMS):
    torch.manual_seed(codelet7.SEED)
    return codelet7.SparseAutoencoder(28 * 28, hidden_dims)


def timed(function, *arguments):
    """The seconds one call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def summary(seconds):
    return f"{statistics.median(seconds):7.3f} s an epoch ({min(seconds):.3f} to {max(seconds):.3f})"


def peak_memory(code):
    """The most memory, in MB, that a Python process which runs `code` holds in RAM (on Linux).

    The process reads it off itself: what os.wait4 tells its parent counts in the parent's own memory.
    """
    code += "; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # in kB
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"python -c {code!r} failed")
    return int(done.stdout.split()[-1]) * 1024 / 1e6


def compare(data, rounds):
    images = codelet7.normalize(data.images)
    seconds = {"sheet": [], "ours": [], "floor": []}
    for round in range(rounds + 1):  # the first is the warm-up
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(round))
        epochs = {"sheet": lambda model: sheet_epoch(model, data.images, data.labels, order),
                  "ours": lambda model: our_epoch(model, images, data.labels, round),
                  "floor": lambda model: floor_epoch(model, images, order)}
        turns = ["sheet"] + ["ours", "floor"] * SHORT_TURNS
        runs = [(name, *timed(epochs[name], new_model())) for name in turns]
        losses = [loss for _, _, loss in runs]
        if max(losses) - min(losses) > 5e-5:
            sys.exit(f"The losses differ, so the times are not of the same work: {dict(zip(turns, losses))}")
        if round:
            for name in seconds:
                seconds[name].append(statistics.median(elapsed for run, elapsed, _ in runs if run == name))
            print(f"round {round}: loss {losses[0]:.4f} each time; " +
                  ", ".join(f"{name} {values[-1]:.3f} s" for name, values in seconds.items()), flush=True)
    print()
    for name, values in seconds.items():
        print(f"{name:6}{summary(values)}")
    # Each round has its own ratio, because what slows the machine for a while slows all three.
    faster = [sheet / ours for sheet, ours in zip(seconds["sheet"], seconds["ours"])]
    slower = [ours / floor for ours, floor in zip(seconds["ours"], seconds["floor"])]
    print(f"\nours is {statistics.median(faster):.1f} times as fast as the sheet's loop "
          f"({min(faster):.1f} to {max(faster):.1f} in the rounds)\n"
          f"and takes {statistics.median(slower):.2f} times the floor's time ({min(slower):.2f} to {max(slower):.2f})")
    with tempfile.TemporaryDirectory() as folder:
        alone = peak_memory("import torch, torchvision")
        whole = peak_memory(f"import codelet7; codelet7.main(['--device', 'cpu', '--figures-dir', {folder!r}])")
    print(f"peak memory: {whole:.0f} MB for the whole default run, of which importing torch alone takes {alone:.0f} MB")


def scale(data, rounds):
    images = codelet7.normalize(data.images)
    cases = {(hidden_dims, times): [] for hidden_dims in (10, 100, 1000) for times in (1, 2)}
    for round in range(rounds):
        for hidden_dims, times in cases:
            many = images.repeat(times, 1, 1, 1), data.labels.repeat(times)
            cases[hidden_dims, times].append(timed(our_epoch, new_model(hidden_dims), *many, round)[0])
    for (hidden_dims, times), values in cases.items():
        print(f"{hidden_dims:5} hidden nodes, {times * len(images):7,} images: {summary(values)}")


def main():
    parser = argparse.ArgumentParser(description="Time codelet7's training beside the sheet's loop and a floor.")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    parser.add_argument("--scale", action="store_true", help="seconds an epoch for larger models and more images")
    args = parser.parse_args()
    data = digits.load("auto", os.environ.get("MNIST_ROOT") or ROOT / "data")
    print(f"{data.name}, {len(data.images):,} images; {platform.platform(terse=True)}, {os.cpu_count()} cores, "
          f"{torch.get_num_threads()} torch threads; Python {platform.python_version()}, torch {torch.__version__}, "
          f"torchvision {torchvision.__version__}; {args.rounds} rounds\n", flush=True)
    (scale if args.scale else compare)(data, args.rounds)


if __name__ == "__main__":
    main()
