"""extras/explorer.html holds what explorer.py writes, and works in a browser, if there is one."""

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
import digits
import utils
from tests import ROOT, draw_few

sys.path.insert(0, str(ROOT / "extras"))
import explorer

PAGE = explorer.PAGE.read_text(encoding="utf-8")
DATA = re.compile(r'<script type="application/json" id="data" data-checksum="(.*?)">(.*?)</script>',
                  re.DOTALL)


def data_of(page):
    return json.loads(DATA.search(page)[2])


def written(data):
    """The page that explorer.py writes with this data."""
    with tempfile.TemporaryDirectory() as folder:
        explorer.write_page(Path(folder) / "page.html", data)
        return (Path(folder) / "page.html").read_text(encoding="utf-8")


def numbers(text, dtype, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).copy()).view(shape)


def samples_of(data):
    """Their pixels as MNIST has them, uint8 (n, 28, 28)."""
    return numbers(data["samples"]["pixels"], "u1", -1, 28, 28)


class Copy:
    """A model of the page, computed here: what the page should show."""

    def __init__(self, about):
        half = lambda text, *shape: numbers(text, "<f2", *shape).float()
        self.encoder = half(about["encoder"]["weight"], -1, 784), half(about["encoder"]["bias"], -1)
        self.decoder = half(about["decoder"]["weight"], 784, -1), half(about["decoder"]["bias"], -1)

    def __call__(self, image, held={}):
        """A uint8 image and held nodes {node: value} -> (hidden, reconstruction, MSE)."""
        x = codelet7.normalize(image[None]).flatten()
        hidden = torch.sigmoid(self.encoder[0] @ x + self.encoder[1])
        for node, value in held.items():
            hidden[node] = value
        reconstruction = torch.tanh(self.decoder[0] @ hidden + self.decoder[1])
        return hidden, reconstruction, (reconstruction - x).square().mean().item()


class CommittedPage(unittest.TestCase):
    data = data_of(PAGE)

    def test_it_is_one_file_of_under_one_and_a_half_megabytes(self):
        self.assertLess(len(PAGE.encode()), 1_500_000)
        around = DATA.sub("", PAGE)
        for outside in ("http:", "https:", "src=", ".src", "@import", "url(", "import(", "fetch(",
                        "XMLHttpRequest", "WebSocket"):
            self.assertNotIn(outside, around)

    def test_it_is_the_template_filled_in(self):
        self.assertEqual(PAGE, written(self.data),
                         "run extras/explorer.py: the page is not of this template")

    def test_the_things_to_try_happen(self):
        first, second, third = map(Copy, self.data["models"].values())
        samples = samples_of(self.data)
        blind, zero, two = samples[[0, 1, 6]]
        paler = (first(zero)[1] - first(zero, {8: 1})[1]).view(28, 28)
        paler = torch.where(zero > 150, paler, torch.nan)
        for flank, end in ((paler[10:19, :11], paler[:9]), (paler[10:19, 17:], paler[19:])):
            self.assertGreater(flank.nanmean(), end.nanmean() + 0.25)

        means = samples.view(10, 3, 784).double().mean(1)  # of each digit
        for model, image, node, digit in ((first, two, 6, 3), (second, samples[7], 8, 1),
                                          (second, samples[7], 2, 0), (second, samples[7], 5, 3),
                                          (second, samples[7], 9, 8)):
            self.assertLess(model(image)[0][node], 0.2)
            painted = model(image, {node: 1})[1].double()[None]
            alike = torch.corrcoef(torch.cat([painted, means]))[0, 1:]
            self.assertEqual(alike.argmax(), digit)
        self.assertLess(second(samples[7])[0].max(), 0.5)
        self.assertEqual((third(blind)[0] > 0.5).sum(), 1)


