"""A straightforward implementation of the assignment, timed by benchmark.py.

    python -m extras.plain EPOCHS FOLDER

Uses torchvision's MNIST and transforms, a shuffled DataLoader that collates single images and a
plain Adam, and saves both figures (of one node) of the trained model. torchvision reads MNIST's
four files uncompressed from $MNIST_ROOT or data, and downloads them if one is missing.
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST
from torchvision.utils import make_grid

import codelet7
import digits
from digits import MEAN, STD
from utils import show


def train_epoch(model, train_dataloader, optimizer):
    """One pass over the data. Returns the mean loss over the batches."""
    total = 0.0
    for images, _ in train_dataloader:
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(train_dataloader)


def load_data():
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    return MNIST(digits.default_root(), transform=transform, download=True)


def main(epochs, folder):
    dataset = load_data()
    train_dataloader = DataLoader(dataset, batch_size=codelet7.BATCH_SIZE, shuffle=True)
    model = codelet7.new_model(codelet7.SEED)
    optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE,
                                 weight_decay=codelet7.WEIGHT_DECAY)
    torch.manual_seed(codelet7.SEED)  # the order of the batches, as in codelet7.train()
    for epoch in range(1, epochs + 1):
        loss = train_epoch(model, train_dataloader, optimizer)
        print(f"Epoch: {epoch}/{epochs} - Train Loss: {loss:.4f}", flush=True)

    with torch.no_grad():
        images = torch.stack([dataset[index][0] for index in range(64)])
        _, reconstruction = model(images)
        pairs = torch.stack([images, reconstruction.view_as(images)], 1).flatten(0, 1)
        show(make_grid(pairs, 8), folder / "reconstruction.png")

        activation = torch.cat([model(images)[0][:, 0] for images, _ in DataLoader(dataset, 64)])
        top = [dataset[index][0] for index in activation.topk(100).indices]
        show(make_grid(top, 10), folder / "node_0.png")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
