#!/usr/bin/env python3
"""The command line itself: --set, configuration files, spelling mistakes, exit codes, signals, pipes, terminals.

Usage: cli_usage_test.py PATH_OF_HALFSTEP ROOT

Every check prints one line when it fails; the last line is 'N passed, N failed'.
"""
import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cli_session import SUBCOMMANDS, TINY, run_scenarios, write_data  # noqa: E402

ROOT = pathlib.Path()


# --- settings ---------------------------------------------------------------------------------------------------------

def test_set(run, checks):
    """--set gives every value of a configuration; what is last on the command line counts."""
    def shown(*arguments):
        return json.loads(checks.runs(run.train("x", "--print-config", *arguments), " ".join(arguments)).stdout)

    config = shown("--set", "model.channels=64", "--set", "train.learning_rate=2e-4", "--set=train.loss=snr",
                   "--set", "model.channel_multipliers=[1,2,2]", "--set", "train.flip=false", "--set",
                   "model.prediction=both")
    checks.equal([config["model"][k] for k in ("channels", "channel_multipliers", "prediction", "out_channels")],
                 [64, [1, 2, 2], "both", 2], "a number, a list, a text, and what follows from it")
    checks.equal([config["train"][k] for k in ("learning_rate", "loss", "flip", "batch_size")],
                 [2e-4, "snr", False, 8], "values over the file, the others of the file")
    checks.equal(shown("--set", "train.seed=18446744073709551615")["train"]["seed"], 2**64 - 1, "the largest seed")
    checks.equal(shown("--set", "train.max_steps=1e3")["train"]["max_steps"], 1000, "1e3 is a whole number")
    checks.equal(shown("--set", 'train.loss="snr"')["train"]["loss"], "snr", "a text may be quoted")

    every = shown()
    for section, values in every.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            if key in ("out_channels", "logsnr_min", "logsnr_input_min", "ema_decay"):
                value = value  # the same value again: another would not fit the rest
            elif isinstance(value, bool):
                value = not value
            elif key in ("height", "width"):
                value = 16
            elif isinstance(value, (int, float)) and 0 < value < 1:
                value = value / 2
            elif key in ("num_heads", "groups", "channels"):
                value = value * 2
            elif key in ("dropout", "head_dim"):
                value = {"dropout": 0.5, "head_dim": 8}[key]
            elif isinstance(value, (int, float)):
                value = value + 1
            elif isinstance(value, list):
                value = [1]
            else:
                continue  # names are tested above
            got = json.loads(checks.runs(run.train("x", "--print-config", "--set", f"{name}={json.dumps(value)}",
                                                   *(["--set", "model.groups=2"] if key != "groups" else [])),
                                         f"--set {name}").stdout)
            checks.equal(got[section][key], value, f"--set {name}")

    checks.equal(shown("--batch-size", "5", "--set", "train.batch_size=6")["train"]["batch_size"], 6, "--set is last")
    checks.equal(shown("--set", "train.batch_size=6", "--batch-size", "5")["train"]["batch_size"], 5,
                 "the flag is last")
    checks.equal(shown("--set", "train.batch_size=6", "--batch-size", "5", "--set", "train.batch_size=7")["train"]
                 ["batch_size"], 7, "the second --set is last")
    checks.equal(shown("--batch-size", "5", "--set", "train.batch_size=6", "--batch-size", "4")["train"]["batch_size"],
                 4, "the second flag is last")
    checks.equal(shown("--no-flip", "--set", "train.flip=true", "--seed", "4")["train"]["flip"], True, "switches")
    checks.equal(shown("--set", "train.flip=true", "--no-flip")["train"]["flip"], False, "a switch is last")
    checks.check(not run.path("x").exists(), "--print-config starts no run")

    def refused(setting, *fragments, subcommand=("train", "--out", "x")):
        checks.refuses(run(*subcommand, "--set", setting), 2, "--set", *fragments)
    refused("channels=64", "'channels'", "'model.channels'")
    refused("chanels=64", "'model.channels'")
    refused("train.channels=64", "'model.channels'")
    refused("model.chanels=64", "'model.chanels'", "'model.channels'")
    refused("modle.channels=64", "'model.channels'")
    refused("model.zebra=1", "'model.zebra'", "--print-config")
    refused("no equals sign", "SECTION.KEY=VALUE", "'no equals sign'")
    refused("model=1", "SECTION.KEY=VALUE")
    refused("=1", "''")
    refused("model.channels=wide", "expected a number as the value of 'channels'", '"wide"')
    refused("model.channels=", "expected a number as the value of 'channels'")
    refused("model.channels=null", "expected a number as the value of 'channels'", "null")
    refused("model.channels=true", "expected a number as the value of 'channels'", "true")
    refused("model.channels=2.5", "expected a whole number as the value of 'channels'", "2.5")
    refused("model.channels=1e300", "expected a whole number as the value of 'channels'")
    refused("train.seed=-1", "expected a whole number, at least 0, as the value of 'seed'", "-1")
    refused("train.flip=1", "expected true or false as the value of 'flip'", "1")
    refused("model.channel_multipliers=2", "expected a list of numbers")
    refused("model.channel_multipliers=[1,2.5]", "expected a list of numbers")
    refused("train.loss=snr1", "'snr+1'")
    refused("channels=64", "'model.channels'", subcommand=("distill", "teacher", "--out", "y"))
    refused("channels=64", "'model.channels'", subcommand=("demo", "--out", "y"))
    for key in ("max_steps", "log_every", "checkpoint_every"):
        refused(f"train.{key}=5", f"'train.{key}'", "--minutes", subcommand=("demo", "--out", "y"))
    checks.refuses(run("train", "--out", "x", "--set"), 2, "--set")
    checks.refuses(run.train("x", "--set", "train.batch_size=0"), 1, "batch_size")


