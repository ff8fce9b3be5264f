#!/usr/bin/env python3
"""Every example in the help of the subcommands and in the documents works as it stands.

Usage: examples_test.py PATH_OF_HALFSTEP ROOT

An example is a line that begins with `  halfstep ` in the footer of --help, and in the documents an indented line that
begins with `halfstep` or `build/apps/halfstep`, or `source <(halfstep`; a backslash at its end joins the next line.
bash runs them, those of each source one after the other in a folder of their own, so that each finds what the one
before it has written. What is changed in them:
  - SHORTER: flags at the end that make networks small and trainings short;
  - GIVEN: a folder or file that an example reads and that no example before it has written is made beforehand;
  - without Debian's Fashion-MNIST, the flag --data with a small data set.
Every subcommand has an example. The last line is 'N passed, N failed'.
"""
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cli_session import normals, run_scenarios, write_data, write_tensors  # noqa: E402

ROOT = pathlib.Path()
DOCUMENTS = ("README.md", "docs/cli.md", "docs/config.md", "docs/gradcheck.md")
SIDE = 28
SMALL = ("--set model.channels=8 --set model.groups=4 --set model.num_res_blocks=1 --set train.warmup_steps=0 "
         "--set train.batch_size=4 ")
# By the beginning of the command line behind `halfstep`; of several the longest counts.
SHORTER = {
    "train": SMALL + "--max-steps 2",
    "distill": "--max-steps 2 --batch-size 4",
    "demo": SMALL + "--minutes 0.002",
    "sample": "--num 2",
    "gradcheck": "matmul",
    "gradcheck --list": "",
}
# Those that take many minutes in full; the others of gradcheck check what they name.
NAMES_ITS_OPERATIONS = re.compile(r"gradcheck '?[a-z]")
WITH_DATA = ("train", "distill", "demo")
DEFAULT_DATA = pathlib.Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")

EXAMPLE = re.compile(r"(?:build/apps/|source <\()?halfstep\s+([a-z]+)(.*)")


def examples_of_help(text):
    return [line.strip() for line in text.split("Example")[-1].splitlines() if line.startswith("  halfstep ")]


def examples_of_document(text):
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\\\n\s*", "", text)
    return [line.strip() for line in text.splitlines()
            if line.startswith("    ") and EXAMPLE.match(line.strip())]


def shortened(line):
    """The command line with what SHORTER has for it, before any pipe, redirection or comment."""
    command, rest = re.fullmatch(r"(.*?)(\s+(?:[|>#&].*)|\)|)", line).groups()
    words = command[command.index("halfstep") + len("halfstep"):].strip()
    beginnings = [key for key in SHORTER if (words + " ").startswith(key + " ")]
    flags = SHORTER[max(beginnings, key=len)] if beginnings else ""
    if NAMES_ITS_OPERATIONS.match(words):
        flags = ""
    subcommand = words.split(" ")[0]
    if subcommand in WITH_DATA and not DEFAULT_DATA.exists() and "--data" not in words:
        flags += " --data data"
    return f"{command} {flags} {rest}".strip()


