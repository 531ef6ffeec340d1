"""What stands around the data: MNIST's files checked and fetched, stand-in digits, and a picture of
one's own as MNIST would have it."""

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

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

MEAN, STD = 0.1307, 0.3081  # of MNIST's training pixels, which are 0..1 before normalization
MD5 = {  # of the unpacked files; MNIST.resources has those of the packed ones
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DOWNLOAD_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError,
                   ssl.SSLError, RuntimeError)  # the last is torchvision's, also for wrong contents


class Digits(NamedTuple):
    name: str                   # "MNIST", or what else it is, for headers and titles
    images: torch.Tensor        # uint8 (60000, 28, 28), white ink on black
    labels: torch.Tensor        # int64 (60000,), 0..9
    test_images: torch.Tensor   # the same for 10,000 images
    test_labels: torch.Tensor


class DataError(Exception):
    """Data that cannot be used; the message says which, and the way out."""


class NoMNIST(DataError):
    """None of MNIST's files is there, and they could not be downloaded."""


# --- MNIST's files ---

def write_whole(path, data):
    """Write bytes to `path` so that it holds either all of them or what it held before.
    Raises OSError, which names `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
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

    It holds copies of those of MNIST's four files that lie in root/MNIST/raw, packed or not, after
    a look at their contents, which torchvision does not take. If it has to download the others,
    they are copied to root/MNIST/raw once all of them are there: torchvision itself would overwrite
    files that bear MNIST's names, and leave half of one where a download breaks off.

    Raises DataError for a file that bears one of MNIST's names and holds something else, and if
    only some of the files can be had; NoMNIST if none can; OSError for trouble with the disk.
    """
    raw = Path(root, "MNIST", "raw").absolute()
    sums = MD5 | dict(MNIST.resources)
    present = [name for name in sums if os.path.lexists(raw / name)]
    for name in present:
        if not check_integrity(raw / name, sums[name]):
            raise DataError(f"{raw / name} is damaged, or another data set's: it is not MNIST's "
                            "file of this name. Move it away and run again")
    missing = [name for name in MD5 if name not in present and f"{name}.gz" not in present]
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "MNIST", "raw")
        inside.mkdir(parents=True)
        for name in set(MD5) - set(missing):
            data = (raw / name if name in present else raw / f"{name}.gz").read_bytes()
            (inside / name).write_bytes(data if name in present else gzip.decompress(data))
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10)  # seconds without a word; the default is to wait for ever
        try:
            with contextlib.redirect_stdout(sys.stderr):  # for torchvision's own words
                yield folder
        except DOWNLOAD_ERRORS as error:
            reason = f"the download failed ({' '.join(str(error).split())})"
            if present:
                raise DataError(f"{raw / missing[0]} is missing, and {reason}. Copy it there, or "
                                "connect to the network and run again") from None
            raise NoMNIST(f"There is no MNIST in {raw}, and {reason}. Its four files belong there: "
                          f"{', '.join(MD5)}.") from None
        except OSError as error:
            error.filename = error.filename or folder  # a write names no file
            raise
        finally:
            socket.setdefaulttimeout(patience)
        for name in missing:
            write_whole(raw / name, (inside / name).read_bytes())


# --- Stand-in digits ---

FONTS = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
         "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
         "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
         "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
         "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10"]
GLYPH = 64  # pixels: glyphs are drawn large, in 46-point type, then shrunk


def draw_standin(train=60_000, test=10_000):
    """Digits in MNIST's format that are not MNIST: printed ones, each a font's glyph at random
    rotated, sheared, scaled and thickened, with its centre of mass where MNIST has it, at pixel
    (14, 14). Always the same images, by a random generator of their own.
    """
    glyphs = draw_glyphs()
    count, generator = train + test, torch.Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=generator)
    variant = torch.randint(glyphs.shape[1], (count,), generator=generator)
    random = torch.rand(4, count, generator=generator, dtype=torch.float32)
    angle, shear, width, height = random * 2 - 1
    angle, shear, width, height = 0.2 * angle, 0.3 * shear, 0.9 + 0.15 * width, 1 + 0.1 * height
    # F.affine_grid wants the map from a point of the result to the one of the glyph, in units of
    # half an image; MNIST's centre of mass lies half a pixel right of and below the middle.
    cos, sin = angle.cos(), angle.sin()
    linear = torch.stack([(cos + shear * sin) / width, (sin - shear * cos) / width,
                          -sin / height, cos / height], 1).view(-1, 2, 2)
    linear *= 28 / GLYPH * 2  # half as large as it was drawn
    theta = torch.cat([linear, linear.sum(2, keepdim=True) * (-0.5 / 14)], 2)
    images = torch.empty(count, 28, 28, dtype=torch.uint8)
    for chunk in torch.arange(count).split(2000):  # bounds the memory
        grid = F.affine_grid(theta[chunk], (len(chunk), 1, 28, 28), align_corners=False)
        drawn = F.grid_sample(glyphs[labels[chunk], variant[chunk]], grid, align_corners=False)
        images[chunk] = drawn.squeeze(1).round().byte()
    return Digits("stand-in digits (not MNIST)", images[:train], labels[:train],
                  images[train:], labels[train:])


def draw_glyphs():
    """Every digit in every font, thin and thick, with its centre of mass in the middle: float32
    (10, variants, 1, GLYPH, GLYPH), in 0..255."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
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
    """(row, column) of an image (h, w), in pixels from its upper left corner."""
    return [np.average(np.arange(len(sums)) + 0.5, weights=sums)
            for sums in (ink.sum(1), ink.sum(0))]


# --- A picture of one's own ---

def from_picture(path):
    """A picture file of a digit -> uint8 (1, 28, 28), brought to MNIST's form: light ink on black,
    fitted into 20 by 20 pixels, its centre of mass at pixel (14, 14) (LeCun et al., Proceedings of
    the IEEE 1998, section III).

    The picture may be of any size, dark on light or light on dark, and in colour, with nothing else
    on the paper and paper all around. Raises OSError for a file that PIL cannot read, DataError for
    a picture without ink.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")  # seen where the picture is transparent
    grey = np.asarray(Image.alpha_composite(white, picture).convert("L"), np.float32)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    ink = (paper - grey if grey.mean() < paper else grey - paper).clip(0)
    if ink.max() < 40:
        raise DataError(f"{path} shows no digit: nothing in it differs clearly from its border")
    ink /= ink.max()
    ink[ink < 0.35] = 0  # a shadow on the paper, its grain
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.5) for axis in (1, 0))
    digit = Image.fromarray((255 * ink).round().astype(np.uint8)).crop(
        (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    scale = 20 / max(digit.size)
    digit = digit.resize([max(1, round(scale * side)) for side in digit.size])
    digit = np.asarray(digit, np.float32)
    height, width = digit.shape
    row, column = centre_of_mass(digit)
    top = min(max(round(14.5 - row), 0), 28 - height)
    left = min(max(round(14.5 - column), 0), 28 - width)
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, top:top + height, left:left + width] = torch.from_numpy(
        digit * (255 / digit.max())).round().byte()
    return image
