"""extras/explorer.html is what explorer.py writes, and works in a browser, if there is one."""

import copy
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

import codelet7
import digits
import utils
from extras import explorer
from tests import draw_few

PAGE = explorer.PAGE.read_text(encoding="utf-8")
DATA = re.compile(r'<script type="application/json" id="data" data-checksum="(.*?)">(.*?)</script>',
                  re.DOTALL)


data_of = lambda page: json.loads(DATA.search(page)[2])


def two_bits_of(text):
    """The shades 0 to 3 of the pixels in a text, (n,)."""
    packed = explorer.tensor_of(text, "u1", -1, 1)
    return (packed >> torch.tensor([0, 2, 4, 6]) & 3).flatten()


def model_of(state):
    """A model of the page in one of its states, with the page's weights."""
    model = codelet7.SparseAutoencoder(784, explorer.tensor_of(state["means"], "<f2", -1).numel())
    for name, values in model.requires_grad_(False).named_parameters():
        layer, part = name.split(".")
        values.copy_(explorer.tensor_of(state[layer][part], "<f2", *values.shape))
    return model


def results(model, image, pins={}):
    """What the page should show for a uint8 image and pinned nodes {node: value}: hidden,
    reconstruction, error."""
    x = codelet7.normalize(image[None]).flatten(1)
    hidden = model.encode(x)
    hidden[0, list(pins)] = torch.tensor([*pins.values()], dtype=torch.float32)
    reconstruction = model.decode(hidden)
    return hidden[0], reconstruction[0], (reconstruction - x).square().mean().item()


by_epoch = lambda about: {state["epoch"]: state for state in about["states"]}
COMMITTED = data_of(PAGE)
STATES = list(map(by_epoch, COMMITTED["models"]))
MODELS = {about["name"]: {epoch: model_of(state) for epoch, state in by_epoch(about).items()}
          for about in COMMITTED["models"]}
SAMPLES = explorer.tensor_of(COMMITTED["samples"]["pixels"], "u1", -1, 28, 28)


class CommittedPage(unittest.TestCase):
    def test_is_self_contained_and_under_one_and_a_half_megabytes(self):
        self.assertLess(len(PAGE.encode()), 1_500_000)
        for external in ("http:", "https:", "src=", ".src", "@import", "url(", "import(", "fetch(",
                         "XMLHttpRequest", "WebSocket"):
            self.assertNotIn(external, DATA.sub("", PAGE))

    def test_is_the_template_filled_in(self):
        self.assertEqual(PAGE, explorer.fill_in(COMMITTED), "run python -m extras.explorer")

    def test_models_are_trained_as_the_text_says(self):
        self.assertEqual([list(about["settings"].values()) for about in COMMITTED["models"]], [
            [10, 1e-4, 1e-4, 0], [10, 800e-4, 1e-4, 8e-5], [100, 100e-4, 10e-4, 2e-5]])

    @mock.patch.object(codelet7, "EPOCHS", COMMITTED["epochs"])  # the constant may be edited
    def test_text_on_single_nodes_is_checked(self):
        explorer.check_text(MODELS, SAMPLES, COMMITTED["models"])
        for name, states in MODELS.items():
            others = copy.deepcopy(states)
            others[20].decoder.weight.copy_(states[20].decoder.weight.flip(1))  # numbered anew
            with self.assertRaises(explorer.WrongText, msg=name):
                explorer.check_text(MODELS | {name: others}, SAMPLES, COMMITTED["models"])


