"""extras/explorer.html is what explorer.py writes, its sentences are true of its models, and it works
in a browser, if there is one."""

import html
import json
import math
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

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
floats = lambda text, *shape: explorer.tensor_of(text, "<f2", *shape).float()
correlation = lambda a, b: torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def assert_near(actual, expected, tolerance):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0,
                               atol=tolerance, check_dtype=False)


def model_of(state):
    """A model of the page in one of its states, with the page's weights."""
    model = codelet7.SparseAutoencoder(784, floats(state["encoder"]["bias"], -1).numel())
    for name, values in model.requires_grad_(False).named_parameters():
        layer, part = name.split(".")
        values.copy_(floats(state[layer][part], *values.shape))
    return model


def states_of(page):
    """{name of a model: {epoch: state}}, with the untrained state that some models share."""
    return {about["name"]: {state["epoch"]: state for state in
                            [page["start"]] * (len(about["states"]) > 1) + about["states"]}
            for about in page["models"]}


STATES = states_of(data_of(PAGE))
MODELS = {name: {epoch: model_of(state) for epoch, state in states.items()}
          for name, states in STATES.items()}
SAMPLES = explorer.tensor_of(data_of(PAGE)["samples"]["pixels"], "u1", -1, 28, 28)
X = codelet7.normalize(SAMPLES).flatten(1)
TEXT = re.sub(r"\s+", " ", DATA.sub("", PAGE))
STORIES = re.findall(r'<p data-models="(.*?)" data-from="(.*?)">(.*?)</p>', TEXT)
LINES = dict(re.findall(r'<b>(\w+)</b> <span class="soft">(.*?)</span></label>', TEXT))


def story(name, epoch):
    """The sentences that the page shows for a model at a stop."""
    return [text for names, start, text in STORIES
            if name in names.split() and float(start) <= epoch][-1]


def most_like(image):
    """The digit whose mean image among the samples correlates most with an image."""
    means = SAMPLES.view(10, 3, 784).float().mean(1)
    return max(range(10), key=lambda digit: correlation(image, means[digit]))


def drawn_by(model, hidden):
    """Which nodes draw most of each image, a bool for each: by the norm of what they add to it."""
    added = hidden * model.decoder.weight.norm(dim=0)
    return added >= added.amax(-1, keepdim=True) / 4


def look(name, epoch):
    """What the sentences of the page say of a model at a stop; `before`: at the stop before."""
    model, earlier = MODELS[name][epoch], [stop for stop in STATES[name] if stop < epoch]
    (hidden, drawn), nodes = model(X), model.decoder.weight.t()
    return SimpleNamespace(
        **STATES[name][epoch]["results"], drawn=drawn, nodes=nodes, norm=nodes.norm(dim=1).mean(),
        alone=model.decode(torch.eye(len(nodes))), spread=drawn.var(0).mean(),
        is_mean=correlation(drawn.mean(0), X.mean(0)),
        alike=torch.corrcoef(nodes)[~torch.eye(len(nodes), dtype=bool)].mean(),
        sharing=drawn_by(model, hidden).sum(1).double().mean(),
        before=look(name, earlier[-1]) if earlier else None)


def opened(url):
    """What the page's model gives for a URL of the page."""
    part = lambda name, default: re.search(f"{name}=([^&]+)", f"{url}&{name}={default}")[1]
    name, epoch = [*MODELS][int(part("model", 1)) - 1], float(part("epoch", 20))
    epoch = epoch if epoch in MODELS[name] else 20
    model, x = MODELS[name][epoch], X[int(part("sample", 11))]
    own, pins = model.encode(x[None])[0], re.findall(r"(\d+):([\d.]+)", part("pin", "-"))
    hidden = own.clone()
    for node, value in pins:
        hidden[int(node)] = float(value)
    image, before = model.decode(hidden), model.decode(own)
    error, error_before = ((each - x).square().mean().item() for each in (image, before))
    return SimpleNamespace(**locals() | {"node": int(part("node", hidden.argmax().item()))})


