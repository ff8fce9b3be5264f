#!/usr/bin/env python3
"""Kills halfstep at random moments and expects that nothing is lost.

Usage: kill_test.py PATH_OF_HALFSTEP [--kills N] [--chain-kills N] [--seed S]

A training that saves after every update is killed (SIGKILL) N times, each time continued with another number of
threads. After every kill the newest checkpoint must be whole and not older than before; at the end the run must equal
an uninterrupted one in every byte. Then the same with a chain of halvings. The last line is 'N passed, N failed'.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

from cli_session import Checks, read_tensors, write_data

CONFIG = {
    "model": {"channels": 8, "channel_multipliers": [1, 2], "num_res_blocks": 1, "groups": 4, "dropout": 0.1},
    "train": {"batch_size": 4, "max_steps": 100000, "anneal": False, "ema_decay": 0.99, "ema_warmup": "power",
              "checkpoint_every": 1, "keep": 3, "log_every": 3, "eval_every": 50, "eval_samples": 4, "eval_steps": 2},
}
LONGEST_LIFE = 0.25  # seconds, uniform from 0: from before main() to about ten updates


class Killer:
    def __init__(self, program, folder, checks, seed):
        self.program, self.folder, self.checks = program, folder, checks
        self.random = random.Random(seed)

    def start(self, *arguments, threads=None):
        environment = dict(os.environ, HALFSTEP_THREADS=str(threads or self.random.choice((1, 2, 3))))
        return subprocess.Popen([self.program, *map(str, arguments)], cwd=self.folder, env=environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self, *arguments, **keywords):
        process = self.start(*arguments, **keywords)
        error = process.communicate(timeout=300)[1].decode()
        self.checks.check(process.returncode == 0, f"halfstep {arguments[0]} ends", error[-400:])

    def kill_once(self, *arguments):
        """False if the program had ended by itself."""
        process = self.start(*arguments)
        time.sleep(self.random.uniform(0, LONGEST_LIFE))
        process.send_signal(signal.SIGKILL)
        error = process.communicate()[1].decode()
        self.checks.check(process.returncode in (-signal.SIGKILL, 0), "no error before the kill", error[-400:])
        return process.returncode != 0


def checkpoints(run):
    return sorted(path for path in run.glob("step-*") if path.name[5:].isdigit())


def check_whole(checks, path):
    """A checkpoint's files can be read to their last byte, and agree."""
    try:
        info = json.loads((path / "config.json").read_text())
        model, state = read_tensors(path / "model.safetensors"), read_tensors(path / "state.safetensors")
        step = state["step"][2][0]
        checks.check(info["step"] == step == int(path.name[5:]) and all("raw." + name in state for name in model),
                     f"{path.name} is whole", f"{info['step']} {step}")
    except (OSError, ValueError, KeyError, AssertionError) as error:
        checks.check(False, f"{path.name} is whole", repr(error))


def bytes_of(checkpoint):
    return {file.name: file.read_bytes() for file in sorted(checkpoint.iterdir())}


def records(run, name):
    """Lines of a record without what depends on the clock."""
    path = run / name
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in lines:
        for key in ("images_per_second", "seconds", "data_wait", "seconds_left"):
            line.pop(key, None)
    return lines


def check_same(checks, run, expected):
    checks.equal(bytes_of(checkpoints(run)[-1]), bytes_of(checkpoints(expected)[-1]), f"{run.name}: every byte")
    for name in ("log.jsonl", "eval.jsonl"):
        checks.equal(records(run, name), records(expected, name), f"{run.name}: {name}")
    left = [path.name for path in run.iterdir() if ".halfstep-tmp-" in path.name]
    checks.equal(left, [], f"{run.name}: no leftovers")


def test_training(killer, checks, kills):
    run = killer.folder / "killed"
    train = ("train", "--data", "data", "--config", "config.json")
    newest = 0
    start = time.monotonic()
    for _ in range(kills):
        killer.kill_once(*train, "--out", run, "--resume")
        found = checkpoints(run) if run.exists() else []
        step = int(found[-1].name[5:]) if found else 0
        checks.check(step >= newest, "no checkpoint is lost", f"{newest} before, {step} after a kill")
        newest = step
        for path in found:
            check_whole(checks, path)
    seconds = time.monotonic() - start
    last = newest + 5
    killer.finish(*train, "--out", run, "--resume", "--max-steps", last)
    killer.finish(*train, "--out", "whole", "--max-steps", last, threads=1)
    checks.check(newest > kills // 4, "the run gets on between kills", f"{newest} updates in {kills} lives")
    check_same(checks, run, killer.folder / "whole")
    print(f"training: {kills} kills in {seconds:.0f} s, {newest} updates, "
          f"every one saved; equal to the uninterrupted run: {checks.failed == 0}")


def test_chain(killer, checks, kills):
    """From 64 steps to 1, killed on the way."""
    flags = ("distill", "killed", "--data", "data", "--from-steps", 64, "--max-steps", 6, "--keep", 2)
    killer.finish(*flags, "--out", "chain-whole", threads=1)
    died = 0
    for _ in range(kills):
        died += killer.kill_once(*flags, "--out", "chain", "--resume")
    killer.finish(*flags, "--out", "chain", "--resume")
    for steps in (32, 16, 8, 4, 2, 1):
        check_same(checks, killer.folder / f"chain/student-{steps}", killer.folder / f"chain-whole/student-{steps}")
    stages = [json.loads((killer.folder / chain / "manifest.json").read_text())["stages"]
              for chain in ("chain", "chain-whole")]
    for stage in (*stages[0], *stages[1]):
        stage.pop("seconds")
    checks.equal(stages[0], stages[1], "the manifests agree")
    print(f"distillation: 6 halvings, {died} kills")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--chain-kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_data(folder / "data")
        (folder / "config.json").write_text(json.dumps(CONFIG))
        killer = Killer(os.path.abspath(options.program), folder, checks, options.seed)
        test_training(killer, checks, options.kills)
        test_chain(killer, checks, options.chain_kills)
    return checks.finish()


if __name__ == "__main__":
    raise SystemExit(main())