class WrittenPage(unittest.TestCase):
    def test_contains_what_was_trained(self):
        data, expected = draw_few(), codelet7.new_model(0, 4, sparsity_weight=0.1)
        recipes = {"Few": explorer.Recipe(4, 0.1, 1e-2, 1e-3, snapshots=(0, 2), has_table=True),
                   "Many": explorer.Recipe(11, 0.0, 1e-2, 0.0, has_top=False)}
        images, untrained = codelet7.normalize(data.images), copy.deepcopy(expected)
        with mock.patch("builtins.print"), mock.patch.object(explorer, "check_text") as check, \
                mock.patch.multiple(codelet7, EPOCHS=1, BATCH_SIZE=64, SEED=0, RHO=0.05), \
                mock.patch.object(explorer, "MODELS", recipes):
            page = data_of(explorer.make_page(data))
            codelet7.train(expected, codelet7.make_dataloader(images, data.labels, 64), 1, 1e-2, 0,
                           weight_decay=1e-3)
        check.assert_called_once()
        first = [(data.test_labels == digit).nonzero()[:3, 0] for digit in range(10)]
        self.assertEqual(page["samples"]["pixels"],
                         explorer.base64_of(data.test_images[torch.cat(first)], "u1"))
        few, many = map(by_epoch, page["models"])
        self.assertEqual((list(few), list(many)), ([0, 1, 2], [1]))
        for epoch, model in ((0, untrained), (1, expected)):
            torch.testing.assert_close(model_of(few[epoch]).state_dict(), model.state_dict(),
                                       rtol=2**-10, atol=2**-24)

        hidden, reconstruction = expected.requires_grad_(False)(images)
        x, on, about = images.flatten(1), hidden > 0.5, few[1]
        np.testing.assert_allclose([about["results"][name] for name in (
            "error", "mean", "on", "weak", "saturated")], [
            (reconstruction - x).square().mean(), hidden.mean(), on.double().sum() / len(x),
            hidden[hidden < 0.25].sum() / hidden.sum(),
            1 - ((hidden > 0.1) & (hidden < 0.9)).double().mean()], atol=1e-4)
        means = explorer.tensor_of(about["meansByDigit"], "<f2", 10, 4).float()
        torch.testing.assert_close(means[7], hidden[data.labels == 7].mean(0), rtol=0, atol=1e-3)

        best, top = hidden[:, 2].argsort(descending=True)[:9], about["top"]
        self.assertEqual(top["labels"][2], data.labels[best].tolist())
        fourth = two_bits_of(top["pixels"]).view(4, 84, 84)[2, 28:56, :28]
        self.assertLess((fourth * 85 - data.images[best[3]].int()).abs().max(), 43)

        table, patterns = about["table"], list(map(explorer.pattern_of, on))
        self.assertEqual(sorted(table["patterns"]), sorted(set(patterns)))
        self.assertEqual(table["counts"], list(map(patterns.count, table["patterns"])))
        mean = data.images[[row == table["patterns"][1] for row in patterns]].float().mean(0)
        shown = explorer.tensor_of(table["means"], "u1", -1, 14, 14)[1]
        np.testing.assert_allclose(shown, mean.view(14, 2, 14, 2).mean((1, 3)), atol=0.51)
        self.assertFalse({"top", "table"} & many[1].keys())


# --- In a browser ---

BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)

FLAGS = ("--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --dump-dom "
         "--disable-background-networking --window-size=2000,1200 --virtual-time-budget=20000 "
         "--enable-logging=stderr").split()
NO_BROWSER = "extras/explorer.html was not tried: neither Chromium nor Chrome is installed"

# Placed before the page's own scripts. On load it runs a test's SCRIPT, which operates the page and
# reads off what the page shows, with the help of these functions; look() reads off everything.
DRIVER = """<script>(() => {
const $ = selector => document.querySelector(selector), text = selector => $(selector).textContent;
const $$ = selector => [...document.querySelectorAll(selector)];
const wait = time => new Promise(done => setTimeout(done, time));
const point = (element, type, x = 0, y = 0, buttons = 0) => element.dispatchEvent(new PointerEvent(
  type, {bubbles: true, cancelable: true, pointerId: 7, clientX: x, clientY: y, buttons}));
const press = (element, key, ctrlKey = false) => element.dispatchEvent(
  new KeyboardEvent("keydown", {key, ctrlKey, bubbles: true, cancelable: true}));
function move(element, [first, ...others], end = "pointerup") {
  point(element, "pointerdown", ...first, 1);
  for (const place of others) point(window, "pointermove", ...place, 1);
  point(window, end);
}
const within = (element, places, box = element.getBoundingClientRect()) =>
  places.map(([x, y]) => [box.left + x * box.width, box.top + y * box.height]);
const draw = (points, end) => move($("#drawing"), within($("#drawing"), points), end);
const drag = (bar, from, to, end) => move(bar, within(bar, [[from, 0.5], [to, 0.5]]), end);
const dots = (id, channel = 0, side = $(id).width) => [...$(id).getContext("2d").getImageData(
  0, 0, side, side).data].filter((_, i) => i % 4 === channel);
const bars = () => $$("[role=slider]"), tiles = () => $$(".tile");
const select = model => $$("#models input")[model].click(), shown = id => $(id).offsetHeight > 0;
const fire = (input, value, type) => Object.assign(input, {value}).dispatchEvent(new Event(type));
const look = () => ({
  ...Object.fromEntries(["pinned", "note", "error", "change", "unavoidable", "excess", "on", "sum",
    "why-title", "same-answers", "epoch", "play"].map(id => [id, text(`#${id}`)])),
  bars: bars().map(bar => [bar.getAttribute("aria-label"), bar.getAttribute("aria-valuetext")]),
  cards: $$("#models label").map(card => [...card.querySelectorAll("i, span")].map(
    part => part.textContent)), model: $$("#models input").findIndex(input => input.checked),
  values: $$(".node input").map(input => input.value),
  selected: $$(".node.selected .name, .tile.selected").map(node => node.title || node.textContent),
  fit: $("#fit").checked, before: $("figure.pinned").hidden ? null : dots("#without"),
  place: $("#curve .place").getAttribute("x1"),
  boxes: ["#training", "#lookup", "#no-table", "#top", "#no-top"].filter(shown),
  sample: $$("#samples button").findIndex(button => button.ariaChecked === "true"),
  input: dots("#input"), reconstruction: dots("#reconstruction"), weights: dots("#weights", 2)});
addEventListener("load", async () =>
  parent.postMessage([@INDEX@, await (async () => { SCRIPT })()], "*"));
})()</script>"""


