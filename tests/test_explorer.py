"""extras/explorer.html is what explorer.py writes, and works in a browser, if there is one."""

import base64
import html
import json
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

import codelet7
import digits
import utils
from extras import explorer
from tests import draw_few

PAGE = explorer.PAGE.read_text(encoding="utf-8")
DATA = re.compile(r'<script type="application/json" id="data" data-checksum="(.*?)">(.*?)</script>',
                  re.DOTALL)


def data_of(page):
    return json.loads(DATA.search(page)[2])


def written(data):
    """The page that explorer.py writes with this data."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        explorer.write_page(path, data)
        return path.read_text(encoding="utf-8")


def decoded(text, dtype, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).copy()).view(shape)


def samples_of(data):
    """The page's samples as in MNIST, uint8 (n, 28, 28)."""
    return decoded(data["samples"]["pixels"], "u1", -1, 28, 28)


def pattern_of(activations):
    """The number under which the lookup table has the answers of ten nodes."""
    return sum(1 << node for node, activation in enumerate(activations) if activation > 0.5)


class Copy:
    """A model of the page, computed here: what the page should show."""

    def __init__(self, about):
        half = lambda text, *shape: decoded(text, "<f2", *shape).float()
        self.encoder = half(about["encoder"]["weight"], -1, 784), half(about["encoder"]["bias"], -1)
        self.decoder = half(about["decoder"]["weight"], 784, -1), half(about["decoder"]["bias"], -1)

    def __call__(self, image, pins={}):
        """A uint8 image and pinned nodes {node: value} -> (hidden, reconstruction, MSE)."""
        x = codelet7.normalize(image[None]).flatten()
        hidden = torch.sigmoid(self.encoder[0] @ x + self.encoder[1])
        for node, value in pins.items():
            hidden[node] = value
        reconstruction = torch.tanh(self.decoder[0] @ hidden + self.decoder[1])
        return hidden, reconstruction, (reconstruction - x).square().mean().item()


COMMITTED = data_of(PAGE)
MODELS, SAMPLES = list(map(Copy, COMMITTED["models"].values())), samples_of(COMMITTED)


