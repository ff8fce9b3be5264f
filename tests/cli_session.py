"""What the tests of the program `halfstep` share: tiny data and settings, a folder in which it runs, and checks that
count. Every check prints one line when it fails; the last line is 'N passed, N failed'.
"""
import gzip
import json
import math
import os
import pathlib
import random
import shlex
import struct
import subprocess
import sys
import tempfile
import time

SUBCOMMANDS = ("train", "distill", "sample", "predict", "info", "demo", "plot", "report", "gradcheck", "bench", "completion",
               "help")
SIDE, COUNT, CLASSES = 8, 64, 3
TINY = {
    "model": {"channels": 8, "channel_multipliers": [1, 2], "num_res_blocks": 1, "groups": 4},
    "train": {"batch_size": 8, "max_steps": 12, "log_every": 4, "checkpoint_every": 6, "learning_rate": 0.003},
}
FORMATS = {"F32": "f", "F64": "d", "I64": "q"}


# --- files ------------------------------------------------------------------------------------------------------------

def write_data(folder, side=SIDE, compressed=False):
    """A data set of blurred diagonal stripes in IDX form."""
    numbers = random.Random(1)
    pixels = bytearray()
    for k in range(COUNT):
        shift, slope = numbers.random() * 6.28, (k % CLASSES) + 1
        pixels += bytes(int(127.5 + 120 * math.sin(shift + 0.7 * (x + slope * y))) for y in range(side)
                        for x in range(side))
    files = {
        "train-images-idx3-ubyte": struct.pack(">IIII", 0x803, COUNT, side, side) + bytes(pixels),
        "train-labels-idx1-ubyte": struct.pack(">II", 0x801, COUNT) + bytes(k % CLASSES for k in range(COUNT)),
    }
    folder.mkdir()
    for name, content in files.items():
        if compressed:
            (folder / (name + ".gz")).write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def read_tensors(path):
    """{name: (dtype, shape, values)} of a .safetensors file; checks that nothing is left over."""
    content = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    header.pop("__metadata__", None)
    tensors, used = {}, 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        count = math.prod(entry["shape"])
        values = struct.unpack(f"<{count}{FORMATS[entry['dtype']]}", data[begin:end])
        tensors[name] = (entry["dtype"], entry["shape"], values)
        used += end - begin
    assert used == len(data), f"{path}: {len(data) - used} bytes of data belong to no tensor"
    return tensors


def write_tensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def normals(count, seed=5):
    numbers = random.Random(seed)
    # Values that f32 holds exactly, so that f32 and f64 files mean the same.
    return [round(numbers.gauss(0, 1) * 1024) / 1024 for _ in range(count)]


# --- checks -----------------------------------------------------------------------------------------------------------

class Checks:
    def __init__(self):
        self.passed = self.failed = 0
        self.scenario = ""

    def check(self, ok, what, detail=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {self.scenario}: {what}" + (f"\n    {detail}" if detail else ""), flush=True)

    def finish(self):
        """Prints the counts; the exit status of the test."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 0 if self.failed == 0 and self.passed > 0 else 1

    def equal(self, got, expected, what):
        self.check(got == expected, what, f"expected {expected!r}, got {got!r}")

    def close(self, got, expected, tolerance, what):
        """All elements; NaN is never close."""
        error = max((abs(a - b) for a, b in zip(got, expected)), default=0)
        ok = len(got) == len(expected) and all(abs(a - b) <= tolerance for a, b in zip(got, expected))
        self.check(ok, what, f"largest error {error}, tolerance {tolerance}, {len(got)} and {len(expected)} values")

    def runs(self, result, what):
        self.check(result.returncode == 0, what, f"exit code {result.returncode}: {result.stderr.strip()[-500:]}")
        return result

    def refuses(self, result, code, *fragments):
        """A clean failure: the exit code and a message that holds the fragments."""
        self.equal(result.returncode, code, f"exit code of {shlex.join(result.args[1:])}")
        for fragment in fragments:
            self.check(fragment in result.stderr, f"the message of {shlex.join(result.args[1:])} says '{fragment}'",
                       result.stderr.strip())


class Session:
    """A folder with data and settings, in which the program runs."""

    def __init__(self, program, folder, checks):
        self.program, self.folder, self.checks = program, folder, checks
        write_data(folder / "data")
        (folder / "tiny.json").write_text(json.dumps(TINY))
        classes = {"model": dict(TINY["model"], num_classes=CLASSES), "train": TINY["train"]}
        (folder / "classes.json").write_text(json.dumps(classes))

    def __call__(self, *arguments):
        return subprocess.run([self.program, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=120, check=False, stdin=subprocess.DEVNULL)

    def train(self, run, *arguments, config="tiny.json"):
        return self("train", "--data", "data", "--config", config, "--out", run, *arguments)

    def path(self, name):
        return self.folder / name

    def tensors(self, name):
        return read_tensors(self.path(name))


def run_in_own_folders(tests, checks):
    """Runs functions of (folder), each in an empty folder; the exit status of the test."""
    for test in tests:
        checks.scenario = test.__name__
        with tempfile.TemporaryDirectory(prefix="halfstep-test-") as work:
            try:
                test(pathlib.Path(work))
            except Exception as error:  # a test that breaks is one failure; the others still run
                checks.check(False, f"stopped by {type(error).__name__}: {error}")
    return checks.finish()


def run_scenarios(scenarios, program, usage):
    """Runs functions of (session, checks) in one folder, in their order; the exit status of the test."""
    if not pathlib.Path(program).exists():
        sys.exit(usage)
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        session = Session(os.path.abspath(program), pathlib.Path(folder), checks)
        for scenario in scenarios:
            checks.scenario, start = scenario.__name__, time.monotonic()
            try:
                scenario(session, checks)
            except Exception as error:  # a scenario that breaks is one failure; the others still run
                checks.check(False, f"stopped by {type(error).__name__}: {error}")
            print(f"{checks.scenario}: {time.monotonic() - start:.1f} s", flush=True)
    return checks.finish()
