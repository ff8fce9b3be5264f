#!/usr/bin/env python3
"""Checks the structure of the sources: which folder may include which, headers that compile alone and in no circle,
headers free of third-party libraries, sources that are built, a root without strays, and texts that do not name one
machine.

Usage: structure_test.py ROOT COMPILER [ARGUMENT...]
"""
import pathlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# Includes go downwards only. Nobody but its tests includes cuda/: it is reached through a function that tensor/ declares. README.md
# and CONTRIBUTING.md show this table.
MAY_INCLUDE = {
    "tensor": {"tensor"},
    "cuda": {"cuda", "tensor"},
    "autograd": {"autograd", "tensor"},
    "nn": {"nn", "autograd", "tensor"},
    "diffusion": {"diffusion", "nn", "autograd", "tensor"},
    "apps": {"apps", "bench", "diffusion", "nn", "autograd", "tensor"},
    "bench": {"bench", "diffusion", "nn", "autograd", "tensor"},
    "tests": {"tests", "diffusion", "nn", "autograd", "tensor", "cuda", "bench"},
}
# Folders whose headers a user of the library includes.
PUBLIC = ("tensor", "autograd", "nn", "diffusion")
# Headers that are not installed (kernels, with their vector intrinsics, what needs a third-party library, and parts of
# an implementation), and who may include them.
INTERNAL = {
    "tensor/cpu/": ("tensor", "bench", "tests"),
    "tensor/backend_entries.h": ("tensor", "bench", "tests"),
    "tensor/bf16_entries.h": ("tensor", "cuda"),
    "tensor/formulas.h": ("tensor", "cuda", "autograd", "tests"),
    "tensor/ops/": ("tensor",),
    "tensor/program.h": ("tensor", "autograd", "apps", "tests"),
    "cuda/": ("cuda", "tests"),
    "autograd/cases/": ("autograd", "apps", "bench", "tests"),
    "autograd/composed.h": ("autograd", "tests"),
    "autograd/internal/": ("autograd", "tests"),
    "diffusion/internal/": ("diffusion", "apps", "tests"),
}
# Programs that are built by the test of the installed library.
OUTSIDE = "tests/outside"

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
# <vector>, and for its headers also <fmt/core.h>.
STANDARD_OR_FMT = re.compile(r"[a-z_0-9]+|fmt/[a-z]+\.h")
IN_ROOT = {*MAY_INCLUDE, ".ci", ".clang-format", ".clang-tidy", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
           "README.md", "configs", "docs", "meson.build", "meson_options.txt", "scripts", "subprojects"}
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
                elif any(included.startswith(prefix) and folder not in folders
                         for prefix, folders in INTERNAL.items()):
                    yield f"{name}: \"{included}\" is internal to {included.split('/')[0]}/"
            elif (path.suffix == ".h" and folder in PUBLIC and not name.startswith(tuple(INTERNAL))
                  and not STANDARD_OR_FMT.fullmatch(included)):
                yield f"{name}: a public header may not include <{included}>"


def public_headers(root):
    """The headers that are installed, as their users write them."""
    names = (path.relative_to(root).as_posix() for path in sources(root, {".h"}))
    return [name for name in names if name.startswith(tuple(f"{folder}/" for folder in PUBLIC))
            and not name.startswith(tuple(INTERNAL))]


def includes_of(path):
    """The paths that a file includes from the root, in order."""
    return [included for bracket, included in INCLUDE.findall(path.read_text(encoding="utf-8")) if bracket == '"']


def check_circles(root):
    """No header includes itself through others."""
    includes = {path.relative_to(root).as_posix(): includes_of(path) for path in sources(root, {".h"})}
    finished = set()

    def visit(name, path):
        if name in path:
            yield f"headers in a circle: {' -> '.join(path[path.index(name):] + [name])}"
        elif name not in finished:
            for included in includes.get(name, ()):
                yield from visit(included, path + [name])
            finished.add(name)

    for name in includes:
        yield from visit(name, [])


def check_built(root):
    """Every source file stands in the meson.build of its folder or of a folder above it."""
    for path in sources(root, {".cpp", ".cu"}):
        if path.is_relative_to(root / OUTSIDE):
            continue
        for folder in path.relative_to(root).parents:
            listing = root / folder / "meson.build"
            text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
            # By its path, or by its name in a loop: `foreach name : ['xor', ...] ... name + '.cpp'`.
            if f"'{path.relative_to(root / folder).as_posix()}'" in text or (
                    f"'{path.stem}'" in text and f"name + '{path.suffix}'" in text):
                break
        else:
            yield f"{path.relative_to(root).as_posix()}: no meson.build lists it, so nothing compiles it"