class CommittedPage(unittest.TestCase):
    def test_is_self_contained_and_under_one_and_a_half_megabytes(self):
        self.assertLess(len(PAGE.encode()), 1_500_000)
        for external in ("http:", "https:", "src=", ".src", "@import", "url(", "import(", "fetch(",
                         "XMLHttpRequest", "WebSocket"):
            self.assertNotIn(external, DATA.sub("", PAGE))

    def test_is_the_template_filled_in(self):
        self.assertEqual(PAGE, written(COMMITTED),
                         "run python -m extras.explorer: the template has changed since")

    def test_models_differ_as_the_text_says(self):
        facts = [about["facts"] for about in COMMITTED["models"].values()]
        for name, values in (("hidden nodes", [10, 10, 100]), ("penalty weight", [1e-4, 0.1, 0.01]),
                             ("learning rate", [1e-4, 1e-4, 1e-3]), ("epochs", [20, 20, 20])):
            self.assertEqual([about[name] for about in facts], values)
        self.assertGreater(facts[2]["MSE with only the nodes that are on"],
                           COMMITTED["MSE of the mean image"] + 0.1)

    def test_exercises_have_the_stated_outcomes(self):
        means = SAMPLES.view(10, 3, 28, 28).float().mean(1, keepdim=True)  # of each digit

        def digit_in(image, side=28):
            both = torch.cat([image.view(1, -1), F.avg_pool2d(means, 28 // side).flatten(1)])
            return torch.corrcoef(both.double())[0, 1:].argmax().item()

        def pin(model, sample, node):
            url = f"#model={model + 1}&sample={sample}&node={node}&pin={node}:1"
            self.assertIn(f'"{url}"', PAGE)
            before, after = (MODELS[model](SAMPLES[sample], pins) for pins in ({}, {node: 1}))
            self.assertLess(before[0][node], 0.25)
            return before, after

        before, after = pin(0, 1, 8)  # the left and right sides of a 0 fade
        self.assertGreater(after[2], before[2] + 0.1)
        fading = torch.where(SAMPLES[1] > 150, (before[1] - after[1]).view(28, 28), torch.nan)
        for side, end in ((fading[10:19, :11], fading[:9]), (fading[10:19, 17:], fading[19:])):
            self.assertGreater(side.nanmean(), 0.4)
            self.assertLess(end.nanmean(), 0.05)

        table = COMMITTED["lookup table"]
        for (hidden, reconstruction, _), digit in zip(pin(0, 6, 6), (2, 3)):
            place = table["patterns"].index(pattern_of(hidden))
            self.assertEqual(digit_in(decoded(table["means"], "u1", -1, 196)[place], 14), digit)
        self.assertEqual(digit_in(reconstruction), 3)  # once node 6 is pinned

        for node, digit in ((8, 1), (2, 0), (5, 3), (4, 9)):
            before, after = pin(1, 7, node)
            self.assertLess(before[0].max(), 0.5)  # no node is on
            self.assertEqual(digit_in(after[1]), digit)

        hidden, _, mse = MODELS[2](SAMPLES[0])
        self.assertEqual((hidden > 0.5).sum(), 1)
        off = dict.fromkeys((hidden <= 0.5).nonzero().flatten().tolist(), 0)
        self.assertGreater(MODELS[2](SAMPLES[0], off)[2], 2 * mse)


class WrittenPage(unittest.TestCase):
    def test_contains_what_was_trained(self):
        data, settings = draw_few(), (4, 0.1, 1e-2)
        images = codelet7.normalize(data.images)
        with mock.patch("builtins.print"), mock.patch.object(explorer, "write_page") as write, \
                mock.patch.multiple(codelet7, EPOCHS=1, BATCH_SIZE=64, SEED=0, RHO=0.05), \
                mock.patch.object(explorer, "MODELS", {"Few": settings, "Many": (11, 0.0, 1e-2)}):
            explorer.make_page("page.html", data)
            model, _ = explorer.train_model(images, data.labels, *settings)
        _, page = write.call_args.args
        first = [(data.test_labels == digit).nonzero()[:3, 0] for digit in range(10)]
        self.assertTrue(samples_of(page).equal(data.test_images[torch.cat(first)]))
        self.assertEqual([about["nodes"] for about in page["models"].values()], [4, 11])

        about, table = page["models"]["Few"], page["lookup table"]
        copy, x = Copy(about), images.flatten(1)
        for halves, linear in ((copy.encoder, model.encoder), (copy.decoder, model.decoder)):
            for half, expected in zip(halves, (linear.weight, linear.bias)):
                torch.testing.assert_close(half, expected.detach(), rtol=2**-10, atol=2**-24)
        with torch.no_grad():
            hidden, reconstruction = model(images)
        excess = (reconstruction - x).square() - (x - x.clamp(max=1)).square()
        self.assertAlmostEqual(about["facts"]["excess"], excess.mean().item(), delta=6e-4)
        self.assertEqual(about["facts"]["nodes on"], f"{(hidden > 0.5).double().mean():.1%}")
        means = decoded(about["means by digit"], "<f2", 10, 4).float()
        torch.testing.assert_close(means[7], hidden[data.labels == 7].mean(0), rtol=0, atol=1e-3)
        patterns = torch.tensor(list(map(pattern_of, hidden)))
        groups = [data.images[patterns == pattern].float() for pattern in patterns.unique()]
        self.assertEqual(table["patterns"], patterns.unique().tolist())
        self.assertEqual(table["counts"], list(map(len, groups)))
        means = torch.stack([group.mean(0).view(14, 2, 14, 2).mean((1, 3)) for group in groups])
        torch.testing.assert_close(decoded(table["means"], "u1", -1, 14, 14).float(), means,
                                   rtol=0, atol=0.51)


# --- In a browser ---

BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)

NO_BROWSER = "extras/explorer.html was not tried: neither Chromium nor Chrome is installed"

# Placed before the page's own scripts. On load it runs a test's SCRIPT, which operates the page and
# reads off what the page shows, with the help of these functions; look() reads off everything.
DRIVER = """<script>(() => {
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
const within = (element, places) => {
  const {left, top, width, height} = element.getBoundingClientRect();
  return places.map(([x, y]) => [left + x * width, top + y * height]);
};
const draw = (...points) => move($("#drawing"), within($("#drawing"), points));
const drag = (bar, from, to, end) => move(bar, within(bar, [[from, 0.5], [to, 0.5]]), end);
const dots = id => [...$(id).getContext("2d").getImageData(0, 0, 28, 28).data].filter(
  (_, i) => i % 4 === 0);
const bars = () => $$("[role=slider]"), tiles = () => $$(".tile");
const select = model => $$("#models input")[model].click();
const look = () => ({
  ...Object.fromEntries(["pinned", "note", "mse", "change", "unavoidable", "excess", "on", "sum",
    "why-title", "same-answers"].map(id => [id, text(`#${id}`)])),
  bars: bars().map(bar => [bar.getAttribute("aria-label"), bar.getAttribute("aria-valuetext")]),
  values: $$(".node input").map(input => input.value), cards: $$("#models .here").map(
    card => card.textContent), model: $$("#models input").findIndex(input => input.checked),
  selected: $$(".node.selected .name, .tile.selected").map(node => node.title || node.textContent),
  fit: $("#fit").checked, before: $("figure.pinned").hidden ? null : dots("#without"),
  input: dots("#input"), reconstruction: dots("#reconstruction")});
addEventListener("load", async () => {
  const result = await (async () => { SCRIPT })();
  parent.postMessage([INDEX, result], "*");
});
})()</script>"""


def visit(*visits):
    """Visit pages in one start of a browser, each in a frame, since a window cannot be as narrow as
    a phone's. visits: (page, script, width, height). Returns a list of what the scripts return, and
    the messages on the browser's console."""
    frames = "".join(f'<iframe src="{i}.html" width="{width}" height="{height}" style="border: 0">'
                     "</iframe>" for i, (_, _, width, height) in enumerate(visits))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for i, (page, script, _, _) in enumerate(visits):
            driver = DRIVER.replace("SCRIPT", script).replace("INDEX", str(i))
            Path(folder, f"{i}.html").write_text(page.replace("<head>", "<head>" + driver, 1),
                                                 encoding="utf-8")
        Path(folder, "all.html").write_text(f"""<!DOCTYPE html><meta charset="utf-8">
            <body><pre id="results">[]</pre><script>
            addEventListener("message", ({{data}}) => {{
              const results = document.getElementById("results");
              results.textContent = JSON.stringify([...JSON.parse(results.textContent), data]);
            }});</script>{frames}""", encoding="utf-8")
        run = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--no-first-run", "--disable-background-networking", "--window-size=2000,1200",
             f"--user-data-dir={folder}/profile", "--virtual-time-budget=20000",
             "--enable-logging=stderr", "--dump-dom", Path(folder, "all.html").as_uri()],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=300)
    found = re.search(r'<pre id="results">(.*?)</pre>', run.stdout, re.DOTALL)
    if not found:
        raise unittest.SkipTest(f"{BROWSER} opens no page here: {run.stderr[-300:]}")
    logged = [line for line in re.findall(r"CONSOLE.*", run.stderr)
              if "willReadFrequently" not in line]  # caused by dots()
    results = sorted(json.loads(html.unescape(found[1])))
    if len(results) < len(visits):
        raise AssertionError(f"a script did not finish: {logged}")
    return [result for _, result in results], logged


