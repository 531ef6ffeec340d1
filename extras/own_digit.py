"""Your own digit: a photo of a handwritten digit becomes an input of the trained model.

    python -m extras.own_digit my_digit.jpg

prints the activations of the hidden nodes and saves my_digit_reconstructed.png. The digit may be
dark on light or light on dark, in any colour, on paper that is lined, unevenly lit or smaller than
the photo. The photo is read in five steps:

1. Brightness is measured on a logarithmic scale. A shadow divides the brightness of the paper and
   that of the ink by the same number, so their difference, the ink, is the same in the shadow.
2. The background is the photo without everything that is narrower than the boldest stroke.
3. The pixels that stand out from the background form connected parts. The digit is the tallest part
   that does not touch the border of the photo, as the edge of a desk and ruled lines do.
4. In a closer look, the digit has the same size in every photo and becomes black and white, as the
   scans were from which MNIST was made.
5. The digit is scaled and centred as MNIST's digits are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, ImageFilter, ImageOps

import codelet7
import utils
from digits import DataError, centre_of_mass

LARGEST = 2000  # pixels, longer side: larger photos are reduced first
FIRST = 320     # pixels, longer side of the whole photo in the first look, which finds the digit
CLOSER = 160    # pixels, longer side of the digit in the closer look
FAINT = 0.2     # fainter ink, a difference of logarithms, may be noise; pencil has about 0.5
SPECK = 0.03 * FIRST  # pixels in the first look: less tall parts are specks
THIN, BOLD = 2.0, 3.0  # pixels of the 28 x 28 image: strokes get a width between these, as in MNIST

T = Image.Transpose
UPRIGHT = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE,
           6: T.ROTATE_270, 7: T.TRANSVERSE, 8: T.ROTATE_90}  # for each orientation in EXIF


# --- From a photo to MNIST's form ---

def read_digit(path):
    """Read a photo of a digit: returns uint8 (1, 28, 28) in MNIST's form: light ink on black, a
    box of 20 x 20 pixels around it, its centre of mass at pixel (14, 14) (LeCun et al., Proceedings
    of the IEEE 1998, section III). Raises DataError, whose message names the file and says what to
    do, if it is not an image or shows no digit; OSError if it cannot be opened.
    """
    return read_photo(path)[2]


def read_photo(path):
    """Read a digit as read_digit() does: returns (photo, box, image, alone), where `photo` is a PIL
    image, `box` the digit's (left, top, right, bottom) in pixels of the photo, and `alone` is False
    if something else in the photo is nearly as tall as the digit."""
    photo = open_photo(path)
    found = find_channel(photo)
    box, mask = look_closer(photo, *found[:3]) if found else (None, None)
    if box is None:
        raise DataError(f"{path} shows no digit: photograph a single digit with some background "
                        "around it, in a colour that stands out")
    return photo, box, to_mnist(mask), found[3]


def open_photo(path):
    """Any image that PIL reads (of an animation, the first frame) -> PIL RGB image, upright."""
    try:
        with Image.open(path) as file:
            file.load()
            # ImageOps.exif_transpose() also writes all of EXIF again, and fails if any of it is odd.
            turn = UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation))
            photo = file if turn is None else file.transpose(turn)
            if photo.mode[0] in "IF":  # 16 bits or more: convert() would clip the values at 255
                pixels = np.array(photo, np.float32)
                photo = Image.fromarray((pixels * (255 / max(1, pixels.max()))).astype(np.uint8))
            photo = photo.convert("RGBA")
    except Image.DecompressionBombError:
        raise DataError(f"{path} has too many pixels: save a smaller copy") from None
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:  # PIL's decoders
        if getattr(error, "errno", None):
            raise  # no such file, or no permission to read it
        raise DataError(f"{path} is damaged or in a format that PIL cannot read, such as HEIC: "
                        "save it as JPEG or PNG") from None
    photo.thumbnail((LARGEST, LARGEST))
    drawn = np.array(photo.convert("L"))[np.array(photo.getchannel("A")) > 127]
    light = drawn.size and np.quantile(drawn, 0.01) > 127  # light strokes on transparency
    behind = Image.new("RGBA", photo.size, "black" if light else "white")
    return Image.alpha_composite(behind, photo).convert("RGB")


def find_channel(photo):
    """Find the digit in the colour channel in which it has the most contrast. Returns (channel,
    sign, mask, alone) or None: sign is 1 for dark ink and -1 for light ink, mask is bool (h, w),
    and alone is False if something else is nearly as tall."""
    size = [max(1, round(side * FIRST / max(photo.size))) for side in photo.size]
    channels = log_brightness(photo.resize(size, reducing_gap=3))
    found, most = None, 0
    for channel, brightness in enumerate(channels):
        if channel and np.array_equal(brightness, channels[0]):
            continue  # the photo is grey
        sign, mask, ink = find_sign(brightness)
        if mask is not None and ink[mask].mean() > most:
            most = ink[mask].mean()
            found = channel, sign, *complete(mask, linear(ink, sign))
    return found


def find_sign(brightness):
    """Find the digit in the brightness (h, w) of one channel: returns (sign, mask or None, ink).

    The ink is what differs from most of the photo: its border may be dark all around. But if that
    is cut off, it may be the background of a digit that fills the photo, so that the border decides.
    """
    signs, mask = [], None
    for background in map(np.median, (brightness, border(brightness))):
        signs.append(1 if background - brightness.min() > brightness.max() - background else -1)
    for sign in dict.fromkeys(signs):
        ink = ink_on_background(sign * brightness, FIRST // 5)
        mask = find_digit(ink)
        if mask is not None and not border(mask).any():
            break
    return sign, mask, ink


def log_brightness(photo):
    """PIL RGB image -> float (3, h, w), the logarithm of its brightness."""
    pixels = np.array(photo, np.float32).clip(20)  # noise in the black would count as ink
    return np.log(pixels + 25).transpose(2, 0, 1)


def ink_on_background(brightness, radius):
    """How much darker each pixel (h, w) is than its background, for strokes up to 2 radius wide:
    a maximum filter erases the strokes, and a minimum filter restores all wider shapes."""
    return -maximum(-maximum(brightness, radius), radius) - brightness


def linear(ink, sign):
    """Logarithmic ink -> linear ink, as a share of the background's brightness."""
    return sign * (1 - np.exp(-sign * ink))


