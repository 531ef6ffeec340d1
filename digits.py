"""The data: MNIST's files, checked and made into tensors, and stand-in digits."""

import errno
import gzip
import hashlib
import http.client
import itertools
import os
import socket
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torchvision.datasets import MNIST

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, which are 0..1 before normalization
MD5 = {  # of the uncompressed files, in the order of Digits' fields
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Digits(NamedTuple):
    name: str                   # of the data set, for output and titles
    images: torch.Tensor        # uint8 (60000, 28, 28), white ink on black
    labels: torch.Tensor        # int64 (60000,), 0..9
    test_images: torch.Tensor   # the same for 10,000 images
    test_labels: torch.Tensor


class DataError(Exception):
    """Unusable data; the message says what is wrong and how to fix it."""


class NoMNIST(DataError):
    """No MNIST file was found, and the download failed."""


# --- MNIST's files ---

def default_root():
    """The folder in which MNIST is looked for: $MNIST_ROOT if set, otherwise data."""
    return Path(os.path.expanduser(os.environ.get("MNIST_ROOT") or "data"))


def read_mnist(root):
    """Read MNIST from root/MNIST/raw; download and add what is missing there. Returns Digits.

    Raises DataError if a file has one of MNIST's names but not its contents, or if only some of
    the files are available; NoMNIST if none is; OSError on read or write errors.
    """
    raw = Path(root, "MNIST", "raw").absolute()
    files = {name: read_file(raw, name) for name in MD5}
    missing = [name for name, data in files.items() if data is None]
    if missing:
        try:
            downloaded = download()
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:  # a full disk names no file
                raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
            kind = DataError if len(missing) < len(MD5) else NoMNIST
            raise kind(f"There is no complete MNIST in {raw} (missing: {', '.join(missing)}), and "
                       f"the download failed ({' '.join(str(error).split())}). Put the missing "
                       "files there.") from None
        for name in missing:
            files[name] = downloaded[name]
            if not os.path.lexists(raw / name):  # another process may have just written it
                write_whole(raw / name, files[name])
    # An IDX file begins with a magic number and the sizes, of four bytes each.
    images, labels, test_images, test_labels = (
        torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=16 if "images" in name else 8)
        for name, data in files.items())
    return Digits("MNIST", images.view(-1, 28, 28), labels.long(), test_images.view(-1, 28, 28),
                  test_labels.long())


def read_file(raw, name):
    """The contents (bytes) of one of MNIST's files in the folder `raw`, or None if it is not there.

    It may be compressed, lie in a folder of its own name (as Kaggle packs it) or be called
    train-images.idx3-ubyte (as 7-Zip unpacks it). Raises DataError if its checksum is wrong.
    """
    for path in (raw / name, raw / name / name, raw / name.replace("-idx", ".idx"),
                 raw / f"{name}.gz"):
        if os.path.lexists(path) and not path.is_dir():  # a dangling link is an error, not absent
            data = path.read_bytes()
            try:
                data = gzip.decompress(data) if path.suffix == ".gz" else data
            except (gzip.BadGzipFile, EOFError, zlib.error):
                data = b""
            if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5[name]:
                raise DataError(f"{path} is damaged or from another data set (wrong checksum). "
                                "Move it away and run again")
            return data
    return None


def download():
    """Download MNIST: returns {name: contents}. A temporary folder receives it, since torchvision
    overwrites files that bear MNIST's names, and leaves a half-written one if a download breaks
    off."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds without a response; by default there is no limit
    try:
        with tempfile.TemporaryDirectory() as folder:
            MNIST(folder, download=True)  # RuntimeError for wrong contents
            return {name: read_file(Path(folder, "MNIST", "raw"), name) for name in MD5}
    finally:
        socket.setdefaulttimeout(timeout)


def write_whole(path, data):
    """Write a file, and its folder, so that it is complete or absent, even if other processes write
    it at once: a file that is complete moves out of a temporary folder beside it. Raises OSError,
    which names `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".tmp", ".", path.parent) as folder:
            Path(folder, path.name).write_bytes(data)
            Path(folder, path.name).replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


# --- Stand-in digits ---

FONTS = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
         "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
         "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral", "cmr10", "cmss10", "cmtt10"]
GLYPH = 64  # pixels: glyphs are drawn large, in 42-point type, then shrunk


def draw_standin(train=60_000, test=10_000):
    """Synthetic digits in MNIST's format: font glyphs, randomly rotated, sheared, scaled and
    thickened, with the centre of mass at pixel (14, 14) as in MNIST. Returns Digits, always the
    same, from a random generator of its own.
    """
    glyphs = draw_glyphs()
    count, generator = train + test, torch.Generator().manual_seed(0)
    drawn = torch.randint(len(glyphs), (count,), generator=generator)
    labels = drawn // (len(glyphs) // 10)
    # F.affine_grid expects the map from output to glyph coordinates, in units of half an image:
    # here a random matrix near the identity, times the number of glyph pixels (2 by 2) that become
    # one pixel, and MNIST's centre of mass, half a pixel right of and below the middle.
    noise = torch.rand(count, 2, 2, generator=generator, dtype=torch.float32) - 0.5
    linear = (torch.eye(2).float() + 0.32 * noise) * (28 / GLYPH * 2)
    theta = torch.cat([linear, linear.sum(2, keepdim=True) * (-0.5 / 14)], 2)
    images = torch.empty(count, 28, 28, dtype=torch.uint8)
    for chunk in torch.arange(count).split(2000):  # limits memory use
        grid = F.affine_grid(theta[chunk], (len(chunk), 1, 28, 28), align_corners=False)
        image = F.grid_sample(glyphs[drawn[chunk]], grid, align_corners=False)
        images[chunk] = image.squeeze(1).round().byte()
    return Digits("stand-in digits (not MNIST)", images[:train], labels[:train],
                  images[train:], labels[train:])


def draw_glyphs():
    """Every digit in every font, thin and thick, with its centre of mass in the middle, sorted by
    digit: float32 (10 * variants, 1, GLYPH, GLYPH), in 0..255."""
    from matplotlib import get_data_path  # only here: it ships the fonts
    folder = Path(get_data_path(), "fonts", "ttf")
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 42) for name in FONTS]
    glyphs = []
    for digit, font, thickness in itertools.product("0123456789", fonts, (0, 1, 2)):
        image = Image.new("L", (GLYPH, GLYPH))
        ImageDraw.Draw(image).text((GLYPH / 2, GLYPH / 2), digit, fill=255, font=font, anchor="mm",
                                   stroke_width=thickness)
        pixels = np.array(image, np.float32)
        shift = [round(GLYPH / 2 - place) for place in centre_of_mass(pixels)]
        glyphs.append(np.roll(pixels, shift, (0, 1)))
    return torch.from_numpy(np.stack(glyphs)).unsqueeze(1)


def centre_of_mass(ink):
    """The centre of mass (row, column) of an image (h, w), in pixels from its upper left corner."""
    return [np.average(np.arange(len(profile)) + 0.5, weights=profile)
            for profile in (ink.sum(1), ink.sum(0))]
