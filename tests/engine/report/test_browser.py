"""The page in a real browser: nothing overflows, nothing is complained of, on a desk and on a phone."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from equipoise.engine.metrics.table import reader, thresholds
from equipoise.engine.report import audit_table, write_report

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom",
)  # fmt: skip
# Chromium's own window is never narrower than 500 pixels, so that the page stands in a frame of the wanted width.
MEASURE = """<script>addEventListener("load", () => {
const wide = [...document.querySelectorAll("body *")].filter(
  e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre"));
const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth);
parent.postMessage([innerWidth, document.documentElement.scrollWidth, wide.length, broken.length].join(" "), "*");
});</script></body>"""
FRAME = """<!doctype html><script>addEventListener("message", e => document.documentElement.dataset.found = e.data);</script>
<iframe src="{name}" style="width: {width}px; height: 4000px; border: 0"></iframe>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a table with long names, an intersection and a tiny group."""
    folder = tmp_path_factory.mktemp("page")
    generator, n = np.random.default_rng(0), 300
    sick = generator.integers(0, 2, n)
    long = "a level whose name goes on for much longer than anybody needs"
    frame = pd.DataFrame(
        {
            "y": sick, "p": np.clip(0.3 + 0.3 * sick + generator.normal(0, 0.2, n), 0, 1),
            "group": ["tiny", *generator.choice(["short", long, "<b>bold</b>"], n - 1)], "sex": generator.choice(["F", "M"], n),
        }
    )  # fmt: skip
    frame.to_csv(folder / "t.csv", index=False)
    table = reader.read(
        folder / "t.csv", reader.Roles("binary", ("y",), {"p": ("p",)}, attributes=("group", "sex"))
    )
    table = thresholds.reported(table, "all", "0.5")
    context = audit_table(
        table, groups=("group", "sex", "group*sex"), resamples=100, made_by="equipoise audit --table=t.csv"
    )
    write_report(context, folder)
    return folder / "report.html"


@pytest.mark.browser
@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: the page is not looked at in a browser"
)
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_and_the_browser_is_content(report, width, tmp_path):
    measured, frame = (report.with_name(f"{kind}_{width}.html") for kind in ("measured", "frame"))
    measured.write_text(report.read_text().replace("</body>", MEASURE))
    frame.write_text(FRAME.format(name=measured.name, width=width))
    command = ["timeout", "60", CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--window-size=1400,4000"]
    done = subprocess.run([*command, f"file://{frame}"], capture_output=True, text=True)
    found = re.search(r'data-found="(\d+) (\d+) (\d+) (\d+)"', done.stdout)
    assert found, done.stderr
    inner, scroll, wide, broken = map(int, found.groups())
    assert inner == width and scroll <= inner and not wide and not broken
    assert "CONSOLE" not in done.stderr, done.stderr
