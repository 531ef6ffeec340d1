"""How long one waits for codelet7: beside the loop the sheet leads to, beside a floor, and busy.

    python writeup/benchmark.py             everything below, in about ten minutes
    python writeup/benchmark.py --scale     seconds an epoch as the model and the data grow

Epochs, with one thread, all from the same weights on the same batches; unless their losses then
agree to 4 decimals, no ratio is printed:
- sheet: torchvision's transforms on every image, a plain DataLoader, a plain Adam, loss.item().
- ours: codelet7's own train_epoch.
- floor: the same arithmetic with gradients derived by hand, written into buffers that stay, with
  neither autograd nor a DataLoader. Its Adam is the same fused one.
Then figures and data, in epochs; an epoch of ours beside busy neighbours; whole processes, from
start to the last file; memory; a GPU, if there is one.
"""

import argparse
import contextlib
import io
import os
import platform
import signal
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
from utils import MEAN, STD

SHORT_TURNS = 3  # epochs of ours and of the floor, in turn, for one of the sheet's, which is longer
SPINS = """
import os
parent = os.getppid()
print('ready', flush=True)
while os.getppid() == parent: pass
"""
TRAINS = """
import os, torch, codelet7
parent = os.getppid()
torch.set_num_threads(2)
model = codelet7.SparseAutoencoder(28 * 28, codelet7.HIDDEN_DIMS)
loader = codelet7.make_dataloader(torch.rand(640, 1, 28, 28), torch.zeros(640), 64, 0)
optimizer = torch.optim.Adam(model.parameters(), fused=True)
print('ready', flush=True)
while os.getppid() == parent: codelet7.train_epoch(model, loader, optimizer)
"""


# --- Three ways to train an epoch ---

class EachImage(Dataset):
    """Images (n, 28, 28) uint8, transformed one by one as torchvision.datasets.MNIST does it."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def sheet_epoch(model, raw_images, labels, order):
    """The sheet's recipe as one writes it down. Returns the mean loss over the batches."""
    train_dataloader = DataLoader(EachImage(raw_images, labels), batch_size=codelet7.BATCH_SIZE,
                                  sampler=order.tolist())
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


def our_epoch(model, images, labels, seed=0):
    """codelet7's own epoch. Returns the mean loss over the batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE, fused=True)
    train_dataloader = codelet7.make_dataloader(images, labels, codelet7.BATCH_SIZE, seed)
    loss, _ = codelet7.train_epoch(model, train_dataloader, optimizer)
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


def in_order(count, seed):
    """The order in which make_dataloader's first epoch takes the images, (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def compare_epochs(data, images, rounds):
    seconds = {"sheet": [], "ours": [], "floor": []}
    for round in range(rounds + 1):  # the first is the warm-up
        order = in_order(len(images), round)
        epochs = {"sheet": lambda model: sheet_epoch(model, data.images, data.labels, order),
                  "ours": lambda model: our_epoch(model, images, data.labels, round),
                  "floor": lambda model: floor_epoch(model, images, order)}
        turns = ["sheet"] + ["ours", "floor"] * SHORT_TURNS
        runs = [(name, *timed(epochs[name], new_model())) for name in turns]
        losses = [loss for _, _, loss in runs]
        if max(losses) - min(losses) > 5e-5:
            sys.exit("The losses differ, so the times are not of the same work: "
                     f"{dict(zip(turns, losses))}")
        if round:
            for name, values in seconds.items():
                values.append(statistics.median(took for run, took, _ in runs if run == name))
    for name, values in seconds.items():
        say(f"{name}, seconds an epoch", values)
    # Each round has its own ratio, because what slows the machine for a while slows all three.
    say("sheet / ours (at least 5)", ratios(seconds["sheet"], seconds["ours"]))
    say("ours / floor (at most 1.8)", ratios(seconds["ours"], seconds["floor"]))


# --- What else takes time ---

def time_figures_and_data(data, images, root, rounds):
    """Both sets of figures, and finding the data and normalizing it, beside an epoch."""
    epochs, figures, finding = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for round in range(rounds):
            model = new_model()
            epochs.append(timed(our_epoch, model, images, data.labels, round)[0])
            figures.append(sum(timed(codelet7.visualize, model, images, data.labels,
                                     Path(folder) / name, "Benchmark.")[0]
                               for name in ("untrained", "trained")))
            if data.name == "MNIST":
                took, again = timed(digits.load, "mnist", root)
                took += sum(timed(codelet7.normalize, part)[0]
                            for part in (again.images, again.test_images))
                finding.append(took)
    say("both sets of figures, in epochs (at most 4)", ratios(figures, epochs))
    if finding:
        say("data check and normalization, seconds (under 1)", finding)


@contextlib.contextmanager
def neighbours(code, count):
    """Processes that run `code`, asleep: wake(True) sets them to work, wake(False) stops them.
    They end with this process, however it ends."""
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
                 for _ in range(count)]

    def wake(awake):
        for process in processes:
            process.send_signal(signal.SIGCONT if awake else signal.SIGSTOP)

    try:
        for process in processes:
            process.stdout.readline()  # "ready"
        wake(False)
        yield wake
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def time_busy(data, images, rounds):
    """An epoch of ours beside neighbours that keep both cores busy, in units of a quiet one."""
    def epoch(threads=1):
        torch.set_num_threads(threads)
        took, _ = timed(our_epoch, new_model(), images, data.labels)
        torch.set_num_threads(1)
        return took

    with neighbours(SPINS, 2) as spins, neighbours(TRAINS, 3) as trains:
        cases = {"two endless loops (at most 2.2)": spins,
                 "three trainings of two threads (at most 5)": trains}
        epoch()
        quiet, busy, two_threads = [], {name: [] for name in cases}, {}
        for round in range(rounds):
            quiet.append(epoch())
            for name, wake in cases.items():
                wake(True)
                busy[name].append(epoch())
                if round == 0:
                    two_threads[name] = epoch(threads=2)
                wake(False)
    for name in cases:
        say(f"busy / quiet, beside {name}", ratios(busy[name], quiet))
        say("    a single epoch of two threads there", [two_threads[name] / quiet[0]])


