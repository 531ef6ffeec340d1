"""extras/explorer.html is what explorer.py writes, says what is true of its models, and works in a
browser, if there is one."""

import json
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

import codelet7
import utils
from extras import explorer
from tests import draw_few

PAGE = explorer.PAGE.read_text(encoding="utf-8")
DATA = re.compile(r'<script type="application/json" id="data".*?>(.*?)</script>', re.DOTALL)
data_of = lambda page: json.loads(DATA.search(page)[1])
floats = lambda text, *shape: explorer.tensor_of(text, "<f2", *shape).float()
correlation = lambda a, b: torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def states_of(page):
    """{name of a model: {epoch: state}}, with the untrained state that some models share."""
    return {name: {state["epoch"]: state for state in [page["start"]] * (len(states) > 1) + states}
            for name, _, states in map(dict.values, page["models"])}


def model_of(state):
    """A model of the page in one of its states, with the page's weights."""
    model = codelet7.SparseAutoencoder(784, floats(state["encoder"]["bias"], -1).numel())
    for name, values in model.requires_grad_(False).named_parameters():
        layer, part = name.split(".")
        values.copy_(floats(state[layer][part], *values.shape))
    return model


STATES = states_of(data_of(PAGE))
MODELS = {name: {epoch: model_of(state) for epoch, state in states.items()}
          for name, states in STATES.items()}
samples_of = lambda page: explorer.tensor_of(page["samples"]["pixels"], "u1", -1, 28, 28)
X = codelet7.normalize(samples_of(data_of(PAGE))).flatten(1)
TEXT = re.sub(r"\s+", " ", DATA.sub("", PAGE))
STORIES = re.findall(r'<p data-models="(.*?)" data-from="(.*?)">(.*?)</p>', TEXT)
LINES = dict(re.findall(r'<b>(\w+)</b> <span class="soft">(.*?)</span></label>', TEXT))


def story(name, epoch):
    """The sentences that the page shows for a model at a stop."""
    return [text for names, start, text in STORIES if name in names and float(start) <= epoch][-1]


def most_like(image):
    """The digit whose mean image among the samples correlates most with an image."""
    return max(range(10), key=lambda digit: correlation(image, X.view(10, 3, 784)[digit].mean(0)))


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
        is_mean=correlation(drawn.mean(0), X.mean(0)), before=earlier and look(name, earlier[-1]),
        alike=torch.corrcoef(nodes)[~torch.eye(len(nodes), dtype=bool)].mean(),
        sharing=drawn_by(model, hidden).sum(1).double().mean())


def opened(url):
    """What the page's model gives for a URL of the page."""
    given = {"model": "1", "sample": "11", "pin": "", "epoch": "20"} | dict(
        re.findall(r"(\w+)=([^&]+)", url))
    (name, states), x = [*MODELS.items()][int(given["model"]) - 1], X[int(given["sample"])]
    epoch = float(given["epoch"]) if len(states) > 1 else 20
    model, pins = states[epoch], re.findall(r"(\d+):([\d.]+)", given["pin"])
    own, hidden = model.encode(torch.stack([x, x]))
    for node, value in pins:
        hidden[int(node)] = float(value)
    before, image = model.decode(torch.stack([own, hidden]))
    errors = [(each - x).square().mean().item() for each in (before, image)]
    return SimpleNamespace(**locals() | {"node": int(given.get("node", hidden.argmax()))})


