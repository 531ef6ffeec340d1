"""The digits: MNIST, checked, from disk or the network; or stand-in digits drawn from fonts.

MNIST's files lie where torchvision puts them, ROOT/MNIST/raw/*-ubyte. torchvision looks only
whether they exist, so their contents are checked here, against MNIST's own MD5 sums. A download
goes to a folder of its own and its files move into place once they pass, so one that breaks off
leaves nothing behind that could be taken for MNIST.
"""

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity
from torchvision.transforms.functional import pil_to_tensor

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
STALL_SECONDS, STALL_BYTES = 25, 250_000  # a download slower than this counts as hung


class DataError(Exception):
    """MNIST is needed and cannot be used; the message names the file and the way out."""


class Digits(NamedTuple):
    name: str                   # for headers and titles
    images: torch.Tensor        # uint8 (60000, 28, 28), white ink on black
    labels: torch.Tensor        # int64 (60000,), 0..9
    test_images: torch.Tensor   # the same for 10,000 images
    test_labels: torch.Tensor


def load(dataset, root):
    """The Digits that `dataset` asks for: "mnist", "standin", or "auto", which is MNIST where it
    is on disk or can be downloaded and otherwise, said on stderr, the stand-in.

    Raises DataError for "mnist" that is nowhere to be had, and for "auto" too where some of
    MNIST's files are there but damaged or incomplete; OSError for a root that cannot be written.
    """
    if dataset == "standin":
        return draw_standin()
    raw = Path(root) / "MNIST" / "raw"
    missing = missing_files(raw)
    if missing:
        reason = download(Path(root), missing)
        if reason and len(missing) < len(MD5):
            raise DataError(f"{raw / missing[0]} is missing, and {reason}. Copy it there, "
                            f"or connect to the network and run again")
        if reason and dataset == "mnist":
            raise DataError(f"there is no MNIST in {raw}, and {reason}. Copy its four files there "
                            f"({', '.join(MD5)}), or connect to the network and run again")
        if reason:
            print(f"There is no MNIST in {raw}, and {reason}.\nIts four files would go there: "
                  f"{', '.join(MD5)}.\nGoing on with stand-in digits drawn from fonts: the losses "
                  "and figures below are not those of the assignment.", file=sys.stderr, flush=True)
            return draw_standin()
    train, test = MNIST(root, train=True), MNIST(root, train=False)
    return Digits("MNIST", train.data, train.targets, test.data, test.targets)


def missing_files(raw):
    """The names of MNIST's files that are not in the folder `raw`; DataError if one is damaged."""
    missing = []
    for name, md5 in MD5.items():
        path = raw / name
        if not path.exists():
            missing.append(name)
        elif not path.is_file():
            raise DataError(f"{path} is not a file. Move it away and run again to download MNIST's")
        elif not check_integrity(path, md5):
            raise DataError(f"{path} is damaged: its {path.stat().st_size:,} bytes are not MNIST's "
                            f"(MD5 {md5}). Move it away and run again to download it")
    return missing


def download(root, missing):
    """Put the missing files into root/MNIST/raw. Returns None, or in words why they are not there.

    torchvision does the work, in a thread, since it can hang where no socket time-out reaches (a
    name server that does not answer, a server that sends a byte now and then).
    """
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root, ignore_cleanup_errors=True) as folder:
        arrived = Path(folder) / "MNIST" / "raw"
        arrived.mkdir(parents=True)
        for archive in raw.glob("*.gz"):  # downloaded by hand: unpacked rather than fetched again
            shutil.copy(archive, arrived)
        failures = []

        def fetch():
            try:
                MNIST(folder, download=True)
            except Exception as error:
                failures.append(str(error) or type(error).__name__)

        print(f"MNIST is not in {raw}: downloading it.", file=sys.stderr, flush=True)
        thread = threading.Thread(target=fetch, daemon=True)
        size, since = 0, time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):  # some versions of torchvision print their progress
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
                now = sum(path.stat().st_size for path in arrived.glob("*"))
                if now - size > STALL_BYTES:
                    size, since = now, time.monotonic()
                elif time.monotonic() - since > STALL_SECONDS:
                    return f"its download hung: under {STALL_BYTES:,} bytes in {STALL_SECONDS} seconds"
        for name in missing:
            if not check_integrity(arrived / name, MD5[name]):
                why = " ".join(failures[0].split()) if failures else f"{name} arrived damaged"
                return f"its download failed ({why})"
        for name in missing:
            (arrived / name).replace(raw / name)