def time_processes(rounds):
    """Whole processes: codelet7.py, and plain.py, whose 20 epochs are computed from 1 and 3."""
    def run(*arguments):
        return timed(subprocess.run, [sys.executable, *map(str, arguments)], cwd=ROOT, check=True,
                     stdout=subprocess.DEVNULL)[0]

    ours, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            ours.append(run("codelet7.py", "--device", "cpu", "--figures-dir", folder))
            one, three = (run("writeup/plain.py", epochs, folder) for epochs in (1, 3))
            plain.append(one + (codelet7.EPOCHS - 1) * (three - one) / 2)
    say("python codelet7.py, seconds", ours)
    say("python writeup/plain.py, seconds (20 epochs, computed from 1 and 3)", plain)
    say("plain.py / codelet7.py (at least 4)", ratios(plain, ours))


def peak_memory(code):
    """The most memory, in MB, that a Python process which runs `code` holds in RAM (on Linux).

    It reads it off itself: what os.wait4 tells its parent counts in the parent's own memory.
    """
    code += "; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # in kB
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024 / 1e6


def measure_memory():
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--device", "cpu", "--figures-dir", folder]
        say("peak memory of the whole run, MB", [peak_memory(f"import codelet7; "
                                                             f"codelet7.main({flags!r})")])
    say("    of which importing torch alone, MB", [peak_memory("import torch, torchvision")])


def compare_devices(data, images, device):
    """The default training on the CPU and on a GPU: the GPU's seconds, and both last losses."""
    losses = {}
    for name in ("cpu", device):
        model = new_model().to(name)
        loader = codelet7.make_dataloader(images, data.labels, codelet7.BATCH_SIZE, codelet7.SEED,
                                          pin_memory=name == "cuda")
        with contextlib.redirect_stdout(io.StringIO()):
            took, history = timed(codelet7.train, model, loader, codelet7.EPOCHS,
                                  codelet7.LEARNING_RATE)  # its losses are read: the GPU is done
        losses[name] = history[-1][0]
    say(f"20 epochs on {device}, seconds", [took])
    say("    its last loss less the CPU's (within 0.002)", [losses[device] - losses["cpu"]], 5)


def scale(data, images, rounds):
    cases = [(hidden_dims, times, 1) for hidden_dims in (10, 100, 300, 1000) for times in (1, 2)]
    cases += [(300, 1, 2), (1000, 1, 2)]
    seconds = {case: [] for case in cases}
    for round in range(rounds):
        for hidden_dims, times, threads in cases:
            many = images.repeat(times, 1, 1, 1), data.labels.repeat(times)
            torch.set_num_threads(threads)
            took, _ = timed(our_epoch, new_model(hidden_dims), *many, round)
            seconds[hidden_dims, times, threads].append(took)
    for (hidden_dims, times, threads), values in seconds.items():
        say(f"{hidden_dims} nodes, {times * len(images):,} images, {threads} thread"
            f"{'s' * (threads > 1)}: seconds an epoch", values)


# --- Around all of them ---

def new_model(hidden_dims=codelet7.HIDDEN_DIMS):
    torch.manual_seed(codelet7.SEED)
    return codelet7.SparseAutoencoder(28 * 28, hidden_dims)


def timed(function, *arguments, **options):
    """The seconds one call takes, and what it returns."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def ratios(ones, others):
    return [one / other for one, other in zip(ones, others)]


def say(what, values, decimals=2):
    """A printed line: the median of some measurements and, of several, their range."""
    line = f"{what:74}{statistics.median(values):9.{decimals}f}"
    if len(values) > 1:
        line += f"  ({min(values):.{decimals}f} to {max(values):.{decimals}f}, n = {len(values)})"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Time codelet7 beside others, quiet and busy.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of epochs (default: 5)")
    parser.add_argument("--scale", action="store_true", help="larger models and more images only")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the neighbours end then too
    torch.set_num_threads(1)
    root = os.environ.get("MNIST_ROOT") or ROOT / "data"
    data = digits.load("auto", root)
    images = codelet7.normalize(data.images)
    print(f"{data.name}, {len(images):,} images; {platform.platform(terse=True)}, "
          f"{os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
          f"torchvision {torchvision.__version__}\nmedian (range) of n rounds\n", flush=True)
    if args.scale:
        scale(data, images, args.rounds)
        return
    compare_epochs(data, images, args.rounds)
    time_figures_and_data(data, images, root, args.rounds)
    time_busy(data, images, args.rounds)
    if data.name == "MNIST":  # plain.py has no stand-in
        time_processes(3)
    if sys.platform == "linux":
        measure_memory()
    if torch.cuda.is_available():
        compare_devices(data, images, "cuda")


if __name__ == "__main__":
    main()