class WrittenPage(unittest.TestCase):
    def test_it_holds_what_was_trained(self):
        data, settings = draw_few(), (4, 0.1, 1e-2)
        images = codelet7.normalize(data.images)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \
                mock.patch.multiple(codelet7, EPOCHS=1, BATCH_SIZE=64, SEED=0, RHO=0.05), \
                mock.patch.object(explorer, "MODELS", {"Few": settings, "Many": (11, 0.0, 1e-2)}):
            path = Path(folder) / "page.html"
            explorer.make_page(path, data)
            page = data_of(path.read_text(encoding="utf-8"))
            model, _ = explorer.train_model(images, data.labels, *settings)
        first = [(data.test_labels == digit).nonzero()[:3, 0] for digit in range(10)]
        self.assertTrue(samples_of(page).equal(data.test_images[torch.cat(first)]))
        self.assertEqual([about["nodes"] for about in page["models"].values()], [4, 11])

        about, table = page["models"]["Few"], page["answers"]
        copy, x = Copy(about), images.flatten(1)
        for halves, linear in ((copy.encoder, model.encoder), (copy.decoder, model.decoder)):
            for half, theirs in zip(halves, (linear.weight, linear.bias)):
                torch.testing.assert_close(half, theirs.detach(), rtol=2**-10, atol=2**-24)
        with torch.no_grad():
            hidden, reconstruction = model(images)
        missed = (reconstruction - x).square() - (x - x.clamp(max=1)).square()
        self.assertAlmostEqual(about["facts"]["missed"], missed.mean().item(), delta=6e-4)
        self.assertEqual(about["facts"]["nodes on"], f"{(hidden > 0.5).double().mean():.1%}")
        means = numbers(about["digits"], "<f2", 10, 4).float()
        torch.testing.assert_close(means[7], hidden[data.labels == 7].mean(0), rtol=0, atol=1e-3)
        for pattern, count, mean in zip(table["patterns"], table["counts"],
                                        numbers(table["means"], "u1", -1, 14, 14).float()):
            those = ((hidden > 0.5) == torch.tensor([pattern >> j & 1 for j in range(4)])).all(1)
            self.assertEqual(those.sum(), count)
            theirs = data.images[those].float().mean(0).view(14, 2, 14, 2).mean((1, 3))
            torch.testing.assert_close(mean, theirs, rtol=0, atol=0.51)
        self.assertEqual(sum(table["counts"]), len(images))
        self.assertGreater(len(table["counts"]), 4)


# --- In a browser ---

BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)

NO_BROWSER = "extras/explorer.html was not tried: neither Chromium nor Chrome is installed"

# Before the page's own script: when all is loaded, hands and eyes are put to work. look() is what
# the page shows.
HANDS = """<script>(() => {
const $ = selector => document.querySelector(selector);
const $$ = selector => [...document.querySelectorAll(selector)];
const text = selector => $(selector).textContent;
const wait = time => new Promise(done => setTimeout(done, time));
const point = (element, type, x = 0, y = 0) => element.dispatchEvent(new PointerEvent(type, {
  bubbles: true, cancelable: true, pointerId: 7, clientX: x, clientY: y, isPrimary: true}));
const press = (element, key, ctrlKey = false) => element.dispatchEvent(
  new KeyboardEvent("keydown", {key, ctrlKey, bubbles: true, cancelable: true}));
function move(element, places, end = "pointerup") {
  point(element, "pointerdown", ...places[0]);
  for (const place of places.slice(1)) point(window, "pointermove", ...place);
  point(window, end, ...places.at(-1));
}
function draw(...points) {
  const box = $("#drawing").getBoundingClientRect();
  move($("#drawing"), points.map(([x, y]) =>
    [box.left + x / 28 * box.width, box.top + y / 28 * box.height]));
}
function drag(bar, from, to, end) {
  const box = bar.getBoundingClientRect(), y = box.top + box.height / 2;
  move(bar, [from, to].map(part => [box.left + part * box.width, y]), end);
}
const dots = id => [...$(id).getContext("2d").getImageData(0, 0, 28, 28).data].filter(
  (_, i) => i % 4 === 0);
const bars = () => $$("[role=slider]"), tiles = () => $$(".tile");
const choose = model => $$("#models input")[model].click();
const look = () => ({
  ...Object.fromEntries(["held", "note", "mse", "change", "out", "missed", "on", "why-title", "sum",
    "brief"].map(id => [id, text(`#${id}`)])),
  bars: bars().map(bar => [bar.getAttribute("aria-label"), bar.getAttribute("aria-valuetext")]),
  values: $$(".node input").map(input => input.value), cards: $$("#models .here").map(
    card => card.textContent), model: $$("#models input").findIndex(input => input.checked),
  chosen: $$(".node.chosen .name, .tile.chosen").map(node => node.title || node.textContent),
  fit: $("#fit").checked, before: $("figure.held").hidden ? null : dots("#without"),
  seen: dots("#seen"), reconstruction: dots("#reconstruction")});
addEventListener("load", async () => {
  const seen = await (async () => { SCRIPT })();
  parent.postMessage([INDEX, seen], "*");
});
})()</script>"""


