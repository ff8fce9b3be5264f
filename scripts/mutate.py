#!/usr/bin/env python3
"""Mutation testing: do the unit tests notice when the code of autograd/ and tensor/ is wrong, and those on the emulated GPU
when its kernels are?

    scripts/mutate.py --count 150 --seed 1          # a sample, about half a minute per mutant
    scripts/mutate.py --list [--files 'tensor/*']   # all mutants, without running them
    scripts/mutate.py --mutant 'tensor/shape.cpp:23 comparison #1'
    scripts/mutate.py --suite cuda --count 40       # kernels of cuda/, by the tests on the emulated GPU

A mutant is the source with one small mistake, made by one of the operators below. It is built in a private copy of
the tree, and the programs of Meson's test suite `unit` are run until one of them fails, the likeliest first. A mutant
is

    killed         a test failed, crashed, or ran far longer than it does on the correct code;
    survived       all unit tests passed: a test is missing, or the mutant is no mistake;
    not compiled   no mutant at all: another one is drawn;
    same code      the compiler made the same machine code of it as of the original: another one is drawn.

The sample is fixed by the seed and the sources: every file and every operator is in it before any is there again.
Mutants have names (file:line operator #number) that are stable as long as the file is. What cannot be noticed by any
test of results, or is no mistake, is listed with its reason in scripts/mutation_exempt.json, by the code it is in.

The sources are expected to be formatted by clang-format (.clang-format): binary operators have a space on both sides,
and so are told from pointers, references and template brackets.

Exit status: 0 if at least --threshold percent of the sample were killed.
"""
import argparse
import bisect
import collections
import difflib
import fnmatch
import hashlib
import json
import os
import queue
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXEMPT = os.path.join(ROOT, "scripts", "mutation_exempt.json")
DEFAULT_FILES = {"unit": ["autograd/*", "tensor/*"], "cuda": ["cuda/*.cu", "cuda/*.h"]}
# The emulator is no part of what its tests judge: it judges.
NOT_MUTATED = ["cuda/emulation/*"]
SECONDS_TO_COMPILE = 5  # about, for one file
# Of the tests on the emulated GPU: the cases that are about a file are tried first, in the modes that find most.
CASES = {"attention": "attention*", "conv2d": "conv2d*,bf16: convolutions*", "group_norm": "group norm*",
         "elementwise": "unary*,binary*,copy*,fill*,where*", "indexing": "gather*,cumulative_sum*",
         "lists": "adam*,lists*", "optimizer": "adam*,sgd*,moving_average*,sum_of_squares*,lists*", "pool": "max_pool2d*",
         "random": "random*", "reduce": "reduce*", "softmax": "softmax*", "tensor_cores": "bf16*,attention*"}
CASES_TRIED_BY = ["cuda_kernels fast", "cuda_kernels check"]
TABLES = ["autograd/cases/*"]  # what tests run over; a changed case is another test, no mistake

OPERATORS = {
    "arithmetic": "+ and -, * and /, % and /, << and >> change places; also -=, *=, /=",
    "bitwise": "& and |, ^ and |",
    "swap-operands": "a - b becomes b - a; also of / and %",
    "swap-arguments": "two neighbouring arguments of one kind change places",
    "drop-term": "one operand of + - * / is left out",
    "sign": "a unary minus is left out; a float gets one; += and -= change places",
    "comparison": "< and <=, > and >=, == and != change places",
    "logical": "&& and || change places",
    "drop-condition": "one operand of && or || is left out",
    "negate-condition": "the condition of an if or while is negated, or its '!' is left out",
    "swap-branches": "the branches of ?: change places",
    "off-by-one": "an integer literal is one more or one less; a loop ends one earlier",
    "constant": "a floating literal is half as much again (1 instead of 0)",
    "skip-accumulation": "+= and its kin become =",
    "drop-statement": "a call, an assignment, a break, a continue or a return without value is left out",
    "increment": "++ and -- change places outside the heads of loops",
    "true-false": "true and false change places",
    "return-early": "a function without a result returns at once",
    "return-zero": "a function returns a default value, {}",
    "confuse-names": "a name is taken for its counterpart: height for width, begin for end, min for max",
}

# --- tokens --------------------------------------------------------------------------------------------------

TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<string>(?:u8|[uUL])?R"(?P<delim>[^()\s\\]*)\(.*?\)(?P=delim)"|(?:u8|[uUL])?"(?:\\.|[^"\\\n])*")
      | (?P<char>'(?:\\.|[^'\\\n])+')
      | (?P<number>\.?\d(?:[eEpP][+-]|'\w|[\w.])*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<punct><=>|<<=|>>=|\.\.\.|->\*|->|::|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\#\#|.)
    """,
    re.VERBOSE | re.DOTALL,
)
PREPROCESSOR = re.compile(r"[ \t]*#(?:[^\n\\]|\\.)*", re.DOTALL)

OPEN = {"(": ")", "[": "]", "{": "}"}
CLOSE = {v: k for k, v in OPEN.items()}
PRECEDENCE = {
    **dict.fromkeys(["*", "/", "%"], 10), **dict.fromkeys(["+", "-"], 9), **dict.fromkeys(["<<", ">>"], 8),
    **dict.fromkeys(["<", "<=", ">", ">="], 7), **dict.fromkeys(["==", "!="], 6),
    "&": 5, "^": 4, "|": 3, "&&": 2, "||": 1,
}
ASSIGN = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
KEYWORDS_BEFORE_UNARY = {"return", "case", "else", "throw", "co_return"}
NOT_A_STATEMENT = set(
    "return if for while do switch case default using typedef static const constexpr auto template struct class enum "
    "union namespace public private protected friend goto throw else static_assert extern inline explicit virtual "
    "thread_local alignas operator typename new delete try catch".split())
COMMUTATIVE = {"min", "max", "add", "multiply", "maximum", "minimum", "swap", "require_alike", "require", "equal"}
COUNTERPARTS = [
    ("height", "width"), ("out_height", "out_width"), ("kernel_height", "kernel_width"), ("stride_h", "stride_w"),
    ("pad_top", "pad_left"), ("pad_bottom", "pad_right"), ("min", "max"), ("begin", "end"), ("front", "back"),
    ("row", "column"), ("rows", "columns"), ("low", "high"), ("p0", "p1"), ("beta1", "beta2"), ("oh", "ow"),
    ("kh", "kw"), ("mean", "rstd"), ("sin", "cos"), ("dgain", "dbias"), ("gain", "bias"), ("h", "w"), ("dk", "dv"),
    ("none_of", "any_of"), ("all_of", "any_of"), ("unsqueeze", "squeeze"), ("value", "slope"), ("first", "second"),
]
LIBRARY_NAMES = {"min", "max", "sin", "cos", "none_of", "any_of", "all_of"}
COUNTERPART = {}
for _a, _b in COUNTERPARTS:
    COUNTERPART.setdefault(_a, _b)
    COUNTERPART.setdefault(_b, _a)


class Token:
    __slots__ = ("kind", "text", "begin", "end", "space_before", "space_after", "mate")

    def __init__(self, kind, text, begin, end, space_before):
        self.kind, self.text, self.begin, self.end = kind, text, begin, end
        self.space_before, self.space_after = space_before, False
        self.mate = None  # index of the bracket that belongs to this one


def tokenize(source):
    """The tokens of a C++ source without comments and preprocessor lines."""
    tokens, at, space, line_start = [], 0, True, True
    while at < len(source):
        if line_start:
            directive = PREPROCESSOR.match(source, at)
            if directive:
                at, space = directive.end(), True
                line_start = False
                continue
        match = TOKEN.match(source, at)
        kind, text = match.lastgroup, match.group()
        if match.group("string"):
            kind = "string"
        at = match.end()
        if kind in ("space", "comment"):
            line_start = "\n" in text or (line_start and kind == "space")
            space = True
            if tokens:
                tokens[-1].space_after = True
            continue
        line_start = False
        tokens.append(Token(kind, text, match.start(), match.end(), space))
        space = False
    return tokens


class Source:
    """A file with its brackets matched, and the questions that operators ask about it."""

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.tokens = tokenize(text)
        self.lines = [0] + [m.end() for m in re.finditer("\n", text)]
        self.match_brackets()
        self.find_excluded()
        self.find_blocks()

    def line_of(self, position):
        return bisect.bisect_right(self.lines, position)

    def line_text(self, number):
        end = self.lines[number] if number < len(self.lines) else len(self.text)
        return self.text[self.lines[number - 1] : end].rstrip("\n")

    def tok(self, i):
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    # Angle brackets: by clang-format's spaces, a template bracket follows its name at once (or the word template) and
    # closes without a space, while comparisons have spaces on both sides.
    def match_brackets(self):
        stack = []
        split = []
        for t in self.tokens:  # '>>' that closes two templates becomes two tokens
            if t.text == ">>" and not t.space_before:
                first = Token("punct", ">", t.begin, t.begin + 1, False)
                second = Token("punct", ">", t.begin + 1, t.end, False)
                second.space_after = t.space_after
                split += [first, second]
            else:
                split.append(t)
        self.tokens = split
        for i, t in enumerate(self.tokens):
            before = self.tokens[i - 1] if i else None
            if t.text in OPEN:
                stack.append(i)
            elif t.text in CLOSE:
                while stack and self.tok(stack[-1]) == "<":
                    stack.pop()  # was no template after all
                if stack and self.tok(stack[-1]) == CLOSE[t.text]:
                    j = stack.pop()
                    t.mate, self.tokens[j].mate = j, i
            elif t.text == "<" and before and (
                before.text == "template" or (before.kind == "name" and before.text != "operator" and not t.space_before)):
                stack.append(i)
            elif t.text == ">" and not t.space_before and stack and self.tok(stack[-1]) == "<":
                j = stack.pop()
                t.mate, self.tokens[j].mate = j, i

    def is_template_bracket(self, i):
        return self.tok(i) in "<>" and self.tokens[i].mate is not None

    def is_operand_end(self, i):
        """Whether an operand may end with token i, so that an operator after it is binary."""
        t = self.tokens[i]
        if t.kind in ("number", "string", "char"):
            return True
        if t.kind == "name":
            return t.text not in KEYWORDS_BEFORE_UNARY and t.text != "operator"
        return t.text in (")", "]", "}") or (t.text == ">" and t.mate is not None)

    def is_binary(self, i):
        t = self.tokens[i]
        return (t.text in PRECEDENCE and t.mate is None and t.space_before and t.space_after and i > 0 and
                self.is_operand_end(i - 1))

    def is_unary_minus(self, i):
        return (self.tok(i) == "-" and not self.tokens[i].space_after and i > 0 and not self.is_operand_end(i - 1) and
                self.tok(i - 1) != "operator")

    def is_call(self, i):
        """Whether the '(' at i opens the arguments of a call (or of a constructor)."""
        return self.tok(i) == "(" and self.callee(i) is not None

    def callee(self, i):
        j = i - 1
        if j >= 0 and self.tok(j) == ">" and self.tokens[j].mate is not None:
            j = self.tokens[j].mate - 1
        if j >= 0 and self.tokens[j].kind == "name":
            name = self.tok(j)
            if name not in ("if", "for", "while", "switch", "catch", "return", "sizeof", "alignof", "decltype",
                            "constexpr", "static_assert", "alignas", "noexcept", "operator", "template"):
                return name
        return None

    def arguments(self, i):
        """Token ranges (begin, end) of the elements of the bracket at i."""
        close = self.tokens[i].mate
        result, begin, j = [], i + 1, i + 1
        while j < close:
            t = self.tokens[j]
            if t.mate is not None and t.mate > j:
                j = t.mate
            elif t.text == ",":
                result.append((begin, j))
                begin = j + 1
            j += 1
        if begin < close:
            result.append((begin, close))
        return result

    # What is no code to be mutated: template arguments, attributes, texts of errors, sizes of arrays, case labels.
    def find_excluded(self):
        n = len(self.tokens)
        self.excluded = bytearray(n)

        def exclude(begin, end):
            for j in range(begin, min(end, n)):
                self.excluded[j] = 1

        for i, t in enumerate(self.tokens):
            if t.mate is None or t.mate < i:
                if t.text == "case":
                    j = i
                    while j < n and self.tok(j) != ":":
                        j += 1
                    exclude(i, j)
                elif t.text in ("using", "typedef"):
                    j = i
                    while j < n and self.tok(j) != ";":
                        j += 1
                    exclude(i, j)
                continue
            if t.text == "<":
                exclude(i, t.mate + 1)
            elif t.text == "(":
                before = self.tok(i - 1)
                if before in ("static_assert", "alignas", "__attribute__", "decltype", "noexcept"):
                    exclude(i, t.mate + 1)
                name = self.callee(i)
                if name and re.match(r"fail(_|$)", name):
                    exclude(i + 1, t.mate)
                elif name == "require":
                    args = self.arguments(i)
                    if len(args) > 1:
                        exclude(args[1][0], t.mate)
            elif t.text == "[":
                if self.tok(i + 1) == "[":
                    exclude(i, t.mate + 1)  # [[attribute]]
                # T name[size]: a declaration
                elif i >= 2 and self.tokens[i - 1].kind == "name":
                    j = i - 2
                    b = self.tokens[j]
                    if (b.kind == "name" and b.text not in KEYWORDS_BEFORE_UNARY) or b.text == ">" and b.mate is not None \
                            or (b.text in ("*", "&") and not self.is_binary(j) and b.space_after != b.space_before):
                        exclude(i, t.mate + 1)
                elif i >= 1 and self.tok(i - 1) == "]" and self.excluded[i - 1]:
                    exclude(i, t.mate + 1)
            elif t.text == "{":
                j = i - 1
                while j >= 0 and self.tok(j) not in (";", "{", "}", ")"):
                    if self.tok(j) == "enum":
                        exclude(i, t.mate + 1)
                        break
                    j -= 1

    # Blocks: which braces hold statements, and what they belong to.
    def find_blocks(self):
        self.block = {}  # '{' -> "function", "lambda", "control", "class", "namespace" or "list"
        self.result_type = {}  # '{' of a function or lambda -> its result's type, "" if unknown
        for i, t in enumerate(self.tokens):
            if t.text != "{" or t.mate is None:
                continue
            self.block[i], self.result_type[i] = self.classify(i)
        self.parent = [None] * len(self.tokens)  # the brace around a token
        self.innermost = [-1] * len(self.tokens)  # the bracket around it
        brackets = []
        for i, t in enumerate(self.tokens):
            if t.text in CLOSE and brackets and brackets[-1] == t.mate:
                brackets.pop()
            if brackets:
                self.innermost[i] = brackets[-1]
            if t.text in OPEN and t.mate is not None:
                brackets.append(i)
        stack = []
        for i, t in enumerate(self.tokens):
            if t.text == "}" and stack and stack[-1] == t.mate:
                stack.pop()
            self.parent[i] = stack[-1] if stack else None
            if t.text == "{" and t.mate is not None:
                stack.append(i)

    def classify(self, i):
        head, j = [], i - 1
        while j >= 0 and self.tok(j) not in (";", "{", "}"):
            t = self.tokens[j]
            if t.mate is not None and t.mate < j:
                head.append(t.mate)
                j = t.mate - 1
                continue
            head.append(j)
            j -= 1
        head = [h for h in reversed(head)]
        words = [self.tok(h) for h in head]
        if "namespace" in words:
            return "namespace", ""
        if any(w in ("struct", "class", "union", "enum") for w in words) and "(" not in words and "=" not in words:
            return "class", ""
        if not words:
            return "control", ""
        last = head[-1]
        # -> T {
        arrow = max((k for k, w in enumerate(words) if w == "->"), default=None)
        trailing = ""
        if arrow is not None and arrow > 0 and words[arrow - 1] in ("(", "mutable", "const"):
            trailing = self.text[self.tokens[head[arrow]].end : self.tokens[i].begin].strip()
            words, head = words[:arrow], head[:arrow]
            last = head[-1]
        while words and words[-1] in ("const", "noexcept", "override", "mutable", "final"):
            words, head = words[:-1], head[:-1]
            last = head[-1] if head else None
        if not words:
            return "list", ""
        if words[-1] in ("else", "do", "try") or words[0] in ("if", "for", "while", "switch", "catch", "else") and words[-1] == "(":
            return "control", ""
        if words[-1] == "(":
            before = self.tok(head[-1] - 1)
            if before == "]":
                return "lambda", trailing
            if "=" in words or "return" in words:
                return "list", ""
            # A constructor with initialisers, or a function.
            first_paren = words.index("(")
            if ":" in words[first_paren:]:
                return "function", ""
            k = first_paren - 1
            if k >= 0 and words[k] == "<" :
                k -= 1
            while k >= 2 and words[k - 1] == "::":
                k -= 2
                if words[k] == "<":
                    k -= 1
            if "operator" in words[:first_paren]:
                k = words.index("operator")
            type_words = words[:k]
            begin = 0
            if type_words and type_words[0] == "template":
                begin = 2
            if begin >= len(type_words):
                return "function", trailing
            text = self.text[self.tokens[head[begin]].begin : self.tokens[head[k]].begin].strip()
            text = re.sub(r"\b(static|inline|constexpr|virtual|explicit|HALFSTEP_\w+|public:|private:|protected:)\s*", "", text)
            return "function", trailing or text.strip()
        if words[-1] == "]":
            return "lambda", ""
        if self.tok(last) == "[":  # a lambda without parameters: [this] {
            return "lambda", trailing
        if words[0] == "case" or words[-1] == ":":
            return "control", ""
        return "list", ""

    def enclosing(self, i, kinds):
        j = self.parent[i]
        while j is not None and self.block.get(j) not in kinds:
            j = self.parent[j]
        return j

    def outermost(self, i):
        """The '{' of the outermost function around i."""
        found, j = None, self.parent[i]
        while j is not None:
            if self.block.get(j) in ("function", "lambda"):
                found = j
            j = self.parent[j]
        return found

    def in_code(self, i):
        return self.enclosing(i, ("function", "lambda")) is not None

    # --- expressions ---
    def operand_left(self, i, precedence):
        """The first token of the left operand of the binary operator at i."""
        j = i - 1
        while j >= 0:
            t = self.tokens[j]
            if t.mate is not None and t.mate < j:
                if t.text == "}" and not (self.tokens[t.mate - 1].kind == "name" or self.tok(t.mate - 1) == ">"):
                    return j + 1
                j = t.mate - 1
                continue
            if t.text in OPEN or t.text in (",", ";", "?", "{", "}") or t.text in ASSIGN or \
                    t.text in KEYWORDS_BEFORE_UNARY or t.text == ":" or t.text == "<" and t.mate is not None:
                return j + 1
            if self.is_binary(j) and PRECEDENCE[t.text] < precedence:
                return j + 1
            # 'const T x': a declaration's own words end at '=' or '(' before this.
            j -= 1
        return 0

    def operand_right(self, i, precedence):
        """One past the last token of the right operand of the operator at i."""
        j = i + 1
        while j < len(self.tokens):
            t = self.tokens[j]
            if t.mate is not None and t.mate > j:
                if t.text == "{" and not (self.tokens[j - 1].kind == "name" or self.tok(j - 1) == ">"):
                    return j
                j = t.mate + 1
                continue
            if t.text in CLOSE or t.text in (",", ";", "?", ":") or t.text in ASSIGN or t.text == ">" and t.mate is not None:
                return j
            if self.is_binary(j) and PRECEDENCE[t.text] <= precedence:
                return j
            j += 1
        return j

    def span(self, begin, end):
        return self.tokens[begin].begin, self.tokens[end - 1].end

    def str_of(self, begin, end):
        a, b = self.span(begin, end)
        return self.text[a:b]


# --- mutants -------------------------------------------------------------------------------------------------


class Mutant:
    """One change: text[begin:end] becomes `replacement`."""

    def __init__(self, source, operator, begin, end, replacement):
        self.file, self.operator = source.path, operator
        self.begin, self.end, self.replacement = begin, end, replacement
        self.line = source.line_of(begin)
        self.original = source.text[begin:end]
        self.line_text = source.line_text(self.line)
        self.name = ""
        self.exempt = None

    def apply(self, text):
        return text[: self.begin] + self.replacement + text[self.end :]

    def diff(self, text):
        """The changed lines, before and after."""
        before, after = text.split("\n"), self.apply(text).split("\n")
        return [line for line in difflib.unified_diff(before, after, lineterm="", n=0)
                if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def plain_operand(source, begin, end):
    """The kind of an argument that may change places with a neighbour of its kind; None for others."""
    tokens = source.tokens[begin:end]
    if any(t.kind == "string" for t in tokens) or not tokens:
        return None
    if tokens[-1].kind == "number" and len(tokens) <= 2:
        return "number"
    if tokens[0].text in ("[", "const", ".", "auto", "&", "*") or any(t.text in (";", "=") for t in tokens):
        return None
    for a, b in zip(tokens, tokens[1:]):  # T name, T& name: parameters
        if b.kind == "name" and (a.kind == "name" or (a.text in ("&", "*", "&&") and b.space_before and not a.space_before)
                                 or (a.text == ">" and a.mate is not None)):
            return None
    if tokens[0].text == "{":
        return "list"
    if any(source.is_binary(i) for i in range(begin, end)):
        return "arithmetic"
    if tokens[-1].text == ")" and source.callee(tokens[-1].mate) and end - 1 > begin:
        return "call of " + source.callee(tokens[-1].mate)
    return "name" if tokens[0].kind == "name" else "other"


def mutants_of(source):
    found = []
    tokens, text = source.tokens, source.text

    def add(operator, begin, end, replacement):
        if text[begin:end] != replacement:
            found.append(Mutant(source, operator, begin, end, replacement))

    def replace_token(operator, i, replacement):
        add(operator, tokens[i].begin, tokens[i].end, replacement)

    loop_heads = []  # (begin, end) of for (...)
    for i, t in enumerate(tokens):
        if t.text == "for" and source.tok(i + 1) == "(" and tokens[i + 1].mate is not None:
            loop_heads.append((i + 1, tokens[i + 1].mate))

    heads = bytearray(len(tokens))
    for a, b in loop_heads:
        for j in range(a + 1, b):
            heads[j] = 1

    def in_loop_head(i):
        return heads[i]

    names = {t.text for t in tokens if t.kind == "name"}
    local_names = {(source.outermost(i), t.text) for i, t in enumerate(tokens) if t.kind == "name"}

    for i, t in enumerate(tokens):
        if source.excluded[i]:
            continue

        # Binary operators.
        if source.is_binary(i):
            precedence = PRECEDENCE[t.text]
            left, right = source.operand_left(i, precedence), source.operand_right(i, precedence)
            textual = any(tokens[j].kind == "string" for j in (i - 1, i + 1))
            if left < i and right > i + 1 and not textual:
                left_text, right_text = source.str_of(left, i), source.str_of(i + 1, right)
                begin, end = source.span(left, right)
                after_left = tokens[i - 1].end
                if t.text in ("+", "-", "*", "/", "%"):
                    replace_token("arithmetic", i, {"+": "-", "-": "+", "*": "/", "/": "*", "%": "/"}[t.text])
                    add("drop-term", after_left, end, "")
                    if t.text in ("+", "*"):
                        add("drop-term", begin, tokens[i + 1].begin, "")
                    elif t.text == "-":
                        add("drop-term", begin, tokens[i + 1].begin, "-")
                    if t.text in ("-", "/", "%") and left_text != right_text:
                        simple = all(not source.is_binary(j) for j in range(left, i))
                        simple_right = all(not source.is_binary(j) for j in range(i + 1, right))
                        add("swap-operands", begin, end,
                            (right_text if simple_right else f"({right_text})") + f" {t.text} " +
                            (left_text if simple else f"({left_text})"))
                elif t.text in ("<<", ">>"):
                    replace_token("arithmetic", i, {"<<": ">>", ">>": "<<"}[t.text])
                elif t.text in ("<", "<=", ">", ">=", "==", "!="):
                    replace_token("comparison", i,
                                  {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}[t.text])
                    if t.text in ("<", "<=") and in_loop_head(i) and source.tok(right) == ";":
                        add("off-by-one", tokens[right - 1].end, tokens[right - 1].end, " - 1")
                elif t.text in ("&&", "||"):
                    replace_token("logical", i, {"&&": "||", "||": "&&"}[t.text])
                    add("drop-condition", after_left, end, "")
                    add("drop-condition", begin, tokens[i + 1].begin, "")
                elif t.text in ("&", "|", "^"):
                    replace_token("bitwise", i, {"&": "|", "|": "&", "^": "|"}[t.text])

        # Assignments.
        elif t.text in ASSIGN and t.text != "=" and t.space_before:
            replace_token("skip-accumulation", i, "=")
            flipped = {"+=": "-=", "-=": "+="}.get(t.text)
            if flipped:
                replace_token("sign", i, flipped)
            other = {"*=": "/=", "/=": "*=", "%=": "/=", "<<=": ">>=", ">>=": "<<=", "&=": "|=", "|=": "&="}.get(t.text)
            if other:
                replace_token("arithmetic" if t.text[0] in "*/%<>" else "bitwise", i, other)
        elif t.text == "=" and t.space_before and t.space_after and i >= 2 and source.in_code(i):
            # double x = ...: the value with the wrong sign
            j = i - 1
            if tokens[j].kind == "name" and source.tok(j - 1) in ("double", "float", "T"):
                right = source.operand_right(i, 0)
                if source.tok(right) in (",", ";") and right > i + 1:
                    value = source.str_of(i + 1, right)
                    if value not in ("0", "0.0"):
                        a, b = source.span(i + 1, right)
                        add("sign", a, b, f"-({value})")

        # Unary operators.
        if source.is_unary_minus(i):
            replace_token("sign", i, "")
        elif t.text == "!" and not t.space_after and source.tok(i + 1) != "=":
            replace_token("negate-condition", i, "")
        elif t.text in ("++", "--") and source.in_code(i) and not in_loop_head(i):
            replace_token("increment", i, "--" if t.text == "++" else "++")

        # Literals and names.
        elif t.kind == "number":
            plain = t.text.replace("'", "")
            integer = re.fullmatch(r"(0[xX][0-9a-fA-F]+|0|[1-9]\d*)([uUlLzZ]*)", plain)
            octal = re.fullmatch(r"0\d+", plain)  # permissions of files
            real = not octal and re.fullmatch(r"((?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?|0[xX][\w.]*[pP][+-]?\d+)([fFlL]?)", plain)
            if integer:
                value, suffix = int(integer[1], 0), integer[2]
                replace_token("off-by-one", i, f"{value + 1}{suffix}")
                if value > 0:
                    replace_token("off-by-one", i, f"{value - 1}{suffix}")
            elif real:
                value = float.fromhex(real[1]) if real[1][:2] in ("0x", "0X") else float(real[1])
                replacement = repr(value * 1.5 if value else 1.0) + real[2]
                replace_token("constant", i, replacement)
        elif t.text in ("true", "false"):
            if source.tok(i - 1) != "(" or source.tok(i - 2) != "noexcept":
                replace_token("true-false", i, "false" if t.text == "true" else "true")
        elif t.kind == "name" and t.text in COUNTERPART and source.in_code(i):
            before, after = source.tok(i - 1), source.tok(i + 1)
            declared = before in ("&", "*") and not source.is_binary(i - 1) and tokens[i - 1].space_before != tokens[i - 1].space_after \
                or i > 0 and tokens[i - 1].kind == "name" and before not in KEYWORDS_BEFORE_UNARY or (before == ">" and tokens[i - 1].mate is not None)
            designator = before == "." and source.tok(i - 2) in ("{", ",")
            # The counterpart must be there to be confused with: as a member in this file, or in this function.
            known = t.text in LIBRARY_NAMES or before in (".", "->", "::") and COUNTERPART[t.text] in names or \
                before not in (".", "->", "::") and (source.outermost(i), COUNTERPART[t.text]) in local_names
            if known and not declared and not designator and after != "::" and \
                    not (before in ("{", ",", "[") and after == "="):
                replace_token("confuse-names", i, COUNTERPART[t.text])

        # ?:
        if t.text == "?" and t.space_before:
            depth, j = 0, i + 1
            while j < len(tokens):
                u = tokens[j]
                if u.mate is not None and u.mate > j:
                    j = u.mate
                elif u.text == "?":
                    depth += 1
                elif u.text == ":":
                    if depth == 0:
                        break
                    depth -= 1
                elif u.text in (";", ")", "}"):
                    j = len(tokens)
                j += 1
            if j < len(tokens):
                end = source.operand_right(j, 0)
                # a nested ?: on the right belongs to the right branch
                while source.tok(end) in ("?", ":") and end < len(tokens):
                    end = source.operand_right(end, 0)
                if i + 1 < j and j + 1 < end:
                    a, b = source.str_of(i + 1, j), source.str_of(j + 1, end)
                    texts = all(tokens[k].kind == "string" for k in (i + 1, j + 1))
                    if a != b and not texts:
                        begin, stop = source.span(i + 1, end)
                        add("swap-branches", begin, stop, f"({b}) : ({a})" if "?" in a + b else f"{b} : {a}")

        # Conditions.
        if t.text in ("if", "while") and source.tok(i + 1) == "(":
            open_, close = i + 1, tokens[i + 1].mate
            begin = open_ + 1
            j = begin
            while j < close:
                if tokens[j].mate is not None and tokens[j].mate > j:
                    j = tokens[j].mate
                elif source.tok(j) == ";":
                    begin = j + 1
                j += 1
            if begin < close and not any(source.tok(j) == "=" for j in range(begin, close)):
                a, b = source.span(begin, close)
                if source.tok(begin) == "!" and not any(source.is_binary(j) for j in range(begin, close)):
                    pass  # the mutant that leaves out the '!' is the same
                else:
                    add("negate-condition", a, b, f"!({text[a:b]})")

        # Arguments.
        if t.text in ("(", "{") and t.mate is not None and t.mate > i and source.in_code(i):
            name = source.callee(i) if t.text == "(" else "{"
            is_list = t.text == "{" and source.block.get(i) == "list"
            if (t.text == "(" and name and name not in COMMUTATIVE) or is_list:
                args = source.arguments(i)
                for (a, b), (c, d) in zip(args, args[1:]):
                    if source.excluded[a] or source.excluded[c]:
                        continue
                    kind = plain_operand(source, a, b)
                    if kind and kind == plain_operand(source, c, d):
                        one, two = source.str_of(a, b), source.str_of(c, d)
                        if one != two:
                            begin, end = source.span(a, d)
                            between = text[tokens[b - 1].end : tokens[c].begin]
                            add("swap-arguments", begin, end, two + between + one)

        # Functions that return at once, or nothing useful.
        if t.text == "{" and source.block.get(i) == "function":
            if source.result_type[i] == "void" and t.mate > i + 1:
                add("return-early", t.end, t.end, " return;")
        if t.text == "return" and source.tok(i + 1) not in (";", "{"):
            body = source.enclosing(i, ("function", "lambda"))
            if body is not None:
                result = source.result_type[body]
                end = i + 1
                while end < len(tokens) and source.tok(end) != ";":
                    end = tokens[end].mate + 1 if tokens[end].mate is not None and tokens[end].mate > end else end + 1
                value = tokens[i + 1 : end]
                literal = len(value) == 1 and (value[0].kind in ("number", "string") or value[0].text in
                                               ("true", "false", "nullptr"))
                if result and result not in ("void", "auto", "decltype(auto)") and not result.endswith("&") and not literal:
                    a, b = source.span(i + 1, end)
                    add("return-zero", a, b, "{}")

        # Statements.
        if source.tok(source.innermost[i]) == "(":
            continue  # the head of an if or a loop
        starts = i == 0 or source.tok(i - 1) in (";", "}", "else", "do") or \
            (source.tok(i - 1) == "{" and source.block.get(i - 1) in ("function", "lambda", "control")) or \
            (source.tok(i - 1) == ":" and not source.is_binary(i - 1) and source.parent[i] is not None
             and source.block.get(source.parent[i]) == "control" and tokens[i - 1].space_before is False)
        if not starts and source.tok(i - 1) == ")" and tokens[i - 1].mate is not None:
            before = source.tok(tokens[i - 1].mate - 1)
            starts = before in ("if", "for", "while", "switch", "constexpr")
            if before == "while" and t.text == ";":
                starts = False
        if starts and source.parent[i] is not None and source.block.get(source.parent[i]) in ("function", "lambda", "control") \
                and source.in_code(i) and (t.kind == "name" or t.text in ("*", "++", "--", "(")):
            if t.text in NOT_A_STATEMENT and not (t.text == "return" and source.tok(i + 1) == ";"):
                continue
            end = i
            while end < len(tokens) and source.tok(end) != ";":
                end = tokens[end].mate + 1 if tokens[end].mate is not None and tokens[end].mate > end else end + 1
            if end >= len(tokens):
                continue
            j = i
            while source.tok(j + 1) == "::" and tokens[j + 2].kind == "name":
                j += 2
            if tokens[j].kind == "name" and source.tok(j + 1) == "<" and tokens[j + 1].mate is not None:
                j = tokens[j + 1].mate
                while source.tok(j + 1) == "::":
                    j += 2
            k = j + 1
            while source.tok(k) in ("*", "&", "const", "&&"):
                k += 1
            declaration = t.kind == "name" and k < len(tokens) and tokens[k].kind == "name" and not source.is_binary(k - 1)
            label = source.tok(i + 1) == ":" and end > i + 1
            if not declaration and not label:
                a, b = source.span(i, end)
                add("drop-statement", a, b, "")
    return found


def name_mutants(mutants):
    mutants.sort(key=lambda m: (m.file, m.begin, m.end, m.operator, m.replacement))
    counts = collections.Counter()
    unique, seen = [], set()
    for m in mutants:
        key = (m.file, m.begin, m.end, m.replacement)
        if key in seen:
            continue
        seen.add(key)
        counts[(m.file, m.line, m.operator)] += 1
        m.name = f"{m.file}:{m.line} {m.operator} #{counts[(m.file, m.line, m.operator)]}"
        unique.append(m)
    return unique


def words_of(code):
    """Code without regard to its line breaks and indents."""
    return " ".join(code.split())


class Exemptions:
    """scripts/mutation_exempt.json: what no test of results can notice. Each rule quotes `code` of a `file`: mutants
    inside such a passage are exempt, for the given `reason`; with `becomes`, only the one that makes this of it; with
    `operators`, only those."""

    def __init__(self, path):
        self.rules = []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self.rules = json.load(file)["exempt"]
        for rule in self.rules:
            if set(rule) - {"file", "code", "becomes", "operators", "reason"} or not {"file", "code", "reason"} <= set(rule):
                raise SystemExit(f"{path}: expected file, code and reason in every rule, got {rule}")
            if any(o not in OPERATORS for o in rule.get("operators", [])):
                raise SystemExit(f"{path}: unknown operator in {rule}")
            rule["used"] = 0
            becomes = rule.get("becomes", [])
            rule["becomes"] = {words_of(b) for b in ([becomes] if isinstance(becomes, str) else becomes)}
            rule["pattern"] = re.compile(r"\s+".join(re.escape(w) for w in rule["code"].split()))
            rule["spans"] = {}

    def reason(self, mutant, text):
        for rule in self.rules:
            if not fnmatch.fnmatchcase(mutant.file, rule["file"]) or \
                    "operators" in rule and mutant.operator not in rule["operators"]:
                continue
            if mutant.file not in rule["spans"]:
                rule["spans"][mutant.file] = [m.span() for m in rule["pattern"].finditer(text)]
            for begin, end in rule["spans"][mutant.file]:
                if not (begin <= mutant.begin and mutant.end <= end):
                    continue
                changed = text[begin : mutant.begin] + mutant.replacement + text[mutant.end : end]
                if not rule["becomes"] or words_of(changed) in rule["becomes"]:
                    rule["used"] += 1
                    return rule["reason"]
        return None


def project_files():
    """The files of the project, as they are (not as they were committed), without builds."""
    try:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], check=True,
                                capture_output=True, text=True).stdout.split("\n")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository: an unpacked archive
        listed = []
        for base, folders, names in os.walk(ROOT):
            folders[:] = [f for f in folders if not f.startswith(".") and
                          not os.path.exists(os.path.join(base, f, "build.ninja"))]
            listed += [os.path.relpath(os.path.join(base, name), ROOT) for name in names]
    return sorted(f for f in set(listed) if f and os.path.isfile(os.path.join(ROOT, f)))


def find_mutants(patterns):
    files = [f for f in project_files()
             if re.search(r"\.(cpp|cu|h)$", f) and any(fnmatch.fnmatchcase(f, p) for p in patterns)
             and not any(fnmatch.fnmatchcase(f, p) for p in TABLES + NOT_MUTATED)]
    texts, mutants = {}, []
    for f in files:
        with open(os.path.join(ROOT, f), encoding="utf-8") as file:
            texts[f] = file.read()
        mutants += mutants_of(Source(f, texts[f]))
    return name_mutants(mutants), texts


def draw(mutants, seed):
    """All mutants in the order of drawing: each file and each operator once first, then mixed by the square root of how
    often an operator applies in a file, so that big files do not crowd out small ones."""
    rng = random.Random(seed)
    strata = collections.defaultdict(list)
    for m in mutants:
        strata[(m.file, m.operator)].append(m)
    keyed = []
    for key in sorted(strata):
        members = strata[key]
        rng.shuffle(members)
        for rank, m in enumerate(members):
            keyed.append(((rank + rng.random()) / len(members) ** 0.5, m.name, m))
    keyed.sort(key=lambda k: k[:2])
    first, later, files, operators = [], [], set(), set()
    for _, _, m in keyed:
        if m.file not in files or m.operator not in operators:
            files.add(m.file)
            operators.add(m.operator)
            first.append(m)
        else:
            later.append(m)
    return first + later


# --- running -------------------------------------------------------------------------------------------------


class Workspace:
    """A private copy of the tree with a build folder."""

    def __init__(self, folder, args):
        self.folder, self.args = folder, args
        self.tree = os.path.join(folder, "tree")
        self.build = os.path.join(self.tree, "build")  # there, so that ccache finds what other copies have compiled
        self.environment = dict(os.environ, TMPDIR=os.path.join(folder, "tmp"))
        os.makedirs(self.environment["TMPDIR"], exist_ok=True)
        if shutil.which("ld.lld"):
            self.environment.setdefault("CXX_LD", "lld")  # every mutant is linked several times

    def run(self, command, **options):
        return subprocess.run(["nice", "-n", str(self.args.nice), *command], capture_output=True, text=True,
                              errors="replace", env=self.environment, **options)

    def copy_tree(self):
        """Takes over what differs, so that a folder used before is built incrementally."""
        wanted = set(project_files())
        for base, folders, names in os.walk(self.tree):
            if base == self.tree and "build" in folders:
                folders.remove("build")
            for name in names:
                path = os.path.join(base, name)
                if os.path.relpath(path, self.tree) not in wanted:
                    os.remove(path)
        for f in sorted(wanted):
            source, target = os.path.join(ROOT, f), os.path.join(self.tree, f)
            with open(source, "rb") as file:
                content = file.read()
            if os.path.exists(target):
                with open(target, "rb") as file:
                    if file.read() == content:
                        continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(content)
            shutil.copymode(source, target)

    def prepare(self):
        self.copy_tree()
        if not os.path.exists(os.path.join(self.build, "build.ninja")):
            # Little optimisation: building costs more than running.
            done = self.run(["meson", "setup", self.build, self.tree, "-Dbuildtype=plain", "-Dcpp_args=-O1"] +
                            self.args.meson_option)
            if done.returncode != 0:
                raise SystemExit(done.stdout + done.stderr)
        done = self.ninja(["build.ninja"])  # meson.build may have changed
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        self.find_tests()
        done = self.ninja([t for test in self.tests for t in test["targets"]])
        if done.returncode != 0:
            raise SystemExit("the unmutated tree does not build:\n" + done.stdout[-3000:] + done.stderr[-3000:])
        self.objects = self.hash_objects()

    def find_tests(self):
        """The tests of the suite, with the targets that each needs."""
        ask = lambda what: json.loads(self.run(["meson", "introspect", what, self.build], check=True).stdout)
        files_of = {}
        for target in ask("--targets"):
            files_of[target["id"]] = [os.path.relpath(f, self.build) for f in target["filename"]]
        self.tests = []
        for test in ask("--tests"):
            # Scripts among the tests are left out: they cannot stop at their first failure, and are slow.
            if any(suite.split(":")[-1] == self.args.suite for suite in test["suite"]) and (
                    self.args.suite == "unit" or not test["cmd"][-1].endswith(".py") and "python" not in test["cmd"][0]):
                self.tests.append({"name": test["name"], "command": test["cmd"], "environment": test["env"],
                                   "folder": test["workdir"] or self.build,
                                   "targets": [f for d in test["depends"] for f in files_of.get(d, [])]})
        if self.args.tests:
            self.tests = [t for t in self.tests if t["name"] in self.args.tests]
        if not self.tests:
            raise SystemExit("no tests found" if self.args.tests else f"no tests of suite '{self.args.suite}' found")

    def ninja(self, targets):
        return self.run(["ninja", "-C", self.build, "-j1", *sorted(set(targets))])

    def stale(self, targets):
        """How many files have to be compiled before these targets can be run."""
        planned = self.run(["ninja", "-C", self.build, "-n", *sorted(set(targets))]).stdout
        return planned.count("Compiling")

    def objects_of(self, file):
        """The objects that a source is compiled to, among those that the tests need; none for a header."""
        if file.endswith(".cu"):  # the host's part, and the translated kernels (cuda/meson.build)
            stem = os.path.basename(file)[:-3]
            return [o for o in self.objects if os.path.basename(o) == f"cuda_{stem}.o" or
                    o.endswith(f"_{stem}.emulated.cpp.o")]
        with open(os.path.join(self.build, "compile_commands.json"), encoding="utf-8") as commands:
            return [c["output"] for c in json.load(commands) if c["output"] in self.objects and
                    os.path.normpath(os.path.join(c["directory"], c["file"])) == os.path.join(self.tree, file)]

    def hash_objects(self, objects=None):
        """Hashes by path; of all objects there are, if none are named."""
        if objects is None:
            objects = [os.path.relpath(os.path.join(base, name), self.build)
                       for base, _, names in os.walk(self.build) for name in names if name.endswith(".o")]
        hashes = {}
        for path in objects:
            with open(os.path.join(self.build, path), "rb") as file:
                hashes[path] = hashlib.sha1(file.read()).digest()
        return hashes

    def run_test(self, test, cpu_limit, wall_limit):
        """Returns (passed, how it ended, CPU seconds). Doctest programs stop at their first failure."""
        command = list(test["command"])
        with open(command[0], "rb") as program:
            if b"doctest" in program.read():
                command.append("--abort-after=1")
        shutil.rmtree(self.environment["TMPDIR"], ignore_errors=True)  # a crashed test leaves files behind
        os.makedirs(self.environment["TMPDIR"])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)

        def limits():
            os.setsid()
            os.nice(self.args.nice)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu_limit + 5))
            # Sanitizers reserve terabytes, the emulated GPU its memory twice.
            if self.args.suite == "unit" and not any("sanitize" in o for o in self.args.meson_option):
                resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   text=True, errors="replace", cwd=test["folder"], preexec_fn=limits,
                                   env=dict(self.environment, **test["environment"]))
        try:
            output, _ = process.communicate(timeout=wall_limit)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            code = "timeout"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if code == 0:
            return True, "", seconds
        case = re.search(r"TEST CASE:\s*(.*)", output)
        what = "timeout" if code in ("timeout", -signal.SIGXCPU, -signal.SIGKILL) else \
            f"crash ({signal.Signals(-code).name})" if code < 0 else "failed"
        return False, what + (f": {case.group(1).strip()}" if case else ""), seconds

    def baseline(self):
        """The tests on the correct code: all must pass; their times set the limits and the first order."""
        for test in self.tests:
            passed, why, seconds = self.run_test(test, 3000, 3000)
            if not passed:
                raise SystemExit(f"the unmutated tree fails test '{test['name']}': {why}")
            test["seconds"] = seconds
        return {test["name"]: test["seconds"] for test in self.tests}


class Session:
    """Runs mutants on one or more workspaces and keeps the books."""

    def __init__(self, args, texts):
        self.args, self.texts = args, texts
        self.results = []
        self.kills = collections.Counter()  # (file, test) -> number of kills
        self.lock = threading.Lock()

    def partial_tests(self, workspace, file):
        """Parts of tests of the emulated GPU, those that are about this file."""
        cases = [c for stem, c in CASES.items() if os.path.basename(file).startswith(stem)]
        if self.args.suite != "cuda" or not cases:
            return []
        by_name = {test["name"]: test for test in workspace.tests}
        return [dict(by_name[name], command=[*by_name[name]["command"], "-tc=" + cases[0]])
                for name in CASES_TRIED_BY if name in by_name]

    def next_test(self, workspace, file, tests, is_header):
        """The likeliest killer for its price: by kills in this file, then in its folder, then by time. For a header, much
        of which has to be compiled anew for every test, compiling is the price."""
        folder = os.path.dirname(file)

        def promise(test):
            compiling = SECONDS_TO_COMPILE * workspace.stale(test["targets"]) if is_header else 0
            here = self.kills[(file, test["name"])]
            near = sum(n for (f, name), n in self.kills.items() if name == test["name"] and os.path.dirname(f) == folder)
            likely = 1.0 * here + 0.25 * near + (0.5 if folder.split("/")[0] == test["name"] else 0) + 0.1
            return likely / (test["seconds"] + compiling + 3)  # 3 s: about what linking costs

        return max(tests, key=promise)

    def run_mutant(self, workspace, mutant):
        text = self.texts[mutant.file]
        path = os.path.join(workspace.tree, mutant.file)
        started = time.monotonic()
        result = {"name": mutant.name, "file": mutant.file, "line": mutant.line, "operator": mutant.operator,
                  "diff": mutant.diff(text)}
        with open(path, "w", encoding="utf-8") as file:
            file.write(mutant.apply(text))
        try:
            self.judge(workspace, mutant, result)
        finally:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        result["seconds"] = round(time.monotonic() - started, 1)
        return result

    def judge(self, workspace, mutant, result):
        def built(targets):
            done = workspace.ninja(targets)
            if done.returncode != 0:
                result["status"] = "not compiled"
                errors = re.findall(r"error: .*", done.stdout)
                result["why"] = errors[0] if errors else done.stdout[-200:]
            return done.returncode == 0

        objects = workspace.objects_of(mutant.file)
        if objects:
            if not built(objects):
                return
            if workspace.hash_objects(objects) == {o: workspace.objects[o] for o in objects}:
                result["status"] = "same code"
                return
        remaining, partial = list(workspace.tests), self.partial_tests(workspace, mutant.file)
        while partial or remaining:
            if partial:
                test = partial.pop(0)
            else:
                test = self.next_test(workspace, mutant.file, remaining, is_header=not objects)
                remaining.remove(test)
            if not built(test["targets"]):
                return
            limit = int(20 + 5 * test["seconds"])
            passed, why, _ = workspace.run_test(test, limit, 60 + 20 * limit)
            if not passed:
                result["status"], result["by"], result["why"] = "killed", test["name"], why
                with self.lock:
                    self.kills[(mutant.file, test["name"])] += 1
                return
        result["status"] = "same code" if workspace.hash_objects() == workspace.objects else "survived"


def counted(results):
    return [r for r in results if r["status"] in ("killed", "survived")]


def summary(results, args, exempt, out=sys.stdout):
    c = counted(results)
    killed = [r for r in c if r["status"] == "killed"]

    def table(key):
        rows = collections.defaultdict(lambda: [0, 0])
        for r in c:
            rows[key(r)][0] += r["status"] == "killed"
            rows[key(r)][1] += 1
        for name in sorted(rows):
            print(f"  {name:32} {rows[name][0]:4} of {rows[name][1]:4}", file=out)

    print("\nkilled by operator", file=out)
    table(lambda r: r["operator"])
    print("killed by file", file=out)
    table(lambda r: r["file"])
    survivors = [r for r in c if r["status"] == "survived"]
    if survivors:
        print("survivors", file=out)
        for r in survivors:
            print(f"  {r['name']}", file=out)
            for line in r["diff"]:
                print(f"      {line}", file=out)
    other = collections.Counter(r["status"] for r in results)
    rate = 100 * len(killed) / len(c) if c else 0
    print(f"seed {args.seed}: {len(c)} mutants, {len(killed)} killed, {len(survivors)} survived: {rate:.1f} % killed "
          f"(drawn besides: {other['not compiled']} not compiled, {other['same code']} with the same machine code; "
          f"{exempt} sites are exempt)", file=out)
    return rate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="operators:\n" + "\n".join(f"  {k:18} {v}" for k, v in OPERATORS.items()))
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    parser.add_argument("--count", type=int, default=50, help="mutants to run (default 50)")
    parser.add_argument("--suite", choices=sorted(DEFAULT_FILES), default="unit",
                        help="the tests to run: unit, or cuda: those on the emulated GPU (default unit)")
    parser.add_argument("--files", nargs="+", metavar="GLOB",
                        help="sources to mutate (default autograd/* and tensor/*, with folders below; with --suite cuda "
                             "the kernels)")
    parser.add_argument("--operators", nargs="+", choices=sorted(OPERATORS), metavar="NAME", help="only these")
    parser.add_argument("--tests", nargs="+", metavar="NAME",
                        help="run only these of the unit tests: quicker, but survivors may be killed by the others")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at the same time, each in a copy of its own")
    parser.add_argument("--nice", type=int, default=10, help="niceness of builds and tests (default 10)")
    parser.add_argument("--work", metavar="DIR", help="keep the copies and builds here, for another run")
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON, after every mutant")
    parser.add_argument("--resume", action="store_true", 
                        help="keep the results in --out of files that have not changed; survivors are run again")
    parser.add_argument("--minutes", type=float, help="draw no more mutants after this time")
    parser.add_argument("--threshold", type=float, default=95, help="percent to be killed (default 95)")
    parser.add_argument("--list", action="store_true", help="print all mutants and the number of sites; run nothing")
    parser.add_argument("--mutant", action="append", metavar="NAME", help="run this one; may be repeated")
    parser.add_argument("--with-exempt", action="store_true", help="draw exempt sites too")
    parser.add_argument("--meson-option", action="append", default=[], metavar="-DNAME=VALUE",
                        help="option of the build, such as -Db_sanitize=address")
    args = parser.parse_args()

    if args.suite == "cuda":
        args.meson_option.append("-Dcuda=emulated")
    files_are_default = not args.files
    args.files = args.files or DEFAULT_FILES[args.suite]
    mutants, texts = find_mutants(args.files)
    exemptions = Exemptions(EXEMPT)
    for m in mutants:
        m.exempt = exemptions.reason(m, texts[m.file])
    for rule in exemptions.rules:
        if rule["used"] == 0 and files_are_default and any(fnmatch.fnmatchcase(rule["file"], f) for f in args.files):
            print(f"mutation_exempt.json: no mutant matches {rule['file']}: {rule['code']}", file=sys.stderr)
    exempt = sum(m.exempt is not None for m in mutants)
    if args.operators:
        mutants = [m for m in mutants if m.operator in args.operators]

    if args.list:
        for m in mutants:
            print(m.name + (f"   [exempt: {m.exempt}]" if m.exempt else ""))
            for line in m.diff(texts[m.file]):
                print("    " + line)
        for operator, number in sorted(collections.Counter(m.operator for m in mutants).items()):
            print(f"{operator:20} {number}")
        print(f"{len(mutants)} mutants in {len(texts)} files, {exempt} of them exempt")
        return 0

    if args.mutant:
        by_name = {m.name: m for m in mutants}
        unknown = [n for n in args.mutant if n not in by_name]
        if unknown:
            raise SystemExit(f"no mutant is named '{unknown[0]}'; see --list")
        drawn, count = [by_name[n] for n in args.mutant], len(args.mutant)
    else:
        drawn, count = draw([m for m in mutants if args.with_exempt or not m.exempt], args.seed), args.count

    session = Session(args, texts)
    hashes = {f: hashlib.sha1(t.encode()).hexdigest() for f, t in texts.items()}
    if args.resume and args.out and os.path.exists(args.out):
        with open(args.out, encoding="utf-8") as file:
            session.results = [r for r in json.load(file)["results"]
                               if r.get("source") == hashes.get(r["file"]) and r["status"] != "survived"]

    folder = os.path.abspath(args.work) if args.work else tempfile.mkdtemp(prefix="halfstep-mutants-")
    os.makedirs(folder, exist_ok=True)
    started = time.monotonic()
    try:
        workspaces = [Workspace(os.path.join(folder, str(j)), args) for j in range(max(1, args.jobs))]
        for w in workspaces:
            w.prepare()
        times = workspaces[0].baseline()
        for w in workspaces[1:]:
            for test in w.tests:
                test["seconds"] = times[test["name"]]
        print("unit tests on the correct code, CPU seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in times.items()),
              flush=True)

        done_before = {r["name"] for r in session.results}
        waiting = queue.SimpleQueue()
        for m in drawn:
            if m.name not in done_before:
                waiting.put(m)
        in_flight = [0]

        def take():
            """The next mutant, unless those done and under way suffice."""
            with session.lock:
                if args.minutes and time.monotonic() - started > 60 * args.minutes or waiting.empty():
                    return None
                if not args.mutant and len(counted(session.results)) + in_flight[0] >= count:
                    return None
                in_flight[0] += 1
                return waiting.get()

        def work(workspace):
            while True:
                mutant = take()
                if mutant is None:
                    if in_flight[0] and not waiting.empty() and not args.minutes:
                        time.sleep(1)  # those under way may turn out not to count
                        continue
                    return
                result = session.run_mutant(workspace, mutant)
                result["source"] = hashes[mutant.file]
                with session.lock:
                    in_flight[0] -= 1
                    session.results.append(result)
                    by = f" by {result['by']}, {result['why']}" if result["status"] == "killed" else \
                        f" ({result['why']})" if result.get("why") else ""
                    print(f"{len(counted(session.results)):4} {result['status']:12} {result['seconds']:6.1f} s  "
                          f"{mutant.name}{by}", flush=True)
                    if result["status"] == "survived":
                        print("\n".join("       " + line for line in result["diff"]), flush=True)
                    if args.out:
                        with open(args.out + ".tmp", "w", encoding="utf-8") as file:
                            json.dump({"seed": args.seed, "files": args.files, "results": session.results}, file, indent=1)
                        os.replace(args.out + ".tmp", args.out)

        threads = [threading.Thread(target=work, args=(w,)) for w in workspaces]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        if not args.work:
            shutil.rmtree(folder, ignore_errors=True)

    rate = summary(session.results, args, exempt)
    return 0 if rate >= args.threshold else 1


if __name__ == "__main__":
    sys.exit(main())