class Examples:
    def __init__(self, run, checks):
        self.run, self.checks, self.subcommands = run, checks, set()
        write_data(run.path("data28"), side=SIDE)
        write_tensors(run.path("z.safetensors"), {"x": ("F32", [1, SIDE, SIDE, 1], normals(SIDE * SIDE)),
                                                  "logsnr": ("F32", [1], [0.0])})
        small = SMALL.split() + ["--max-steps", 2, "--data", "data28"]
        checks.runs(run("train", "--out", "given-teacher", *small), "a teacher for the examples")
        checks.runs(run("distill", "given-teacher", "--out", "given-students", "--data", "data28", "--max-steps", 1,
                        "--batch-size", 2), "students for the examples")
        self.given = {"runs/teacher": "given-teacher", "runs/students": "given-students",
                      "z.safetensors": "z.safetensors"}

    def folder(self, name):
        """Where the examples of a source run: like the root of the project, with a built program."""
        folder = self.run.path("examples-" + name.replace("/", "-"))
        (folder / "build/apps").mkdir(parents=True)
        (folder / "build/apps/halfstep").symlink_to(self.run.program)
        (folder / "configs").symlink_to(ROOT / "configs")
        (folder / "data").symlink_to(self.run.path("data28"))
        (folder / "home/.config/fish/completions").mkdir(parents=True)
        return folder

    def give(self, folder, line):
        for path, source in self.given.items():
            target = folder / path
            if re.search(rf"(?<!--out )(?<!\S){re.escape(path)}(?!\S)", line) and not target.exists():
                target.parent.mkdir(exist_ok=True)
                source = self.run.path(source)
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)

    def bash(self, folder, line):
        environment = {**os.environ, "PATH": f"{folder}/build/apps:{os.environ['PATH']}", "HOME": str(folder / "home")}
        # A command that fails before a pipe fails.
        return subprocess.run(["bash", "--norc", "-o", "pipefail", "-c", line], cwd=folder, env=environment, text=True,
                              capture_output=True, timeout=300, check=False, stdin=subprocess.DEVNULL)

    def try_all(self, name, lines):
        folder = self.folder(name)
        for line in lines:
            self.give(folder, line)
            command = shortened(line)
            shell = "zsh" if "completion zsh" in line else "bash"
            result = (self.bash(folder, command) if shell == "bash" else
                      self.bash(folder, command.replace("source <(", "cat <(")))  # tests/completion_test.py runs it
            # With a reader that has read enough: info | head -1.
            ok = result.returncode == 0 or ("| head" in line and result.returncode == 141)
            self.checks.check(ok, f"{name}: {line}", f"run as: {command}\n    exit code {result.returncode}: "
                              f"{result.stderr.strip()[-500:]}")
            self.checks.check("[" + "halfstep" not in result.stderr, f"{name}: {line}: no complaint", result.stderr)
            self.subcommands.add(EXAMPLE.match(line)[1])


def test_examples(run, checks):
    examples = Examples(run, checks)
    overview = run("--help").stdout
    subcommands = re.findall(r"^  ([a-z]+) ", overview.split("Subcommands:")[1].split("Example")[0], re.MULTILINE)
    checks.check(len(subcommands) >= 7, "the overview names subcommands", overview)
    for name in subcommands:
        lines = examples_of_help(run(name, "--help").stdout)
        checks.check(any(EXAMPLE.match(line)[1] == name for line in lines), f"help of {name} has an example of {name}")
        examples.try_all(f"{name} --help", lines)
    examples.try_all("--help", examples_of_help(overview))
    for document in DOCUMENTS:
        lines = examples_of_document((ROOT / document).read_text(encoding="utf-8"))
        checks.check(lines, f"{document} has examples")
        examples.try_all(document, lines)
    checks.equal(set(subcommands) - examples.subcommands, set(), "subcommands without an example that was run")


def test_the_test(run, checks):
    """Examples are found, and wrong ones fail."""
    text = "prose halfstep train\n\n    halfstep train --out a \\\n        --seed 1\n    build/apps/halfstep info a\n" \
           "    g++ halfstep.cpp\n```\n    halfstep info b\n```\n    source <(halfstep completion bash)\n"
    checks.equal(examples_of_document(text), ["halfstep train --out a --seed 1", "build/apps/halfstep info a",
                                              "source <(halfstep completion bash)"], "examples of a document")
    checks.equal(examples_of_help("Usage\nExample: x\n  halfstep info a\n  other\n"), ["halfstep info a"], "of help")
    checks.equal(shortened("halfstep sample a | head -1"), "halfstep sample a --num 2  | head -1", "before a pipe")
    checks.equal(shortened("halfstep gradcheck conv2d"), "halfstep gradcheck conv2d", "gradcheck of an operation")
    checks.equal(shortened("halfstep gradcheck   # all"), "halfstep gradcheck matmul    # all", "gradcheck of all")
    wrong = Counting()
    examples = functools.partial(Examples.try_all, WithoutFixtures(run, wrong))
    examples("wrong", ["halfstep train --outt runs/a", "halfstep trian --out runs/b", "halfstep info runs/absent",
                       "halfstep train --out runs/c --config configs/absent.json", "halfstep info"])
    checks.equal(wrong.failed, 5, "wrong examples that were noticed")


class Counting:
    """Checks that are expected to fail: counts the examples."""
    failed = 0

    def check(self, ok, what, detail=""):
        self.failed += not ok and "no complaint" not in what


class WithoutFixtures(Examples):
    def __init__(self, run, checks):
        self.run, self.checks, self.subcommands, self.given = run, checks, set(), {}


def main():
    global ROOT
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    ROOT = pathlib.Path(sys.argv[2]).resolve()
    return run_scenarios((test_examples, test_the_test), sys.argv[1], __doc__)


if __name__ == "__main__":
    sys.exit(main())
