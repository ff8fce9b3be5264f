#!/usr/bin/env python3
"""Checks the documents: links, names, test cases, quoted code and command lines.

Usage: docs_test.py ROOT PATH_OF_HALFSTEP

In README.md, CONTRIBUTING.md and docs/*.md:
  - a link to a file of the project, and to a heading in it, leads somewhere;
  - a link whose text is `code` names something that the file declares;
  - a link whose text is "in quotation marks" names a TEST_CASE of the file;
  - code after <!-- quoted from FILE --> stands in that file;
  - a command line of `halfstep` or of a script has a subcommand and flags that exist.
In docs/paper-map.md, each row of a table with the columns "code" and "test" names both, or says "not implemented" or
where to look instead. The last line is 'N passed, N failed'.
"""
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from listings import DocumentError, listings  # noqa: E402

LINK = re.compile(r"\[((?:\\.|[^\[\]\\])*)\]\(([^()\s]+)\)")
STRING = r'"(?:[^"\\]|\\.)*"'
TEST_CASE = re.compile(rf"TEST_CASE\(\s*({STRING}(?:\s*{STRING})*)")
COMMENTS = re.compile(r"//[^\n]*")
NAME = re.compile(r"`(~?[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)(?:\(\))?`")
COMMAND = re.compile(r"(?:^|\s)(?:build/apps/)?halfstep\s+([a-z]+)\b(.*)")
SCRIPT = re.compile(r"(?:^|\s)(scripts/[\w.]+)(.*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def documents(root):
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def text_of(path):
    return path.read_text(encoding="utf-8")


def prose(text):
    """The text without fenced blocks, in which brackets and parentheses are code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    """The names under which GitHub reaches the headings of a document."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-"))
    return found


def test_cases(text):
    return {"".join(part[1:-1] for part in re.findall(STRING, strings)).replace('\\"', '"').replace("\\\\", "\\")
            for strings in TEST_CASE.findall(text)}


def declares(text, name):
    """Whether C++ (or Python) text declares `name`, or a member `Class::name`."""
    code = COMMENTS.sub("", text)
    *scopes, last = name.split("::")
    if scopes and re.search(rf"^[\w:<>&*, ]+ [&*]?{name}\(", code, re.MULTILINE):
        return True  # a member that is defined outside of its class
    for scope in scopes:
        if not re.search(rf"\b(?:struct|class|enum|enum class|namespace) {scope}\b", code):
            return False
    if re.search(rf"\b(?:struct|class|enum class|namespace|concept|def) {last}\b|\busing {last} =", code):
        return True
    # A function: a type stands before its name. `return f(x)` and `x = f(y)` are uses.
    for match in re.finditer(rf"^(.*?)\b{last}\(", code, re.MULTILINE):
        before = re.split(r"[;{}]", match[1])[-1]
        if re.search(r"[\w>&*]\s*[&*]?\s*(?:\w+::)?$", before) and not re.search(r"\b(?:return|throw|else)\b|[=(.,]",
                                                                                before):
            return True
    # A member: enumerator or field.
    return bool(scopes) and bool(re.search(rf"(?<![.\w]){last}\s*(?:[,;={{}}]|$)", code, re.MULTILINE))


def check_links(root, document, text):
    """Yields a problem, or None for what is in order."""
    name = document.relative_to(root).as_posix()
    for label, target in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        label = re.sub(r"\\([|\[\]])", r"\1", label)
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists():
            yield f"{name}: the link to {target} leads nowhere"
            continue
        if anchor:
            yield None if anchor in anchors(text_of(path)) else f"{name}: {target}: no such heading"
            continue
        code, quoted = NAME.fullmatch(label), re.fullmatch(r'"(.*)"', label)
        if code:
            yield None if declares(text_of(path), code[1]) else f"{name}: {target} does not declare {code[1]}"
        elif quoted:
            known = test_cases(text_of(path))
            yield None if quoted[1] in known else f'{name}: {target} has no test case "{quoted[1]}"'
        else:
            yield None


def rows_of_maps(text):
    """The cells of each row in the tables that have columns named code and test: (code, test, row)."""
    columns = None
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if columns is None:
            columns = {cell: k for k, cell in enumerate(cells)} if {"code", "test"} <= set(cells) else {}
        elif columns and not set(line) <= set("|- "):
            yield cells[columns["code"]], cells[columns["test"]], line


