#!/usr/bin/env python3
"""The comments of the public headers: Doxygen reads them without a warning, and none is missing.

A comment `///` covers the declarations that follow it up to the next empty line; a line `// --- title ---` does the
same for a group of functions whose names say everything. Every class, enum and function must be covered.

Usage: doxygen_test.py ROOT

The exit status is 77 (skipped) where Doxygen is not installed.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

from structure_test import public_headers

# Declarations that need no words: constructors, destructors and operators of a class with a comment, the walk of a
# module (nn/module.h describes it once), and functions on one line that only return something.
SELF_EVIDENT = re.compile(r"~.*|operator.*|fields")
ACCESSOR = re.compile(r"\) (const )?\{ return [^;]*; \}$")
COMMENT = re.compile(r"^\s*///|///<|^\s*// --- ")
CLOSING = re.compile(r"^\s*\};$")
OPENING = re.compile(r"^\s*(template\b.*)?(class|struct|enum|namespace)\b.*\{\s*$")


def run_doxygen(root, output):
    """Writes Doxygen's XML into `output`; returns its warnings."""
    configuration = (root / "docs/Doxyfile").read_text(encoding="utf-8") + f"""
OUTPUT_DIRECTORY = {output}
GENERATE_HTML = NO
GENERATE_XML = YES
XML_PROGRAMLISTING = NO
"""
    result = subprocess.run(["doxygen", "-"], input=configuration, cwd=root, capture_output=True, text=True, check=False)
    warnings = [line for line in result.stderr.splitlines() if line.strip()]
    if result.returncode != 0:
        warnings.append(f"doxygen: exit status {result.returncode}")
    return warnings


def covered(lines, number):
    """Whether a comment covers the declaration on line `number` (from 1)."""
    if lines[number - 1].lstrip().startswith("using "):
        return True
    if COMMENT.search(lines[number - 1]) or ACCESSOR.search(lines[number - 1]):
        return True
    closed = 0  # bodies of classes that lie between
    for line in reversed(lines[:number - 1]):
        closed += bool(CLOSING.match(line)) - bool(OPENING.match(line))
        if not line.strip() or closed < 0:
            return False
        if COMMENT.search(line):
            return True
    return False


def declarations(output):
    """(file, line, what) of every public class, enum and function in the XML."""
    for path in sorted(output.glob("xml/*.xml")):
        for compound in xml.etree.ElementTree.parse(path).getroot().iter("compounddef"):
            kind, name = compound.get("kind"), compound.findtext("compoundname")
            if kind in ("class", "struct"):
                place = compound.find("location")
                yield place.get("file"), int(place.get("line")), f"{kind} {name}"
            elif kind != "namespace":
                continue
            for member in compound.iter("memberdef"):
                member_kind, member_name = member.get("kind"), member.findtext("name")
                if member.get("prot") == "private" or member_kind not in ("function", "enum"):
                    continue
                if SELF_EVIDENT.fullmatch(member_name) or member_name == name.rsplit("::")[-1]:
                    continue
                place = member.find("location")
                yield (place.get("declfile") or place.get("file"), int(place.get("declline") or place.get("line")),
                       f"{member_kind} {name}::{member_name}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if shutil.which("doxygen") is None:
        print("doxygen is not installed")
        return 77
    root = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="halfstep-test-") as work:
        problems = run_doxygen(root, work)
        found = set(declarations(pathlib.Path(work)))
    headers = set(public_headers(root))
    lines = {name: (root / name).read_text(encoding="utf-8").splitlines() for name in headers}
    read = {name for name, _, _ in found}
    problems += [f"docs/Doxyfile makes Doxygen read {name}, which is not public" for name in sorted(read - headers)]
    for name in sorted(headers):
        if not lines[name][0].startswith("// "):
            problems.append(f"{name}:1: no comment says what the header holds")
    for name, line, what in sorted(found):
        if name in headers and not covered(lines[name], line):
            problems.append(f"{name}:{line}: {what} has no comment: write one, or put it beside what it belongs to")
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems; {len(found)} classes, enums and functions in {len(read)} headers")
    return 1 if problems or not found else 0


if __name__ == "__main__":
    sys.exit(main())