def test_set_elsewhere(run, checks):
    """distill and demo take --set, too, and its value does not swallow the argument behind it."""
    checks.runs(run.train("teacher", "--set", "train.max_steps=4"), "train --set")
    info = json.loads(run("info", "teacher", "--json").stdout)
    checks.equal((info["step"], info["train"]["max_steps"]), (4, 4), "settings of a run")
    result = checks.runs(run("distill", "--set", "train.max_steps=3", "teacher", "--out", "students", "--data", "data",
                             "--from-steps", 2, "--set", "train.loss=constant", "--json"), "distill --set")
    checks.equal(json.loads(result.stdout)["students"][0]["updates"], 3, "updates of a halving")
    checks.equal(json.loads(run("info", "students", "--json").stdout)["loss"], "constant", "loss of a halving")
    checks.refuses(run("distill", "teacher", "--out", "y", "--data", "data", "--set", "model.channels=16"), 1,
                   "channels", "16")
    demo = ["demo", "--out", "demo", "--data", "data", "--config", "tiny.json", "--minutes", "0.002"]
    checks.runs(run(*demo, "--set", "model.channels=12", "--set", "train.seed=3"), "demo --set")
    plan = json.loads(run.path("demo/plan.json").read_text())
    for name in ("teacher", "student"):
        checks.equal((plan[name]["model"]["channels"], plan[name]["train"]["seed"]), (12, 3), f"{name} of the plan")
    again = checks.runs(run(*demo, "--set", "model.channels=8"), "demo again")
    checks.check("the plan has its settings" in again.stderr, "settings that come too late are noted", again.stderr)
    checks.runs(run(*demo, "--out", "seeded", "--set", "train.seed=3", "--seed", "5"), "demo --seed")
    checks.equal(json.loads(run.path("seeded/plan.json").read_text())["teacher"]["train"]["seed"], 5, "--seed is last")


def test_configs(run, checks):
    """Every file of configs/ is read, means what it says, and makes a model."""
    write_data(run.path("data28"), side=28)
    files = sorted((ROOT / "configs").glob("*.json"))
    checks.check(len(files) >= 6, "configs/ has its files", str(files))
    for file in files:
        result = checks.runs(run("train", "--config", file, "--data", "data28", "--out", "x", "--print-config"),
                             f"{file.name} is read")
        shown = json.loads(result.stdout)
        for section, values in json.loads(file.read_text()).items():
            for key, value in values.items():
                checks.equal(shown[section].get(key), value, f"{file.name}: {section}.{key}")
    one = ["--data", "data28", "--max-steps", 1, "--batch-size", 2]
    for name in ("fashion-mnist", "fashion-mnist-tiny", "fashion-mnist-classes"):
        checks.runs(run("train", "--config", ROOT / f"configs/{name}.json", "--out", name, *one, "--warmup-steps", 0),
                    f"{name} trains")
    info = json.loads(run("info", "fashion-mnist-classes", "--json").stdout)
    checks.equal(info["model"]["num_classes"], 10, "classes")
    checks.runs(run("distill", "fashion-mnist", "--config", ROOT / "configs/fashion-mnist-distill.json", "--out",
                    "fm-students", "--from-steps", 2, *one), "fashion-mnist-distill distils")


