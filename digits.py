"""Data handling: check and download MNIST's files, draw stand-in digits."""

import contextlib
import gzip
import http.client
import itertools
import os
import socket
import ssl
import sys
import tempfile
import urllib.error
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

MD5 = {  # of the uncompressed files; MNIST.resources has those of the .gz files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DOWNLOAD_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError,
                   ssl.SSLError, RuntimeError)  # the last is torchvision's, also for wrong contents


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
    return Path(os.environ.get("MNIST_ROOT") or "data")


def write_whole(path, data):
    """Write a file so that it is complete or absent, even if other processes write it at once.
    Raises OSError, which names `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        if temporary.exists():
            temporary.unlink()


@contextlib.contextmanager
def mnist_folder(root):
    """A temporary folder in which `MNIST(folder, download=True)` is safe to call.

    It receives copies of those of MNIST's four files that lie in root/MNIST/raw, compressed or not,
    once their checksums are verified, as torchvision does only for downloads. If it has to download
    others, they are copied to root/MNIST/raw once all of them are complete: torchvision itself
    would overwrite files that bear MNIST's names, and leave half of one if a download breaks off.

    Raises DataError if a file has one of MNIST's names but not its contents, or if only some of
    the files are available; NoMNIST if none is; OSError on read or write errors.
    """
    raw = Path(root, "MNIST", "raw").absolute()
    md5 = MD5 | dict(MNIST.resources)
    paths = {name: raw / name for name in md5}
    paths |= {name: path / name for name, path in paths.items() if path.is_dir()}  # Kaggle's
    present = [name for name, path in paths.items() if os.path.lexists(path)]
    for name in present:
        if not check_integrity(paths[name], md5[name]):
            raise DataError(f"{paths[name]} is damaged or from another data set (wrong checksum). "
                            "Move it away and run again")
    missing = [name for name in MD5 if name not in present and f"{name}.gz" not in present]
    default_timeout = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "MNIST", "raw")
        try:
            inside.mkdir(parents=True)
            for name in set(MD5) - set(missing):
                data = paths[name if name in present else f"{name}.gz"].read_bytes()
                (inside / name).write_bytes(data if name in present else gzip.decompress(data))
            socket.setdefaulttimeout(10)  # seconds without a response; by default there is no limit
            with contextlib.redirect_stdout(sys.stderr):  # older torchvisions print
                yield folder  # the caller's MNIST() runs here
        except DOWNLOAD_ERRORS as error:
            if not missing:  # nothing was downloaded
                raise
            reason = f"the download failed ({' '.join(str(error).split())})"
            if present:
                raise DataError(f"{raw / missing[0]} is missing, and {reason}. Copy it there, or "
                                "connect to the network and run again") from None
            raise NoMNIST(f"There is no MNIST in {raw}, and {reason}. Put its four files there: "
                          f"{', '.join(MD5)}.") from None
        except OSError as error:
            error.filename = error.filename or folder  # a failed write names no file
            raise
        finally:
            socket.setdefaulttimeout(default_timeout)
        for name in missing:
            if not (raw / name).exists():  # another process may have just written it
                write_whole(raw / name, (inside / name).read_bytes())


# --- Stand-in digits ---

FONTS = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
         "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
         "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
         "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
         "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10"]
GLYPH = 64  # pixels: glyphs are drawn large, in 46-point type, then shrunk


def draw_standin(train=60_000, test=10_000):
    """Synthetic digits in MNIST's format: font glyphs, randomly rotated, sheared, scaled and
    thickened, with the centre of mass at pixel (14, 14) as in MNIST. Returns Digits, always the
    same, from a random generator of its own.
    """
    glyphs = draw_glyphs()
    count, generator = train + test, torch.Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=generator)
    variant = torch.randint(glyphs.shape[1], (count,), generator=generator)
    random = torch.rand(4, count, generator=generator, dtype=torch.float32)
    angle, shear, width, height = random * 2 - 1
    angle, shear, width, height = 0.2 * angle, 0.3 * shear, 0.9 + 0.15 * width, 1 + 0.1 * height
    # F.affine_grid expects the map from output to glyph coordinates, in units of half an image;
    # MNIST's centre of mass lies half a pixel right of and below the middle.
    cos, sin = angle.cos(), angle.sin()
    linear = torch.stack([(cos + shear * sin) / width, (sin - shear * cos) / width,
                          -sin / height, cos / height], 1).view(-1, 2, 2)
    linear *= 28 / GLYPH * 2  # half as large as it was drawn
    theta = torch.cat([linear, linear.sum(2, keepdim=True) * (-0.5 / 14)], 2)
    images = torch.empty(count, 28, 28, dtype=torch.uint8)
    for chunk in torch.arange(count).split(2000):  # limits memory use
        grid = F.affine_grid(theta[chunk], (len(chunk), 1, 28, 28), align_corners=False)
        drawn = F.grid_sample(glyphs[labels[chunk], variant[chunk]], grid, align_corners=False)
        images[chunk] = drawn.squeeze(1).round().byte()
    return Digits("stand-in digits (not MNIST)", images[:train], labels[:train],
                  images[train:], labels[train:])


def draw_glyphs():
    """Every digit in every font, thin and thick, with its centre of mass in the middle: float32
    (10, variants, 1, GLYPH, GLYPH), in 0..255."""
    from matplotlib import get_data_path  # only here: it ships the fonts
    folder = Path(get_data_path(), "fonts", "ttf")
    fonts = [ImageFont.truetype(folder / f"{name}.ttf", 46) for name in FONTS]
    glyphs = []
    for digit, font, thickness in itertools.product("0123456789", fonts, (0, 1, 2)):
        image = Image.new("L", (GLYPH, GLYPH))
        ImageDraw.Draw(image).text((GLYPH / 2, GLYPH / 2), digit, fill=255, font=font, anchor="mm",
                                   stroke_width=thickness)
        pixels = np.array(image, np.float32)
        shift = [round(GLYPH / 2 - place) for place in centre_of_mass(pixels)]
        glyphs.append(np.roll(pixels, shift, (0, 1)))
    return torch.from_numpy(np.stack(glyphs)).view(10, -1, 1, GLYPH, GLYPH)


def centre_of_mass(ink):
    """The centre of mass (row, column) of an image (h, w), in pixels from its upper left corner."""
    return [np.average(np.arange(len(profile)) + 0.5, weights=profile)
            for profile in (ink.sum(1), ink.sum(0))]