CLAIMS = {  # words of stories and of models' lines: when they are true of look()
    "are random": lambda now: abs(now.alike) < 0.05 and abs(now.is_mean) < 0.1,
    "most nodes turn on": lambda now: now.on > 7 and now.is_mean > now.before.is_mean,
    "Fewer nodes are on": lambda now: now.on < now.before.on - 1 and now.alike > 0.4,
    "begins to follow": lambda now: now.spread > 2 * now.before.spread,
    "half (of the nodes )?are on": lambda now: 4.5 < now.on < 5.5 and now.alike < 0.2,
    "turns all nodes down": lambda now: now.on < 0.1 and now.mean < 0.1 and now.spread < 0.001,
    "One node after another": lambda now: now.none < now.before.none - 0.3,
    "one node fires|: one is on": lambda now: 0.9 < now.on < 1.3 and now.sharing < 2,
    "keeps the weights small": lambda now: now.norm < 10,
    "no node draws a 5": lambda now: 5 not in map(most_like, [*now.alone, *now.drawn[15:18]]),
    "every fifth image no": lambda now: 1 / 6 < now.none < 1 / 4,
    "like Digits": lambda now: min(map(correlation, now.nodes, look("Digits", 1).nodes)) > 0.99,
    "the weights grow": lambda now: now.norm > 1.4 * now.before.norm and now.mean < now.before.mean,
    "whisper": lambda now: now.nodes.max() > 10 and now.weak > 0.6 and now.sharing > 3,
    "usually none is on": lambda now: now.none > 0.8,
    "draws a stroke": lambda now: (now.norm ** 4 / now.nodes.pow(4).sum(1)).mean() < 60,  # pixels
    "eight (of a hundred|are on)": lambda now: 7.5 < now.on < 8.5,
}


class CommittedPage(unittest.TestCase):
    def test_is_self_contained_and_is_what_its_text_says(self):
        self.assertTrue(PAGE == explorer.fill_in(data_of(PAGE)), "run python -m extras.explorer")
        self.assertLessEqual(len(PAGE.encode()), 2_000_000)
        self.assertNotRegex(TEXT, r"https?:|src=|\.src|@import|url\(|import\(|fetch\(|XMLH|WebSock")
        self.assertEqual([[*about["settings"].values()] for about in data_of(PAGE)["models"]], [
            [10, 1e-4, 1e-4, 0], [10, .08, 1e-3, 8e-5], [10, .08, 1e-3, 0], [100, .01, 1e-3, 2e-5]])

    def test_stories_and_lines_are_true_of_the_models(self):
        said = [(LINES[name], name, 20) for name in STATES]
        said += [(story(name, epoch), name, epoch) for name in STATES for epoch in STATES[name]]
        for claim, is_true in CLAIMS.items():
            where = [at for text, *at in said if re.search(claim, text)]
            self.assertEqual(where, [at for at in where if is_true(look(*at))] or None, claim)
        self.assertEqual([], [text for text, *_ in said if not re.search("|".join(CLAIMS), text)])

    def test_answers_to_things_to_try_are_true_of_the_models(self):
        for link, digit in {
                "2&sample=15": 8, "2&sample=16": 3, "2&sample=11&node=5": 3,
                "2&sample=11&node=5&pin=5:0.2": 8, "3&sample=11&node=5&pin=5:0.2": 3,
                "2&sample=8&node=2&pin=2:1": 0, "2&sample=8&node=5&pin=5:1": 3,
                "2&sample=8&node=4&pin=4:1": 9, "2&sample=8&node=8&pin=8:1": 1}.items():
            self.assertIn(f'"#model={link}"', TEXT)
            self.assertEqual(most_like(opened("#model=" + link).image), digit, link)
        self.assertTrue(opened("#model=2&sample=8").own.max() < 0.5 and look("Blobs", 0.5).on > 9.5)
        zero, blobs, about = opened("#model=4&sample=0"), MODELS["Blobs"][20], STATES["Blobs"][20]
        only_on = zero.model.decode(zero.own * (zero.own > 0.5))
        self.assertLess((only_on - X[0]).square().mean(), zero.errors[1] + 0.1)
        means = floats(about["meansByDigit"], 10, 10)[:, 9]
        self.assertTrue(about["top"]["labels"][9].count(7) >= 8 and means[1] > means[7] - 0.05
                        and (means > 0.5).sum() >= 4 and blobs.encode(X[[3, 21]])[:, 9].min() > 0.5)
        self.assertLess(blobs.decoder.weight.view(28, 28, 10)[14:24, 16:25, 9].mean(), -0.3)