def test_missing_config(run, checks):
    checks.refuses(run.train("x", config="tny.json"), 1, "'tny.json'", "did you mean 'tiny.json'")
    checks.refuses(run.train("x", config=run.path("tny.json")), 1, "did you mean", str(run.path("tiny.json")))
    checks.refuses(run.train("x", config="fashion-mnist-tiny"), 1, "did you mean",
                   str((ROOT / "configs/fashion-mnist-tiny.json").resolve()))
    checks.refuses(run.train("x", config="elsewhere/fashion-mnist.json"), 1, "configs/fashion-mnist.json")
    checks.check("did you mean" not in run.train("x", config="nothing/like-it.json").stderr, "nothing is near")


# --- spelling ---------------------------------------------------------------------------------------------------------

def test_spelling(run, checks):
    new = ("train", "--out", "x")
    checks.refuses(run("trian"), 2, "'trian'", "did you mean 'train'")
    checks.refuses(run("frobnicate"), 2, "'frobnicate'", "there are train, distill")
    checks.refuses(run(*new, "--max-step=5"), 2, "'--max-step'", "did you mean '--max-steps'")
    checks.refuses(run(*new, "--max-steps", "five"), 2, "--max-steps", "expected a whole number", "'five'")
    checks.refuses(run(*new, "--max-steps"), 2, "--max-steps", "expected a value")
    checks.refuses(run(*new, "--learning-rate", "fast"), 2, "--learning-rate", "expected a number", "'fast'")
    checks.refuses(run(*new, "--loss", "snr1"), 2, "--loss", "did you mean 'snr+1'")
    checks.refuses(run(*new, "--loss", "snr+2"), 2, "--loss", "did you mean 'snr+1'")
    checks.refuses(run(*new, "--ema-warmup", "rampp"), 2, "did you mean 'ramp'")
    checks.refuses(run(*new, "--device", "cdua"), 2, "--device", "reference")
    checks.refuses(run("sample", "t", "--out", "x", "--sampler", "ddin"), 2, "--sampler", "did you mean 'ddim'")
    checks.refuses(run("sample", "t", "--out", "x", "--variance", "fixed_smal"), 2, "did you mean 'fixed_small'")
    checks.refuses(run("gradcheck", "matmull"), 2, "did you mean 'matmul'")
    for arguments, message in {
        ("--frobnicate",): "unknown flag '--frobnicate'",
        ("--loss", "wxyz"): "--loss",
        ("--set", "model.zebra=1"): "'model.zebra'",
    }.items():
        result = run(*new, *arguments)
        checks.refuses(result, 2, message)
        checks.check("did you mean" not in result.stderr, f"nothing is near {arguments}", result.stderr)
    checks.refuses(run(*new, "--steps", 3), 2, "'--steps'", "it is a flag of sample")
    checks.refuses(run("info", "x", "--minutes", 3), 2, "'--minutes'", "it is a flag of demo")
    checks.refuses(run("--json", "info", "x"), 2, "'--json'", "behind the subcommand: info --json")
    checks.refuses(run("distill", "--out", "y"), 2, "expected TEACHER, got none")
    checks.refuses(run("sample"), 2, "expected CKPT, got none")
    checks.refuses(run("info", "a", "b"), 2, "'b'")
    checks.refuses(run("help", "trian"), 2, "did you mean 'train'")
    checks.refuses(run("completion"), 2, "expected SHELL, got none")
    checks.refuses(run("completion", "basch"), 2, "did you mean 'bash'")
    # A word behind a subcommand is an argument, also where it is the name of a subcommand.
    checks.refuses(run("info", "train"), 1, "'train'")
    checks.runs(run("info", "teacher"), "info")


def test_help_command(run, checks):
    for name in SUBCOMMANDS:
        shown, expected = run("help", name), run(name, "--help")
        checks.equal((shown.returncode, shown.stdout), (0, expected.stdout), f"help {name}")
    checks.equal(checks.runs(run("help"), "help").stdout, run("--help").stdout, "help alone")


# --- exit codes and signals -------------------------------------------------------------------------------------------

def test_exit_codes(run, checks):
    """One table, and it is true."""
    table = (ROOT / "docs/cli.md").read_text(encoding="utf-8").split("| exit code |")[1].split("\n\n")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    checks.equal(documented, {0, 1, 2, 130, 141, 143}, "exit codes in docs/cli.md")
    overview = run("--help").stdout.split("Exit codes:")[1]
    checks.equal({int(code) for code in re.findall(r"\b(\d+)\b", overview)}, documented - {141}, "exit codes in --help")
    checks.equal(run("info", "teacher").returncode, 0, "done")
    checks.equal(run("info", "nobody").returncode, 1, "failed")
    checks.equal(run("info").returncode, 2, "wrong command line")