def visit(*visits):
    """Visit pages in one start of a browser, each in a frame, since a window cannot be as narrow as
    a phone's. visits: (page, script, width, height). Returns a list of what the scripts return, and
    what the browser's console says."""
    frames = "".join(f'<iframe src="{i}.html" width="{width}" height="{height}" style="border: 0">'
                     "</iframe>" for i, (_, _, width, height) in enumerate(visits))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for i, (page, script, _, _) in enumerate(visits):
            hands = HANDS.replace("SCRIPT", script).replace("INDEX", str(i))
            page = page.replace("<head>", "<head>" + hands, 1)
            Path(folder, f"{i}.html").write_text(page, encoding="utf-8")
        Path(folder, "all.html").write_text(f"""<!DOCTYPE html><meta charset="utf-8">
            <body><pre id="told">[]</pre><script>
            addEventListener("message", ({{data}}) => {{
              const told = document.getElementById("told");
              told.textContent = JSON.stringify([...JSON.parse(told.textContent), data]);
            }});</script>{frames}""", encoding="utf-8")
        run = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--no-first-run", "--disable-background-networking", "--window-size=2000,1200",
             f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000",
             "--enable-logging=stderr", "--dump-dom", Path(folder, "all.html").as_uri()],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=300)
    told = re.search(r'<pre id="told">(.*?)</pre>', run.stdout, re.DOTALL)
    if not told:
        raise unittest.SkipTest(f"{BROWSER} opens no page here: {run.stderr[-300:]}")
    logged = [line for line in re.findall(r"CONSOLE.*", run.stderr)
              if "willReadFrequently" not in line]  # about our own reading of the canvases
    results = sorted(json.loads(html.unescape(told[1])))
    if len(results) < len(visits):
        raise AssertionError(f"a script did not come to its end: {logged}")
    return [seen for _, seen in results], logged