CLAIMS = {  # words of stories and of models' lines: when they are true of look()
    "weights are random": lambda now: abs(now.alike) < 0.05 and abs(now.is_mean) < 0.1,
    "most nodes turn on": lambda now: now.on > 7 and now.is_mean > now.before.is_mean,
    "Fewer nodes are on now": lambda now: now.on < now.before.on - 1 and now.alike > 0.4,
    "begins to follow": lambda now: now.spread > 2 * now.before.spread,
    "half (of the nodes )?are on": lambda now: 4.5 < now.on < 5.5 and now.alike < 0.2,
    "turns all nodes down": lambda now: now.on < 0.1 and now.mean < 0.1 and now.spread < 0.001,
    "One node after another": lambda now: now.none < now.before.none - 0.3,
    "one node fires|: one is on": lambda now: 0.9 < now.on < 1.3 and now.sharing < 2,
    "keeps the weights small": lambda now: now.norm < 10,
    "no node draws a 5": lambda now: 5 not in map(most_like, [*now.alone, *now.drawn[15:18]]),
    "for every fifth image no": lambda now: 1 / 6 < now.none < 1 / 4,
    "looks like Digits": lambda now: min(map(correlation, now.nodes, look("Digits", 1).nodes)) > 0.99,
    "the weights grow": lambda now: now.norm > 1.4 * now.before.norm and now.mean < now.before.mean,
    "nodes whisper": lambda now: now.nodes.max() > 10 and now.weak > 0.6 and now.sharing > 3,
    "usually none is on": lambda now: now.none > 0.8,
    "draws a stroke": lambda now: (now.norm ** 4 / now.nodes.pow(4).sum(1)).mean() < 60,  # pixels
    "eight of a hundred|eight are on": lambda now: 7.5 < now.on < 8.5,
}


class CommittedPage(unittest.TestCase):
    def test_is_the_template_filled_in_and_at_most_two_megabytes(self):
        self.assertTrue(PAGE == explorer.fill_in(data_of(PAGE)), "run python -m extras.explorer")
        self.assertLessEqual(len(PAGE.encode()), 2_000_000)

    def test_is_self_contained(self):
        for external in ("http:", "https:", "src=", ".src", "@import", "url(", "import(", "fetch(",
                         "XMLHttpRequest", "WebSocket"):
            self.assertNotIn(external, TEXT)

    def test_models_are_trained_as_the_text_says(self):
        self.assertEqual([[*about["settings"].values()] for about in data_of(PAGE)["models"]], [
            [10, 1e-4, 1e-4, 0], [10, 0.08, 1e-3, 8e-5], [10, 0.08, 1e-3, 0], [100, 0.01, 1e-3, 2e-5]])

    def test_stories_and_lines_are_true_of_the_models(self):
        self.assertEqual([*LINES], [*STATES])
        said = [(LINES[name], name, 20) for name in LINES]
        said += [(story(name, epoch), name, epoch) for name in LINES for epoch in STATES[name]]
        for text, *where in said:
            claims = [claim for claim in CLAIMS if re.search(claim, text)]
            self.assertTrue(claims, text)
            self.assertEqual([], [claim for claim in claims if not CLAIMS[claim](look(*where))], where)
        for claim in CLAIMS:
            self.assertTrue(any(re.search(claim, text) for text, *_ in said), claim)

    def test_answers_to_things_to_try_are_true_of_the_models(self):
        self.assertGreater(look("Blobs", 0.5).on, 9.5)
        for link, digit in (
                ("2&sample=15", 8), ("2&sample=16", 3), ("2&sample=11&node=5", 3),
                ("2&sample=11&node=5&pin=5:0.2", 8), ("3&sample=11&node=5&pin=5:0.2", 3),
                ("2&sample=8&node=2&pin=2:1", 0), ("2&sample=8&node=5&pin=5:1", 3),
                ("2&sample=8&node=4&pin=4:1", 9), ("2&sample=8&node=8&pin=8:1", 1)):
            self.assertIn(f'"#model={link}"', TEXT)
            self.assertEqual(most_like(opened("#model=" + link).image), digit, link)
        self.assertLess(opened("#model=2&sample=8").hidden.max(), 0.5)
        nine, about = MODELS["Blobs"][20], STATES["Blobs"][20]
        means = floats(about["meansByDigit"], 10, 10)[:, 9]
        self.assertGreaterEqual(about["top"]["labels"][9].count(7), 8)
        self.assertTrue(means[1] > means[7] - 0.05 and (means > 0.5).sum() >= 4)
        self.assertGreater(nine.encode(X[[3, 21]])[:, 9].min(), 0.5)
        self.assertLess(nine.decoder.weight.view(28, 28, 10)[14:24, 16:25, 9].mean(), -0.3)
        zero = opened("#model=4&sample=0")
        only_on = zero.model.decode(zero.hidden * (zero.hidden > 0.5))
        self.assertLess((only_on - X[0]).square().mean(), zero.error + 0.1)


