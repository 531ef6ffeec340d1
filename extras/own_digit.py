"""Your own digit: a photo of a handwritten digit becomes an input of the trained model.

    python -m extras.own_digit my_digit.jpg

prints the activations of the hidden nodes and saves my_digit_reconstructed.png in the current
folder. The digit may be dark on light or light on dark, in any colour, on paper that is lined,
framed, unevenly lit or smaller than the photo. The photo is read in five steps:

1. Brightness is measured on a logarithmic scale. A shadow divides the brightness of the paper and
   that of the ink by the same number, so their difference, the ink, is the same in the shadow.
2. The background is the photo without everything that is narrower than the boldest stroke.
3. The pixels that stand out from the background form connected parts. The digit is the tallest part
   that is neither a frame nor a blot and does not touch the border of the photo, as the edge of a
   desk and ruled lines do. If there is no such part, the digit is what fills the photo or is cut
   off by its border, unless that looks like an edge, ruled lines or a shadow. A part among a dozen
   similar ones, or surrounded by half as much ink, is noise.
4. In a closer look, the digit has the same size in every photo and becomes black and white, like
   the scans that MNIST was made from.
5. The digit is scaled and centred as MNIST's digits are.
"""

import argparse
import contextlib
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

import codelet7
import utils
from digits import DataError, centre_of_mass

LARGEST = 2000  # pixels, longer side: larger photos are reduced first
FIRST = 320     # pixels, longer side of the whole photo in the first look, which finds the digit
CLOSER = 160    # pixels, longer side of the digit in the closer look
FAINT = 0.2     # fainter ink, a difference of logarithms, may be noise; pencil has about 0.5
RIVAL = 0.7     # of the digit's height: what is taller is another digit, not a piece of this one
THIN, BOLD = 2.0, 3.0  # pixels of the 28 x 28 image: strokes get a width between these, as in MNIST


# --- From a photo to MNIST's form ---

def read_digit(path):
    """Read a photo of a digit: returns (image, photo, box, alone). The image is uint8 (1, 28, 28)
    in MNIST's form: light ink on black, a box of 20 x 20 pixels around it, its centre of mass at
    pixel (14, 14) (LeCun et al., Proceedings of the IEEE 1998, section III). `photo` is a PIL
    image, `box` the digit's (left, top, right, bottom) in pixels of the photo, and `alone` is False
    if something else in the photo is nearly as tall as the digit, or if the ink that was not read
    is more than a third of the digit's.

    Raises DataError, whose message names the file and says what to do, if it is not an image or
    shows no digit; OSError if it cannot be opened.
    """
    photo = open_photo(path)
    channel, sign, digit, alone = find_channel(photo)
    box, mask = look_closer(photo, channel, sign, digit) if digit else (None, None)
    if box is None:
        raise DataError(f"{path} shows no digit: photograph a single digit with some background "
                        "around it, in a colour that stands out")
    return to_mnist(mask), photo, box, alone


def open_photo(path):
    """Any image that PIL reads (of an animation, the first frame) -> PIL RGB image, upright."""
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            photo = Image.open(file)
            with contextlib.suppress(Exception):  # odd EXIF, which Pillow reads and writes again
                ImageOps.exif_transpose(photo, in_place=True)
            if photo.mode[0] in "IF":  # 16 bits or more: convert() would clip the values at 255
                pixels = np.ma.masked_invalid(np.array(photo, np.float64))  # without NaN and inf
                pixels -= pixels.min()
                photo = Image.fromarray((255 * pixels / pixels.max()).filled(0).astype(np.uint8))
            photo = photo.convert("RGBA")
        except (OSError, SyntaxError, ValueError, EOFError, RuntimeError,  # PIL's decoders
                Image.DecompressionBombError):
            raise DataError(f"{path} is damaged, has too many pixels or a format that PIL cannot "
                            "read, such as HEIC: save a smaller copy as JPEG or PNG") from None
    photo.thumbnail((LARGEST, LARGEST))
    dark = np.array(photo.convert("L"))[np.array(photo.getchannel("A")) > 127] < 128
    behind = "black" if dark.sum() < dark.size / 100 else "white"  # light strokes: black
    return Image.alpha_composite(Image.new("RGBA", photo.size, behind), photo).convert("RGB")


def find_channel(photo):
    """Find the digit in the colour channel in which it has the most ink. Returns (channel,
    sign, digit, alone): sign is 1 for dark ink and -1 for light ink, digit is a Part or None, and
    alone is as in read_digit()."""
    size = [max(1, round(side * FIRST / max(photo.size))) for side in photo.size]
    # Bicubic enlarging would surround strokes with a halo.
    filter = Image.Resampling.BILINEAR if max(photo.size) < FIRST else Image.Resampling.BICUBIC
    channels = log_brightness(photo.resize(size, filter, reducing_gap=3))
    found, most = (None, None, None, None), 0
    for channel, brightness in enumerate(channels):
        sign, mask, ink = find_ink(brightness)
        if mask is not None and ink[mask].sum() > most:
            most = ink[mask].sum()
            found = channel, sign, *add_connected(mask, linear(ink, sign))
    return found


