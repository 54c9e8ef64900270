"""The HTML: what stands in it, how large it gets, and that a kill leaves a whole one."""

import json
import math
import re
import time

import numpy as np
import pytest
from PIL import Image

from sgm_plugins.tools.report.page import Report, as_json, charts, duration, group, natural, throughput, when
from sgm_plugins.tools.report.record import Record


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize(
    ("key", "chart"),
    [
        ("loss", "loss"),
        ("val_loss", "loss"),
        ("loss_step", "loss"),
        ("val_loss_ema", "loss"),
        ("train/loss", "loss"),
        ("train/kl_loss", "kl_loss"),
        ("val/kl_loss", "kl_loss"),
        ("val_ema/kl_loss", "kl_loss"),
        ("val/psnr", "psnr"),
        ("val_loss_ema/sigma_0.1", "val_loss_ema by sigma"),
        ("loss/sigma_0.1", "loss by sigma"),
        ("val_loss/sigma_12", "val_loss by sigma"),
        ("val/ema/psnr", "val/ema"),
        ("lr_abs", "learning rate"),
        ("lr-AdamW", "learning rate"),
        ("lrx", "lrx"),
        ("grad_norm", "grad_norm"),
    ],
)
def test_metrics_that_belong_together_share_a_chart(key, chart):
    assert group(key) == chart


def test_charts_are_in_the_order_of_importance_and_bins_in_that_of_their_numbers():
    point = [(0, 1.0)]
    keys = ["zeta", "lr_abs", "val_loss/sigma_1", "loss/sigma_10", "loss/sigma_2", "loss/sigma_0.5", "loss", "alpha"]
    found = charts(dict.fromkeys(keys, point))
    assert [chart["title"] for chart in found] == [
        "loss", "loss by sigma", "val_loss by sigma", "learning rate", "alpha", "zeta",
    ]  # fmt: skip
    assert [s["name"] for s in found[1]["series"]] == ["loss/sigma_0.5", "loss/sigma_2", "loss/sigma_10"]
    assert sorted(["s_1e-3", "s_20", "s_3"], key=natural) == ["s_1e-3", "s_3", "s_20"]


def test_what_is_not_finite_is_null():
    series = charts({"loss": [(0, math.nan), (1, math.inf), (2, 0.123456789)]})[0]["series"][0]
    assert series == {"name": "loss", "x": [0, 1, 2], "y": [None, None, 0.123457]}


def test_the_throughput_is_that_between_the_marks():
    record = Record(pace=[[0, 0, 0.0], [10, 40, 5.0], [10, 40, 9.0], [30, 120, 19.0]])
    assert throughput(record) == {
        "steps per second": [(10, 2.0), (30, 2.0)],
        "samples per second": [(10, 8.0), (30, 8.0)],
    }
    assert throughput(Record()) == {}


def test_json_in_a_script_can_not_end_it():
    text = as_json({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (67, "1 min 7 s"), (7_500, "2 h 5 min"), (190_000, "2 d 4 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_time_that_is_none_is_left_open():
    assert [when(value) for value in (1e300, math.nan, "x", None)] == [""] * 4
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", when(time.time()))


def test_a_folder_with_nothing_but_metrics_has_a_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 41, "loss": 1, "epoch": 2}\n')
    page = Report(tmp_path).write(Record()).read_text()
    assert "its end was not recorded" in page
    assert "<dt>step</dt><dd>42</dd>" in page
    assert "<dt>epoch</dt><dd>2</dd>" in page
    assert data_of(page)["charts"][0]["series"][0]["y"] == [1.0]


def test_the_remaining_time_follows_from_the_throughput(tmp_path):
    record = Record(state="running", step=30, total_steps=90, pace=[[0, 0, 0.0], [30, 60, 15.0]])
    page = Report(tmp_path).write(record).read_text()
    assert "<dt>remaining</dt><dd>30 s</dd>" in page
    assert "<dt>samples/s</dt><dd>4</dd>" in page
    record.state = "finished"
    assert "<dt>remaining" not in Report(tmp_path).write(record).read_text()


def test_a_long_run_has_a_page_below_ten_megabytes_that_says_what_it_leaves_out(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for step in range(40):
        for key in ("samples", "inputs"):
            noise = Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8))
            noise.save(tmp_path / "images" / f"{key}-step-{step:08d}.png")
    keys = [f"m{i}/value" for i in range(100)]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(2500):
            file.write(json.dumps({"step": step} | {key: math.sin(step * i) for i, key in enumerate(keys)}) + "\n")
    record = Record(config=[["x" * 1000, "y" * 1000]] * 5000)
    written = Report(tmp_path).write(record)
    assert written.stat().st_size < 10e6
    left_out = re.search(r"Left out: (.*?)</p>", written.read_text())[1]
    assert "the metrics m" in left_out
    assert re.search(r"the grids of \d+ of 40 steps", left_out)
    assert "2000 lines of the config" in left_out


def test_a_page_is_whole_whenever_the_process_is_killed(tmp_path, sgm_forked):
    code = (
        "import pathlib, sys, itertools\n"
        "from sgm_plugins.tools.report.page import Report\n"
        "from sgm_plugins.tools.report.record import Record\n"
        "report = Report(pathlib.Path(sys.argv[1]))\n"
        "for i in itertools.count(1):\n"
        "    report.write(Record(step=i, config=[['x' * 300, 'y' * 300]] * 1000))\n"
    )
    page = tmp_path / "report.html"
    for wait in (0.0, 0.013, 0.031):
        page.unlink(missing_ok=True)
        writer = sgm_forked(tmp_path, code=code)
        writer.wait_for(page.exists)
        time.sleep(wait)
        writer.kill()
        assert page.read_text().endswith("</body>\n</html>\n")