def visit(*visits):
    """Visit pages in one start of a browser, each in a frame, since a window cannot be as narrow as
    a phone's. visits: (page, script, width, height). Returns a list of what the scripts return, and
    the messages on the browser's console."""
    frames = "".join(f'<iframe src="{i}.html" width="{width}" height="{height}" style="border: 0">'
                     "</iframe>" for i, (_, _, width, height) in enumerate(visits))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for i, (page, script, _, _) in enumerate(visits):
            page = page.replace("<head>", "<head>" + DRIVER.replace("SCRIPT", script), 1)
            Path(folder, f"{i}.html").write_text(page.replace("@INDEX@", str(i)), encoding="utf-8")
        Path(folder, "all.html").write_text(f"""<!DOCTYPE html><meta charset="utf-8">
            <body><pre id="results">[]</pre><script>
            addEventListener("message", ({{data}}) => {{
              const results = document.getElementById("results");
              results.textContent = JSON.stringify([...JSON.parse(results.textContent), data]);
            }});</script>{frames}""", encoding="utf-8")
        run = subprocess.run(
            [BROWSER, *FLAGS, f"--user-data-dir={folder}/profile", f"file://{folder}/all.html"],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=300)
    found = re.search(r'<pre id="results">(.*?)</pre>', run.stdout, re.DOTALL)
    if not found:
        raise unittest.SkipTest(f"{BROWSER} opens no page here: {run.stderr[-300:]}")
    logged = re.findall(r"CONSOLE(?!.*willReadFrequently).*", run.stderr)  # caused by dots()
    results = sorted(json.loads(html.unescape(found[1])))
    if len(results) < len(visits):
        raise AssertionError(f"a script did not finish: {logged}")
    return [result for _, result in results], logged