def check_tables(root):
    """The tables of folders in the texts say what MAY_INCLUDE says."""
    everything = set(MAY_INCLUDE) - {"cuda", "apps", "tests", "bench"}
    for text in ("README.md", "CONTRIBUTING.md"):
        found = set()
        for row in re.findall(r"^\| *(`[a-z]+/`.*)\|$", (root / text).read_text(encoding="utf-8"), re.MULTILINE):
            cells = row.split("|")
            for folder in re.findall(r"`([a-z]+)/`", cells[0]):
                named = re.findall(r"`([a-z]+)/`", cells[-1])
                if "everything" in cells[-1]:
                    allowed = everything | {folder, *(n for n in named if "and `" in cells[-1])}
                elif "and below" in cells[-1]:
                    allowed = {folder}.union(*(MAY_INCLUDE.get(name, {name}) for name in named))
                else:
                    allowed = {folder, *named}
                found.add(folder)
                if allowed != MAY_INCLUDE.get(folder):
                    yield (f"{text}: the table lets {folder}/ include {sorted(allowed)}, MAY_INCLUDE in "
                           f"tests/structure_test.py {sorted(MAY_INCLUDE.get(folder, []))}")
        if found != set(MAY_INCLUDE):
            yield f"{text}: the table of folders lacks or should lack {sorted(found ^ set(MAY_INCLUDE))}"


def first_includes(root):
    """The headers that some source file includes before anything else: the build compiles these alone. Not counted
    are files that need not be compiled, and apps/, whose files start with a precompiled header."""
    for folder in (*PUBLIC, "tests"):
        for path in (root / folder).glob("**/*.cpp" if folder in PUBLIC else "*.cpp"):
            first = INCLUDE.search(path.read_text(encoding="utf-8"))
            if first and first[1] == '"':
                yield first[2]


def check_headers(root, compiler):
    """Every header compiles alone, without warnings; the public ones also with clang, where it is installed. Those of
    cuda/ include the toolkit's: only where the build has found it."""
    def compile_text(compiler, text, what):
        command = compiler + ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I.", "-xc++", "-"]
        result = subprocess.run(command, input=text, cwd=root, capture_output=True, text=True, check=False)
        return None if result.returncode == 0 else f"{what} not compile:\n{result.stderr}"

    compiled_by_build = set(first_includes(root))
    names = [path.relative_to(root).as_posix() for path in sources(root, {".h"})]
    if not any("cuda" in argument for argument in compiler if argument.startswith("/")):
        names = [name for name in names if not name.startswith("cuda/")]
    with ThreadPoolExecutor(max_workers=2) as pool:
        jobs = [pool.submit(compile_text, compiler, f'#include "{name}"\n', f"{name} alone does")
                for name in names if name not in compiled_by_build]
        clang = shutil.which("clang++")
        if clang:
            everything = "".join(f'#include "{name}"\n' for name in public_headers(root))
            jobs.append(pool.submit(compile_text, [clang], everything, "with clang++ the public headers do"))
        yield from filter(None, (job.result() for job in jobs))
    print(f"{len(names)} headers: {len(compiled_by_build & set(names))} are the first include of a source file, "
          f"{len(names) - len(compiled_by_build & set(names))} were compiled alone here"
          f"{', the public ones with clang++ too' if clang else ''}")
    if not names:
        yield "no header was found"


def tracked_files(root):
    """None of an archive without version control."""
    if shutil.which("git") is None:
        return []
    listing = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=False)
    return [name for name in listing.stdout.split("\0") if name] if listing.returncode == 0 else []


def check_root(root):
    """Nothing lies in the root by accident."""
    for name in sorted({name.split("/")[0] for name in tracked_files(root)} - IN_ROOT):
        yield f"{name!r} does not belong in the root: see IN_ROOT in tests/structure_test.py"


def check_texts(root):
    """No tracked file names a path of the machine it was written on."""
    for name in tracked_files(root):
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
    problems = [*check_includes(root), *check_circles(root), *check_built(root), *check_tables(root),
                *check_root(root), *check_texts(root), *check_headers(root, compiler)]
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
