#!/usr/bin/env python3
"""The completion of the shells: bash's function is called, zsh and fish complete where they are installed.

Usage: completion_test.py PATH_OF_HALFSTEP

The last line is 'N passed, N failed'; a shell that is not installed is named as skipped.
"""
import os
import pathlib
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cli_session import SUBCOMMANDS, run_scenarios  # noqa: E402

LOSSES = ["constant", "snr", "truncated-snr", "snr+1"]
# (command line up to the cursor, what is offered there); a set: at least these.
CASES = [
    ("halfstep tr", ["train"]),
    ("halfstep ", {*SUBCOMMANDS}),
    ("halfstep train --lo", ["--loss", "--log-every"]),
    ("halfstep train --no-f", ["--no-flip"]),
    ("halfstep train --loss ", LOSSES),
    ("halfstep train --out x --loss sn", ["snr", "snr+1"]),
    ("halfstep train --prediction ", ["x", "eps", "v", "both"]),
    ("halfstep train --ema-warmup r", ["ramp"]),
    ("halfstep distill runs --precision ", ["f32", "bf16"]),
    ("halfstep sample runs --precision b", ["bf16"]),
    ("halfstep sample runs --sampler a", ["ancestral"]),
    ("halfstep sample runs --variance f", ["fixed_small", "fixed_large"]),
    ("halfstep info runs --device c", ["cpu", "cuda"]),
    ("halfstep train --set train.lo", ["train.loss=", "train.log_every="]),
    ("halfstep demo --set model.num_c", ["model.num_classes="]),
    ("halfstep gradcheck --dtype ", ["f32", "f64", "all"]),
    ("halfstep gradcheck matm", ["matmul"]),
    ("halfstep help s", ["sample"]),
    ("halfstep completion ", ["bash", "zsh", "fish"]),
    ("halfstep train --config t", ["tiny.json"]),
    ("halfstep train --data d", ["data"]),
    ("halfstep info da", ["data"]),
    ("halfstep distill runs --out da", ["data"]),
    ("halfstep train --max-steps ", []),
    ("halfstep train x", []),
]


def scripts(run, checks):
    for shell in ("bash", "zsh", "fish"):
        script = checks.runs(run("completion", shell), f"completion {shell}").stdout
        run.path(f"halfstep.{shell}").write_text(script)
        if shutil.which(shell) is None:
            print(f"skipped: {shell} is not installed", flush=True)
            continue
        checks.runs(subprocess.run([shell, "-n", run.path(f"halfstep.{shell}")], capture_output=True, text=True,
                                   check=False), f"{shell} reads the script")


def offers(got, expected):
    got = sorted({name.rstrip("/") for name in got})
    return set(got) >= expected if isinstance(expected, set) else got == sorted(expected)


def test_bash(run, checks):
    scripts(run, checks)
    # (words with bash's own splitting at the equals sign, what is offered)
    equals = [(["train", "--loss", "="], LOSSES), (["train", "--loss", "=", "sn"], ["snr", "snr+1"]),
              (["train", "--set", "=", "train.lo"], ["train.loss=", "train.log_every="]),
              (["train", "--set", "train.loss", "=", "sn"], []),
              (["train", "--config", "=", "ti"], ["tiny.json"])]
    for words, expected in [*((line.split(" ")[1:], expected) for line, expected in CASES), *equals]:
        command = ["halfstep", *words]
        lines = [f"source {shlex.quote(str(run.path('halfstep.bash')))}",
                 f"COMP_WORDS=({shlex.join(command)})", f"COMP_CWORD={len(command) - 1}",
                 "_halfstep || exit", 'printf "%s\\n" "${COMPREPLY[@]}"', "complete -p halfstep"]
        result = checks.runs(subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], cwd=run.folder, text=True,
                                            capture_output=True, check=False), shlex.join(command))
        *got, registered = result.stdout.splitlines()
        checks.check("-F _halfstep halfstep" in registered, "bash knows the function", registered)
        checks.equal(result.stderr, "", "bash has nothing to complain of")
        got = [name for name in got if name]
        checks.check(offers(got, expected), f"bash, {shlex.join(command)}", f"expected {expected}, got {got}")
    # Every flag of every subcommand.
    for name in SUBCOMMANDS:
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*(?=[ ,\n])", run(name, "--help").stdout.split("Options:")[1]
                               .split("Example")[0]))
        script = run.path("halfstep.bash").read_text()
        own = re.search(rf"^ +{name}\) flags='([^']*)'", script, re.MULTILINE)
        missing = {flag for flag in re.findall(r"^  (?:-h, )?(--[\w-]+)", run(name, "--help").stdout, re.MULTILINE)
                   if flag not in (own[1].split() if own else [])}
        checks.equal(missing, set(), f"flags of {name} that bash does not offer")
        checks.check(flags, f"{name} has flags")


def test_fish(run, checks):
    if shutil.which("fish") is None:
        return
    for line, expected in CASES:
        result = checks.runs(subprocess.run(
            ["fish", "--no-config", "-c", f"source halfstep.fish; complete -C {shlex.quote(line)}"], cwd=run.folder,
            capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(run.folder)}), line)
        got = [text.split("\t")[0] for text in result.stdout.splitlines()]
        checks.equal(result.stderr, "", "fish has nothing to complain of")
        checks.check(offers(got, expected), f"fish, {line}", f"expected {expected}, got {got}")


class Zsh:
    """An interactive zsh, in which a key shows all that the completion offers for a line."""

    def __init__(self, folder):
        process, self.terminal = pty.fork()
        if process == 0:
            os.chdir(folder)
            os.environ.update(TERM="dumb", HOME=str(folder))
            os.execvp("zsh", ["zsh", "-f", "-i"])
        self.process = process
        # compadd keeps what it is given; with -O it only matches it against the word before the cursor.
        self.send("""PS1= PS2=; unsetopt zle_bracketed_paste prompt_cr prompt_sp; autoload -Uz compinit
compinit -D -u; source halfstep.zsh
compadd() { local -a kept; builtin compadd -O kept "$@"; all+=($kept); builtin compadd "$@"; }
report() { print -r -- "<<${(j: :)all}>>"; }
capture() { all=(); comppostfuncs=(report); zle list-choices; }
zle -N capture; bindkey '^X' capture; bindkey '^U' kill-whole-line
print rea''dy
""")
        self.wait(rb"ready")

    def send(self, text):
        os.write(self.terminal, text.encode())

    def wait(self, pattern, seconds=20):
        output, deadline = b"", time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                output += os.read(self.terminal, 65536)
            match = re.search(pattern, output, re.DOTALL)
            if match:
                return match
        raise TimeoutError(f"zsh did not answer; it wrote {output[-500:]!r}")

    def offers(self, line):
        self.send(line + "\x18")
        # The terminal breaks long lines, with a carriage return of its own.
        shown = re.sub(rb"[\r\n]", b"", self.wait(rb"<<(.*?)>>")[1]).decode().split()
        self.send("\x15")
        return shown

    def close(self):
        self.send("\x03\nexit\n")
        os.close(self.terminal)
        os.waitpid(self.process, 0)


def test_zsh(run, checks):
    if shutil.which("zsh") is None:
        return
    zsh = Zsh(run.folder)
    for line, expected in CASES:
        got = zsh.offers(line)
        checks.check(offers(got, expected), f"zsh, {line}", f"expected {expected}, got {got}")
    zsh.close()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    return run_scenarios((test_bash, test_fish, test_zsh), sys.argv[1], __doc__)


if __name__ == "__main__":
    sys.exit(main())