def endless(run, name, *arguments):
    """A training that does not end by itself, after its first update."""
    command = [run.program, "train", "--data", "data", "--config", "tiny.json", "--out", name, "--max-steps", "1000000",
               "--checkpoint-every", "0", "--log-every", "1", *arguments]
    process = subprocess.Popen(command, cwd=run.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    process.stderr.readline()
    return process


def test_signals(run, checks):
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        name = f"stopped-{code}"
        process = endless(run, name)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
        checks.equal(process.returncode, code, f"exit code after {number.name}")
        saved = sorted(run.path(name).glob("step-*"))
        checks.equal(len(saved), 1, "a checkpoint was saved")
        checks.check(bool(saved) and saved[0].name in stderr and "--resume" in stderr, "and is named", stderr[-300:])

    # The second signal does not wait for the update, which is made long here by a large batch.
    for first, second, code in ((signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGINT, signal.SIGTERM, 143),
                                (signal.SIGTERM, signal.SIGINT, 130)):
        name = f"killed-{first}-{second}"
        process = subprocess.Popen([run.program, "train", "--data", "data", "--config", "tiny.json", "--out", name,
                                    "--max-steps", "1000", "--batch-size", "8192"], cwd=run.folder,
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        deadline = time.monotonic() + 30
        while not run.path(name).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(first)
        process.stderr.readline()
        checks.check("stopping" in process.stderr.readline(), "the first signal is answered")
        process.send_signal(second)
        process.communicate(timeout=60)
        checks.equal(process.returncode, code, f"exit code after {first.name}, {second.name}")
        checks.equal(list(run.path(name).glob("step-*")), [], "nothing was saved")


def test_pipes(run, checks):
    """A reader that goes away: quietly, or a clear error; and a training does not end because of it."""
    def with_closed(streams, *arguments, ignored=False):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            return subprocess.run([run.program, *map(str, arguments)], cwd=run.folder, timeout=60, check=False,
                                  stdout=writer if "stdout" in streams else subprocess.PIPE, text=True,
                                  stderr=writer if "stderr" in streams else subprocess.PIPE,
                                  restore_signals=not ignored)  # Python itself ignores SIGPIPE
        finally:
            os.close(writer)

    for arguments in (["info", "teacher"], ["--help"], ["gradcheck", "--list"], ["completion", "zsh"]):
        result = with_closed({"stdout"}, *arguments)
        checks.equal((result.returncode, result.stderr), (-signal.SIGPIPE, ""), f"{arguments} ends quietly")
        result = with_closed({"stdout"}, *arguments, ignored=True)
        checks.equal(result.returncode, 1, f"{arguments} where SIGPIPE is ignored")
        checks.check(result.stderr.startswith("[halfstep]") and "write" in result.stderr, "says why", result.stderr)
    shell = subprocess.run(["bash", "-c", '"$0" info teacher | head -1', run.program], cwd=run.folder, text=True,
                           capture_output=True, check=False)
    checks.equal((shell.stdout.count("\n"), shell.stderr), (1, ""), "info | head -1")

    small = ["train", "--data", "data", "--config", "tiny.json", "--out"]
    checks.equal(with_closed({"stderr"}, *small, "unwatched").returncode, 0, "nobody reads the progress")
    checks.check(run.path("unwatched/step-00000012").exists(), "the training went on")
    checks.equal(with_closed({"stdout", "stderr"}, *small, "unheard").returncode, 1, "nobody reads the result")
    checks.check(run.path("unheard/step-00000012").exists(), "the training went on")


# --- what it looks like -----------------------------------------------------------------------------------------------

def on_terminal(run, width, arguments, environment=None, stop=None):
    """Everything that the program writes on a terminal of that width. `stop` ends it by Ctrl-C after so many bytes."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen([run.program, *map(str, arguments)], cwd=run.folder, stdin=slave, stdout=slave,
                               stderr=slave, close_fds=True, env={**os.environ, "TERM": "xterm", **(environment or {})})
    os.close(slave)
    output, stopped = b"", False
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        output += piece
        if stop and len(output) > stop and not stopped:
            process.send_signal(signal.SIGINT)
            stopped = True
    watchdog.cancel()
    os.close(master)
    process.wait()
    return process.returncode, output.decode().replace("\r\n", "\n")


def states_of_lines(text):
    """All that a terminal shows, one after the other, in each of its lines."""
    return [line.split("\r") for line in text.split("\n")]


def test_terminal(run, checks):
    """The bar is redrawn in its line, and never wider than the terminal."""
    tiny = ["train", "--data", "data", "--config", "tiny.json", "--log-every", 1]
    for width in (200, 80, 60, 40):
        _, text = on_terminal(run, width, [*tiny, "--out", f"w{width}"])
        bars = [state for line in states_of_lines(text) for state in line if re.search(r"\b\d+/12\b", state)]
        checks.check(len(bars) == 12, f"{width} columns: 12 states of the bar", repr(text))
        checks.check(all(len(state) < width for state in bars), f"{width} columns: the bar fits", repr(bars))
        checks.equal(sum(any("/12" in state for state in line) for line in states_of_lines(text)), 1,
                     f"{width} columns: the bar has one line")
        checks.equal("####" in text, width >= 60, f"{width} columns: the bar is drawn where it has room")
        checks.check("\x1b" not in text, f"{width} columns: no escape sequences", repr(text))
        checks.check("\n" in text[text.rindex("12/12"):], "the last bar ends its line")

    # Large numbers, and a line that gets shorter: what stood there is covered.
    for width in (80, 60):
        code, text = on_terminal(run, width, [*tiny, "--out", f"long{width}", "--max-steps", 1000000000, "--set",
                                              "train.learning_rate=1"], stop=4000)
        checks.equal(code, 130, "stopped")
        lines = states_of_lines(text)
        wide = [state for line in lines for state in line if len(state) >= width and "/" not in state.split("'")[0]]
        checks.equal(wide, [], f"{width} columns: nothing is wider")
        checks.check("\nstopping after this update" in text, "Ctrl-C is answered", repr(text[-300:]))
        drawn = [state for line in lines for state in line if "/1000000000" in state]
        checks.check(len(drawn) > 10 and all(len(state) < width for state in drawn), f"{width} columns: the bar fits")
        checks.check(all(len(b) >= len(a.rstrip()) for line in lines for a, b in zip(line, line[1:])
                         if "/10" in a and "/10" in b), f"{width} columns: the new bar covers the old one")

    _, text = on_terminal(run, 80, [*tiny, "--out", "dumb"], {"TERM": "dumb"})
    checks.check("\r" not in text and text.count("/12") == 12, "plain lines where TERM=dumb", repr(text))
    for arguments in (("train", "--out", "x", "--device", "abacus"), ("train", "--loss", "a"), ("info", "nobody"),
                      ("frobnicate",), ("distill", "teacher", "--out", "students"), ("help", "trian")):
        _, text = on_terminal(run, 80, arguments)
        checks.check(text and max(map(len, text.split("\n"))) < 80, f"errors of {arguments} fit", text)
    for name in SUBCOMMANDS:
        for width in (80, 132):
            _, text = on_terminal(run, width, [name, "--help"])
            checks.check(max(map(len, text.split("\n"))) <= 80 and "\x1b" not in text, f"help of {name} fits", text)


def test_widths(run, checks):
    """Where there is no terminal lines fit 80 columns, but for paths, and are text alone."""
    outputs = {
        "train": run.train("plain", "--log-every", 1),
        "large": run.train("large", "--max-steps", 2, "--set", "train.learning_rate=1e5", "--no-anneal"),
        "distill": run("distill", "plain", "--out", "plain-students", "--data", "data", "--max-steps", 2),
        "sample": run("sample", "plain", "--out", "p.png"),
        "info": run("info", "plain-students"),
        "gradcheck": run("gradcheck", "matmul", "max", "--dtype", "f64", "--backend", "cpu"),
        "list": run("gradcheck", "--list"),
        "demo": run("demo", "--out", "plain-demo", "--data", "data", "--config", "tiny.json", "--minutes", "0.002"),
        "notes": run("demo", "--out", "plain-demo", "--data", "data", "--config", "tiny.json"),
    }
    for name, result in outputs.items():
        text = checks.runs(result, name).stdout + result.stderr
        wide = [line for line in text.splitlines() if len(line) > 80 and not re.search(r"\w/\w|\.png|\.json", line)]
        checks.equal(wide, [], f"lines of {name} wider than 80 columns")
        checks.check("\x1b" not in text and "\r" not in text, f"{name} writes text alone", repr(text))


SCENARIOS = (test_set, test_set_elsewhere, test_configs, test_missing_config, test_spelling, test_help_command,
             test_exit_codes, test_signals, test_pipes, test_terminal, test_widths)


def main():
    global ROOT
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    ROOT = pathlib.Path(sys.argv[2]).resolve()
    assert TINY["train"]["max_steps"] == 12  # what the scenarios count
    return run_scenarios(SCENARIOS, sys.argv[1], __doc__)


if __name__ == "__main__":
    sys.exit(main())