@unittest.skipUnless(BROWSER, NO_BROWSER)
class InABrowser(unittest.TestCase):
    """One visit, in which much is done; the tests look at what was seen on the way."""

    @classmethod
    def setUpClass(cls):
        cls.data = data_of(PAGE)
        [cls.seen], cls.logged = visit((PAGE, """
            const seen = {selfcheck: document.documentElement.dataset.selfcheck};
            const step = (name, action) => { action(); seen[name] = look(); };
            const sample = (digit, which) => $(`[aria-label='digit ${digit}, sample ${which}']`);
            const seven = scale => [[4, 5], [20, 5], [10, 25]].map(
              place => place.map(part => 2 + scale * part));

            step("start", () => {});
            step("cleared", () => $("#clear").click());
            step("drawn", () => draw(...seven(1)));
            step("undone", () => $("#undo").click());
            step("small", () => draw(...seven(0.25)));
            step("unfitted", () => $("#fit").click());
            step("pointed", () => point($$(".node")[3], "pointerenter"));
            step("zero", () => { point($$(".node")[3], "pointerleave"); sample(0, 2).click(); });
            step("pressed", () => drag(bars()[8], 0.3, 0.305));
            step("held", () => drag(bars()[8], 0.1, 2));
            step("scrolled", () => drag(bars()[4], 0.1, 0.4, "pointercancel"));
            step("released", () => press(document.body, "z", true));
            step("typed", () => { const input = $$(".node input")[2]; input.value = "0,3";
              input.dispatchEvent(new Event("change")); });
            step("keys", () => { press(bars()[4], "End"); press(bars()[4], "PageDown"); });
            $("#reset").focus();
            step("reset", () => $("#reset").click());
            seen.focus = document.activeElement.id + $("#reset").disabled;
            step("resetUndone", () => $("#undo").click());
            step("strokeOnZero", () => draw([3, 3], [8, 20]));
            const address = addressOf(state);
            step("second", () => choose(1));
            await wait(1000);
            seen.status = text("#status");
            history.back();
            await wait(500);
            step("back", () => {});

            step("third", () => { choose(2); sample(7, 1).click(); });
            step("tile", () => move(tiles()[31], [[300, 300], [301, 300]]));
            step("tileKeys", () => { press(tiles()[31], "ArrowDown");
              press(tiles()[41], "ArrowRight"); press(bars()[0], "Home"); });
            step("sampleKeys", () => press(sample(7, 1), "ArrowLeft"));
            $(".words a[href*='hold=8:1']").click();
            await wait(500);
            step("link", () => {});
            location.hash = address;
            await wait(500);
            step("sent", () => {});
            return seen;""", 1366, 657))

    def test_it_shows_what_is_computed_here(self):
        samples, models = samples_of(self.data), list(map(Copy, self.data["models"].values()))
        for step, model, image, held, chosen in (
                ("start", 0, samples[6], {}, None), ("cleared", 0, samples[0] * 0, {}, None),
                ("pressed", 0, samples[1], {}, 8), ("held", 0, samples[1], {8: 1}, 8),
                ("typed", 0, samples[1], {2: 0.3}, 8),
                ("keys", 0, samples[1], {2: 0.3, 4: 0.75}, 8),
                ("reset", 0, samples[1], {}, 8), ("third", 2, samples[21], {}, None),
                ("tile", 2, samples[21], {}, 31), ("tileKeys", 2, samples[21], {42: 0}, 42),
                ("sampleKeys", 2, samples[18], {42: 0}, 42), ("link", 0, samples[1], {8: 1}, 8)):
            with self.subTest(step=step):
                seen = self.seen[step]
                hidden, reconstruction, mse = models[model](image, held)
                shown = hidden.argmax().item() if chosen is None else chosen
                nodes = [shown] if model == 2 else range(10)
                labels, values = zip(*seen["bars"])
                self.assertEqual(list(labels), [f"node {node}" for node in nodes])
                values = [float(value.split(",")[0]) for value in values]
                np.testing.assert_allclose(values, hidden[list(nodes)], atol=0.006)
                self.assertEqual(seen["values"], [f"{value:.2f}" for value in values])
                self.assertEqual(set(seen["chosen"]), {f"node {chosen}"} - {"node None"})
                x = codelet7.normalize(image[None]).flatten()
                for name, pixels in (("seen", x), ("reconstruction", reconstruction)):
                    theirs = utils.to_grey(pixels).int().numpy()
                    self.assertLessEqual(abs(np.array(seen[name]) - theirs).max(), 1)
                out = (x - 1).clamp(min=0).square().mean().item()
                for name, number in (("mse", mse), ("out", out), ("missed", mse - out)):
                    self.assertAlmostEqual(float(seen[name]), number, delta=6e-4)
                self.assertEqual(seen["on"], f"{(hidden > 0.5).sum()} of {len(hidden)} nodes on")
                self.assertEqual(seen["held"], f", {len(held)} held" if held else "")
                for card, one in zip(seen["cards"], models):
                    hidden, _, mse = one(image)
                    self.assertAlmostEqual(float(card.split()[0]), mse - out, delta=6e-4)

    def test_the_self_check_says_ok_and_nothing_complains(self):
        self.assertEqual((self.seen["selfcheck"], self.logged), ("ok", []))

    def test_a_small_drawing_has_mnists_stroke_too(self):
        large, small, unfitted = (torch.tensor(self.seen[step]["seen"]).view(28, 28)
                                  for step in ("drawn", "small", "unfitted"))
        self.assertLess((large - small).abs().float().mean(), 6)  # of 255
        for seen in (large, small):
            self.assertTrue(75 < (seen == 255).sum() < 115)  # an upright 7 of MNIST has about 90
            self.assertIn(max(place.max() - place.min() for place in seen.nonzero().t()), (18, 19))
            for place in digits.centre_of_mass(seen.numpy()):
                self.assertAlmostEqual(place, 14.5, delta=0.75)
        self.assertTrue(unfitted[:10, :10].any() and not unfitted[11:].any())

    def test_pointing_at_a_node_gives_the_reasons(self):
        seen, encoder = self.seen["pointed"], Copy(self.data["models"]["Blobs"]).encoder
        self.assertTrue(seen["why-title"].startswith("Node 3: why "))
        up, down, blank, drive, value = (float(number.replace("−", "-")) for number in
                                         re.findall(r"[+−]?\d+\.\d+", seen["sum"]))
        self.assertAlmostEqual(up + down + blank, drive, delta=0.2)
        theirs = encoder[1][3] + encoder[0][3].sum() * utils.PAPER
        self.assertAlmostEqual(blank, theirs.item(), delta=0.06)
        self.assertEqual(f"{value:.2f}", seen["values"][3])

    def test_a_hold_shows_before_and_after_and_changes_the_answers(self):
        seen, before = self.seen["held"], self.seen["pressed"]
        self.assertEqual((before["before"], seen["before"]), (None, before["reconstruction"]))
        change = float(seen["mse"]) - float(before["mse"])
        self.assertAlmostEqual(float(seen["change"].strip(" ()")), change, delta=0.0011)
        for step in (seen, before, self.seen["start"]):
            on = [float(value.split(",")[0]) > 0.5 for _, value in step["bars"]]
            table = dict(zip(self.data["answers"]["patterns"], self.data["answers"]["counts"]))
            count = table.get(sum(1 << node for node in range(10) if on[node]), 0)
            words = "none", "the only one", f"mean of {count:,}"
            self.assertEqual(step["brief"], f"{words[min(count, 2)]} alike")

    def test_undo_back_and_links_lead_to_what_was(self):
        for step, earlier in (("undone", "cleared"), ("released", "pressed"), ("scrolled", "held"),
                              ("resetUndone", "keys"), ("back", "strokeOnZero"),
                              ("sent", "strokeOnZero")):
            self.assertEqual(self.seen[step], self.seen[earlier], step)
        self.assertEqual(self.seen["focus"], "resetfalse")  # a disabled button loses the focus
        self.assertEqual((self.seen["second"]["held"], self.seen["second"]["model"]), ("", 1))
        for words in ("no longer held", self.seen["second"]["mse"], self.seen["second"]["on"]):
            self.assertIn(words, self.seen["status"])