class WrittenPage(unittest.TestCase):
    def test_contains_what_was_trained(self):
        data, models = draw_few(), [codelet7.new_model(0, 4, sparsity_weight=0.1) for _ in range(3)]
        images, stops = codelet7.normalize(data.images), (0, 0.5, 1)
        with mock.patch.multiple(codelet7, EPOCHS=1, BATCH_SIZE=64, SEED=0, RHO=0.05, WEAK=0.25), \
                mock.patch("builtins.print"), mock.patch.object(
                    explorer, "MODELS", {"Few": explorer.Recipe(4, 0.1, 1e-2, 1e-3, stops)}):
            page = data_of(explorer.make_page(data))
            torch.manual_seed(0)  # as train() does
            batches = list(codelet7.make_dataloader(images, data.labels, 64))
            for model, count in zip(models, (0, 8, 16)):
                codelet7.train(model, batches[:count], count > 0, 1e-2, 0, weight_decay=1e-3)
        few = states_of(page)["Few"]
        for stop, model in zip(stops, models):
            torch.testing.assert_close(model_of(few[stop]).state_dict(), model.state_dict(),
                                       rtol=2**-10, atol=2**-24)
        hidden, reconstruction = models[-1].requires_grad_(False)(images)
        x, on, about = images.flatten(1), hidden > 0.5, few[1]
        only_on, best = models[-1].decode(hidden * on), models[-1].encoder(x)[:, 2].topk(9).indices
        first = torch.cat([(data.test_labels == digit).nonzero()[:3, 0] for digit in range(10)])
        for actual, expected in (
                (page["unavoidable"], (x - 1).clamp(min=0).square().mean()),
                (page["errorOfMeanImage"], x.var(0, correction=0).mean()),
                ([*about["results"].values()], [  # in the order of the page
                    (reconstruction - x).square().mean(), (only_on - x).square().mean(),
                    hidden.mean(), on.sum() / len(x), (~on).all(1).float().mean(),
                    hidden[hidden < 0.25].sum() / hidden.sum()]),
                (floats(about["meansByDigit"], 10, 4)[7], hidden[data.labels == 7].mean(0)),
                (floats(about["histograms"], 4, 10)[2], hidden[:, 2].histc(10, 0, 1) / len(x)),
                (about["top"]["labels"][2], data.labels[best]),
                (samples_of(page), data.test_images[first])):
            np.testing.assert_allclose(actual, expected, atol=1e-3)
        packed = explorer.tensor_of(about["top"]["pixels"], "u1", -1, 1)
        shades = (packed >> torch.tensor([0, 2, 4, 6]) & 3).view(4, 84, 84)[2, 28:56, :28]
        np.testing.assert_allclose(85 * shades, data.images[best[3]].int(), atol=43)  # the fourth


# --- In a browser ---

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
FLAGS = ("--headless --no-sandbox --hide-scrollbars --dump-dom --allow-file-access-from-files "
         "--virtual-time-budget=90000 --enable-logging=stderr --user-data-dir=profile all.html")