class WrittenPage(unittest.TestCase):
    def test_contains_what_was_trained(self):
        data, models = draw_few(), [codelet7.new_model(0, 4, sparsity_weight=0.1) for _ in range(3)]
        recipes = {"Few": explorer.Recipe(4, 0.1, 1e-2, 1e-3, stops=(0, 0.5, 1)),
                   "Many": explorer.Recipe(11, 0.0, 1e-2, 0.0, stops=(1,))}
        images = codelet7.normalize(data.images)
        with mock.patch("builtins.print"), mock.patch.object(explorer, "MODELS", recipes), \
                mock.patch.multiple(codelet7, EPOCHS=1, BATCH_SIZE=64, SEED=0, RHO=0.05, WEAK=0.25):
            page = data_of(explorer.make_page(data))
            torch.manual_seed(0)  # as train() does
            batches = list(codelet7.make_dataloader(images, data.labels, 64))
            for model, count in zip(models, (0, 8, 16)):
                codelet7.train(model, batches[:count], count > 0, 1e-2, 0, weight_decay=1e-3)
        first = torch.cat([(data.test_labels == digit).nonzero()[:3, 0] for digit in range(10)])
        self.assertEqual(page["samples"]["pixels"], explorer.base64_of(data.test_images[first], "u1"))
        few, many = states_of(page).values()
        self.assertEqual((list(few), list(many)), ([0, 0.5, 1], [1]))
        for epoch, model in zip(few, models):
            torch.testing.assert_close(model_of(few[epoch]).state_dict(), model.state_dict(),
                                       rtol=2**-10, atol=2**-24)

        hidden, reconstruction = models[-1].requires_grad_(False)(images)
        x, on, about = images.flatten(1), hidden > 0.5, few[1]
        for name, value in {
                "error": (reconstruction - x).square().mean(), "on": on.sum() / len(x),
                "errorOfOn": (models[-1].decode(hidden * on) - x).square().mean(),
                "mean": hidden.mean(), "none": (~on).all(1).double().mean(),
                "weak": hidden[hidden < 0.25].sum() / hidden.sum()}.items():
            assert_near(about["results"][name], value, 1e-3)
        assert_near(page["unavoidable"], (x - 1).clamp(min=0).square().mean(), 1e-3)
        assert_near(page["errorOfMeanImage"], x.var(0, correction=0).mean(), 1e-3)
        assert_near(floats(about["meansByDigit"], 10, 4)[7], hidden[data.labels == 7].mean(0), 1e-3)
        assert_near(floats(about["histograms"], 4, 10)[2],
                    (10 * hidden[:, 2]).long().bincount(minlength=10) / len(x), 1e-3)
        best, top = hidden[:, 2].argsort(descending=True)[:9], about["top"]
        self.assertEqual(top["labels"][2], data.labels[best].tolist())
        packed = explorer.tensor_of(top["pixels"], "u1", -1, 1)
        shades = (packed >> torch.tensor([0, 2, 4, 6]) & 3).view(4, 84, 84)[2, 28:56, :28]
        assert_near(85 * shades, data.images[best[3]], 43)  # the fourth image