def check_map(text):
    for code, test, row in rows_of_maps(text):
        implemented = any(NAME.fullmatch(label) for label, _ in LINK.findall(code))
        tested = any(label.startswith('"') for label, _ in LINK.findall(test))
        if code.startswith("not implemented") or code.startswith("see ["):
            yield None if not test and len(code) > len("not implemented: ") else f"paper-map.md: say why: {row}"
        else:
            yield None if implemented and tested else f"paper-map.md: name a function and a test case: {row}"


def check_quotes(root, document, text):
    name = document.relative_to(root).as_posix()
    try:
        for listing in listings(text.splitlines(keepends=True)):
            if listing.kind != "quoted":
                continue
            path = root / listing.quoted_from
            found = path.is_file() and "\n".join(listing.code) in text_of(path)
            yield None if found else f"{name}:{listing.line}: {listing.quoted_from} has no such lines"
    except DocumentError as error:
        yield f"{name}: {error}"


def command_lines(text):
    """Lines of code blocks and inline code; lines that end in a backslash are joined."""
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks += ["\n".join(re.findall(r"^ {4}(.*)$", prose(text), re.MULTILINE))]
    blocks += [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text))]
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            yield line.split(" # ")[0]


def check_commands(root, document, text, halfstep, helps):
    name = document.relative_to(root).as_posix()
    for line in command_lines(text):
        command, script = COMMAND.search(line), SCRIPT.search(line)
        if command:
            subcommand, rest = command[1], command[2]
            if subcommand not in helps:
                result = subprocess.run([halfstep, subcommand, "--help"], capture_output=True, text=True, check=False)
                helps[subcommand] = result.stdout if result.returncode == 0 else None
            known = helps[subcommand]
            if known is None:
                yield f"{name}: `{line.strip()}`: no such subcommand"
        elif script:
            path, rest = root / script[1], script[2]
            known = text_of(path) if path.is_file() else None
            if known is None:
                yield f"{name}: `{line.strip()}`: no such script"
        else:
            continue
        if known is not None:
            missing = [flag for flag in FLAG.findall(rest) if flag not in FLAG.findall(known)]
            yield f"{name}: `{line.strip()}`: unknown {', '.join(missing)}" if missing else None


def check_checker():
    """The checks find what they are for."""
    code = "struct A { int field = 1; void act(int x); };\nenum class E { one, two };\nTensor f(int);\n" \
           "int g() { return h(1) + A{}.other; }\n// Tensor commented(int);\n" \
           "void B::far(int x) {\n"
    expected = {"A": True, "A::field": True, "A::act": True, "E::two": True, "E::three": False, "f": True, "h": False,
                "A::other": False, "B::far": True, "B::near": False, "B::field": False, "commented": False, "x": False}
    for name, answer in expected.items():
        yield None if declares(code, name) == answer else f"docs_test.py: declares({name}) is not {answer}"
    cases = test_cases('TEST_CASE("a (b)") {\nTEST_CASE(\n    "c "\n    "\\"d\\"") {')
    yield None if cases == {"a (b)", 'c "d"'} else f"docs_test.py: test cases {cases}"
    table = "| x | code | test |\n| --- | --- | --- |\n| a \\| b | [`f`](f.h) | {} |\n"
    for cell, wrong in (('["t"](t.cpp)', 0), ("", 1), ("[t](t.cpp)", 1)):
        found = [problem for problem in check_map(table.format(cell)) if problem]
        yield None if len(found) == wrong else f"docs_test.py: rows with {cell!r}: {found}"
    yield None if anchors("## The review's (1) to\n") == {"the-reviews-1-to"} else "docs_test.py: anchors"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    root, halfstep, helps = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], {}
    results = list(check_checker())
    for document in documents(root):
        text = text_of(document)
        results += [*check_links(root, document, text), *check_quotes(root, document, text),
                    *check_commands(root, document, text, halfstep, helps)]
        if document.name == "paper-map.md":
            results += check_map(text)
    problems = [problem for problem in results if problem]
    for problem in problems:
        print(problem)
    print(f"{len(results) - len(problems)} passed, {len(problems)} failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