@unittest.skipUnless(BROWSER, NO_BROWSER)
class InABrowser(unittest.TestCase):
    """One visit with many steps; the tests compare what the page shows after each of them."""

    @classmethod
    def setUpClass(cls):
        [cls.steps], cls.logged = visit((PAGE, """
            const steps = {selfcheck: document.documentElement.dataset.selfcheck};
            const step = (name, action) => { action(); steps[name] = look(); };
            const travel = async (name, action) => { action(); await wait(500); step(name, look); };
            const sample = (digit, which) => $(`[aria-label='digit ${digit}, sample ${which}']`);
            const seven = size => [[0.1, 0.1], [0.7, 0.1], [0.3, 0.9]].map(
              place => place.map(part => 0.1 + size * part));

            step("start", () => {});
            step("cleared", () => $("#clear").click());
            step("drawn", () => draw(...seven(0.9)));
            step("undone", () => $("#undo").click());
            step("small", () => draw(...seven(0.2)));
            step("unscaled", () => $("#fit").click());
            step("pointed", () => point($$(".node")[3], "pointerenter"));
            step("zero", () => { point($$(".node")[3], "pointerleave"); sample(0, 2).click(); });
            step("clicked", () => drag(bars()[8], 0.3, 0.305));
            step("pinned", () => drag(bars()[8], 0.1, 2));
            step("scrolled", () => drag(bars()[4], 0.1, 0.4, "pointercancel"));
            step("released", () => press(document.body, "z", true));
            $$(".node input")[2].value = "0,3";
            step("typed", () => $$(".node input")[2].dispatchEvent(new Event("change")));
            step("keys", () => { press(bars()[4], "End"); press(bars()[4], "PageDown"); });
            step("releasedAll", () => { $("#release").focus(); $("#release").click(); });
            steps.focus = document.activeElement.id + $("#release").disabled;
            step("releaseUndone", () => $("#undo").click());
            step("strokeOnZero", () => draw([0.1, 0.1], [0.3, 0.7]));
            const url = urlOf(state);
            step("second", () => select(1));
            await wait(1000);
            steps.status = text("#status");
            await travel("back", () => history.back());

            step("third", () => { select(2); sample(7, 1).click(); });
            step("tile", () => move(tiles()[31], [[300, 300], [301, 300]]));
            step("dragged", () => move(tiles()[31], [[innerWidth - 40, 0], [innerWidth - 2, 0]]));
            step("tileKeys", () => { press(tiles()[31], "ArrowDown");
              press(tiles()[41], "ArrowRight"); press(bars()[0], "Home"); });
            step("sampleKeys", () => press(sample(7, 1), "ArrowLeft"));
            await travel("link", () => $(".words a[href*='pin=8:1']").click());
            await travel("sent", () => { location.hash = url; });
            return steps;""", 1366, 657))

    def test_shows_the_same_results_as_pytorch(self):
        for step, model, image, pins, selected in (
                ("start", 0, SAMPLES[6], {}, None), ("cleared", 0, SAMPLES[0] * 0, {}, None),
                ("clicked", 0, SAMPLES[1], {}, 8), ("pinned", 0, SAMPLES[1], {8: 1}, 8),
                ("typed", 0, SAMPLES[1], {2: 0.3}, 8),
                ("keys", 0, SAMPLES[1], {2: 0.3, 4: 0.75}, 8),
                ("releasedAll", 0, SAMPLES[1], {}, 8), ("third", 2, SAMPLES[21], {}, None),
                ("tile", 2, SAMPLES[21], {}, 31), ("dragged", 2, SAMPLES[21], {31: 1}, 31),
                ("tileKeys", 2, SAMPLES[21], {31: 1, 42: 0}, 42),
                ("sampleKeys", 2, SAMPLES[18], {31: 1, 42: 0}, 42),
                ("link", 0, SAMPLES[1], {8: 1}, 8)):
            with self.subTest(step=step):
                shown = self.steps[step]
                hidden, reconstruction, mse = MODELS[model](image, pins)
                row = hidden.argmax().item() if selected is None else selected
                nodes = [row] if model == 2 else range(10)
                labels, values = zip(*shown["bars"])
                self.assertEqual(list(labels), [f"node {node}" for node in nodes])
                values = [float(value.split(",")[0]) for value in values]
                np.testing.assert_allclose(values, hidden[list(nodes)], atol=0.006)
                self.assertEqual(shown["values"], [f"{value:.2f}" for value in values])
                self.assertEqual(set(shown["selected"]), {f"node {selected}"} - {"node None"})
                x = codelet7.normalize(image[None]).flatten()
                for name, pixels in (("input", x), ("reconstruction", reconstruction)):
                    expected = utils.to_grey(pixels).int().numpy()
                    self.assertLessEqual(abs(np.array(shown[name]) - expected).max(), 1)
                floor = (x - 1).clamp(min=0).square().mean().item()
                for name, number in (("mse", mse), ("unavoidable", floor), ("excess", mse - floor)):
                    self.assertAlmostEqual(float(shown[name]), number, delta=6e-4)
                self.assertEqual(shown["on"], f"{(hidden > 0.5).sum()} of {len(hidden)} nodes on")
                self.assertEqual(shown["pinned"], f", {len(pins)} pinned" if pins else "")
                cards = [float(card.split()[0]) for card in shown["cards"]]
                np.testing.assert_allclose(cards, [copy(image)[2] - floor for copy in MODELS],
                                           atol=6e-4)

    def test_passes_its_self_check_without_console_messages(self):
        self.assertEqual((self.steps["selfcheck"], self.logged), ("ok", []))

    def test_drawings_of_any_size_get_mnists_size_and_stroke_width(self):
        large, small, unscaled = (torch.tensor(self.steps[step]["input"]).view(28, 28)
                                  for step in ("drawn", "small", "unscaled"))
        self.assertLess((large - small).abs().float().mean(), 6)  # of 255
        for image in (large, small):
            self.assertTrue(75 < (image == 255).sum() < 115)  # an upright 7 of MNIST has about 90
            self.assertIn(max(place.max() - place.min() for place in image.nonzero().t()), (18, 19))
            for place in digits.centre_of_mass(image.numpy()):
                self.assertAlmostEqual(place, 14.5, delta=0.75)
        self.assertTrue(unscaled[:10, :10].any() and not unscaled[11:].any())

    def test_pointing_at_a_node_explains_its_activation(self):
        shown, encoder = self.steps["pointed"], MODELS[0].encoder
        self.assertTrue(shown["why-title"].startswith("Node 3: why "))
        red, blue, empty, total, value = (float(number.replace("−", "-")) for number in
                                          re.findall(r"[+−]?\d+\.\d+", shown["sum"]))
        self.assertAlmostEqual(red + blue + empty, total, delta=0.2)
        expected = encoder[1][3] + encoder[0][3].sum() * utils.BACKGROUND
        self.assertAlmostEqual(empty, expected.item(), delta=0.06)
        self.assertEqual(f"{value:.2f}", shown["values"][3])

    def test_pinning_shows_before_and_after_and_changes_the_answers(self):
        after, before = self.steps["pinned"], self.steps["clicked"]
        self.assertEqual((before["before"], after["before"]), (None, before["reconstruction"]))
        change = float(after["mse"]) - float(before["mse"])
        self.assertAlmostEqual(float(after["change"].strip(" ()")), change, delta=0.0011)
        table = dict(zip(*(COMMITTED["lookup table"][key] for key in ("patterns", "counts"))))
        for shown in (after, before, self.steps["start"]):
            count = table[pattern_of(float(value.split(",")[0]) for _, value in shown["bars"])]
            self.assertEqual(shown["same-answers"],
                             f"mean of {count:,} images with the same answers")

    def test_undo_back_and_links_restore_the_state(self):
        for step, earlier in (("undone", "cleared"), ("released", "clicked"),
                              ("scrolled", "pinned"), ("releaseUndone", "keys"),
                              ("back", "strokeOnZero"), ("sent", "strokeOnZero")):
            self.assertEqual(self.steps[step], self.steps[earlier], step)
        self.assertEqual(self.steps["focus"], "releasefalse")  # a disabled button loses the focus
        second = self.steps["second"]
        self.assertEqual((second["pinned"], second["model"]), ("", 1))
        for words in ("released the pinned", second["mse"], second["on"]):
            self.assertIn(words, self.steps["status"])