def maximum(image, radius):
    """The maximum over the square of 2 radius + 1 pixels around each pixel of an image (h, w)."""
    for _ in range(2):  # along the columns, then along the rows
        reach = 0
        while reach < radius:  # the maximum of adjacent windows is that of a window as long as all
            step = min(2 * reach + 1, radius - reach)
            padded = np.pad(image, [(step, step), (0, 0)], "edge")
            image = np.maximum(image, np.maximum(padded[:-2 * step], padded[2 * step:]))
            reach += step
        image = image.T
    return image


class Part:
    """A connected part of the ink (h, w) of a photo: its mask, box and number of pixels on the
    photo's border."""

    def __init__(self, mask, ink):
        self.mask, self.ink = mask, ink[mask]
        self.weight, self.contact = self.ink.sum(), np.count_nonzero(border(mask))
        self.left, self.top, self.right, self.bottom = box_of(mask)
        self.wide, self.tall = self.right - self.left, self.bottom - self.top

    def surrounds(self, other):
        """A frame surrounds another part that is no speck beside it."""
        return (self.left < other.left and self.right > other.right and self.top < other.top
                and self.bottom > other.bottom and other.tall > self.tall / 5)

    def rivals(self, other):
        """A second digit is nearly as tall."""
        return self.tall > 0.7 * other.tall and not self.surrounds(other)

    def is_strip(self):
        """The edge of a desk or a ruled line lies along one side of the photo or crosses it."""
        height, width = self.mask.shape
        return (self.wide < width / 2 or self.tall < height / 2) and (
            self.contact > 0.9 * max(self.wide, self.tall) or self.wide > 0.95 * width
            or self.tall > 0.95 * height)

    def is_frame(self):
        """A dark border lies along two sides of the photo or more."""
        return self.contact > 0.9 * sum(self.mask.shape)

    def is_ruled(self):
        """Ruled lines, connected by something, are thinner than a digit."""
        return self.mask.sum() < 0.06 * self.wide * self.tall

    def is_shadow(self, ink, level):
        """A shadow has no sharp edge, so that a lower threshold makes it much larger."""
        return (ink > level / 4).sum() > 1.5 * self.mask.sum()


