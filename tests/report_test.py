#!/usr/bin/env python3
"""Runs `halfstep report` and reads its pages as a browser does; with Chromium, where it is installed.

Usage: report_test.py PATH_OF_HALFSTEP

Exit status 77, skipped, without gnuplot. Every check prints one line when it fails; the last line is 'N passed,
N failed'.
"""
import base64
import html
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from cli_session import Checks, run_in_own_folders
from run_fixtures import MODEL, TRAIN, manifest, png, png_size, report, write_json, write_lines, write_stage

VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert('x')</script> & \"q\" <b>"
checks = Checks()
check = checks.check


def run(*arguments, **options):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False,
                          stdin=subprocess.DEVNULL, **options)


class Page(html.parser.HTMLParser):
    """A page and what is wrong with it."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.problems, self.text, self.images, self.ids, self.tags = [], [], [], [], [], []
        self.cells = []
        self.feed(self.source)
        self.close()
        if self.open:
            self.problems.append(f"never closed: {self.open}")
        if len(set(self.ids)) != len(self.ids):
            self.problems.append(f"ids that occur twice: {sorted(x for x in set(self.ids) if self.ids.count(x) > 1)}")

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        names = [name for name, _ in attributes]
        if len(set(names)) != len(names):
            self.problems.append(f"<{tag}> has an attribute twice: {names}")
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action") and not re.match("data:|#", value or ""):
                self.problems.append(f"<{tag} {name}={value[:60]}> is not in the page")
            if name.startswith("on"):
                self.problems.append(f"<{tag} {name}> is a script")
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing, line {self.getpos()[0]}")

    def handle_data(self, data):
        self.text.append(data)
        if self.open and set(self.open) & {"td", "th"}:
            self.cells[-1] += data


def page_of(folder, *arguments):
    """The page of a run, with the checks that hold for each."""
    result = run("report", folder, *arguments)
    check(result.returncode == 0, f"report {folder.name} {arguments}", result.stderr)
    page = Page(pathlib.Path(result.stdout.strip()))
    check(not page.problems, f"the page of {folder.name} is in order", page.problems)
    check("script" not in page.tags, "no script")
    elsewhere = re.findall(r".{0,30}(?:https?:|//\w|@import|url\((?!#)).{0,30}",
                           re.sub(r'src="data:image/png;base64,[^"]*"', "", page.source))
    check(not elsewhere, "nothing from elsewhere", elsewhere)
    check(not re.search(r"var\(--(?!(?:%s)\b)" % "|".join(set(re.findall(r"--([\w-]+):", page.source))), page.source),
          "every colour is defined")
    check(not re.search(r"rgb\(", page.source), "curves have the colours of the page")
    check("prefers-color-scheme: dark" in page.source, "light and dark")
    for image in page.images:
        check(image["src"].startswith("data:image/png;base64,") and image.get("alt"), "a picture with a name")
        size = png_size(base64.b64decode(image["src"].split(",", 1)[1], validate=True))
        check(size == (int(image["width"]), int(image["height"])), f"{image['alt']} is whole", size)
    return page


def write_chain(folder):
    for num_steps, last in ((8, 400), (4, 400), (2, 250)):
        write_stage(folder / f"student-{num_steps}", f"student-{num_steps}", steps=range(50, last + 1, 50),
                    grids=range(50, last + 1, 50))
    write_json(folder / "manifest.json", manifest([(8, "done"), (4, "done"), (2, "running"), (1, "waiting")]))


def test_chain(folder):
    write_chain(folder / "students")
    page = page_of(folder / "students")
    check((folder / "students/report.html").exists(), "the default name")
    text = " ".join(" ".join(page.text).split())
    for words in ("Progressive distillation, 16 → 8 → 4 → 2 → 1 sampling steps", "fashion-mnist, 60000 images",
                  "cpu (avx2), 2 threads", "2026-11-25 15:00 UTC", "halfstep 0.1.0", "channel_multipliers", "1, 2",
                  "snr+1", "runs/teacher/step-00005000", "halfstep distill runs/teacher --out runs/students",
                  "Loss (log scale)", "Images per second", "step 400", "2.50 to data", "0.25 to teacher"):
        check(words in text, f"the page says '{words}'")
    rows = [page.cells[k:k + 9] for k in range(9, 45, 9)]
    check(page.cells[:9] == ["Stage", "Status", "Sampling steps", "Updates", "Loss", "Time", "Distance to data",
                             "Distance to teacher", "Model"], "head of the table", page.cells[:9])
    check(rows[0] == ["student-8", "done", "16 → 8", "400 of 400", "0.02", "2:08", "2.50", "0.25",
                      f"{8:064x}"[:10]], "the first stage", rows[0])
    check(rows[2][:6] == ["student-2", "running", "4 → 2", "250 of 400", "0.02", "1:20"], "a running stage", rows[2])
    check(rows[3] == ["student-1", "waiting", "2 → 1", "0 of 400", "–", "–", "–", "–", "–"], "a waiting stage", rows[3])
    check(text.count("the model above ✓") == 3 and "not the model above" not in text, "lineage")
    check(len(page.images) == 8 + 8 + 5, "all pictures", len(page.images))
    check(page.tags.count("svg") == 6 and "Distance to teacher" in text, "four curves and two distances")
    found = json.loads(run("report", folder / "students", "--json").stdout)
    check(found["status"] == "running" and [s["pictures"] for s in found["stages"]] == [8, 8, 5, 0], "--json", found)
    check(found["stages"][1]["distance_to_data"] == 2.5 and found["stages"][3]["final_loss"] is None, "--json", found)
    # A student of another teacher.
    other = manifest([(8, "done"), (4, "done")])
    other["stages"][1]["parent_sha256"] = "f" * 64
    other["config"]["distill"] = {"updates_of": {"2": 300}}
    other["commands"][0]["threads"] = 1
    write_json(folder / "students/manifest.json", other)
    text = " ".join(page_of(folder / "students").text)
    check("not the model above" in text, "a broken lineage is told")
    check("Distillation" in text and '{"2":300}' in text and "1 thread " in text.replace("\n", " "), "other settings", text)


def test_history(folder):
    """Many pictures are thinned out; the first and the last stay. Those that are missing are named."""
    write_stage(folder / "run", "train", grids=range(10, 401, 10))
    page = page_of(folder / "run", "--out", folder / "page.html")
    steps = [int(re.search(r"step (\d+)", image["alt"])[1]) for image in page.images]
    check(len(steps) == 9 and {10, 400} == {min(steps), max(steps)}, "nine pictures", steps)
    check(not (folder / "run/report.html").exists(), "--out")
    (folder / "run/samples/step-00000400.png").unlink()
    page = page_of(folder / "run")
    check(len(page.images) == 8 and "train, step 400: not there" in " ".join(page.text), "a missing picture")
    (folder / "run/samples/step-00000400.png").write_bytes(b"GIF89a")
    result = run("report", folder / "run")
    check(result.returncode == 1 and "[image] expected a PNG file, got" in result.stderr
          and "step-00000400.png" in result.stderr, "another file", result.stderr)


def test_escaping(folder):
    chain = manifest([(8, "done")], data={"name": HOSTILE, "images": 1})
    chain["commands"][0].update(line=HOSTILE, device=HOSTILE, program=HOSTILE, started=HOSTILE)
    chain["config"] = {"model": {HOSTILE: HOSTILE, "list": [HOSTILE]}, "train": {"a": None}}
    chain["teacher"].update(checkpoint=HOSTILE, model_sha256=HOSTILE)
    chain["stages"][0].update(name=HOSTILE, status=HOSTILE, checkpoint=HOSTILE, parent_sha256=HOSTILE,
                              model_sha256=HOSTILE, grid=HOSTILE)
    name = "run <b>&\"'"
    write_stage(folder / name / "student-8", HOSTILE, grids=[100])
    write_stage(folder / name / "student-4", "student-4")
    chain["stages"].append({"name": "student-4", "folder": "student-4"})
    write_json(folder / name / "manifest.json", chain)
    page = page_of(folder / name)
    check("b" not in page.tags, "no tag from a name")
    text = "".join(page.text)
    check(text.count(HOSTILE) >= 12 and name in text, "names are shown as they are", text.count(HOSTILE))


def test_single(folder):
    """A training with a manifest; one without, of an older release; the demo's folder."""
    write_stage(folder / "run", "train", grids=[200, 400])
    single = manifest([])
    single.update(kind="train", stages=[{"name": "train", "folder": ".", "status": "done", "teacher_steps": 0,
                                         "num_steps": 0, "step": 400, "max_steps": 400, "final_loss": 0.0301,
                                         "seconds": 128, "checkpoint": "step-00000400", "model_sha256": "a" * 64,
                                         "parent_sha256": None}])
    del single["teacher"]
    write_json(folder / "run/manifest.json", single)
    page = page_of(folder / "run")
    check(page.cells[8:16] == ["train", "done", "400 of 400", "0.0301", "2:08", "2.50", "0.25", "a" * 10], "the table",
          page.cells[:16])
    check("Training" in page.text and "Sampling steps" not in page.text, "no sampling steps")

    old = folder / "old"
    keys = ("stage", "step", "loss", "learning_rate", "gradient_norm", "skipped", "images_per_second")
    for stage, num_steps in (("teacher", 0), ("student-2", 2), ("student-1", 1)):
        write_lines(old / stage / "log.jsonl",
                    [{key: report(stage, step, images_per_second=64)[key] for key in keys} for step in (100, 200, 400)])
        checkpoint = old / stage / "step-00000400"
        checkpoint.mkdir()
        history = [{"teacher_steps": 2 * num_steps, "num_steps": num_steps, "updates": 400, "final_loss": 0.5}]
        write_json(checkpoint / "config.json", {"format": "halfstep-checkpoint", "version": 1, "step": 400,
                                                "num_steps": num_steps, "data": "Fashion", "history": history,
                                                "model": MODEL, "train": TRAIN})
    (old / "grid.png").write_bytes(png(20, 10, lambda x, y: x))
    page = page_of(old)
    check(page.cells[6:12] == ["teacher", "done", "any", "400 of 400", "0.5", "6:40"], "the teacher", page.cells[:12])
    check(page.cells[12:18] == ["student-2", "done", "4 → 2", "400 of 400", "0.5", "6:40"], "a student",
          page.cells[12:18])
    text = " ".join(page.text)
    check("Fashion" in text and "channel_multipliers" in text and "Commands" not in text, "configuration", text)
    check([image["width"] for image in page.images] == ["20"], "the demo's picture")