# Opens pages in frames, since a window cannot be as narrow as a phone's; takes STEPS on the first
# one and reads off what it shows after each of them.
SCRIPT = r"""<meta charset="utf-8"><body>
<script type="application/json" id="data"></script><script>
let frame, page, view;   // its document and window
const $ = id => page.getElementById(id), $$ = selector => [...page.querySelectorAll(selector)];
async function open(src, width = 1280, height = 800, more = {}) {   // returns the alarm
  frame = Object.assign(document.createElement("iframe"), {width, height, src, ...more});
  await new Promise(onload => document.body.append(Object.assign(frame, {onload})));
  [page, view] = [frame.contentDocument, frame.contentWindow];
  return $("trouble").offsetHeight && $("trouble").textContent;
}
function move(element, places, end = "pointerup", box = element.getBoundingClientRect()) {
  [...places, [0, 0]].forEach(([x, y], i) => element.dispatchEvent(new PointerEvent(
    i === places.length ? end : i ? "pointermove" : "pointerdown", {pointerId: 7, buttons: 1,
      bubbles: true, clientX: box.x + x * box.width, clientY: box.y + y * box.height})));
}
const type = (i, value) => Object.assign($$(".node input")[i], {value}).dispatchEvent(
  new Event("change"));
const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", {key}));
const bar = i => $$(".node .bar")[i], drag = (i, to, end) => move(bar(i), [[0, 0], [to, 0]], end);
const click = id => $(id).click(), choose = i => $$("#models input")[i].click();
const dots = canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
  .data].filter((_, i) => i % 4 === 0);
const look = () => ({hash: view.location.hash, words: ["note", "drawn", "sum"].map(
    id => $(id).textContent), texts: $$(`#models .selected b, #stories .now, #epoch, #mean-error,
    #mean-on, #weak, #error, #change, #on, #pinned, .selected .name, .node input, .tile.selected,
    #why-title`).map(part => part.value ?? (part.title || part.textContent.replace(/\s+/g, " "))),
  images: ["input", "reconstruction", "without", "difference", "difference-by-pins",
    "contributions", "weights"].map($).concat($$(".node canvas, .tile canvas")).map(dots)});
const STEPS = {
  start() {}, zero: () => $$("#samples button")[1].click(), selected: () => drag(8, 0.001),
  pinned: () => drag(8, 2), lost: () => drag(4, 1, "pointercancel"), undone: () => click("undo"),
  typed: () => type(2, "0,3"), back3() { type(4, 1); [1, 2, 3].map(() => click("undo")); },
  first() { click("play"); click("forth"); }, digits() { type(4, 1); choose(1); },
  whispers: () => choose(2), back: () => view.history.back(), strokes: () => choose(3),
  tile: () => press($$(".tile")[31], " "), end: () => press(bar(0), "End"),
  escaped: () => press(bar(0), "Escape"),
  kept() { choose(0); click("undo"); press(bar(0), "End"); choose(0); view.history.back(); },
  link: () => $$(".words a[href*='pin=5:0.2']")[1].click(), garbage() {
    view.location.hash = "#strokes=____-zz&epoch=&node=x&pin=2:,3:y&sample=1"; },
};
(async () => {
  const steps = {}, widths = [], alarms = [await open("fine.html")];
  for (const [name, action] of Object.entries(STEPS)) {
    action();
    await new Promise(done => setTimeout(done, 400));
    steps[name] = look();
  }
  click("clear");
  move($("drawing"), [[0.3, 0.3], [0.4, 0.3], [0.35, 0.45]]);   // a small 7
  const drawing = dots($("input")), srcdoc = page.documentElement.outerHTML;   // a saved page
  for (const width of [1280, 960, 768, 390, 320]) for (const model of [0, 3, 0, 3]) {
    Object.assign(page.documentElement.style, {fontSize: widths.length % 4 > 1 ? "200%" : "100%"});
    Object.assign(frame, {width}), choose(model);
    widths.push(page.documentElement.scrollWidth - width);
  }
  for (const [name, more] of [["failed"], ["damaged"], ["cut"], ["fine", {sandbox:
    "allow-same-origin"}], ["fine", {srcdoc}]]) alarms.push(await open(name + ".html", 9, 9, more));
  document.getElementById("data").textContent = JSON.stringify({steps, drawing, widths, alarms,
    length: $$("#models label, #samples *, #stops *").length});   // in the saved page
})();
</script>"""


def colours(numbers, exponent=0.7):
    """The red channel of numbers: white at 0, full red or blue at 1, darker up to 10."""
    size, full = numbers.abs(), torch.where(numbers > 0, 178, 33)
    dark = full + (torch.where(numbers > 0, 70, 3) - full) * size.log10().clamp(max=1)
    return torch.where(size <= 1, 255 + size ** exponent * (full - 255), dark)


