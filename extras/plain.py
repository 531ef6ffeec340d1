"""The assignment as one writes it down at first, for benchmark.py to time beside codelet7.py.

    python extras/plain.py EPOCHS FOLDER     reads MNIST from $MNIST_ROOT or data

torchvision's MNIST with its transforms, a shuffled DataLoader that collects single images, a plain
Adam, loss.item() in every step; the sheet's two figures (one node's) of the trained model.
"""

import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST
from torchvision.utils import make_grid

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import codelet7
from digits import MEAN, STD
from utils import show

epochs, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(codelet7.SEED)
transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
dataset = MNIST(os.environ.get("MNIST_ROOT") or ROOT / "data", transform=transform)
train_dataloader = DataLoader(dataset, batch_size=codelet7.BATCH_SIZE, shuffle=True)
model = codelet7.SparseAutoencoder(28 * 28, codelet7.HIDDEN_DIMS)
optimizer = torch.optim.Adam(model.parameters(), lr=codelet7.LEARNING_RATE)

for epoch in range(1, epochs + 1):
    total = 0.0
    for images, _ in train_dataloader:
        hidden, reconstruction = model(images)
        loss = model.loss_function(images, reconstruction, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"Epoch: {epoch}/{epochs} - Train Loss: {total / len(train_dataloader):.4f}", flush=True)

with torch.no_grad():
    images = torch.stack([dataset[index][0] for index in range(64)])
    _, reconstruction = model(images)
    pairs = torch.stack([images, reconstruction.view_as(images)], 1).flatten(0, 1)
    show(make_grid(pairs, 8), folder / "reconstruction.png")

    activation = torch.cat([model(images)[0][:, 0] for images, _ in DataLoader(dataset, 64)])
    top = [dataset[index][0] for index in activation.topk(100).indices]
    show(make_grid(top, 10), folder / "node_0.png")
