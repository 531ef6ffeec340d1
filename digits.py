"""The digits: MNIST, checked, from disk or the network; or stand-in digits drawn from fonts.

MNIST's files lie where torchvision puts them, ROOT/MNIST/raw/*-ubyte. torchvision looks only
whether they exist; here their contents count: MNIST's own MD5 sums tell what a file is, whatever
it is called and whether it is still packed.
"""

import gzip
import hashlib
import http.client
import sys
import time
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torchvision.datasets import MNIST

from utils import Refusal, check_folder, nearest_folder, write_whole

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
PATIENCE, SLOWEST = 10, 100_000  # a download of fewer bytes in so many seconds counts as hung


class Digits(NamedTuple):
    name: str                   # for headers and titles
    images: torch.Tensor        # uint8 (60000, 28, 28), white ink on black
    labels: torch.Tensor        # int64 (60000,), 0..9
    test_images: torch.Tensor   # the same for 10,000 images
    test_labels: torch.Tensor


def load(dataset, root):
    """The Digits that `dataset` asks for: "mnist", "standin", or "auto", which is MNIST where it
    is on disk or can be downloaded and otherwise, said on stderr, the stand-in.

    Raises Refusal for a root that is no folder, for damaged files, and if a file cannot be had: any
    of the four for "mnist"; for "auto" only if others of them are there. Raises OSError for a file
    that cannot be read, or written once it has arrived.
    """
    if dataset == "standin":
        return draw_standin()
    files, folder = find_files(Path(root))
    missing = [name for name in MD5 if name not in files]
    try:
        if missing:
            check_folder(folder)
        arrived = {name: download(name) for name in missing}
    except Refusal as error:
        if files:
            raise Refusal(f"{folder / missing[0]} is missing, and {error}. Copy it there, or "
                          "connect to the network and run again") from None
        reason = f"There is no MNIST in {folder}: {error}. Its four files would go there " \
                 f"({', '.join(MD5)})."
        if dataset == "mnist":
            raise Refusal(f"{reason} Copy them, or connect and run again") from None
        print(f"{reason}\nGoing on with stand-in digits drawn from fonts: the losses and figures "
              "below are not those of the assignment.", file=sys.stderr, flush=True)
        return draw_standin()
    for name, data in arrived.items():
        write_whole(folder / name, data)
    images, labels, test_images, test_labels = (read_idx((files | arrived)[name]) for name in MD5)
    return Digits("MNIST", images, labels.long(), test_images, test_labels.long())


def find_files(root):
    """Those of MNIST's files that lie under `root`, as {name: bytes}, and the folder for the rest.

    They may be packed, or named as other archives name them; `root` may be the folder they lie in.
    Raises Refusal where a file is called like one of them and none such has the right contents.
    """
    nearest_folder(root)  # refuses a root that is a file
    folders = [root / "MNIST" / "raw", root / "raw", root]
    files, home = {}, None
    for name, md5 in MD5.items():
        spellings = [name, name.replace("-idx", ".idx")]
        places = [folder / f"{spelling}{ending}" for folder in folders for spelling in spellings
                  for ending in ("", ".gz")]
        flaws = []
        for path in filter(Path.exists, places):
            data, flaw = unpack(path, md5)
            if not flaw:
                files[name], home = data, home or path.parent
                break
            flaws.append(f"{path} {flaw}")
        else:
            if flaws:
                raise Refusal(f"{flaws[0]}. Move it away and run again to download MNIST's")
    return files, home or folders[0]


def unpack(path, md5):
    """(bytes, None) for a file with this MD5 sum, unpacked if need be; else (None, what is wrong
    with it)."""
    if not path.is_file():
        return None, "is not a file"
    data = path.read_bytes()
    if path.suffix == ".gz" and data[:2] == b"\x1f\x8b":  # some browsers unpack and keep the name
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error):
            return None, f"is damaged: its {len(data):,} bytes are not a whole gzip archive"
    if hashlib.md5(data).hexdigest() != md5:
        return None, f"is damaged: what it holds is not MNIST's file (MD5 {md5})"
    return data, None


def download(name):
    """The bytes of one of MNIST's files, unpacked, from the first of torchvision's mirrors that has
    it whole. Raises Refusal, which says why there is none."""
    for mirror in MNIST.mirrors:
        url, packed, start = f"{mirror}{name}.gz", bytearray(), time.monotonic()
        print(f"Downloading {url}", file=sys.stderr, flush=True)
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                while chunk := response.read1(1 << 16):
                    packed += chunk
                    if time.monotonic() - start > PATIENCE * (1 + len(packed) / SLOWEST):
                        raise TimeoutError(f"under {SLOWEST:,} bytes in {PATIENCE} seconds")
            data = gzip.decompress(packed)
            if hashlib.md5(data).hexdigest() == MD5[name]:
                return data
            failure = "what arrived is not MNIST's"
        except (OSError, EOFError, zlib.error, http.client.HTTPException, ValueError) as error:
            failure = " ".join(str(error).split()) or type(error).__name__
    raise Refusal(f"the download of {name} failed ({failure})")


def read_idx(data):
    """The uint8 tensor in a file of MNIST's IDX format: two zeros, a type, the number of
    dimensions, the size of each as a big-endian 32-bit integer, then the numbers."""
    sizes = np.frombuffer(data, ">u4", count=data[3], offset=4).tolist()
    numbers = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    return torch.from_numpy(numbers.reshape(sizes).copy())


# --- Stand-in digits ---

FONTS = [f"{family}:{weight}:{slant}"
         for family, slants in [("DejaVu Sans", ("normal", "oblique")),
                                ("DejaVu Sans Mono", ("normal", "oblique")),
                                ("DejaVu Serif", ("normal", "italic")),
                                ("STIXGeneral", ("normal", "italic"))]
         for weight in ("normal", "bold") for slant in slants]
FONTS += ["cmr10", "cmb10", "cmss10", "cmtt10"]
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
    random = torch.rand(4, count, generator=generator, dtype=torch.float32)
    angle, shear, width, height = random * 2 - 1
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
        drawn = F.grid_sample(glyphs[which[chunk]], grid, align_corners=False)
        images[chunk] = drawn.squeeze(1).round().byte()
    return Digits("stand-in digits (not MNIST)", images[:train], labels[:train],
                  images[train:], labels[train:])


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
                glyphs.append(torch.from_numpy(np.array(image, np.float32)))
    glyphs = torch.stack(glyphs).unsqueeze(1)
    position = (torch.arange(GLYPH, dtype=torch.float32) + 0.5) / GLYPH * 2 - 1
    ink = glyphs.sum((1, 2, 3))
    x = glyphs.sum(2).squeeze(1) @ position / ink
    y = glyphs.sum(3).squeeze(1) @ position / ink
    return glyphs, torch.stack([x, y], 1)
