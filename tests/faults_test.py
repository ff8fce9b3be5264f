#!/usr/bin/env python3
"""What goes wrong around a run: full disk, read-only folder, lost data, two runs in one folder, damaged files.

Usage: faults_test.py PATH_OF_HALFSTEP

Each must end with exit code 1 and a message that helps, leave the last checkpoint whole, and let the run go on when the
cause is gone. Real small file systems are used where the system lets this user mount some (unshare -rm).
The last line is 'N passed, N failed'.
"""
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from cli_session import Checks, write_data
from kill_test import bytes_of, check_whole, checkpoints

CONFIG = {
    "model": {"channels": 8, "channel_multipliers": [1, 2], "num_res_blocks": 1, "groups": 4},
    "train": {"batch_size": 4, "max_steps": 8, "anneal": False, "checkpoint_every": 2, "log_every": 2},
}


class Faults:
    def __init__(self, program, folder, checks):
        self.program, self.folder, self.checks = program, folder, checks

    def run(self, *arguments, prefix=(), before=None):
        return subprocess.run([*prefix, self.program, *map(str, arguments)], cwd=self.folder, capture_output=True,
                              text=True, timeout=120, check=False, stdin=subprocess.DEVNULL, preexec_fn=before)

    def train(self, out, steps, *arguments, **keywords):
        return self.run("train", "--data", "data", "--config", "config.json", "--out", out, "--max-steps", steps,
                        "--resume", *arguments, **keywords)

    def check_goes_on(self, out, last):
        """The newest checkpoint is whole, and the run ends as one that nothing happened to."""
        for path in checkpoints(self.folder / out):
            check_whole(self.checks, path)
        self.checks.runs(self.train(out, last), f"{out} goes on")
        whole = self.folder / f"whole-{last}"
        if not whole.exists():
            self.checks.runs(self.train(whole.name, last), "uninterrupted run")
        self.checks.equal(bytes_of(checkpoints(self.folder / out)[-1]), bytes_of(checkpoints(whole)[-1]),
                          f"{out}: every byte")


def test_file_size(faults, checks):
    """A file that cannot grow, as a quota does it."""
    checks.runs(faults.train("limited", 4), "four updates")
    state = checkpoints(faults.folder / "limited")[-1] / "state.safetensors"
    limit = state.stat().st_size - 1

    def set_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    checks.refuses(faults.train("limited", 8, before=set_limit), 1, "[file] cannot write", "state.safetensors",
                   "the file would exceed a size limit (ulimit -f)")
    checks.equal(checkpoints(faults.folder / "limited")[-1].name, "step-00000004", "the last checkpoint stays")
    faults.check_goes_on("limited", 8)


def in_namespace(script):
    return ("unshare", "-rm", "sh", "-c", f"{script} && exec \"$@\"", "sh")


def can_mount():
    return subprocess.run([*in_namespace("mount -t tmpfs none /mnt"), "true"], capture_output=True,
                          check=False).returncode == 0


def test_full_disk(faults, checks):
    """A disk of 1 MiB, full after some checkpoints: what is there stays whole."""
    script = ("mkdir -p small && mount -t tmpfs -o size=1m none small && trap 'cp -a small/run saved' EXIT && \"$@\"; "
              "code=$?; exit $code; true")
    result = faults.run("train", "--data", "data", "--config", "config.json", "--out", "small/run", "--max-steps", 100,
                        prefix=in_namespace(script))
    checks.refuses(result, 1, "[file] cannot", "the disk is full, free some space or choose another folder")
    saved = checkpoints(faults.folder / "saved")
    checks.check(len(saved) >= 1, "some checkpoints were written", str(saved))
    left = [path.name for path in (faults.folder / "saved").iterdir() if ".halfstep-tmp-" in path.name]
    checks.equal(left, [], "what could not be finished is removed")
    faults.check_goes_on("saved", 100)


def test_read_only(faults, checks):
    checks.runs(faults.train("frozen", 4), "four updates")
    before = bytes_of(checkpoints(faults.folder / "frozen")[-1])
    script = "mount --bind frozen frozen && mount -o remount,bind,ro frozen"
    checks.refuses(faults.train("frozen", 8, prefix=in_namespace(script)), 1,
                   "the file system is read-only, choose another folder")
    checks.equal(bytes_of(checkpoints(faults.folder / "frozen")[-1]), before, "nothing has changed")
    faults.check_goes_on("frozen", 8)


def test_lost_data(faults, checks):
    checks.runs(faults.train("orphan", 4), "four updates")
    (faults.folder / "data").rename(faults.folder / "moved")
    checks.refuses(faults.train("orphan", 8), 1, "[data]", "train-images-idx3-ubyte")
    (faults.folder / "moved").rename(faults.folder / "data")
    faults.check_goes_on("orphan", 8)


def test_two_runs(faults, checks):
    """One folder, one run: the second is refused while the first lives, and the lock dies with it."""
    first = subprocess.Popen([faults.program, "train", "--data", "data", "--config", "config.json", "--out", "shared",
                              "--max-steps", "1000000", "--keep", "2"], cwd=faults.folder, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not checkpoints(faults.folder / "shared") and time.monotonic() < deadline:
        time.sleep(0.02)
    checks.refuses(faults.train("shared", 8), 1, "[lock] expected to be the only writer of 'shared', but process", str(first.pid),
                   "choose another folder")
    checks.check(first.poll() is None, "the first goes on")
    first.kill()
    first.wait()
    last = int(checkpoints(faults.folder / "shared")[-1].name[5:]) + 2
    checks.runs(faults.train("shared", last), "the lock died with its process")


def test_damage(faults, checks):
    """Files that something else has damaged are named, and the checkpoint before is still there to choose."""
    checks.runs(faults.train("damaged", 6), "six updates")
    newest = checkpoints(faults.folder / "damaged")[-1]
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[:-100])
    checks.refuses(faults.train("damaged", 8), 1, f"{newest.name}/state.safetensors")
    shutil.rmtree(newest)
    faults.check_goes_on("damaged", 8)
    manifest = faults.folder / "damaged/manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    checks.refuses(faults.train("damaged", 10), 1, "manifest.json: expected JSON")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_data(folder / "data")
        (folder / "config.json").write_text(json.dumps(CONFIG))
        faults = Faults(os.path.abspath(sys.argv[1]), folder, checks)
        tests = [test_file_size, test_lost_data, test_two_runs, test_damage]
        if can_mount():
            tests += [test_full_disk, test_read_only]
        else:
            print("skipped: full disk and read-only file system; this user may not mount any")
        for test in tests:
            checks.scenario = test.__name__[5:]
            test(faults, checks)
    return checks.finish()


if __name__ == "__main__":
    raise SystemExit(main())
