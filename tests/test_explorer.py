"""writeup/explorer.html holds what explorer.py writes, and works in a browser, if there is one."""

import base64
import contextlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import codelet7
import utils
from tests import ROOT, draw_few

sys.path.insert(0, str(ROOT / "writeup"))
import explorer

PAGE = (ROOT / "writeup" / "explorer.html").read_text(encoding="utf-8")
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def data_of(page):
    return json.loads(DATA.search(page)[1])


def with_text(text):
    """The committed page with another text in the place of its data."""
    return DATA.sub(lambda match: match[0].replace(match[1], text), PAGE)


def numbers(text, dtype, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).copy()).view(shape)


def samples_of(data):
    """Their pixels as MNIST has them, uint8 (n, 28, 28)."""
    return numbers(data["samples"]["pixels"], "u1", -1, 28, 28)


class Copy:
    """A model of the page, computed here: what the page should show."""

    def __init__(self, about):
        nodes = about["nodes"]
        half = lambda text, *shape: numbers(text, "<f2", *shape).float()
        encoder, decoder = about["encoder"], about["decoder"]
        self.encoder = half(encoder["weight"], nodes, 784), half(encoder["bias"], nodes)
        self.decoder = half(decoder["weight"], 784, nodes), half(decoder["bias"], 784)
        self.means = half(about["means"], nodes)

    def __call__(self, image, held={}):
        """A uint8 image and held nodes {node: value} -> (hidden, reconstruction, MSE)."""
        x = codelet7.normalize(image[None]).flatten()
        hidden = torch.sigmoid(self.encoder[0] @ x + self.encoder[1])
        for node, value in held.items():
            hidden[node] = value
        reconstruction = torch.tanh(self.decoder[0] @ hidden + self.decoder[1])
        return hidden, reconstruction, (reconstruction - x).square().mean().item()


def sample(data, digit, which):
    """The page's first (1), second (2) or third (3) sample of a digit."""
    places = [i for i, label in enumerate(data["samples"]["labels"]) if label == digit]
    return samples_of(data)[places[which - 1]]