@unittest.skipUnless(BROWSER, NO_BROWSER)
class InABrowser(unittest.TestCase):
    """One visit with many steps; the tests compare what the page shows after each of them."""

    @classmethod
    def setUpClass(cls):
        [[cls.steps, cls.asides, cls.check, cls.numbers]], cls.logged = visit((PAGE, """
            const click = id => $(id).click(), hover = type => point($$(".node")[3], type);
            const sample = (digit, n) => click(`[aria-label='digit ${digit}, sample ${n}']`);
            const seven = size => draw([[0.1, 0.1], [0.7, 0.1], [0.3, 0.9]].map(
              place => place.map(part => 0.1 + size * part)));
            const link = () => { scrollTo(0, 9999); click(".words a[href*='pin=8:1']"); };
            const go = hash => (location.hash = hash, wait(500)), undo = () => click("#undo");
            const play = time => (click("#play"), wait(time));
            const steps = {}, asides = {}, actions = {
              start() {}, firstStroke: () => seven(0.9), cleared: () => click("#clear"),
              drawn: () => seven(0.9), undone: undo, small: () => seven(0.2),
              unscaled: () => click("#fit"), pointed: () => hover("pointerenter"),
              lost: () => [draw([[0.6, 0.6], [0.7, 0.7]], "none"),   // lifted unseen
                point(window, "pointermove", 0, 0, 0), point(window, "pointermove", 0, 0, 1)],
              zero: () => [hover("pointerleave"), click("#undo"), click("#fit"), sample(0, 2)],
              clicked: () => drag(bars()[8], 0.3, 0.305), pinned: () => drag(bars()[8], 0.1, 2),
              scrolled: () => drag(bars()[4], 0.1, 0.4, "pointercancel"),
              released: () => press(document.body, "z", true),
              typed: () => fire($$(".node input")[2], "0,3", "change"),
              keys: () => ["End", "PageDown"].forEach(key => press(bars()[4], key)),
              freed() { $("#release").focus(); click("#release"); }, again: undo,
              firstEpoch: () => ["input", "change"].forEach(type => fire($("#epochs"), 1, type)),
              paused: async () => { await play(2400); click("#play"); },
              resumed: () => play(2400), played: () => wait(7000),
              playUndone: async () => { await play(9); undo(); undo(); await wait(999); },
              epochUndone: undo, strokeOnZero: () => draw([[0.1, 0.1], [0.3, 0.7]]),
              second: () => (select(1), wait(999)), others: () => [2, 0, 1, 2, 1].forEach(select),
              back: () => (history.back(), wait(500)), third: () => (select(2), sample(7, 1)),
              dragged: () => move(tiles()[31], [[innerWidth - 40, 0], [innerWidth - 2, 0]]),
              tileKeys: () => [[tiles()[31], "ArrowDown"], [tiles()[41], "ArrowRight"],
                [bars()[0], "Home"]].forEach(([element, key]) => press(element, key)),
              sampleKeys: () => press($("[aria-label='digit 7, sample 1']"), "ArrowLeft"),
              link, linkAgain: link, closed: () => click("#close"), sent: () => go(asides.back.url),
              garbage: () => go("#sample=1&node=8&pin=2:,3:x&epoch=3"),
              kept: () => go("#").then(() => fire($("#epochs"), 1, "input")),
            };
            for (const [name, action] of Object.entries(actions)) {
              await action();
              steps[name] = look();
              asides[name] = {url: urlOf(app.state), entries: history.length, scroll: scrollY,
                status: text("#status"), task: shown("#task") && text("#task"), top: dots("#top"),
                heights: $$("#digits rect").map(bar => parseFloat(bar.getAttribute("height"))),
                focus: document.activeElement.id + $("#release").disabled,
                points: app.state.strokes.at(-1)?.length};
            }
            const numbers = Object.fromEntries($$("[data-of]").map(
              number => [number.dataset.of.split(/\\s+/).join(" "), number.textContent]));
            const check = document.documentElement.dataset.selfcheck;
            return [steps, asides, check, numbers];""", 1366, 657))

    def test_shows_the_same_results_as_pytorch(self):
        zero, seven, two_pins = SAMPLES[1], SAMPLES[21], {2: 0.3, 4: 0.75}
        for step, model, epoch, image, pins, selected in (
                ("start", 0, 20, SAMPLES[11], {}, None), ("pinned", 0, 20, zero, {8: 1}, 8),
                ("typed", 0, 20, zero, {2: 0.3}, 8), ("freed", 0, 20, zero, {}, 8),
                ("firstEpoch", 0, 1, zero, two_pins, 8), ("paused", 0, 2, zero, two_pins, 8),
                ("resumed", 0, 8, zero, two_pins, 8), ("played", 0, 100, zero, two_pins, 8),
                ("third", 2, 20, seven, {}, None), ("dragged", 2, 20, seven, {31: 1}, 31),
                ("tileKeys", 2, 20, seven, {31: 1, 42: 0}, 42), ("kept", 0, 1, SAMPLES[11], {}, 6),
                ("sampleKeys", 2, 20, SAMPLES[18], {31: 1, 42: 0}, 42)):
            with self.subTest(step=step):
                shown = self.steps[step]
                trained = [states.get(epoch, states[20]) for states in MODELS.values()]
                hidden, reconstruction, error = results(trained[model], image, pins)
                row = hidden.argmax().item() if selected is None else selected
                nodes = [row] if model == 2 else list(range(10))
                values = [f"{value:.2f}" for value in hidden[nodes]]
                x, weights = codelet7.normalize(image).flatten(), trained[model].decoder.weight
                floor = (x - 1).clamp(min=0).square().mean().item()
                self.assertEqual([shown[name] for name in (
                    "values", "bars", "selected", "error", "unavoidable", "pinned", "on")], [
                    values, [[f"node {node}", value + ", pinned" * (node in pins)]
                             for node, value in zip(nodes, values)],
                    [f"node {selected}"] * (selected is not None) * (1 + (model == 2)),
                    f"{error:.3f}", f"{floor:.3f}", f", {len(pins)} pinned" * bool(pins),
                    f"{(hidden > 0.5).sum()} of {len(hidden)} nodes on"])
                parts = float(shown["unavoidable"]) + float(shown["excess"])
                self.assertAlmostEqual(parts, float(shown["error"]), places=9)  # as printed
                limit = weights.abs().flatten().sort().values[int(0.99 * weights.numel())]
                part = (weights[:, row] / limit).clamp(-1, 1)  # blue is 43 at 1, 172 at -1
                blue = 255 - part * torch.where(part > 0, 255 - 43, 172 - 255)
                for name, pixels in (("input", utils.to_grey(x)), ("weights", blue),
                                     ("reconstruction", utils.to_grey(reconstruction))):
                    np.testing.assert_allclose(shown[name], pixels, atol=1.01, err_msg=name)
                for card, copied, states in zip(shown["cards"], trained, STATES):
                    own, _, error = results(copied, image)
                    about, on = states.get(epoch, states[20])["results"], (own > 0.5).sum()
                    self.assertEqual(card[:4], [
                        f", epoch {epoch if epoch in states else 20}",
                        f"error {error:.3f}, {on} of {len(own)} on",
                        f"training set: error {about['error']:.2f}, {about['on']:.1f} on",
                        f"mean activation {about['mean']:.2f}, target 0.05"])

    def test_passes_its_self_check_and_fills_in_numbers_without_console_messages(self):
        self.assertEqual((self.check, self.logged), ("ok", []))
        for pin, pins in (("", {}), ("&pin=8:1", {8: 1})):
            _, _, error = results(MODELS["Blobs"][20], SAMPLES[1], pins)
            self.assertEqual(self.numbers[f"error #model=1&sample=1{pin}"], f"{error:.2f}")

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

    def test_explains_a_node(self):
        shown, encoder, state = self.steps["pointed"], MODELS["Blobs"][20].encoder, STATES[0][20]
        red, blue, empty, total, value = (float(number.replace("−", "-")) for number in
                                          re.findall(r"[+−]?\d+\.\d+", shown["sum"]))
        self.assertAlmostEqual(red + blue + empty, total, places=9)
        expected = encoder.bias[3] + encoder.weight[3].sum() * utils.BACKGROUND
        self.assertAlmostEqual(empty, expected.item(), delta=0.006)
        self.assertEqual([shown["why-title"], shown["values"][3]],
                         [f"Node 3: why {value:.2f}?", f"{value:.2f}"])
        shades = two_bits_of(state["top"]["pixels"]).view(10, -1)[8] * 85
        expected = utils.to_grey(codelet7.normalize(shades.byte()[None, None])).flatten()
        np.testing.assert_allclose(self.asides["clicked"]["top"], expected, atol=1)
        means = explorer.tensor_of(state["meansByDigit"], "<f2", 10, 10)[:, 8]
        np.testing.assert_allclose(self.asides["clicked"]["heights"], 82 * means, atol=0.1)

    def test_pinning_shows_before_and_after_and_changes_the_answers(self):
        after, before, start = (self.steps[step] for step in ("pinned", "clicked", "start"))
        self.assertEqual((before["before"], after["before"]), (None, before["reconstruction"]))
        self.assertEqual(after["change"],
                         f" ({float(after['error']) - float(before['error']):+.3f})")
        table = dict(zip(*list(STATES[0][20]["table"].values())[:2]))
        for shown in (after, before, start):
            count = table["".join(str(int(float(value[:4]) > 0.5)) for _, value in shown["bars"])]
            self.assertEqual(shown["same-answers"],
                             f"mean of {count:,} images with the same answers")

    def test_boxes_show_what_the_page_has_for_a_state(self):
        for step, boxes in (("pinned", "training lookup top"), ("second", "top"),
                            ("firstEpoch", "training no-table no-top"), ("third", "")):
            self.assertEqual(self.steps[step]["boxes"], [f"#{box}" for box in boxes.split()], step)
        self.assertAlmostEqual(float(self.steps["firstEpoch"]["place"][:-1]), 100 / 7)

    def test_undo_back_and_links_restore_the_state(self):
        for step, earlier in map(str.split, (
                "undone cleared", "released clicked", "scrolled pinned", "again keys",
                "epochUndone keys", "playUndone firstEpoch", "firstStroke drawn",
                "back strokeOnZero", "sent strokeOnZero", "link pinned", "linkAgain pinned",
                "garbage clicked")):
            self.assertEqual(self.steps[step], self.steps[earlier], step)
        second, aside = self.steps["second"], self.asides
        self.assertEqual((self.steps["strokeOnZero"]["sample"], aside["lost"]["points"],
                          second["pinned"], second["model"]), (1, 2, "", 1))
        for words in ("released the pins", second["error"], second["on"]):
            self.assertIn(words, aside["second"]["status"])
        # A disabled button loses the focus. Several models in a row are one entry of the history.
        self.assertEqual(aside["freed"]["focus"], "releasefalse")
        self.assertEqual(aside["others"]["entries"], aside["strokeOnZero"]["entries"] + 1)
        self.assertEqual([self.asides[step]["scroll"] for step in ("link", "linkAgain")], [0, 0])
        self.assertIn("What happens if you set it to 1?", self.asides["link"]["task"])
        self.assertFalse(self.asides["closed"]["task"])