def find_ink(brightness):
    """Find the digit in the brightness (h, w) of one channel: returns (sign, mask or None, ink).

    The ink is what differs from most of the photo, whose border may be dark all around. But if that
    belongs to something that reaches the border, it may be the background of a bold digit that
    fills the photo: then the ink is what differs from the border.
    """
    middle = (brightness.min() + brightness.max()) / 2
    signs = [1 if np.median(part) > middle else -1 for part in (brightness, border(brightness))]
    for sign in dict.fromkeys(signs):
        ink = ink_on_background(sign * brightness, FIRST // 5)
        mask = find_digit(ink)
        if mask is not None:
            parts = connected_parts(mask | (sign * brightness < sign * middle), ink)
            if not any(part.contact and part.mask[mask].any() for part in parts):
                break
    return sign, mask, ink


def log_brightness(photo):
    """PIL RGB image -> float (3, h, w), the logarithm of its brightness."""
    # Without the limits, noise in the black would count.
    return np.log(np.array(photo, np.float32).clip(20) + 25).transpose(2, 0, 1)


def ink_on_background(brightness, radius):
    """How much darker each pixel (h, w) is than its background, for strokes up to 2 radius wide:
    a maximum filter erases the strokes, and a minimum filter restores all wider shapes."""
    return -maximum(-maximum(brightness, radius), radius) - brightness


def linear(ink, sign):
    """Logarithmic ink -> linear ink, as a share of the background's brightness."""
    return sign * (1 - np.exp(-sign * ink))


def maximum(image, radius):
    """The maximum over the square of 2 radius + 1 pixels around each pixel of an image (h, w)."""
    pixels = torch.from_numpy(image).float()
    for _ in range(2):  # along the rows, then along the columns
        pixels = torch.max_pool1d(pixels, 2 * radius + 1, 1, radius).T
    return pixels.numpy().astype(image.dtype)


class Part:
    """A connected part of the ink (h, w) of a photo: its mask, ink and pixels on the border."""

    def __init__(self, mask, ink):
        self.mask, self.ink = mask, ink[mask]
        self.box = np.array(Image.fromarray(mask).getbbox())  # left, top, right, bottom
        self.wide, self.tall = self.box[2:] - self.box[:2]
        self.weight, self.contact = self.ink.sum(), np.count_nonzero(border(mask))
        self.share = mask.sum() / (self.wide * self.tall)  # of its box
        rows = mask[mask.any(1)]
        self.span = np.mean(mask.shape[1] - rows.argmax(1) - rows[:, ::-1].argmax(1)) / self.wide

    def frames(self, other):
        """A frame surrounds another part that is neither a speck nor a part of itself. Its rows
        span most of its width, unlike those of a digit with a loop."""
        return (min((other.box - self.box) * [1, 1, -1, -1]) > 0 and other.tall > self.tall / 5
                and self.span > 2 / 3 and not self.mask[other.mask].any())

    def is_blot(self):
        """A blot, or the dark square of a plot, fills most of its box."""
        return self.share > 0.7 and self.wide > 0.7 * self.tall

    def is_line(self):
        """A narrow part that crosses the photo, as a ruled line does, or that lies along its
        border, as the edge of a desk does. Ruled lines that something connects are thinner than a
        digit, and a grid or noise has more edges in a row and a column."""
        share = np.divide((self.wide, self.tall), self.mask.shape[::-1])
        along = self.contact > 0.9 * max(self.wide, self.tall)
        edges = np.diff(self.mask, axis=0).sum() / self.wide + np.diff(self.mask).sum() / self.tall
        return (share.min() < 0.5 and (share.max() > 0.95 or along)
                or self.share < 0.06 or edges > 20)

    def is_shadow(self, ink, level):
        """A shadow has no sharp edge: at a lower threshold, there is much more of it."""
        return (ink > level / 4).sum() > 1.5 * self.mask.sum()


def connected_parts(mask, ink):
    """The connected parts of a mask (h, w) except specks of fewer than 10 pixels: a list of
    Parts."""
    labels, merged = None, np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    while not np.array_equal(labels, merged):
        labels, root = merged, np.arange(mask.size + 1)
        np.maximum.at(root, labels[mask], maximum(labels, 1)[mask])  # the largest that touches it,
        while not np.array_equal(root, root[root]):
            root = root[root]  # and the largest one that touches that one, and so on
        merged = root[labels]
    large = np.flatnonzero(np.bincount(labels[mask]) > 9)
    return [Part(labels == label, ink) for label in large]


def border(image):
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def find_digit(ink):
    """Find the digit in the ink (h, w) of the whole photo: returns its mask, or None.

    The threshold falls step by step, so that a pen is found before the paler lines that it crosses.
    A part counts once the threshold has fallen to half of its ink; before, parts of it are missing.
    """
    cropped, most = None, 0
    faint = connected_parts(ink > FAINT, ink)  # a frame may be darker than what it surrounds
    for level in np.unique((ink.max() * 0.8 ** np.arange(20)).clip(FAINT))[::-1]:
        parts = connected_parts(ink > level / 2, ink)
        whole = []
        for part in parts:
            if (np.quantile(part.ink, 0.75) < level or part.is_blot()
                    or any(map(part.frames, parts + faint))):
                continue  # too early for this part, or no digit
            if not part.contact:
                whole.append(part)
            elif part.weight > most and max(part.wide, part.tall) > FIRST / 5 and not (
                    part.is_line() or part.is_shadow(ink, level)):
                cropped, most = add_pieces(part, parts), part.weight
        digit = max(whole, key=lambda part: part.tall, default=None)
        # Anything shorter is not a digit.
        if digit and digit.tall > 0.03 * FIRST and digit.weight > most / 10:
            return add_pieces(digit, parts)
    return cropped  # the digit fills the photo, or is cut off


def add_pieces(digit, parts):
    """The mask of a digit together with the pieces near it, such as the bar of a 5."""
    near = maximum(digit.mask, max(digit.wide, digit.tall) // 5)
    pieces = [part.mask for part in parts if near[part.mask].any()
              and 0.03 * digit.weight < part.weight and part.tall < RIVAL * digit.tall
              and (digit.contact or not part.contact)]
    return np.any([digit.mask, *pieces], axis=0)


def add_connected(mask, ink):
    """Add connected pixels with at least a third of the digit's linear ink (h, w), because thin
    strokes look fainter on the logarithmic scale. Nothing is added if the result would reach the
    border, as ruled lines do.

    Returns the digit, a Part, and alone as in read_digit(). The digit is None if it is noise: one
    of many similar parts, or surrounded by half as much ink of at least half its strength.
    """
    strong = np.quantile(ink[mask], 0.75)
    parts = connected_parts(mask | (ink > strong / 3), ink)
    whole = np.any([part.mask for part in parts if part.mask[mask].any()], axis=0)
    digit = Part(mask if border(whole).any() else whole, ink)
    near = maximum(digit.mask, max(digit.wide, digit.tall, FIRST // 4) // 5)
    # Neither the digit itself counts nor paler ink, such as ruled lines.
    ink = np.where((ink > strong / 2) & ~maximum(digit.mask, 2), ink, 0)
    parts = [part for part in parts if not part.frames(digit)]
    close = sum(ink[part.mask & near].sum() for part in parts)
    noise = close > digit.weight / 2 or sum(part.tall > digit.tall / 3 for part in parts) > 12
    others = [digit.weight if part.tall > RIVAL * digit.tall else ink[part.mask].sum()
              for part in parts if not (part.contact or part.mask[whole].any())]
    return None if noise else digit, close + sum(others) < digit.weight / 3


def look_closer(photo, channel, sign, digit):
    """Read a digit, a Part, again from the photo's own pixels, at the same size for every photo.
    Returns its box in the photo, or None if nothing is left of it, and its mask."""
    whole = np.array(digit.mask.shape[::-1] * 2)
    longer = max(digit.wide, digit.tall)
    box = np.clip(digit.box + longer / 5 * np.array([-1, -1, 1, 1]), 0, whole)  # with a margin
    size = [round(side * CLOSER / longer) for side in box[2:] - box[:2]]
    allowed = Image.fromarray(maximum(digit.mask, 2)).convert("L")
    allowed = np.array(allowed.resize(size, Image.Resampling.BILINEAR, tuple(box))) > 64
    box *= np.array(photo.size * 2) / whole
    brightness = log_brightness(photo.resize(size, box=tuple(box), reducing_gap=3))[channel]
    # The ink is linear, so that the outline of a stroke has half of it.
    ink = linear(ink_on_background(sign * brightness, max(size) * 3 // 10), sign)
    mask = allowed & (ink > np.quantile(ink[allowed], 0.85) / 2)
    inner = Image.fromarray(mask).getbbox()
    if inner:
        inner = np.tile(box[:2], 2) + inner * np.tile((box[2:] - box[:2]) / size, 2)
    return inner, mask


def adjust_strokes(mask):
    """Give the strokes of a mask a width of THIN to BOLD pixels of the 28 x 28 image."""
    mask = np.pad(mask, CLOSER // 8)
    # Without pinholes and what is left of ruled lines:
    smooth = np.array(Image.fromarray(mask).convert("L").filter(ImageFilter.MedianFilter(5))) > 0
    outline = smooth & maximum(~smooth, 1)
    width = 2 * smooth.sum() / max(1, outline.sum())  # the outline has two sides
    change = np.clip(width, THIN * CLOSER / 20, BOLD * CLOSER / 20) - width
    radius = round(abs(change) / 2)
    adjusted = maximum(mask, radius) if change > 0 else ~maximum(~smooth, radius)
    for part in connected_parts(~mask, adjusted):
        if not part.contact and part.tall > CLOSER / 20 and part.ink.mean() > 0.94:
            adjusted[part.mask] = False  # it was a small loop
    return adjusted


def to_mnist(mask):
    """The mask of a digit -> uint8 (1, 28, 28) in MNIST's form."""
    mask = Image.fromarray(adjust_strokes(mask)).convert("L")
    digit = ImageOps.contain(mask.crop(mask.getbbox()), (20, 20))
    row, column = centre_of_mass(np.array(digit, np.float32))
    left = min(max(round(14.5 - column), 0), 28 - digit.width)
    top = min(max(round(14.5 - row), 0), 28 - digit.height)
    image = Image.new("L", (28, 28))
    image.paste(digit, (left, top))
    return torch.from_numpy(np.array(image)).unsqueeze(0)


# --- The command line ---

@utils.styled
def save_figure(photo, box, x, reconstruction, path, title):
    """Save the photo with the box, the normalized image x (1, 1, 28, 28) and its reconstruction
    (1, 784), side by side, at `path`."""
    figure = utils.Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle("\n".join(utils.wrap(title, 140)), fontsize=9, parse_math=False)
    grey = [utils.to_grey(pixels).view(28, 28).numpy() for pixels in (x, reconstruction)]
    names = ("your photo, with the digit that was found", "the 28 x 28 image that the model sees",
             "the model's reconstruction")
    for axes, pixels, name in zip(figure.subplots(1, 3), (photo, *grey), names):
        axes.imshow(pixels, "gray", vmin=0, vmax=255, interpolation="antialiased")
        axes.set_title(name)
        axes.axis("off")
    figure.axes[0].plot(np.take(box, [0, 2, 2, 0, 0]), np.take(box, [1, 1, 3, 3, 1]), utils.ORANGE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the photo's name may have any letters
        utils.save(figure, path)


@torch.no_grad()
def main(argv=None):
    """Run with the arguments in the list `argv`; main() takes none, whatever sys.argv holds. Raises
    SystemExit as codelet7.main() does."""
    parser = argparse.ArgumentParser("own_digit.py", description="Encode your own digit.")
    parser.add_argument("photo", type=Path, help="photo, scan or drawing of one digit")
    parser.add_argument("--model", type=Path, default="figures/trained/model.pt",
                        help="a model that codelet7.py saved (default: %(default)s)")
    args = parser.parse_args(argv or [])
    try:
        if not args.model.exists():
            standin = args.model.parent.parent / "standin" / "trained" / "model.pt"
            hint = f", or pass --model {standin} (stand-in digits)" if standin.exists() else ""
            raise DataError(f"{args.model} does not exist: run codelet7.py to train a model{hint}")
        model = codelet7.load_model(args.model)
        image, photo, box, alone = read_digit(args.photo)
        x = codelet7.normalize(image)
        hidden = model.encode(x)
        output = Path(f"{args.photo.stem}_reconstructed.png")
        name = args.photo.name.encode("utf-8", "backslashreplace").decode()
        title = f"{name}, encoded and reconstructed by {args.model} ({hidden.shape[1]} nodes)"
        save_figure(photo, box, x, model.decode(hidden), output, title)
        if not alone or min(box) <= 0 or any(box[2:] >= photo.size):
            what = ("the photo shows another digit or much ink that was not read" if not alone else
                    "the digit that was read reaches the border and may be cut off")
            print(f"own_digit.py: {what}; see the box in the figure", file=sys.stderr)
        print(f"node  activation  answer (is the activation above {utils.ON}?)")
        for node, activation in enumerate(hidden[0]):
            print(f"{node:4}  {activation:10.4f}  {'yes' if activation > utils.ON else 'no'}")
        print(f"Figure: {output}", flush=True)
    except (DataError, OSError) as error:
        sys.exit(f"own_digit.py: error: {error}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # a console may lack letters of the photo's name
        sys.stdout.reconfigure(errors="backslashreplace")
    main(sys.argv[1:])
