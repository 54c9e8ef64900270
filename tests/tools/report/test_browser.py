"""The report in a real browser: what a reader sees, and what the page does not do."""

import json
import math
import time
from pathlib import Path

import pytest
from PIL import Image
from support.browser import EXECUTABLE, Browser

from sgm_plugins.tools.report.page import Report
from sgm_plugins.tools.report.record import Record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no chromium here: apt-get install chromium"),
]

ROWS = 40
EVIL = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"></script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def nothing_noted_yet(browser):
    browser.errors.clear()
    browser.requests.clear()


def make_run(folder: Path, **changes) -> Path:
    """A run with losses, two bins of sigma (10 before 2 in the alphabet), a rate and grids; its texts are hostile."""
    (folder / "images").mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(ROWS):
            row = {"step": step, "loss": math.exp(-step / 20), "lr_abs": 1e-3, "epoch": step // 10, EVIL: 1.0}
            row |= {"loss/sigma_10": 2.0, "loss/sigma_2": 1.0} if step % 2 else {"val_loss": "NaN" if step else 1.5}
            file.write(json.dumps(row) + "\n")
    for step, colour in ((1, "red"), (10, "green"), (40, "blue")):
        Image.new("RGB", (80, 80), colour).save(folder / "images" / f"samples-step-{step:08d}.png")
    Image.new("L", (80, 80), 128).save(folder / "images" / "inputs-step-00000010.png")
    (folder / "images" / "txt-step-00000040.txt").write_text(f"a dog\n{EVIL}\n")
    (folder / "lock.json").write_text(
        json.dumps([{"kind": "networks", "name": EVIL, "distribution": "x", "version": 1}])
    )
    facts = {
        "state": "finished", "step": ROWS, "total_steps": ROWS, "updated": time.time(), "reason": EVIL, "seconds": 90.0,
        "samples": 400, "environment": {"torch": EVIL},
        "config": [[f"note: {EVIL}", f"a.yaml:{EVIL}"], ["x: 1", "default of y"]],
        "sessions": [{"started": 1.0, "step": 0, "command": EVIL}, {"started": 2.0, "step": 20, "command": EVIL}],
        "pace": [[0, 0, 0.0], [10, 100, 20.0], [40, 400, 90.0]],
    }  # fmt: skip
    return Report(folder).write(Record(**(facts | changes)))


def points(browser: Browser, chart: str, name: str) -> int:
    """Points of a drawn curve, counted in its path."""
    path = f'[...document.querySelectorAll("article.chart")].find((a) => a.dataset.title === {json.dumps(chart)})'
    curve = f'[...{path}.querySelectorAll("path.raw")].find((p) => p.dataset.name === {json.dumps(name)})'
    return browser.evaluate(f'{curve}.getAttribute("d").split(/[ML]/).length - 1')


def test_the_charts_have_every_point_and_nothing_is_asked_of_anybody(browser, tmp_path):
    page = make_run(tmp_path / "run")
    browser.open(page)
    titles = browser.evaluate('[...document.querySelectorAll("article.chart h2")].map((h) => h.textContent)')
    assert titles == [
        "loss",
        "loss by sigma",
        "learning rate",
        "steps per second",
        "samples per second",
        EVIL.rpartition("/")[0],
    ]
    assert points(browser, "loss", "loss") == ROWS
    assert points(browser, "loss", "val_loss") == 1  # the others are not finite
    assert points(browser, "loss by sigma", "loss/sigma_2") == ROWS // 2
    assert points(browser, "learning rate", "lr_abs") == ROWS
    assert points(browser, "steps per second", "steps per second") == 2
    bins = browser.evaluate(
        "[...document.querySelectorAll(\"[data-title='loss by sigma'] path.raw\")].map((p) => p.dataset.name)"
    )
    assert bins == ["loss/sigma_2", "loss/sigma_10"]
    assert browser.evaluate('document.querySelectorAll("[data-title=loss] path.wild").length') == ROWS // 2 - 1
    assert browser.evaluate('document.querySelectorAll("[data-title=loss] line.resumed").length') == 1
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:image/")] == [page.resolve().as_uri()]


def test_what_is_to_be_compared_shares_a_chart(browser, tmp_path):
    """The loss in training and in validation, raw and averaged; each part of an autoencoder's; levels of one loss."""
    keys = ["loss", "val_loss", "val_loss_ema", "train/kl_loss", "val/kl_loss", "val_ema/kl_loss"]
    keys += [f"{loss}/sigma_{sigma}" for loss in keys[:3] for sigma in (0.05, 0.5, 10)]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(3):
            file.write(json.dumps({"step": step} | dict.fromkeys(keys, 1.0 + step)) + "\n")
    browser.open(Report(tmp_path).write(Record()))
    shown = browser.evaluate("""Object.fromEntries([...document.querySelectorAll("article.chart")].map(
        (chart) => [chart.dataset.title, [...chart.querySelectorAll("path.raw")].map((path) => path.dataset.name)]))""")
    assert shown == {
        "loss": keys[:3],
        "kl_loss": keys[3:6],
        "loss by sigma": keys[6:9],
        "val_loss by sigma": keys[9:12],
        "val_loss_ema by sigma": keys[12:],
    }
    assert browser.errors == []


def test_hostile_texts_are_shown_and_never_run(browser, tmp_path):
    browser.open(make_run(tmp_path / "run"))
    assert browser.evaluate("document.title") == "run · finished"
    text = browser.evaluate("document.body.textContent")
    # caption, reason, lock, environment, config and its origin, two sessions, and a metric in its title and legend
    assert text.count(EVIL) >= 9
    assert browser.evaluate('document.querySelectorAll("script").length') == 2
    assert browser.evaluate('document.querySelectorAll("img:not(#grids img)").length') == 0
    assert browser.errors == []


def test_the_policy_of_the_page_stops_a_script_that_would_be_in_it(browser, tmp_path):
    page = make_run(tmp_path / "run")
    page.write_text(page.read_text().replace("<main>", "<main><script>document.title='run'</script>"))
    browser.open(page)
    assert browser.evaluate("document.title") == "run · finished"
    assert any("Content Security Policy" in error for error in browser.errors)


def test_the_slider_changes_the_grid(browser, tmp_path):
    browser.open(make_run(tmp_path / "run"))
    script = """(async () => {
        const slider = document.getElementById("step"), seen = [];
        for (const at of [0, 1, 2]) {
            slider.value = at;
            slider.dispatchEvent(new Event("input"));
            const image = document.querySelector('figure[data-key="samples"] img');
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 1;
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const other = document.querySelector('figure[data-key="inputs"]');
            const colour = context.getImageData(0, 0, 1, 1).data.slice(0, 3);
            seen.push([document.getElementById("shown-step").textContent, ...colour,
                       other.classList.contains("absent"), other.querySelector("span").textContent]);
        }
        return seen;
    })()"""
    assert browser.evaluate(script) == [
        ["1", 255, 0, 0, True, ""],
        ["10", 0, 128, 0, False, ""],
        ["40", 0, 0, 255, False, " (of step 10)"],
    ]
    assert browser.errors == []


def test_a_running_page_loads_itself_again_and_a_finished_one_does_not(browser, tmp_path):
    page = make_run(tmp_path / "run", state="running", interval=0.1)
    browser.open(page)
    # the page may load itself again at any moment: only what is said by one whole document counts
    set_step = """(() => {
        const slider = document.getElementById("step");
        if (document.readyState !== "complete" || !slider.oninput) return null;
        window.before = true;
        slider.value = 1;
        slider.dispatchEvent(new Event("input"));
        return document.getElementById("shown-step").textContent;
    })()"""
    browser.wait_for(f'{set_step} === "10"')
    browser.wait_for('document.readyState === "complete" && !window.before')
    assert browser.evaluate('document.getElementById("shown-step").textContent') == "10"  # what was set is kept
    assert browser.errors == []
    make_run(tmp_path / "b" / "run")
    browser.open(tmp_path / "b" / "run" / "report.html")
    loads = browser.loads
    browser.evaluate("new Promise((done) => setTimeout(done, 6500))")
    assert browser.loads == loads


def test_a_running_page_without_news_says_so(browser, tmp_path):
    page = make_run(tmp_path / "run", state="running", updated=time.time() - 3600)
    browser.open(page)
    assert "no news for 60 min" in browser.evaluate('document.getElementById("state").textContent')


def test_switches_act(browser, tmp_path):
    browser.open(make_run(tmp_path / "run"))
    curve = 'document.querySelector("[data-title=loss] path.raw").getAttribute("d")'
    linear = browser.evaluate(curve)
    browser.evaluate('document.querySelector("[data-title=loss] input[type=checkbox]").click()')
    assert browser.evaluate(curve) != linear
    count = 'document.querySelectorAll("[data-title=loss] path.raw").length'
    assert browser.evaluate(count) == 2
    browser.evaluate('document.querySelector("[data-title=loss] .legend button").click()')
    assert browser.evaluate(count) == 1
    row = 'getComputedStyle(document.querySelector("tr.default")).display'
    assert browser.evaluate(row) == "none"
    browser.evaluate('document.getElementById("defaults").click()')
    assert browser.evaluate(row) == "table-row"
    browser.evaluate("sessionStorage.clear()")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(browser, tmp_path, width, dark):
    browser.open(make_run(tmp_path / "run"), width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    bright = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(bright) < 200) == dark
    browser.screenshot(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("L").resize((1, 1)).getpixel((0, 0)) < 80 if dark else True
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


@pytest.mark.parametrize(
    ("steps", "losses"),
    [
        ([10**15, 10**15 + 1, 10**15 + 3], [1.0, 2.0, 3.0]),
        ([2**53 - 3, 2**53 - 2, 2**53 - 1], [1e-308, 1e299, 1.0]),
        ([2**53 - 1], [-1e299]),
        ([0, 1, 2**53 - 1], [9e299, -9e299, 1e308]),
        ([0, 1, 2], [1e16, 1e16 + 2, 1e16 + 4]),
    ],
)
def test_strange_numbers_are_drawn(browser, tmp_path, steps, losses):
    rows = [{"step": step, "loss": loss} for step, loss in zip(steps, losses, strict=True)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    browser.open(Report(tmp_path).write(Record()))
    assert points(browser, "loss", "loss") == sum(abs(loss) < 1e300 for loss in losses)
    drawn = browser.evaluate('document.querySelector("path.raw").getAttribute("d")')
    assert "NaN" not in drawn
    assert "Infinity" not in drawn
    assert browser.evaluate('document.querySelectorAll("text.tick").length') < 100
    assert browser.errors == []
