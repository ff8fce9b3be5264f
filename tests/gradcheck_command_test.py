#!/usr/bin/env python3
"""Runs `halfstep gradcheck` as a person would.

Usage: gradcheck_command_test.py PATH_OF_HALFSTEP

Every check prints one line when it fails; the last line is 'N passed, N failed'.
"""
import json
import os
import subprocess
import sys

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print(f"FAILED {what}" + (f"\n    {detail}" if detail else ""), flush=True)


def run(*arguments):
    return subprocess.run([PROGRAM, "gradcheck", *arguments], capture_output=True, text=True, timeout=300, check=False,
                          stdin=subprocess.DEVNULL)


def refuses(code, arguments, *fragments):
    result = run(*arguments)
    check(result.returncode == code, f"exit code {code} of {arguments}", f"got {result.returncode}: {result.stderr}")
    for fragment in fragments:
        check(fragment in result.stderr, f"the message of {arguments} says '{fragment}'", result.stderr)


def lines_of(result):
    """The rows of the table, split at spaces from the right: backend, dtype, layout, mode, orders, status."""
    table = result.stdout.split("\n\n")[0].splitlines()
    check(table[0].split() == ["operation", "backend", "dtype", "layout", "mode", "order", "1", "order", "2", "status"],
          "head of the table", table[0])
    return [line.rsplit(maxsplit=7) for line in table[1:]]


def test_everything():
    """All operations; the table fits a terminal, and the JSON says the same."""
    whole = run()
    check(whole.returncode == 0, "all operations pass in all layouts", whole.stdout[-2000:])
    check(all(len(line) <= 80 for line in whole.stdout.splitlines()), "80 columns in all layouts")
    result = run("--layout", "contiguous")
    check(result.returncode == 0, "all operations pass", result.stdout[-2000:])
    check(all(len(line) <= 80 for line in result.stdout.splitlines()), "80 columns")
    check("\x1b" not in result.stdout, "no colour")
    lines = lines_of(result)
    check(len(lines) > 4 * 50, "a line for each case, backend and dtype", len(lines))
    check(all(line[7] in ("ok", "kink") for line in lines), "status")
    check(f"{len(lines)} of {len(lines)} checks ok" in result.stdout, "the sum", result.stdout[-100:])

    names = run("--list", "--json")
    check(names.returncode == 0, "--list --json")
    operations = json.loads(names.stdout)
    check({"matmul", "conv2d", "softmax", "add"} <= set(operations), "--list names operations", operations.keys())
    checks = json.loads(run("--layout", "contiguous", "--json").stdout)
    check(checks["failed"] == 0 and checks["checked"] == len(lines), "--json counts", checks["checked"])
    check({c["operation"] for c in checks["checks"]} == set(operations), "every operation of --list is checked")
    for c in checks["checks"]:
        check(c["error_order_1"] is not None and c["error_order_1"] <= (1e-3 if c["dtype"] == "f32" else 1e-6),
              f"worst error of {c['case']}", c)


def test_choice():
    lines = lines_of(run("matmul", "--backend", "cpu", "--dtype", "f64", "--order", "1"))
    check({line[1] for line in lines} == {"cpu"} and {line[2] for line in lines} == {"f64"}, "backend and dtype", lines)
    check([line[3] for line in lines[:5]] == ["contiguous", "transposed", "sliced", "expanded", "flipped"], "layouts")
    check(all(line[5] != "-" and line[6] == "-" for line in lines), "--order 1 leaves order 2 out", lines)
    check(all("matmul" in line[0] for line in lines), "only matmul", lines)
    check(all(line[5] == "-" and line[6] != "-" for line in lines_of(run("exp", "--order", "2"))), "--order 2")
    check({line[3] for line in lines_of(run("matmul", "--layout", "flipped"))} == {"flipped"}, "--layout")
    check({line[4] for line in lines_of(run("matmul", "--mode", "random"))} == {"random"}, "--mode random")
    check({line[4] for line in lines_of(run("matmul", "--mode", "full"))} == {"full"}, "--mode full")
    complex_lines = lines_of(run("exp", "tanh", "--mode", "complex"))
    check([line[1:5] for line in complex_lines] == 2 * [["formula", "f64", "-", "complex"]], "--mode complex",
          complex_lines)
    check("complex" in {line[4] for line in lines_of(run("exp"))}, "formulas are part of auto")
    one = run("conv2d 1x1", "add", "--dtype", "f64", "--layout", "contiguous")
    check("conv2d 1x1" in one.stdout and "3x3" not in one.stdout and "add" in one.stdout, "a case by its name, and two "
          "operations", one.stdout)
    check(run("silu", "--seed", "7", "--mode", "full").stdout != run("silu", "--seed", "8", "--mode", "full").stdout,
          "--seed chooses the inputs")
    check(run("silu", "--threads", "1").returncode == 0, "--threads")
    verbose = run("exp", "--dtype", "f64", "--layout", "contiguous", "--verbose").stdout
    check("evaluations" in verbose and all(len(line) <= 80 for line in verbose.splitlines()), "--verbose", verbose)
    listing = run("--list", "conv2d").stdout.splitlines()
    check(listing[0] == "conv2d" and "  conv2d 1x1" in listing and "matmul" not in listing, "--list OP", listing)


def test_refusals():
    refuses(2, ["matmull"], "'matmull'", "did you mean 'matmul'?")
    refuses(2, ["--backend", "gpu"], "--backend", "reference")
    refuses(2, ["--dtype", "f16"], "--dtype", "f32")
    refuses(2, ["--layout", "slice"], "did you mean 'sliced'?")
    refuses(2, ["--order", "3"], "--order")
    refuses(2, ["--mode", "quick"], "--mode", "random")
    refuses(2, ["--seed", "-1"], "--seed")
    refuses(2, ["--bakend", "cpu"], "'--bakend'", "'--backend'")
    refuses(1, ["matmul", "--mode", "complex"], "[gradcheck]", "--list")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv[1])
    for test in (test_everything, test_choice, test_refusals):
        try:
            test()
        except Exception as error:  # a test that breaks is one failure; the others still run
            check(False, f"{test.__name__}: stopped by {type(error).__name__}: {error}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if failed == 0 and passed > 0 else 1)