@unittest.skipUnless(BROWSER, "extras/explorer.html was not tried: no Chromium or Chrome here")
class InABrowser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        failing = data_of(PAGE)
        failing["models"][1]["states"][-1]["check"] = STATES["Blobs"][20]["check"]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for name, page in {"all": SCRIPT, "fine": PAGE, "failed": explorer.fill_in(failing),
                               "cut": PAGE[:10**6], "damaged": PAGE.replace(".3081", ".3")}.items():
                Path(folder, f"{name}.html").write_text(page, encoding="utf-8")
            run = subprocess.run([BROWSER, *FLAGS.split()], cwd=folder, capture_output=True,
                                 timeout=200, encoding="utf-8", errors="replace")
        if not DATA.search(run.stdout):
            raise unittest.SkipTest(f"{BROWSER} opens no page here: {run.stderr[-300:]}")
        cls.logged = re.findall(r"CONSOLE(?!.*(?:willRead|sandboxed)).*fine.html.*", run.stderr)
        cls.found = SimpleNamespace(**data_of(run.stdout))

    def test_shows_what_pytorch_computes(self):
        for step, shown in self.found.steps.items():
            at, (_, drawn, summands) = opened(shown["hash"]), shown["words"]
            about, nodes, pins = STATES[at.name][at.epoch]["results"], len(at.own), len(at.pins)
            on, weights = (at.hidden > 0.5).sum().item(), at.model.decoder.weight.t()
            tiles, rows = (range(nodes), [at.node]) if nodes > 10 else ([], range(nodes))
            before, error = (round(error, 2) for error in at.errors)
            drawers = drawn_by(at.model, at.hidden).nonzero().flatten().tolist()
            drawers = drawers if len(drawers) < 4 else [len(drawers)]
            self.assertEqual(shown["texts"], [
                at.name, story(at.name, at.epoch), f"{at.epoch:g}", f"{about['error']:.2f}",
                f"{about['on']:.1f} of {nodes}", f"{about['weak']:.0%}", f"{error:.2f}",
                f"({error - before:+.2f})".replace("-", "−") * (pins > 0), f"{on} on",
                f", {pins} pinned" * (pins > 0), *(text for row in rows for text in [
                    f"node {row}"] * (row == at.node) + [f"{at.hidden[row]:.2f}"]),
                *[f"node {at.node}"] * len(tiles[:1]),
                f"Node {at.node}: why {at.own[at.node]:.2f}?"], step)
            self.assertEqual(["No node is on" in drawn, {*re.findall(r"\d+", drawn)}],
                             [on == 0, {*map(str, drawers)}], step)
            *parts, total = map(float, re.findall(r"[+-]\d+\.\d+", summands.replace("−", "-")))
            self.assertAlmostEqual(sum(parts), total, places=9)
            self.assertAlmostEqual(total, at.own[at.node].logit().item(), delta=0.016)
            for actual, expected in zip(shown["images"], [
                    *map(utils.to_grey, (at.x, at.image, at.before)),
                    colours(at.image - at.x.clamp(max=1), 1), colours(at.image - at.before, 1),
                    colours((at.x - utils.BACKGROUND) * at.model.encoder.weight[at.node] / 0.3),
                    *(colours(weights[i]) for i in [at.node, *rows, *tiles])], strict=True):
                np.testing.assert_allclose(actual, expected, atol=1.5, err_msg=step)

    def test_undo_back_links_and_keys_lead_to_the_state(self):
        zero, pinned, many = "1&sample=1&node=8", "&epoch=0.1&node=6&pin=4:1", "4&epoch=0.1"
        self.assertEqual([shown["hash"][7:] for shown in self.found.steps.values()], [
            "", "1&sample=1", zero, zero + "&pin=8:1", zero + "&pin=8:1", zero, zero + "&pin=2:0.3",
            "1", "1" + pinned[:-8], "2" + pinned, "3" + pinned, "1" + pinned, many,
            many + "&node=31", many + "&node=31&pin=31:1", many + "&node=31",
            many + "&node=31&pin=31:1", "3&sample=11&node=5&pin=5:0.2", "1&sample=1"])
        self.assertIn("released the pins", self.found.steps["strokes"]["words"][0])

    def test_says_when_it_cannot_work_and_only_then(self):
        self.assertRegex(str(self.found.alarms), "^.0, .*self-check failed.*, .*is damaged.*, "
                         ".*was cut off.*, .*needs JavaScript.*, 0.$")
        self.assertEqual((self.found.length, self.logged), (73, []))

    def test_fits_its_window_and_scales_a_small_drawing(self):
        self.assertEqual(self.found.widths, [0] * 20)
        self.assertIn(torch.tensor(self.found.drawing).view(28, 28).any(1).sum(), (19, 20))  # rows
