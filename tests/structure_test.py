#!/usr/bin/env python3
"""Checks the structure of the sources: which folder may include which, headers that compile alone, headers free of
third-party libraries, and texts that do not name one machine.

Usage: structure_test.py ROOT COMPILER [ARGUMENT...]
"""
import pathlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# Includes go downwards only. Nobody includes cuda/: it is reached through a function that tensor/ declares.
MAY_INCLUDE = {
    "tensor": {"tensor"},
    "cuda": {"cuda", "tensor"},
    "autograd": {"autograd", "tensor"},
    "nn": {"nn", "autograd", "tensor"},
    "diffusion": {"diffusion", "nn", "autograd", "tensor"},
    "apps": {"apps", "diffusion", "nn", "autograd", "tensor"},
    "bench": {"bench", "diffusion", "nn", "autograd", "tensor"},
    "tests": {"tests", "diffusion", "nn", "autograd", "tensor"},
}
# Folders whose headers a user of the library includes.
PUBLIC = ("tensor", "autograd", "nn", "diffusion")
# Headers that no user includes: kernels, with their vector intrinsics, and what needs a third-party library.
INTERNAL = ("tensor/cpu/", "cuda/", "diffusion/internal/")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
# <vector>, and for its headers also <fmt/core.h>.
STANDARD_OR_FMT = re.compile(r"[a-z_0-9]+|fmt/[a-z]+\.h")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|work|root|Users)/\w")


def sources(root, suffixes):
    return sorted(path for folder in MAY_INCLUDE for path in (root / folder).rglob("*") if path.suffix in suffixes)


def check_includes(root):
    """Directions, and third-party headers in public headers."""
    for path in sources(root, {".h", ".cpp", ".cu", ".cuh"}):
        name = path.relative_to(root).as_posix()
        folder = name.split("/")[0]
        for bracket, included in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if bracket == '"':
                if not (root / included).is_file():
                    yield f"{name}: \"{included}\" is not a path from the root"
                elif included.split("/")[0] not in MAY_INCLUDE[folder]:
                    yield f"{name}: {folder}/ may not include \"{included}\""
                elif included.startswith("tensor/cpu/") and folder not in ("tensor", "tests", "bench"):
                    yield f"{name}: \"{included}\" is internal to tensor/"
            elif (path.suffix == ".h" and folder in PUBLIC and not name.startswith(INTERNAL)
                  and not STANDARD_OR_FMT.fullmatch(included)):
                yield f"{name}: a public header may not include <{included}>"


def check_headers(root, compiler):
    """Every header compiles alone, without warnings."""
    def compile_alone(path):
        name = path.relative_to(root).as_posix()
        command = compiler + ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{root}", "-xc++", "-"]
        result = subprocess.run(command, input=f'#include "{name}"\n', capture_output=True, text=True, check=False)
        return None if result.returncode == 0 else f"{name} does not compile alone:\n{result.stderr}"

    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from filter(None, pool.map(compile_alone, sources(root, {".h"})))


def check_texts(root):
    """No tracked file names a path of the machine it was written on."""
    if shutil.which("git") is None:
        return
    listing = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listing.returncode != 0:  # an archive without version control
        return
    for name in filter(None, listing.stdout.split("\0")):
        try:
            text = (root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # binary, or deleted and not yet committed
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                yield f"{name}:{number}: names a path of one machine: {line.strip()[:100]}"


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    root, compiler = pathlib.Path(sys.argv[1]), sys.argv[2:]
    problems = [*check_includes(root), *check_texts(root), *check_headers(root, compiler)]
    for problem in problems:
        print(problem)
    checked = len(sources(root, {".h"}))
    print(f"{len(problems)} problems; {checked} headers compiled alone")
    return 1 if problems or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