@unittest.skipUnless(BROWSER, NO_BROWSER)
class InOtherWindows(unittest.TestCase):
    LAYOUT = """
        const bottom = element => element.getBoundingClientRect().bottom;
        return [0, 1, 2].map(model => {
          select(model);
          scrollTo(0, 0);
          const overflow = document.documentElement.scrollWidth - innerWidth;
          const fold = Math.max(...$$("#drawing, #bars, #grid, #reconstruction").map(bottom));
          const stays = [$("#drawing"), [...bars(), ...tiles()].at(-1)].every(element => {
            element.scrollIntoView({block: "center"});
            return bottom($("#mse")) > 0 && bottom($("#reconstruction")) <= innerHeight + 1;
          });
          return {overflow, bar: $(".bar").offsetWidth, fold, stays};
        });"""

    def test_each_layout_fits_its_window(self):
        sizes = [(1366, 657), (1024, 768), (844, 390), (390, 844)]  # four columns to one
        results, logged = visit(*((PAGE, self.LAYOUT, *size) for size in sizes))
        self.assertEqual(logged, [])
        for size, models in zip(sizes, results):
            for model, shown in enumerate(models):
                with self.subTest(size=size, model=model):
                    self.assertLessEqual(shown["overflow"], 0)
                    self.assertGreater(shown["bar"], 125)
                    self.assertTrue(shown["stays"])  # the result, in sight of what changes it
                    self.assertTrue(shown["fold"] <= 657 or size != sizes[0])

    def test_only_a_page_that_cannot_work_shows_the_alarm(self):
        data = data_of(PAGE)
        data["models"]["Digits"]["check"] = data["models"]["Blobs"]["check"]
        half = PAGE[:len(PAGE) // 2]
        alarm = """await wait(0);  // the page's own listener for `load` comes after this one
            return [$("#trouble").offsetHeight, text("#trouble")];"""
        frame = """const frame = document.createElement("iframe");
            frame.sandbox = "allow-same-origin SCRIPTS";
            document.body.append(frame);
            frame.contentDocument.write(HALF);  // and no end, as if the download had broken off
            const trouble = frame.contentDocument.getElementById("trouble");
            const early = trouble.offsetHeight;
            await wait(10500);
            return [trouble.offsetHeight, trouble.textContent, early];"""
        frame = frame.replace("HALF", json.dumps(half).replace("<", "\\u003c"))
        results, _ = visit(*((page, script, 800, 600) for page, script in (
            (PAGE, alarm), (PAGE.replace('"std": 0.3081', '"std": 0.3082'), alarm),
            (written(data), alarm), (half, alarm), (PAGE, frame.replace("SCRIPTS", "")),
            (PAGE, frame.replace("SCRIPTS", "allow-scripts")))))
        self.assertEqual([height > 10 for height, *_ in results], [False] + 5 * [True])
        for result, words in zip(results[1:], ("is damaged", "self-check failed", "cut off",
                                               "needs JavaScript", "cut off")):
            self.assertIn(words, result[1])
        self.assertEqual(results[-1][2], 0)  # hidden while the page is loading