# --- In a browser ---

BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)
FLAGS = ("--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --dump-dom "
         "--disable-background-networking --allow-file-access-from-files --window-size=2000,1200 "
         "--virtual-time-budget=90000 --enable-logging=stderr").split()

# Opens pages in frames, since a window cannot be as narrow as a phone's; takes STEPS on the first
# one and reads off what it shows after each of them.
SCRIPT = r"""<meta charset="utf-8"><pre></pre><script>
let page, view;   // a frame's document and window
const wait = time => new Promise(done => setTimeout(done, time)), $ = id => page.getElementById(id);
const $$ = (selector, i) => i >= 0 ? $$(selector)[i] : [...page.querySelectorAll(selector)];
async function open(src, width = 1280, height = 800, more = {}) {
  const frame = Object.assign(document.createElement("iframe"), {width, height, src, ...more});
  await new Promise(onload => document.body.append(Object.assign(frame, {onload})));
  [page, view] = [frame.contentDocument, frame.contentWindow];
  return $("trouble").offsetHeight && $("trouble").textContent;
}
function move(element, places, end = "pointerup", box = element.getBoundingClientRect()) {
  places.forEach(([x, y], i) => (i ? view : element).dispatchEvent(new PointerEvent(
    i ? "pointermove" : "pointerdown", {pointerId: 7, buttons: 1, clientX: box.x + x * box.width,
      clientY: box.y + y * box.height})));
  view.dispatchEvent(new PointerEvent(end, {pointerId: 7}));
}
const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", {key}));
const set = (input, value, type) => Object.assign(input, {value}).dispatchEvent(new Event(type));
const bar = i => $$("[role=slider]", i), drag = (i, to, end) => move(bar(i), [[0.1, 0], [to, 0]], end);
const click = id => $(id).click(), choose = i => $$("#models input", i).click();
const dots = canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
  .data].filter((_, i) => i % 4 === 0);
const look = () => ({hash: view.location.hash, texts: ["error", "change", "on", "pinned", "epoch",
    "mean-error", "mean-on", "weak", "why-title", "drawn", "note", "sum"].map(id => $(id).textContent),
  shown: $$("#stories .now, #models .selected b").map(part => part.innerHTML.replace(/\s+/g, " ")),
  values: $$(".node input").map(input => input.value),
  marked: $$(".node.selected .name, .tile.selected").map(node => node.title || node.textContent),
  images: ["input", "reconstruction", "without", "difference", "difference-by-pins", "weights",
    "contributions"].map($).concat($$(".node canvas, .tile canvas")).map(dots)});
const STEPS = {
  start() {}, zero: () => $$("#samples button", 1).click(), selected: () => drag(8, 0.105),
  pinned: () => drag(8, 2), cancelled: () => drag(4, 1, "pointercancel"), unpinned: () => click("undo"),
  typed: () => set($$(".node input", 2), "0,3", "change"), more: () => press(bar(4), "End"),
  twice() { click("undo"); click("undo"); }, first: () => ["input", "change"].forEach(
    type => set($("epochs"), 1, type)),
  digits() { press(bar(4), "End"); choose(1); }, whispers: () => choose(2),
  back: () => view.history.back(), strokes: () => choose(3), tile: () => press($$(".tile", 31), " "),
  end: () => press(bar(0), "End"), escaped: () => press(bar(0), "Escape"),
  async kept() { choose(0); click("undo"); press(bar(0), "End"); choose(0); view.history.back(); },
  link: () => $$(".words a[href*='pin=5:0.2']", 1).click(), forth() { click("play"); click("forth"); },
  garbage() { view.location.hash = "#strokes=____-zz&epoch=&node=x&pin=2:,3:y&sample=1"; },
};
(async () => {
  const steps = {}, widths = {}, alarms = [await open("fine.html")];
  for (const [name, action] of Object.entries(STEPS)) {
    action();
    await wait(400);
    steps[name] = look();
  }
  click("clear");
  move($("drawing"), [[0.3, 0.3], [0.4, 0.3], [0.35, 0.45]]);
  const drawing = dots($("input")), srcdoc = page.documentElement.outerHTML;   // as browsers save it
  for (const size of [[1280, 800], [768, 1024], [390, 844], [320, 640], [844, 390]]) {
    await open("fine.html", ...size);
    widths[size] = [0, 3].flatMap(model => ["100%", "200%"].map(fontSize => {
      Object.assign(page.documentElement.style, {fontSize});
      choose(model);
      return page.documentElement.scrollWidth - size[0];
    }));
  }
  for (const name of ["failed", "damaged", "cut"]) alarms.push(await open(name + ".html"));
  alarms.push(await open("fine.html", 9, 9, {sandbox: "allow-same-origin"}), await open("", 9, 9, {srcdoc}));
  const saved = ["#models label", "#samples button", "#stops li"].map(of => $$(of).length);
  document.querySelector("pre").textContent = JSON.stringify({steps, drawing, widths, alarms, saved});
})();
</script>"""