class CommittedPage(unittest.TestCase):
    def setUp(self):
        self.data = data_of(PAGE)
        self.models = [Copy(about) for about in self.data["models"]]

    def test_it_is_one_file_of_under_one_and_a_half_megabytes(self):
        self.assertLess(len(PAGE.encode()), 1_500_000)
        around = DATA.sub("", PAGE)
        for outside in ("http:", "https:", "src=", ".src", "@import", "url(", "import(", "fetch(",
                        "XMLHttpRequest", "WebSocket"):
            self.assertNotIn(outside, around)

    def test_it_is_the_template_filled_in(self):
        template = explorer.TEMPLATE.read_text(encoding="utf-8")
        self.assertEqual(template.count(explorer.PLACE), 1)
        self.assertEqual(with_text(explorer.PLACE), template,
                         "run writeup/explorer.py: the page is not of this template")

    def test_the_models_are_those_that_explorer_py_trains(self):
        self.assertEqual(len(self.models), len(explorer.MODELS))
        for about, (nodes, weight, lr) in zip(self.data["models"], explorer.MODELS):
            self.assertEqual(about["nodes"], nodes)
            self.assertEqual(about["settings"], {
                "penalty weight": weight, "learning rate": lr, "epochs": codelet7.EPOCHS,
                "batch size": codelet7.BATCH_SIZE, "rho": codelet7.RHO, "seed": codelet7.SEED})
            self.assertLess(about["mse"], about["loss"])
        self.assertTrue(0.530 < self.data["models"][0]["loss"] < 0.536, "the recipe's loss")
        scale = self.data["mean"], self.data["std"], self.data["white"]
        self.assertEqual(scale, (utils.MEAN, utils.STD, utils.WHITE))

    def test_the_samples_are_three_of_each_digit(self):
        self.assertEqual(self.data["samples"]["labels"], [i // 3 for i in range(30)])
        pixels = samples_of(self.data)
        self.assertEqual(pixels.shape, (30, 28, 28))
        self.assertEqual(len(pixels.flatten(1).unique(dim=0)), 30)
        self.assertTrue((pixels.amax((1, 2)) > 250).all())

    def test_its_16_bit_weights_give_pytorchs_results(self):
        for about, model in zip(self.data["models"], self.models):
            hidden, reconstruction, _ = model(samples_of(self.data)[0])
            for name, ours in (("hidden", hidden), ("reconstruction", reconstruction)):
                theirs = numbers(about["check"][name], "<f4", len(ours))
                torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)

    def test_it_states_how_well_the_models_do(self):
        for about, model in zip(self.data["models"], self.models):
            hidden, _, mses = zip(*map(model, samples_of(self.data)))
            hidden = torch.stack(hidden)  # 30 images stand for 60,000
            self.assertAlmostEqual(np.mean(mses), about["mse"], delta=0.06)
            self.assertAlmostEqual((hidden > 0.5).float().mean().item(), about["on"], delta=0.03)
            self.assertAlmostEqual(hidden.mean().item(), model.means.mean().item(), delta=0.05)

    def test_the_three_things_to_try_happen(self):
        first, second, third = self.models
        zero, two, seven = sample(self.data, 0, 2), sample(self.data, 2, 2), sample(self.data, 7, 1)

        _, before, mse = first(zero)
        _, after, worse = first(zero, {8: 1})
        self.assertEqual((f"{mse:.2f}", f"{worse:.2f}"), ("0.59", "0.70"))
        paler = torch.where(zero > 150, (before - after).view(28, 28), torch.nan)
        for flank in (paler[10:19, :11], paler[10:19, 17:]):
            self.assertGreater(flank.nanmean(), 0.4)
        for end in (paler[:9], paler[19:]):
            self.assertLess(end.nanmean(), 0.15)
        weights = first.decoder[0][:, 8].view(28, 28)[10:19]
        self.assertTrue(weights[:, 6:9].mean() < -0.4 and weights[:, 19:22].mean() < -0.4)

        hidden, _, _ = second(two)
        self.assertLess(hidden.max(), 0.3)
        pixels = samples_of(self.data).view(10, 3, 784).double().mean(1)  # of each digit
        for node, digit in ((8, 1), (2, 0), (5, 3), (9, 8)):
            painted = second(two, {node: 1})[1].double()
            alike = torch.corrcoef(torch.cat([painted[None], pixels]))[0, 1:]
            self.assertEqual(alike.argmax(), digit)

        hidden, before, mse = third(seven)
        self.assertEqual(hidden.argmax(), 49)
        _, after, worse = third(seven, {49: 0})
        self.assertEqual((f"{mse:.2f}", f"{worse:.2f}"), ("0.24", "0.37"))
        self.assertLess(third(zero)[0][49], 0.05)
        gained = (third(zero, {49: 1})[1] - third(zero)[1]).view(28, 28)
        self.assertGreater(gained[12:20, 13:21].amax(1).min(), 1)  # in each row inside the 0


class WrittenPage(unittest.TestCase):
    """Of models made here, untrained and small."""

    @classmethod
    def setUpClass(cls):
        torch.manual_seed(3)
        digits = draw_few()
        cls.images = codelet7.normalize(digits.images)
        cls.samples, cls.labels = digits.test_images[:4], digits.test_labels[:4]
        cls.models = [codelet7.SparseAutoencoder(784, nodes, weight)
                      for nodes, weight in ((3, 0.5), (12, 0.0))]
        for model in cls.models:  # biases are 0 before training: give them something to say
            torch.nn.init.normal_(model.encoder.bias)
            torch.nn.init.normal_(model.decoder.bias)
        cls.page = cls.write()
        cls.data = data_of(cls.page)

    @classmethod
    def write(cls):
        history, check = [(3.0, 2.0), (1.25, 0.75)], codelet7.normalize(cls.samples[:1])
        models = [explorer.describe(model, cls.images, history, 0.002, check)
                  for model in cls.models]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            explorer.write_page(path, models, cls.samples, cls.labels)
            return path.read_text(encoding="utf-8")

    def test_its_weights_are_the_models(self):
        self.assertEqual([about["nodes"] for about in self.data["models"]], [3, 12])
        for about, model in zip(self.data["models"], self.models):
            copy = Copy(about)
            for written, linear in ((copy.encoder, model.encoder), (copy.decoder, model.decoder)):
                for ours, theirs in zip(written, (linear.weight, linear.bias)):
                    torch.testing.assert_close(ours, theirs.detach(), rtol=2**-11, atol=2**-24)

    def test_its_check_is_what_pytorch_gives(self):
        x = codelet7.normalize(self.samples[:1])
        for about, model in zip(self.data["models"], self.models):
            with torch.no_grad():
                results = dict(zip(("hidden", "reconstruction"), model(x)))
            for name, theirs in results.items():
                self.assertTrue(numbers(about["check"][name], "<f4", 1, -1).equal(theirs), name)

    def test_its_words_about_the_models(self):
        for about, model in zip(self.data["models"], self.models):
            hidden = codelet7.activations(model, self.images)
            self.assertEqual((about["loss"], about["mse"]), (1.25, 0.75))
            self.assertEqual(about["settings"], {
                "penalty weight": model.sparsity_weight, "learning rate": 0.002, "epochs": 2,
                "batch size": 64, "rho": 0.05, "seed": 0})
            self.assertAlmostEqual(about["on"], (hidden > 0.5).float().mean().item(), delta=1e-4)
            np.testing.assert_allclose(Copy(about).means, hidden.mean(0), atol=1e-3)

    def test_its_samples_are_the_images(self):
        self.assertTrue(samples_of(self.data).equal(self.samples))
        self.assertEqual(self.data["samples"]["labels"], self.labels.tolist())

    def test_the_same_models_give_the_same_bytes(self):
        self.assertEqual(self.page, self.write())

    def test_the_first_images_of_each_digit_are_picked(self):
        labels = torch.arange(10).flip(0).repeat(5)  # 9 8 ... 0, 9 8 ... 0, ...
        first = [[9 - digit, 19 - digit, 29 - digit] for digit in range(10)]
        self.assertEqual(explorer.pick_samples(labels).view(10, 3).tolist(), first)


class Program(unittest.TestCase):
    MODELS = [(2, 0.1, 1e-3), (11, 0.0, 1e-2)]

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.page = Path(folder.name) / "page.html"
        threads = torch.get_num_threads()
        self.addCleanup(torch.set_num_threads, threads)

    def run_main(self, **load):
        out = io.StringIO()
        with mock.patch.object(explorer.digits, "load", **load) as loader, \
                mock.patch.multiple(explorer, PAGE=self.page, MODELS=self.MODELS), \
                mock.patch.object(codelet7, "EPOCHS", 2), contextlib.redirect_stdout(out):
            explorer.main()
        self.assertEqual(loader.call_args[0][0], "mnist")
        return out.getvalue()

    def test_it_trains_and_writes(self):
        self.run_main(return_value=draw_few())
        data = data_of(self.page.read_text(encoding="utf-8"))
        self.assertEqual([about["nodes"] for about in data["models"]], [2, 11])
        self.assertEqual(data["samples"]["labels"], [i // 3 for i in range(30)])
        chosen = explorer.pick_samples(draw_few().test_labels)
        self.assertTrue(samples_of(data).equal(draw_few().test_images[chosen]))
        images, labels = codelet7.normalize(draw_few().images), draw_few().labels
        for about, (nodes, weight, lr) in zip(data["models"], self.MODELS):
            torch.manual_seed(codelet7.SEED)  # as codelet7.run() does
            model = codelet7.SparseAutoencoder(784, nodes, weight)
            loader = codelet7.make_dataloader(images, labels, 64, codelet7.SEED)
            with contextlib.redirect_stdout(io.StringIO()):
                history = codelet7.train(model, loader, 2, lr)
            self.assertAlmostEqual(about["loss"], history[-1][0], delta=1e-3)
            theirs = model.decoder.weight.detach()
            torch.testing.assert_close(Copy(about).decoder[0], theirs, rtol=1e-2, atol=1e-3)

    def test_without_mnist_it_says_so_and_writes_nothing(self):
        for trouble in (utils.Refusal("there is no MNIST"), PermissionError(13, "denied", "x")):
            with self.subTest(trouble=trouble), self.assertRaises(SystemExit) as stop:
                self.run_main(side_effect=trouble)
            self.assertEqual(stop.exception.code, f"explorer.py: error: {trouble}")
            self.assertFalse(self.page.exists())


# --- In a browser ---

BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)

# Before the page's own script: whatever it complains of is kept.
LISTEN = """<script>
const complaints = [];
addEventListener("error", event => complaints.push(String(event.message)));
addEventListener("unhandledrejection", event => complaints.push(String(event.reason)));
for (const kind of ["error", "warn"])
  console[kind] = (...words) => complaints.push(words.join(" "));
</script>"""

# After it: hands, and eyes. look() tells what the page shows.
HANDS = """
const $ = selector => document.querySelector(selector);
const $$ = selector => [...document.querySelectorAll(selector)];
const point = (element, type, x, y, id = 7) => element.dispatchEvent(new PointerEvent(type, {
  bubbles: true, cancelable: true, pointerId: id, clientX: x, clientY: y,
  button: type === "pointermove" ? -1 : 0, isPrimary: true}));
const press = (element, key) => element.dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const twice = element => element.dispatchEvent(new MouseEvent("dblclick", {bubbles: true}));
function draw(...points) {
  const canvas = $("#drawing"), box = canvas.getBoundingClientRect();
  const places = points.map(([x, y]) =>
    [box.left + x / 28 * box.width, box.top + y / 28 * box.height]);
  point(canvas, "pointerdown", ...places[0]);
  for (const place of places.slice(1)) point(window, "pointermove", ...place);
  point(window, "pointerup", ...places.at(-1));
}
function drag(bar, from, to, end = "pointerup") {
  const box = bar.getBoundingClientRect(), y = box.top + box.height / 2;
  point(bar, "pointerdown", box.left + from * box.width, y);
  point(window, "pointermove", box.left + to * box.width, y);
  point(window, "pointermove", box.left, y, 8);   // another pointer's
  point(window, end, box.left + to * box.width, y);
  point(window, "pointermove", box.left, y);      // no longer of this drag
}
const dots = id => [...$(id).getContext("2d").getImageData(0, 0, 28, 28).data].filter(
  (_, i) => i % 4 === 0);
const sliders = () => $$("[role=slider]"), radios = () => $$("[role=radio]");
const look = () => ({
  bars: sliders().map(bar => Number(bar.getAttribute("aria-valuenow"))),
  labels: sliders().map(bar => bar.getAttribute("aria-label")),
  held: $$(".node.held").map(row => row.querySelector(".name").textContent),
  tiles: radios().map(tile => tile.getAttribute("aria-label")),
  lit: radios().flatMap((tile, i) => tile.classList.contains("lit") ? [i] : []),
  mse: $("#mse").textContent, count: $("#count").textContent, holding: $("#holding").textContent,
  seen: dots("#seen"), reconstruction: dots("#reconstruction")});
"""


def visit(page, script, width=1280, height=900):
    """What `script` returns from the page in a window of that size, and the page's complaints."""
    script = (f"<script>{HANDS}</script>"
              f"<script>parent.tell((() => {{ {script} }})(), complaints)</script>")
    page = page.replace("<head>", "<head>" + LISTEN, 1).replace("</body>", script + "</body>")
    # In a frame, since a browser's window cannot be as narrow as a phone's.
    frame = f"""<!DOCTYPE html><meta charset="utf-8"><body><pre id="told"></pre><script>
      window.tell = (...all) => {{
        document.getElementById("told").textContent = JSON.stringify(all);
      }};
      const frame = document.createElement("iframe");
      frame.style.cssText = "border: 0; width: {width}px; height: {height}px";
      frame.srcdoc = {json.dumps(page).replace("<", chr(92) + "u003c")};
      document.body.append(frame);
    </script>"""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "page.html"
        path.write_text(frame, encoding="utf-8")
        run = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--no-first-run", f"--user-data-dir={folder}/profile", "--window-size=1400,1000",
             "--virtual-time-budget=20000", "--enable-logging=stderr", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=120)
    told = re.search(r'<pre id="told">(.*?)</pre>', run.stdout, re.DOTALL)
    if not told:
        raise unittest.SkipTest(f"{BROWSER} opens no page here: {run.stderr[-300:]}")
    logged = [line for line in re.findall(r"CONSOLE.*", run.stderr)
              if "willReadFrequently" not in line]  # about our own reading of the canvases
    if not told[1]:
        raise AssertionError(f"the script did not come to its end: {logged}")
    seen, complaints = json.loads(html.unescape(told[1]))
    return seen, complaints + logged


@unittest.skipUnless(BROWSER, "no Chromium or Chrome is installed")
class InABrowser(unittest.TestCase):
    """One visit, in which much is done; the tests look at what was seen on the way."""

    @classmethod
    def setUpClass(cls):
        cls.data = data_of(PAGE)
        cls.models = [Copy(about) for about in cls.data["models"]]
        cls.seen, cls.complaints = visit(PAGE, """
            const seen = {selfcheck: document.documentElement.dataset.selfcheck,
              trouble: !$("#trouble").hidden};
            const step = (name, action) => { action(); seen[name] = look(); };
            const choose = name => $(`#samples [aria-label='${name}']`).click();
            const slash = [[18, 3], [14, 14], [10, 24]], corner = [[3, 3], [7, 3], [7, 9]];

            step("start", () => {});
            seen.moved = samples.map(({ink: digit}, i) => {   // centred already, by MNIST
              chooseSample(i);
              return Math.max(...centred().map((value, j) => Math.abs(value - digit[j])));
            });
            step("two", () => choose("digit 2, sample 2"));
            step("cleared", () => $("#clear").click());
            step("drawn", () => draw(...slash));
            step("more", () => draw([8, 14], [20, 15]));
            $("#clear").click();
            step("centred", () => draw(...corner));
            step("asDrawn", () => $("#centre").click());
            $("#centre").click();

            choose("digit 0, sample 1");
            step("dragged", () => drag(sliders()[8], 0.1, 0.8));
            step("drawnHeld", () => draw(...slash));
            choose("digit 0, sample 1");
            step("twice", () => {
              drag(sliders()[8], 0.3, 0.3); drag(sliders()[8], 0.3, 0.3); twice(sliders()[8]); });
            step("beyond", () => { drag(sliders()[3], 0.5, 1.5); drag(sliders()[4], 0.5, -0.5); });
            step("reset", () => $$(".node button")[3].click());
            step("scrolled", () => {
              for (const node of [4, 5]) drag(sliders()[node], 0.5, 0.7, "pointercancel"); });
            step("resetAll", () => $("#reset").click());

            const bar = sliders()[2];
            bar.focus();
            seen.focused = document.activeElement === bar;
            for (const key of ["ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "PageUp",
              "PageDown", "Home", "End", "Escape"]) step(key, () => press(bar, key));
            seen.roles = sliders().map(bar => [bar.tabIndex,
              bar.getAttribute("aria-valuemin"), bar.getAttribute("aria-valuemax")]);

            step("second", () => {
              drag(sliders()[1], 0.1, 0.9); $$("#models input")[1].click(); });
            choose("digit 7, sample 1");
            step("third", () => $$("#models input")[2].click());
            step("chosen", () => {
              point(radios()[31], "pointerdown", 100, 100);
              point(window, "pointerup", 100, 100); });
            step("arrows", () => {
              press(radios()[31], "ArrowDown"); press(document.activeElement, "ArrowRight"); });
            seen.roving = [radios().indexOf(document.activeElement),
              radios().filter(tile => tile.tabIndex === 0).length];
            press(document.activeElement, "Enter");
            seen.onBar = document.activeElement === sliders()[0];
            step("ofMany", () => press(sliders()[0], "End"));
            step("tileDragged", () => {
              point(radios()[49], "pointerdown", 500, 100);
              point(window, "pointermove", 200, 100);
              point(window, "pointerup", 200, 100); });
            step("tileReset", () => twice(radios()[49]));
            step("tileEscape", () => press(radios()[42], "Escape"));
            return seen;""")

    def expect(self, step, model, image, held={}):
        """The page shows, at that step, what is computed here."""
        seen = self.seen[step]
        hidden, reconstruction, mse = self.models[model](image, held)
        nodes = [int(re.match(r"node (\d+)", label)[1]) for label in seen["labels"]]
        np.testing.assert_allclose(seen["bars"], hidden[nodes], atol=0.006)
        painted = np.array(seen["reconstruction"]) - utils.to_grey(reconstruction).int().numpy()
        self.assertLessEqual(abs(painted).max(), 1)
        grey = utils.to_grey(codelet7.normalize(image[None])).flatten()
        self.assertLessEqual(abs(np.array(seen["seen"]) - grey.int().numpy()).max(), 1)
        self.assertAlmostEqual(float(seen["mse"]), mse, delta=0.0006)
        self.assertEqual(seen["count"], f"{(hidden > 0.5).sum()} of {len(hidden)}")
        names = ", ".join(f"node {node}" for node in sorted(held))
        self.assertEqual(seen["holding"], names or "none")
        return seen, hidden

    def test_the_self_check_says_ok(self):
        self.assertEqual((self.seen["selfcheck"], self.seen["trouble"]), ("ok", False))

    def test_nothing_complains(self):
        self.assertEqual(self.complaints, [])

    def test_it_shows_what_the_model_computes(self):
        self.expect("start", 0, samples_of(self.data)[0])
        self.expect("two", 0, sample(self.data, 2, 2))
        self.expect("cleared", 0, torch.zeros(28, 28, dtype=torch.uint8))

    def test_a_drawn_stroke_changes_bars_and_reconstruction(self):
        for before, after in (("cleared", "drawn"), ("drawn", "more")):
            for what in ("bars", "seen", "reconstruction", "mse"):
                self.assertNotEqual(self.seen[before][what], self.seen[after][what], (after, what))

    def test_a_drawing_is_centred_and_scaled_as_mnist_is(self):
        for step in ("drawn", "more", "centred"):
            dots = torch.tensor(self.seen[step]["seen"]).view(28, 28)
            lengths = [place.max() - place.min() + 1 for place in dots.nonzero().t()]
            self.assertIn(max(lengths), (19, 20), step)  # the ends may be too faint to show
            position = torch.arange(28.)
            mass = dots.clamp(max=200).float()  # brighter dots are all white
            centre = torch.stack([mass.sum(1) @ position, mass.sum(0) @ position]) / mass.sum()
            self.assertLess((centre - 14).abs().max(), 0.75, step)
        self.assertLess(max(self.seen["moved"]), 1e-6)

    def test_the_switch_turns_that_off(self):
        rows, columns = torch.tensor(self.seen["asDrawn"]["seen"]).view(28, 28).nonzero().t()
        self.assertTrue(rows.min() >= 1 and rows.max() <= 10)
        self.assertTrue(columns.min() >= 1 and columns.max() <= 8)
        self.assertNotEqual(self.seen["asDrawn"]["bars"], self.seen["centred"]["bars"])

    def test_a_dragged_bar_holds_its_node_and_changes_the_reconstruction(self):
        zero = samples_of(self.data)[0]
        seen, _ = self.expect("dragged", 0, zero, {8: 0.8})
        self.assertEqual(seen["held"], ["node 8"])
        self.assertEqual(seen["labels"][8], "node 8, activation 0.80, held")
        self.assertNotEqual(seen["reconstruction"], self.seen["start"]["reconstruction"])
        self.assertEqual(self.seen["drawnHeld"]["bars"][8], 0.8)
        self.assertNotEqual(self.seen["drawnHeld"]["bars"], seen["bars"])
        self.expect("beyond", 0, zero, {3: 1, 4: 0})

    def test_a_held_node_is_let_go(self):
        zero = samples_of(self.data)[0]
        self.expect("twice", 0, zero)
        self.expect("reset", 0, zero, {4: 0})
        self.expect("scrolled", 0, zero, {4: 0})  # with a finger: it gave back what it touched
        self.expect("resetAll", 0, zero)

    def test_keys_move_a_bar(self):
        self.assertTrue(self.seen["focused"])
        self.assertEqual(self.seen["roles"], [[0, "0", "1"]] * 10)
        zero = samples_of(self.data)[0]
        value = round(self.models[0](zero)[0][2].item(), 2)
        for key, step in (("ArrowRight", 0.05), ("ArrowUp", 0.05), ("ArrowLeft", -0.05),
                          ("ArrowDown", -0.05), ("PageUp", 0.25), ("PageDown", -0.25)):
            value += step
            self.expect(key, 0, zero, {2: value})
        self.expect("Home", 0, zero, {2: 0})
        self.expect("End", 0, zero, {2: 1})
        self.expect("Escape", 0, zero)

    def test_models_switch_and_nodes_are_let_go(self):
        self.expect("second", 1, samples_of(self.data)[0])
        seen, hidden = self.expect("third", 2, sample(self.data, 7, 1))
        self.assertEqual((len(seen["labels"]), len(seen["tiles"])), (1, 100))
        self.assertTrue(seen["labels"][0].startswith("node 49, "))  # the most active one
        self.assertEqual(set(seen["lit"]), set(hidden.topk(10).indices.tolist()))
        values = [float(label.split()[-1]) for label in seen["tiles"]]
        self.assertEqual(seen["tiles"], [f"node {node}, activation {value:.2f}"
                                         for node, value in enumerate(values)])
        np.testing.assert_allclose(values, hidden, atol=0.006)

    def test_one_of_many_nodes_is_chosen_and_moved(self):
        seven = sample(self.data, 7, 1)
        self.assertTrue(self.expect("chosen", 2, seven)[0]["labels"][0].startswith("node 31, "))
        self.assertTrue(self.expect("arrows", 2, seven)[0]["labels"][0].startswith("node 42, "))
        self.assertEqual(self.seen["roving"], [42, 1])
        self.assertTrue(self.seen["onBar"])
        self.expect("ofMany", 2, seven, {42: 1})
        seen, _ = self.expect("tileDragged", 2, seven, {42: 1, 49: 0})
        self.assertEqual(seen["tiles"][49], "node 49, activation 0.00, held")
        self.expect("tileReset", 2, seven, {42: 1})
        self.expect("tileEscape", 2, seven)


@unittest.skipUnless(BROWSER, "no Chromium or Chrome is installed")
class InOtherWindows(unittest.TestCase):
    LAYOUT = """
        const hasText = element => [...element.childNodes].some(
          node => node.nodeType === 3 && node.data.trim());
        const hasName = element => element.textContent.trim() || element.labels?.length
          || element.getAttribute("aria-label")?.trim();
        const measure = () => ({
          overflow: document.documentElement.scrollWidth - innerWidth,
          smallest: Math.min(...$$("body *").filter(hasText).map(
            element => parseFloat(getComputedStyle(element).fontSize))),
          widths: $$("main > section").map(section => section.offsetWidth / innerWidth),
          nameless: $$("button, canvas[role=img], input, [role=slider], [role=radio]").filter(
            element => !hasName(element)).map(element => element.outerHTML)});
        return $$("#models input").map(input => { input.click(); return measure(); });"""

    def test_the_page_fits_and_is_legible_on_a_desk_and_on_a_phone(self):
        for width, stacked in ((1280, False), (390, True), (320, True)):
            measures, complaints = visit(PAGE, self.LAYOUT, width, 844)
            self.assertEqual(complaints, [])
            for measure in measures:
                with self.subTest(width=width):
                    self.assertLessEqual(measure["overflow"], 0)
                    self.assertGreaterEqual(measure["smallest"], 12)
                    self.assertEqual(sum(measure["widths"]) > 2.6, stacked)
                    self.assertEqual(measure["nameless"], [])

    def test_a_wrong_weight_shows(self):
        tell = """const line = $("#trouble");
            const verdict = document.documentElement.dataset.selfcheck;
            return [verdict, line.textContent, line.offsetHeight];"""
        for change, deviation in ((0.1, r"0\.0[1-9]\d*|0\.1\d*"), (float("nan"), "NaN")):
            data = data_of(PAGE)
            bias = numbers(data["models"][1]["decoder"]["bias"], "<f2", 784)
            bias[400] += change
            data["models"][1]["decoder"]["bias"] = explorer.base64_of(bias, "<f2")
            (selfcheck, text, height), _ = visit(with_text(json.dumps(data)), tell)
            self.assertRegex(selfcheck, rf"\A({deviation})\Z")
            self.assertIn("self-check failed", text)
            self.assertGreater(height, 10)