def test_beginning(folder):
    """A run that has not reported yet."""
    (folder / "run").mkdir()
    write_json(folder / "run/manifest.json", manifest([(8, "running"), (4, "waiting")]))
    page = page_of(folder / "run")
    check("No report yet." in page.text and "svg" not in page.tags, "no curves yet")
    write_lines(folder / "fresh/log.jsonl", [])
    result = run("report", folder / "fresh")
    check(result.returncode == 1 and "[report]" in result.stderr and "nothing to report yet" in result.stderr,
          "nothing at all", result.stderr)
    result = run("report", folder / "none")
    check(result.returncode == 1 and "[report] expected a run folder" in result.stderr, "no folder", result.stderr)
    result = run("report", folder / "run", "--out", folder / "none/report.html")
    check(result.returncode == 1 and "create the folder first" in result.stderr, "no folder for the page", result.stderr)
    write_stage(folder / "run/student-8", "student-8")
    (folder / "run/report.html").unlink()
    result = run("report", folder / "run", env={**os.environ, "PATH": str(folder)})
    check(result.returncode == 1 and "[report]" in result.stderr and "gnuplot-nox" in result.stderr, "no gnuplot",
          result.stderr)
    check(not (folder / "run/report.html").exists(), "no half page")


# --- in a browser -----------------------------------------------------------------------------------------------------