@unittest.skipUnless(BROWSER, NO_BROWSER)
class InOtherWindows(unittest.TestCase):
    LAYOUT = """
        const bottom = element => element.getBoundingClientRect().bottom;
        return [0, 1, 2].map(model => {
          select(model), scrollTo(0, 0);
          const fold = Math.max(...$$("#drawing, #bars, #grid, #reconstruction").map(bottom));
          const stays = [$("#drawing"), [...bars(), ...tiles()].at(-1)].every(element => {
            element.scrollIntoView({block: "center"});   // the result stays in sight of it
            return bottom($("#error")) > 0 && bottom($("#reconstruction")) <= innerHeight + 1;
          });
          const high = id => $(id).offsetHeight / innerHeight, is = width => innerWidth === width;
          return {overflow: document.documentElement.scrollWidth > innerWidth, stays,
            wide: $(".bar").offsetWidth > 125, fold: !is(1366) || fold <= innerHeight,
            zoomed: !is(720) || high(".result") < 0.3 && high("#drawing") < 0.65};
        });"""

    def test_each_layout_fits_its_window(self):
        sizes = [(1366, 657), (1024, 768), (844, 390), (390, 844), (720, 450)]  # the last: zoomed
        shown, logged = visit(*((PAGE, self.LAYOUT, *size) for size in sizes))
        fine = {"overflow": False, "stays": True, "wide": True, "fold": True, "zoomed": True}
        self.assertEqual([*zip(sizes, shown), *logged], [(size, [fine] * 3) for size in sizes])

    def test_only_a_page_that_cannot_work_shows_the_alarm(self):
        data, half = data_of(PAGE), PAGE[:len(PAGE) // 2]
        data["models"][1]["states"][0]["check"] = STATES[0][20]["check"]
        # The page's own listener for `load` comes after the one that runs this script.
        alarm = "await wait(0); return [shown('#trouble'), text('#trouble')];"
        frame = """document.body.innerHTML = "<iframe sandbox='allow-same-origin SCRIPTS'>";
            $("iframe").contentDocument.write(HALF);  // and no end: the download has broken off
            const trouble = $("iframe").contentDocument.getElementById("trouble");
            const early = trouble.offsetHeight;
            await wait(10500);
            return [trouble.offsetHeight > 0, trouble.textContent, early];""".replace(
                "HALF", json.dumps(half).replace("<", "\\u003c"))
        cases = {"self-check failed": (explorer.fill_in(data), alarm),
                 "is damaged": (PAGE.replace('"std": 0.3081', '"std": 0.3082'), alarm),
                 "cut off": (half, alarm), "needs JavaScript": (PAGE, frame.replace("SCRIPTS", "")),
                 "was cut off": (PAGE, frame.replace("SCRIPTS", "allow-scripts"))}
        (fine, *results), _ = visit((PAGE, alarm, 800, 600),
                                    *((*case, 800, 600) for case in cases.values()))
        for words, (is_shown, message, *_) in zip(cases, results):
            self.assertTrue(is_shown and words in message, words)
        self.assertEqual((fine[0], results[-1][2]), (False, 0))  # the last: while it is loading