def connected_parts(mask, ink):
    """The connected parts of a mask (h, w), but for specks: a list of Parts."""
    labels, largest = None, np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    while not np.array_equal(labels, largest):
        labels = largest
        root = np.arange(mask.size + 1)  # for each label the largest one that touches it,
        np.maximum.at(root, labels[mask], (maximum(labels, 1))[mask])
        while not np.array_equal(root, root[root]):
            root = root[root]            # and the largest one that touches that, and so on
        largest = root[labels]
    sizes = np.bincount(labels[mask])
    return [Part(labels == label, ink) for label in np.flatnonzero(sizes > SPECK)]


def border(image):
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def box_of(mask):
    """(left, top, right, bottom) of a mask (h, w)."""
    return Image.fromarray(mask).getbbox()


def find_digit(ink):
    """Find the digit in the ink (h, w) of the whole photo: returns its mask, or None.

    The threshold falls step by step, so that a pen is found before the paler lines that it crosses.
    A part counts once the threshold has fallen to half of its ink; before, parts of it are missing.
    """
    level, cropped, most = ink.max(), None, 0
    faint = connected_parts(ink > FAINT, ink)
    while level > FAINT:
        parts = connected_parts(ink > level / 2, ink)
        ripe = [part for part in parts if np.quantile(part.ink, 0.75) >= level
                and not any(map(part.surrounds, parts + faint))]
        for part in ripe:  # a digit may also fill the photo or be cut off
            if part.contact and part.weight > most and max(part.wide, part.tall) > FIRST / 5 and not (
                    part.is_strip() or part.is_frame() or part.is_ruled()
                    or part.is_shadow(ink, level)):
                cropped, most = with_pieces(part, parts), part.weight
        digit = max((part for part in ripe if not part.contact and part.tall > SPECK),
                    key=lambda part: part.tall, default=None)
        if digit and digit.weight > most / 10:
            return with_pieces(digit, parts)
        level *= 0.8
    return cropped


