"""The data loader, the sheet's snippet, and training against a plain loop."""

import contextlib
import io

import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms
from torchvision.utils import make_grid

import codelet7
import utils
from tests import TestCase, draw_few


class Data(TestCase):
    def test_the_sheets_snippet(self):
        data = draw_few()
        images = codelet7.normalize(data.images)
        train_dataloader = codelet7.make_dataloader(images, data.labels, 64, 0)
        batch = next(iter(train_dataloader))
        images, _ = batch
        g = [image for image in images]
        grid = make_grid(g, 16)
        self.assertEqual(images.shape, (64, 1, 28, 28))
        self.assertEqual(grid.shape, (3, 4 * 30 + 2, 16 * 30 + 2))
        utils.show(grid, self.folder / "batch.png")
        self.assertTrue((self.folder / "batch.png").exists())

    def test_it_is_a_plain_loader_of_a_plain_data_set(self):
        data = draw_few()
        images = codelet7.normalize(data.images)
        train_dataloader = codelet7.make_dataloader(images, data.labels, 64, 0)
        self.assertIs(type(train_dataloader), DataLoader)
        self.assertEqual(len(train_dataloader.dataset), 1000)
        image, label = train_dataloader.dataset[7]
        self.assertTrue(torch.equal(image, images[7]))
        self.assertEqual(label, data.labels[7])

    def test_every_image_once_an_epoch_with_its_label(self):
        images = torch.arange(1000.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        loader = codelet7.make_dataloader(images, torch.arange(1000), batch_size=64, seed=3)
        self.assertEqual(len(loader), 16)
        epochs = []
        for _ in range(2):
            batches = list(loader)
            self.assertEqual([len(x) for x, _ in batches], [64] * 15 + [1000 - 15 * 64])
            for x, label in batches:
                self.assertTrue(torch.equal(x[:, 0, 0, 0].long(), label))
            epochs.append(torch.cat([label for _, label in batches]))
            self.assertTrue(torch.equal(epochs[-1].sort().values, torch.arange(1000)))
        self.assertFalse(torch.equal(*epochs))
        again = codelet7.make_dataloader(images, torch.arange(1000), batch_size=64, seed=3)
        self.assertTrue(torch.equal(torch.cat([label for _, label in again]), epochs[0]))

    def test_every_image_once_an_epoch_with_workers_too(self):
        loader = codelet7.make_dataloader(torch.zeros(200, 1, 2, 2), torch.arange(200), 64, 0)
        loader = DataLoader(loader.dataset, sampler=loader.sampler, batch_size=None, num_workers=2)
        labels = torch.cat([label for _, label in loader])
        self.assertTrue(torch.equal(labels.sort().values, torch.arange(200)))

    def test_normalize_is_torchvisions_ToTensor_and_Normalize(self):
        images = draw_few().images[:50]
        transform = transforms.Compose([transforms.ToTensor(),
                                        transforms.Normalize((0.1307,), (0.3081,))])
        expected = torch.stack([transform(image.numpy()) for image in images])
        torch.testing.assert_close(codelet7.normalize(images), expected, rtol=0, atol=1e-6)
        self.assertAlmostEqual(expected.min().item(), utils.PAPER, places=5)
        self.assertAlmostEqual(expected.max().item(), utils.INK, places=5)


class Training(TestCase):
    def setUp(self):
        super().setUp()
        data = draw_few()
        self.images, self.labels = codelet7.normalize(data.images), data.labels

    def train(self, seed=0, weight=1e-4, epochs=2):
        torch.manual_seed(seed)
        model = codelet7.SparseAutoencoder(784, 10, weight)
        loader = codelet7.make_dataloader(self.images, self.labels, 64, seed)
        with contextlib.redirect_stdout(io.StringIO()):
            return codelet7.train(model, loader, epochs, 1e-3)

    def test_is_plain_adam_on_the_mean_loss_of_the_batches(self):
        torch.manual_seed(0)
        model = codelet7.SparseAutoencoder(784, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loader = codelet7.make_dataloader(self.images, self.labels, 64, 0)
        for loss, mse in self.train(weight=0.1):
            losses, mses = [], []
            for x, _ in loader:
                hidden, reconstruction = model(x)
                mses.append((reconstruction - x.flatten(1)).square().mean())
                losses.append(mses[-1] + 0.1 * model.batched_sparsity_penalty(hidden))
                optimizer.zero_grad()
                losses[-1].backward()
                optimizer.step()
            self.assertAlmostEqual(loss, torch.stack(losses).mean().item(), places=5)
            self.assertAlmostEqual(mse, torch.stack(mses).mean().item(), places=5)

    def test_the_mse_is_measured_however_large_the_penalty(self):
        (_, free), = self.train(weight=0, epochs=1)
        (_, dear), = self.train(weight=1e7, epochs=1)  # nearly all of the loss is its penalty
        self.assertGreater(dear, free)
        self.assertLess(dear, 1.5)  # as a difference of two large losses it would be off by more

    def test_the_seed_decides_the_result(self):
        self.assertEqual(self.train(seed=1), self.train(seed=1))
        self.assertNotEqual(self.train(seed=1), self.train(seed=2))

    def test_the_loss_falls(self):
        losses = [loss for loss, _ in self.train(epochs=5)]
        self.assertEqual(losses, sorted(losses, reverse=True))

    def test_evaluate_is_the_loss_of_all_images_at_once(self):
        model = codelet7.SparseAutoencoder(784, 10, 0.1)
        hidden, reconstruction = model(self.images)
        mse = (reconstruction - self.images.flatten(1)).square().mean()
        expected = mse + 0.1 * model.batched_sparsity_penalty(hidden)
        self.assertAlmostEqual(codelet7.evaluate(model, self.images), expected.item(), places=5)
        shuffled = self.images[torch.randperm(len(self.images))]
        self.assertAlmostEqual(codelet7.evaluate(model, shuffled), expected.item(), places=5)

    def test_what_cannot_be_trained_on_is_said(self):
        model = codelet7.SparseAutoencoder(784, 10)
        spoilt = self.images.clone()
        spoilt[500, 0, 14, 14] = torch.nan
        with self.assertRaisesRegex(FloatingPointError, "nan in epoch 1.* some pixels"):
            codelet7.train(model, codelet7.make_dataloader(spoilt, self.labels, 64, 0), 1, 1e-3)
        for nothing in ([], DataLoader(TensorDataset(spoilt[:0], self.labels[:0]))):
            with self.assertRaisesRegex(ValueError, "no images"):
                codelet7.train(model, nothing, 1, 1e-3)