MEASURE = """<script>addEventListener('load', () => {
const wide = [...document.querySelectorAll('main *')].filter(e => !e.closest('.strip, svg') &&
  e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80));
parent.postMessage({inner: innerWidth,
  scroll: document.documentElement.scrollWidth, wide: wide, loaded: [...document.images].every(i => i.naturalWidth > 0),
  page: getComputedStyle(document.body).backgroundColor,
  curve: getComputedStyle(document.querySelector('svg [stroke^="var(--stage-0"]')).stroke}, '*');
});</script>"""
# A frame, because a window has a least width.
FRAME = """<!DOCTYPE html><body><script>
addEventListener('message', event => { document.body.dataset.measured = JSON.stringify(event.data); });
</script><iframe src="copy.html" width="WIDTH" height="900" style="border: 0"></iframe></body>"""


def in_browser(path, width, extra=""):
    """What Chromium finds in a copy of the page that measures itself, and what its console says."""
    copy, frame = path.with_name("copy.html"), path.with_name("frame.html")
    copy.write_text(path.read_text(encoding="utf-8").replace("</main>", extra + "</main>" + MEASURE), encoding="utf-8")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="halfstep-test-") as profile:
        result = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--enable-logging=stderr", f"--user-data-dir={profile}", "--window-size=1400,1000",
             "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()],
            capture_output=True, text=True, timeout=200, check=False)
    found = re.search(r'data-measured="([^"]*)"', result.stdout)
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) if found else None, console


def test_browser(folder):
    if shutil.which("chromium") is None:
        print("not looked at in a browser: chromium is not installed")
        return
    write_chain(folder / "students")
    chain = json.loads((folder / "students/manifest.json").read_text())
    chain["commands"][0]["line"] += " --data " + "a/very/long/path/" * 12
    write_json(folder / "students/manifest.json", chain)
    page_of(folder / "students")
    path = folder / "students/report.html"
    for width in (400, 1280):
        found, console = in_browser(path, width)
        check(found and found["inner"] == width, f"a window of {width} pixels", found)
        check(found["scroll"] <= width and not found["wide"], f"no overflow at {width} pixels", found)
        check(found["loaded"], "all pictures load", found)
        check(not console, "a quiet console", console)
        check(found["curve"] == "rgb(0, 114, 178)" and found["page"] == "rgb(247, 247, 245)", "colours", found)
    # The measures themselves.
    found, console = in_browser(path, 400, "<div style='width:900px'>x</div><script>console.error('heard')</script>")
    check(any("heard" in line for line in console), "the console is heard", console)
    check(found and found["scroll"] > 400 and found["wide"], "overflow is seen", found)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv[1])
    if shutil.which("gnuplot") is None:
        print("skipped: gnuplot is not installed")
        sys.exit(77)
    sys.exit(run_in_own_folders((test_chain, test_history, test_escaping, test_single, test_beginning, test_browser), checks))