def colours(numbers, exponent=0.7):
    """The red channel of numbers: white at 0, full red or blue at 1, darker up to 10."""
    size, full = numbers.abs(), torch.where(numbers > 0, 178, 33)
    dark = (torch.where(numbers > 0, 70, 3) - full) * size.log10().clamp(max=1)
    return torch.where(size <= 1, 255 + size ** exponent * (full - 255), full + dark)


@unittest.skipUnless(BROWSER, "extras/explorer.html was not tried: no Chromium or Chrome here")
class InABrowser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        failing = data_of(PAGE)
        failing["models"][1]["states"][-1]["check"] = STATES["Blobs"][20]["check"]
        pages = {"all": SCRIPT, "fine": PAGE, "failed": explorer.fill_in(failing),
                 "cut": PAGE[:len(PAGE) // 2], "damaged": PAGE.replace(".3081", ".3082", 1)}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for name, page in pages.items():
                Path(folder, f"{name}.html").write_text(page, encoding="utf-8")
            run = subprocess.run(
                [BROWSER, *FLAGS, f"--user-data-dir={folder}/profile", f"file://{folder}/all.html"],
                capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=300)
        logged = re.findall(r"CONSOLE(?!.*(?:willRead|sandboxed)).*fine.html.*", run.stderr)
        found = re.search(r"<pre>(.*?)</pre>", run.stdout, re.DOTALL)
        if not found:
            raise unittest.SkipTest(f"{BROWSER} opens no page here: {run.stderr[-300:]}")
        cls.found = SimpleNamespace(**json.loads(html.unescape(found[1] or "{}")), logged=logged)

    def test_shows_what_pytorch_computes(self):
        for step, shown in self.found.steps.items():
            with self.subTest(step=step):
                at = opened(shown["hash"])
                about, nodes = STATES[at.name][at.epoch]["results"], len(at.hidden)
                on, weights = (at.hidden > 0.5).sum().item(), at.model.decoder.weight.t()
                rows = [at.node] if nodes > 10 else range(nodes)
                change = round(at.error, 2) - round(at.error_before, 2)
                *texts, drawn, _, summands = shown["texts"]
                self.assertEqual(texts, [
                    f"{at.error:.2f}", f"({change:+.2f})".replace("-", "−") * bool(at.pins),
                    f"{on} on", f", {len(at.pins)} pinned" * bool(at.pins), f"{at.epoch:g}",
                    f"{about['error']:.2f}", f"{about['on']:.1f} of {nodes}", f"{about['weak']:.0%}",
                    f"Node {at.node}: why {at.own[at.node]:.2f}?"])
                self.assertEqual(shown["shown"], [at.name, story(at.name, at.epoch)])
                self.assertEqual(shown["values"], [f"{at.hidden[row]:.2f}" for row in rows])
                self.assertEqual(shown["marked"], [f"node {at.node}"] * (2 if nodes > 10 else 1))
                drawers = drawn_by(at.model, at.hidden).nonzero().flatten().tolist()
                bias = (at.model.decoder.bias - math.atanh(utils.BACKGROUND)).norm() / 3
                isBias = on == 0 and (at.hidden * weights.norm(dim=1)).max() < bias
                self.assertEqual([on == 0, isBias, on == 0 and not isBias and about["weak"] > 0.5],
                                 [words in drawn for words in ("No node is on", "bias", "whispers")])
                self.assertEqual(sorted(map(int, re.findall(r"\d+", drawn))), [] if isBias else
                                 drawers if len(drawers) < 4 else [len(drawers)])
                red, blue, empty, total, _, *_ = (float(number.replace("−", "-")) for number in
                                                  re.findall(r"[+−]?\d+\.\d+", summands))
                self.assertAlmostEqual(red + blue + empty, total, places=9)
                self.assertAlmostEqual(total, at.own[at.node].logit().item(), delta=0.016)
                seen = at.x - utils.BACKGROUND
                for actual, expected in zip(shown["images"], [
                        *map(utils.to_grey, (at.x, at.image, at.before)),
                        colours(at.image - at.x.clamp(max=1), 1), colours(at.image - at.before, 1),
                        colours(weights[at.node]), colours(seen * at.model.encoder.weight[at.node] / 0.3),
                        *map(colours, weights[rows]), *map(colours, weights[:nodes * (nodes > 10)])],
                        strict=True):
                    assert_near(actual, expected, 1.5)

    def test_undo_back_links_and_keys_lead_to_the_state(self):
        zero, many = "1&sample=1&node=8", "4&epoch=0.1&sample=1"
        pinned = "&epoch=0.1&sample=1&node=8&pin=4:1"
        self.assertEqual([shown["hash"][7:] for shown in self.found.steps.values()], [
            "", "1&sample=1", zero, f"{zero}&pin=8:1", f"{zero}&pin=8:1", zero, f"{zero}&pin=2:0.3",
            f"{zero}&pin=2:0.3,4:1", zero, "1&epoch=0.1&sample=1&node=8", "2" + pinned, "3" + pinned,
            "1" + pinned, many, f"{many}&node=31", f"{many}&node=31&pin=31:1", f"{many}&node=31",
            f"{many}&node=31&pin=31:1", "3&sample=11&node=5&pin=5:0.2",
            "3&epoch=0.1&sample=11&node=5&pin=5:0.2", "1&sample=1"])
        self.assertIn("released the pins", self.found.steps["strokes"]["texts"][10])

    def test_says_when_it_cannot_work_and_only_then(self):
        fine, failed, damaged, cut, script, saved = self.found.alarms
        self.assertEqual((fine, saved, self.found.saved, self.found.logged), (0, 0, [4, 30, 9], []))
        for alarm, words in ((failed, "self-check failed"), (damaged, "is damaged"),
                             (cut, "was cut off"), (script, "needs JavaScript")):
            self.assertIn(words, str(alarm))

    def test_nothing_is_wider_than_the_window(self):
        self.assertEqual([*self.found.widths.values()], [[0, 0, 0, 0]] * 5)

    def test_a_small_drawing_gets_mnists_size(self):
        image = torch.tensor(self.found.drawing).view(28, 28)
        self.assertIn(max(place.max() - place.min() for place in image.nonzero().t()), (18, 19))
        for place in digits.centre_of_mass(image.numpy()):
            self.assertAlmostEqual(place, 14.5, delta=0.75)