def with_pieces(digit, parts):
    """The mask of a digit together with the pieces near it, such as the bar of a 5."""
    near = maximum(digit.mask, max(digit.wide, digit.tall) // 5)
    pieces = [part.mask for part in parts if near[part.mask].any()
              and part.weight > 0.03 * digit.weight and (digit.contact or not part.contact)
              and not part.surrounds(digit) and not part.rivals(digit)]
    return np.any([digit.mask, *pieces], axis=0)


def complete(mask, ink):
    """Complete the mask of a digit, whose thinnest strokes may have less than half of its
    logarithmic ink, by what has half of its linear ink (h, w) and is connected to it, unless that
    reaches the border as ruled lines do. Returns the mask, and False if there is another digit."""
    parts = connected_parts(mask | (ink > np.quantile(ink[mask], 0.75) / 3), ink)
    own = [part.mask[mask].any() for part in parts]
    whole = np.any([part.mask for part, is_own in zip(parts, own) if is_own], axis=0)
    mask = mask if border(whole).any() else whole
    digit = Part(mask, ink)
    return mask, not any(part.rivals(digit) and not (is_own or part.contact)
                         for part, is_own in zip(parts, own))


def look_closer(photo, channel, sign, mask):
    """Read the digit again from the photo's own pixels, at the same size for every photo. Returns
    its box in the photo, or None if nothing is left of it, and its mask, a PIL image of 0 or 255.
    """
    whole = np.array(mask.shape[::-1] * 2)
    box = np.array(box_of(mask))
    longer = max(box[2:] - box[:2])
    box = np.clip(box + longer / 5 * np.array([-1, -1, 1, 1]), 0, whole)  # with a margin
    size = [round(side * CLOSER / longer) for side in box[2:] - box[:2]]
    allowed = Image.fromarray(maximum(mask, 2).astype(np.uint8) * 255)
    allowed = np.array(allowed.resize(size, Image.Resampling.BILINEAR, tuple(box))) > 64
    box *= np.array(photo.size * 2) / whole
    brightness = log_brightness(photo.resize(size, box=tuple(box), reducing_gap=3))[channel]
    ink = ink_on_background(sign * brightness, max(size) * 3 // 10)
    ink = linear(ink, sign)  # so that the outline of a stroke is half ink
    digit = allowed & (ink > np.quantile(ink[allowed], 0.85) / 2)
    digit = Image.fromarray(digit.astype(np.uint8) * 255)
    inner = digit.getbbox()
    if inner:
        zoom = (box[2:] - box[:2]) / size
        inner = np.tile(box[:2], 2) + inner * np.tile(zoom, 2)
    return inner, digit


def adjust_strokes(mask):
    """Give the strokes of a mask a width of THIN to BOLD pixels of the 28 x 28 image."""
    mask = ImageOps.expand(mask, CLOSER // 8)
    smooth = mask.filter(ImageFilter.MedianFilter(5))  # without what is left of ruled lines
    outline = ImageChops.difference(smooth, smooth.filter(ImageFilter.MinFilter(3)))
    width = 2 * np.count_nonzero(smooth) / max(1, np.count_nonzero(outline))  # it has two sides
    change = np.clip(width, THIN * CLOSER / 20, BOLD * CLOSER / 20) - width
    size = 2 * round(abs(change) / 2) + 1
    if size == 1:
        return mask  # for which Pillow 12.3 divides by 0
    grow = ImageFilter.MaxFilter if change > 0 else ImageFilter.MinFilter
    return mask.filter(grow(size))


def to_mnist(mask):
    """The mask of a digit, a PIL image -> uint8 (1, 28, 28) in MNIST's form."""
    mask = adjust_strokes(mask)
    digit = mask.crop(mask.getbbox())
    scale = 20 / max(digit.size)
    digit = digit.resize([max(1, round(scale * side)) for side in digit.size])
    row, column = centre_of_mass(np.array(digit, np.float32))
    left = min(max(round(14.5 - column), 0), 28 - digit.width)
    top = min(max(round(14.5 - row), 0), 28 - digit.height)
    image = Image.new("L", (28, 28))
    image.paste(digit, (left, top))
    return torch.from_numpy(np.array(image)).unsqueeze(0)


# --- The command line ---

def load_model(path):
    """The trained model that codelet7.py saved at `path`; its number of nodes is in the file.
    Raises DataError if there is none."""
    try:
        weights = torch.load(path, weights_only=True)
    except FileNotFoundError:
        standin = path.parent.parent / "standin" / "trained" / "model.pt"
        hint = f", or pass --model {standin} (stand-in digits)" if standin.exists() else ""
        raise DataError(f"{path} does not exist: run codelet7.py to train a model{hint}") from None
    model = codelet7.SparseAutoencoder(28 * 28, len(weights["encoder.bias"]))
    model.load_state_dict(weights)
    return model


@utils.styled
def save_figure(photo, box, x, reconstruction, path, title):
    """Save the photo with the box, the normalized image x (1, 1, 28, 28) and its reconstruction
    (1, 784), side by side, at `path`."""
    figure = utils.Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle("\n".join(utils.wrap(title, 140)), fontsize=9, parse_math=False)
    panels = figure.subplots(1, 3)
    panels[0].imshow(photo, interpolation="antialiased")
    left, top, right, bottom = box
    panels[0].plot([left, right, right, left, left], [top, top, bottom, bottom, top], utils.ORANGE)
    for axes, pixels in zip(panels[1:], (x, reconstruction)):
        axes.imshow(utils.to_grey(pixels).view(28, 28), cmap="gray", vmin=0, vmax=255)
    for axes, name in zip(panels, ("your photo, with the digit that was found",
                                   "the 28 x 28 image that the model sees",
                                   "the model's reconstruction")):
        axes.set_title(name)
        axes.axis("off")
    utils.save(figure, path)


@torch.no_grad()
def main(argv=None):
    """Run with the arguments in the list `argv`; the default is the command line's. Raises
    SystemExit as codelet7.main() does."""
    parser = argparse.ArgumentParser("own_digit.py", description="Encode your own digit.")
    parser.add_argument("photo", type=Path, help="photo, scan or drawing of one digit")
    parser.add_argument("--model", type=Path, default="figures/trained/model.pt",
                        help="a model that codelet7.py saved (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        model = load_model(args.model)
        photo, box, image, alone = read_photo(args.photo)
        x = codelet7.normalize(image)
        hidden = model.encode(x)
        output = Path(f"{args.photo.stem}_reconstructed.png")
        title = (f"{args.photo.name}, encoded and reconstructed by {args.model} "
                 f"({hidden.shape[1]} nodes)")
        save_figure(photo, box, x, model.decode(hidden), output, title)
    except (DataError, OSError) as error:
        sys.exit(f"own_digit.py: error: {error}")
    print("node  activation  answer (is the activation above 0.5?)")
    for node, activation in enumerate(hidden[0]):
        print(f"{node:4}  {activation:10.4f}  {'yes' if activation > utils.ON else 'no'}")
    print(f"Figure: {output}")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # print \u03b1 if a console lacks the letter
    main()