# --- Stand-in digits ---

FONTS = [f"DejaVu Sans{kind}:{weight}:{style}" for kind in ("", " Mono") for weight in ("normal", "bold")
         for style in ("normal", "oblique")] + [
    f"{family}:{weight}:{style}" for family in ("DejaVu Serif", "STIXGeneral")
    for weight in ("normal", "bold") for style in ("normal", "italic")] + ["cmr10", "cmb10", "cmss10", "cmtt10"]
GLYPH = 64  # pixels: glyphs are drawn large, in 46-point type, then shrunk


def draw_standin(train=60_000, test=10_000, seed=0):
    """Digits in MNIST's format that are not MNIST: printed ones, each a font's glyph at random
    rotated, sheared, scaled and thickened, with its centre of mass where MNIST has it, at pixel
    (14, 14). The same images for the same seed and versions.
    """
    glyphs, centres = draw_glyphs()
    generator = torch.Generator().manual_seed(seed)
    count = train + test
    labels = torch.randint(10, (count,), generator=generator)
    variant = torch.randint(len(glyphs) // 10, (count,), generator=generator)
    angle, shear, width, height = torch.rand(4, count, generator=generator) * 2 - 1
    angle, shear, width, height = 0.2 * angle, 0.3 * shear, 0.9 + 0.15 * width, 1 + 0.1 * height
    # F.affine_grid wants the map from a point of the result to the one of the glyph, in units of
    # half an image; MNIST's centre of mass lies half a pixel right of and below the middle.
    cos, sin = angle.cos(), angle.sin()
    linear = torch.stack([(cos + shear * sin) / width, (sin - shear * cos) / width,
                          -sin / height, cos / height], 1).view(-1, 2, 2) * (28 / GLYPH * 2)
    which = labels * (len(glyphs) // 10) + variant
    offset = centres[which].unsqueeze(2) - linear.sum(2, keepdim=True) * (0.5 / 14)
    images = torch.empty(count, 28, 28, dtype=torch.uint8)
    for chunk in torch.arange(count).split(2000):  # bounds the memory
        theta = torch.cat([linear[chunk], offset[chunk]], 2)
        grid = F.affine_grid(theta, (len(chunk), 1, 28, 28), align_corners=False)
        images[chunk] = F.grid_sample(glyphs[which[chunk]], grid, align_corners=False).squeeze(1).round().byte()
    return Digits("stand-in digits (not MNIST)", images[:train], labels[:train], images[train:], labels[train:])


def draw_glyphs():
    """Every digit in every font, thin and thick: float (10 * variants, 1, GLYPH, GLYPH) in 0..255,
    sorted by digit, and their centres of mass (10 * variants, 2) as (x, y) in -1..1."""
    fonts = []
    for name in FONTS:
        path = font_manager.findfont(name, fallback_to_default=False)
        fonts.append(ImageFont.truetype(path, 46))
    glyphs = []
    for digit in "0123456789":
        for font in fonts:
            for thickness in (0, 1, 2):
                image = Image.new("L", (GLYPH, GLYPH))
                ImageDraw.Draw(image).text((GLYPH / 2, GLYPH / 2), digit, fill=255, font=font,
                                           anchor="mm", stroke_width=thickness)
                glyphs.append(pil_to_tensor(image))
    glyphs = torch.stack(glyphs).float()
    position = (torch.arange(GLYPH) + 0.5) / GLYPH * 2 - 1
    ink = glyphs.sum((1, 2, 3))
    x, y = (glyphs.sum(2).squeeze(1) @ position) / ink, (glyphs.sum(3).squeeze(1) @ position) / ink
    return glyphs, torch.stack([x, y], 1)