@unittest.skipUnless(BROWSER, NO_BROWSER)
class InOtherWindows(unittest.TestCase):
    LAYOUT = """
        const box = selector => $(selector).getBoundingClientRect();
        const isWhole = selector =>
          box(selector).top >= -1 && box(selector).bottom <= innerHeight + 1;
        return [0, 1, 2].map(model => {
          choose(model);
          scrollTo(0, 0);
          const seen = {
            overflow: document.documentElement.scrollWidth - innerWidth, bar: box(".bar").width,
            fold: Math.max(...["#drawing", "#bars", "#grid", "#reconstruction", "#mse"].map(
              selector => box(selector).bottom)),
            isAbove: box("#drawing").top < box("#models").top};
          $("#drawing").scrollIntoView({block: "center"});
          seen.together = isWhole("#drawing") && isWhole("#reconstruction");
          [...bars(), ...tiles()].at(-1).scrollIntoView({block: "nearest"});
          seen.stays = isWhole("#reconstruction") && isWhole("#mse");
          const tile = tiles().at(-1);
          if (tile) move(tile, [[box("#grid").right - 5, 0], [innerWidth - 2, 0]]);
          return {...seen, dragged: tile && bars()[0].getAttribute("aria-valuetext")};
        });"""

    def test_the_page_fits_every_window(self):
        windows = {"class": (1366, 657), "desk": (1280, 900), "projector": (1024, 768),
                   "phone": (390, 844), "small": (320, 640), "side": (844, 390),
                   "twice": (1366, 657)}
        twice = 'document.documentElement.style.fontSize = "200%";'
        results, logged = visit(*((PAGE, twice * (name == "twice") + self.LAYOUT, *size)
                                  for name, size in windows.items()))
        self.assertEqual(logged, [])
        for name, measures in zip(windows, results):
            for model, seen in enumerate(measures):
                with self.subTest(window=name, model=model):
                    self.assertLessEqual(seen["overflow"], 0)
                    self.assertGreater(seen["bar"], 90 if name == "small" else 125)
                    self.assertTrue(seen["stays"])
                    if name == "class":
                        self.assertLessEqual(seen["fold"], 657)
                    if name in ("phone", "small"):
                        self.assertTrue(seen["isAbove"])
                    if name in ("class", "desk", "projector", "side"):
                        self.assertTrue(seen["together"])
                    if model == 2:
                        self.assertEqual(seen["dragged"], "1.00, held")

    def test_a_damaged_page_says_so(self):
        data = data_of(PAGE)
        weights = data["models"]["Strokes"]["encoder"]["weight"]
        middle = len(weights) // 2
        damaged = PAGE.replace(weights[middle:middle + 8], weights[middle:middle + 8].swapcase(), 1)
        self.assertNotEqual(damaged, PAGE)
        data["models"]["Digits"]["check"]["hidden"] = explorer.base64_of(torch.rand(10, 10), "<f2")
        tell = """await wait(2000);
            const {visibility} = getComputedStyle($("#trouble"));
            return [$("#trouble").offsetHeight > 10 && visibility, text("#trouble")];"""
        results, _ = visit(*((page, tell, 800, 600) for page in
                             (damaged, written(data), PAGE[:len(PAGE) // 2])))
        for seen, words in zip(results, ("damaged", "self-check failed", "cut off")):
            self.assertEqual(seen[0], "visible", words)
            self.assertIn(words, seen[1])
