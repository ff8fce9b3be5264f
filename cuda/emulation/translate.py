#!/usr/bin/env python3
"""Translates the PTX of one .cu file (as nvcc writes it) to C++ that runs the very same instructions on the host.

Usage: translate.py INPUT.ptx OUTPUT.cpp NAME

Every kernel becomes one function: a PTX register is a local variable, a label is a label, an instruction is a call of
a small function of ptx.h that has its name and its semantics. Nothing is optimised here; that is the C++ compiler's
work. NAME becomes part of the symbol `module_NAME` that lists the kernels. An instruction that is not known stops the
translation with its line.

The text has three levels, and so has this program:
  Reader      cuts the PTX into statements
  Function    keeps the names of one kernel or device function and writes its statements
  Module      constants, shared memory, functions, kernels
"""
import math
import os
import re
import struct
import sys

CPP_TYPES = {
    "pred": "bool", "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t",
    "b16": "uint16_t", "u16": "uint16_t", "s16": "int16_t",
    "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t",
    "b64": "uint64_t", "u64": "uint64_t", "s64": "int64_t",
    "f32": "float", "f64": "double", "f16": "Half", "bf16": "BFloat16",
    "f16x2": "Half2", "bf16x2": "BFloat162",
}
SIZES = {"pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
         "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}

# Instructions whose result is FUNCTION<type of the last suffix>(operands): all suffixes between the name and the type
# are part of the C++ function's name, but for those of DROPPED.
PLAIN = {
    "add", "sub", "mul", "mad", "fma", "div", "rem", "abs", "neg", "min", "max", "and", "or", "xor", "not", "cnot",
    "shl", "shr", "popc", "clz", "brev", "bfind", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh",
    "copysign", "sad", "lop3", "prmt", "bfe", "bfi", "shf", "testp", "dp4a", "mul24", "mad24",
}
FLOATS = {"f32", "f64", "f16", "bf16", "f16x2", "bf16x2"}
INTEGERS = set(CPP_TYPES) - FLOATS - {"pred"}
# Comparisons that are those of C++: of integers, and of floats where NaN makes them false.
OPERATORS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
# Roundings to nearest are C++'s; .uni and alignment say nothing about results; flushing of denormal numbers to zero
# appears only in approximations whose last bits the hardware leaves open.
DROPPED = {"rn", "ftz", "uni", "full", "relu"}
SPECIAL = {
    "%tid.x": "t.thread_index[0]", "%tid.y": "t.thread_index[1]", "%tid.z": "t.thread_index[2]",
    "%ntid.x": "t.block->size[0]", "%ntid.y": "t.block->size[1]", "%ntid.z": "t.block->size[2]",
    "%ctaid.x": "t.block->index[0]", "%ctaid.y": "t.block->index[1]", "%ctaid.z": "t.block->index[2]",
    "%nctaid.x": "t.block->grid[0]", "%nctaid.y": "t.block->grid[1]", "%nctaid.z": "t.block->grid[2]",
    "%laneid": "t.lane", "%warpid": "t.warp_index", "%dynamic_smem_size": "t.block->dynamic_shared",
    "%lanemask_lt": "((1u << t.lane) - 1)", "%lanemask_le": "((2u << t.lane) - 1)",
    "%lanemask_eq": "(1u << t.lane)", "%lanemask_gt": "~((2u << t.lane) - 1)", "%lanemask_ge": "~((1u << t.lane) - 1)",
    "%clock": "clock32()", "%clock64": "clock64()", "%globaltimer": "clock64()", "WARP_SZ": "32u",
}


class Unknown(Exception):
    """An instruction or a directive that this program does not know."""


def identifier(name):
    """A PTX name as one of C++."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name.replace("%", ""))


def statements(text):
    """Yields (line number, statement): '{', '}', 'LABEL:', a directive that ends with its line, or what ends at ';'."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    buffer, number, start, depth = "", 1, 1, 0
    for line in text.split("\n"):
        comment = line.find("//")
        if comment >= 0:
            line = line[:comment]
        stripped = line.strip()
        if not buffer.strip() and re.match(r"\.(loc|file|version|target|address_size|section)\b", stripped):
            yield number, stripped
            number += 1
            continue
        for char in line + " ":
            if not buffer.strip():
                start = number
                if char in "{}":
                    yield number, char
                    buffer = ""
                    continue
            if char == ";":
                yield start, " ".join(buffer.split())
                buffer, depth = "", 0
                continue
            if char == ":" and re.fullmatch(r"[$%A-Za-z_][\w$]*", buffer.strip()):
                yield start, buffer.strip() + ":"
                buffer = ""
                continue
            # The body of a function or of an initialiser: a header ends where its brace opens.
            if char == "{" and depth == 0 and re.match(r"(\.(visible|weak|extern|common)\s+)*\.(entry|func)\b",
                                                       buffer.strip()):
                yield start, " ".join(buffer.split())
                yield number, "{"
                buffer = ""
                continue
            buffer += char
        number += 1


def split_operands(text):
    """'a, {b, c}, [d+4]' -> ['a', '{b, c}', '[d+4]']."""
    parts, depth, part = [], 0, ""
    for char in text:
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += char
    if part.strip():
        parts.append(part.strip())
    return parts


class Function:
    """One kernel or device function while it is translated."""

    def __init__(self, module, name, is_kernel):
        self.module = module
        self.name = name
        self.is_kernel = is_kernel
        self.lines = []
        self.registers = {}     # PTX name -> type suffix
        self.params = {}        # name of a parameter -> byte offset (kernels) or C++ pointer (functions)
        self.param_bytes = 0
        self.param_list = []    # (offset, size) of a kernel's parameters
        self.calls_params = {}  # .param arrays of a call in progress
        self.shared = {}        # name -> offset
        self.shared_bytes = 0
        self.uses_dynamic = False
        self.collective = False  # whether it waits for other threads
        self.callees = set()
        self.branch_targets = {}
        self.location = ("", 0)
        self.site = 0
        self.max_threads = 0

    # --- operands ---------------------------------------------------------------------------------------------

    def value(self, operand, kind):
        """The operand as an expression of the C++ type of suffix `kind`."""
        cpp = CPP_TYPES[kind]
        if operand in SPECIAL:
            return f"as<{cpp}>({SPECIAL[operand]})"
        if operand in self.registers:
            name, register = identifier(operand), self.registers[operand]
            if CPP_TYPES[register] == cpp:
                return name
            return f"{cpp}({name})" if {register, kind} <= INTEGERS else f"as<{cpp}>({name})"
        if match := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})", operand):
            return self.literal(match[1] or match[2], kind)
        if match := re.fullmatch(r"(-?)(0[xX][0-9A-Fa-f]+|\d+)U?", operand):
            number = int(match[2], 0) * (-1 if match[1] else 1)
            if kind in ("f32", "f64"):
                raise Unknown(f"the integer {operand} as {kind}")
            if kind == "pred":
                return "true" if number else "false"
            width = SIZES[kind] * 8
            if kind in ("f16", "bf16", "f16x2", "bf16x2"):
                return f"as<{cpp}>(uint{width}_t(0x{number & ((1 << width) - 1):x}u))"
            return f"{cpp}(0x{number & ((1 << width) - 1):x}ull)"
        if operand.startswith("!"):
            return f"!{self.value(operand[1:], 'pred')}"
        return self.symbol(operand, kind)

    @staticmethod
    def literal(digits, kind):
        """A float given by its bits, in hexadecimal."""
        single = len(digits) == 8
        number, = struct.unpack(">f" if single else ">d", bytes.fromhex(digits))
        if not math.isfinite(number):
            text = f"float_of(0x{digits}u)" if single else f"double_of(0x{digits}ull)"
        else:
            text = number.hex() + ("f" if single else "")
        return text if CPP_TYPES[kind] == ("float" if single else "double") else f"as<{CPP_TYPES[kind]}>({text})"

    def symbol(self, operand, kind):
        """The address of a variable, in its own space."""
        match = re.fullmatch(r"([\w$.]+)(?:\+(\d+))?", operand)
        name, offset = (match[1], int(match[2] or 0)) if match else (operand, 0)
        cpp = CPP_TYPES[kind]
        if name in self.params:
            return f"{cpp}(reinterpret_cast<uint64_t>({self.param_pointer(name)}) + {offset})"
        if name in self.module.shared:
            return f"{cpp}({self.shared_offset(name)} + {offset})"
        if name in self.module.variables:
            return f"{cpp}(address_of({identifier(name)}_variable) + {offset})"
        if name.startswith("__local_depot"):
            return f"{cpp}(reinterpret_cast<uint64_t>({identifier(name)}) + {offset})"
        raise Unknown(f"the operand {operand}")

    def param_pointer(self, name):
        place = self.params[name]
        return f"t.block->params + {place}" if isinstance(place, int) else place

    def shared_offset(self, name):
        size, align, dynamic = self.module.shared[name]
        if dynamic:
            self.uses_dynamic = True
            return "kDynamicShared"
        if name not in self.shared:
            self.shared_bytes = (self.shared_bytes + align - 1) // align * align
            self.shared[name] = self.shared_bytes
            self.shared_bytes += size
        return str(self.shared[name])

    def address(self, operand, space):
        """[reg+4], [symbol+8] -> a C++ expression of the address within `space`."""
        match = re.fullmatch(r"\[\s*([%$\w.]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if not match:
            raise Unknown(f"the address {operand}")
        base, offset = match[1], int(match[2] or 0)
        plus = f" + {offset}" if offset > 0 else f" - {-offset}" if offset else ""
        if base in self.registers:
            kind = self.registers[base]
            sum_of_both = f"{identifier(base)}{plus}"
            return f"uint64_t(uint32_t({sum_of_both}))" if SIZES[kind] == 4 else \
                sum_of_both if CPP_TYPES[kind] == "uint64_t" else f"uint64_t({sum_of_both})"
        if re.fullmatch(r"\d+", base):
            return f"uint64_t({base}{plus})"
        if space == "param":
            if base in self.calls_params:
                return f"(reinterpret_cast<uint64_t>({self.calls_params[base]}){plus})"
            if base in self.params:
                return f"(reinterpret_cast<uint64_t>({self.param_pointer(base)}){plus})"
        return f"({self.symbol(base, 'u64')}{plus})"

    def put(self, operand, expression, kind=None):
        """dst = expression; '_' throws the result away. `kind`, where it is known: a suffix of the expression's type,
        or of any integer if that is an integer. C++ extends and cuts integers as PTX does."""
        if operand == "_":
            self.emit(f"(void)({expression});")
        elif kind and (CPP_TYPES[self.registers[operand]] == CPP_TYPES[kind] or
                       {self.registers[operand], kind} <= INTEGERS):
            self.emit(f"{identifier(operand)} = {expression};")
        else:
            self.emit(f"put({identifier(operand)}, {expression});")

    def new_site(self):
        """The number of this place in the table of sites: the file and line of a memory access or barrier."""
        return self.module.site(*self.location)

    def emit(self, text):
        self.lines.append("  " + text)

    def count(self, what):
        block = self.module.blocks[-1]
        block[what] = block.get(what, 0) + 1

    # --- statements -------------------------------------------------------------------------------------------

    def statement(self, text):
        if text in "{}":
            self.emit(text)
            return
        if text.endswith(":"):
            self.lines.append(f"{identifier(text[:-1])}:")
            self.start_block()
            return
        if text.startswith("."):
            self.directive(text)
            return
        guard = ""
        if match := re.match(r"@(!?)(%?[\w$]+)\s+(.*)", text):
            guard, text = f"if ({match[1]}{identifier(match[2])}) ", match[3]
        name, _, rest = text.partition(" ")
        if guard:
            self.emit(guard + "{")
        self.instruction(name, rest)
        if guard:
            self.emit("}")
        if name.split(".")[0] == "bra" and guard:
            self.start_block()

    def start_block(self):
        """A basic block begins: the instructions to its end are executed together, so one count serves all."""
        self.module.blocks.append({})
        self.emit(f"t.enter_block({len(self.module.blocks) - 1});")

    def directive(self, text):
        if match := re.match(r"\.loc\s+(\d+)\s+(\d+)\s+\d+(.*)", text):
            self.location = (int(match[1]), int(match[2]))
            inlined = re.search(r"inlined_at\s+(\d+)\s+(\d+)", match[3])
            file = self.module.files.get(self.location[0], "unknown")
            self.lines.append(f'#line {self.location[1]} "{file}"')
            if inlined:
                self.location += (int(inlined[1]), int(inlined[2]))
            return
        if match := re.match(r"\.reg\s+\.(\w+)\s+(.*)", text):
            kind = match[1]
            for name in split_operands(match[2]):
                names = [name]
                if ranged := re.fullmatch(r"(.*)<(\d+)>", name):
                    names = [f"{ranged[1]}{i}" for i in range(int(ranged[2]))]
                for one in names:
                    self.registers[one] = kind
                for start in range(0, len(names), 8):
                    self.emit(f"{CPP_TYPES[kind]} " + ", ".join(f"{identifier(n)}{{}}" for n in names[start:start + 8])
                              + ";")
            return
        if match := re.match(r"\.local\s+(?:\.align\s+(\d+)\s+)?\.b8\s+([\w$]+)\[(\d+)\]", text):
            self.emit(f"alignas({match[1] or 8}) uint8_t {identifier(match[2])}[{match[3]}];")
            self.emit(f"poison_local(t, {identifier(match[2])}, {match[3]});")
            return
        if match := re.match(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", text):
            size = int(match[3] or 1) * SIZES[match[1]]
            name = identifier(match[2])
            self.emit(f"alignas(16) uint8_t {name}[{max(size, 8)}];")
            self.calls_params[match[2]] = name
            return
        if match := re.match(r"\.shared\s+(.*)", text):
            self.module.shared_variable(text)
            return
        if text.startswith((".pragma", ".section", ".callprototype")):
            return
        raise Unknown(f"the directive {text}")

    def instruction(self, name, rest):
        parts = name.split(".")
        op = parts[0]
        operands = split_operands(rest)
        handler = getattr(self, f"do_{op}", None)
        self.count(self.class_of(parts))
        if handler:
            handler(parts, operands)
        elif op in PLAIN:
            self.plain(parts, operands)
        else:
            raise Unknown(f"the instruction {name} {rest}")

    def class_of(self, parts):
        """What an instruction is counted as: loads and stores by memory, arithmetic on floats by its type, products of
        tensor cores by their shape and the type of the factors, all else by its name."""
        op = parts[0]
        if op in ("ld", "st"):
            return f"{op}.{self.space_of(parts)}"
        if op == "mma":
            return ".".join([op] + [p for p in parts if re.fullmatch(r"m\d+n\d+k\d+", p)] + [parts[-2]])
        return f"{op}.{parts[-1]}" if op in PLAIN and parts[-1] in FLOATS else op

    @staticmethod
    def space_of(parts):
        for space in ("global", "shared", "local", "param", "const"):
            if any(part.split("::")[0] == space for part in parts):
                return space
        return "generic"

    def plain(self, parts, operands):
        kind = parts[-1]
        if kind not in CPP_TYPES:
            raise Unknown(f"the type of {'.'.join(parts)}")
        modifiers = [part for part in parts[1:-1] if part not in DROPPED]
        op = parts[0]
        carries = "cc" in modifiers
        modifiers = [part for part in modifiers if part != "cc"]
        function = "_".join(["ptx", op] + modifiers)
        kinds = [kind] * (len(operands) - 1)
        if op in ("shl", "shr"):
            kinds[1] = "u32"
        elif op in ("bfe",):
            kinds[1:] = ["u32", "u32"]
        elif op == "bfi":
            kinds[2:] = ["u32", "u32"]
        elif op == "shf":
            kinds = ["u32"] * 3
        elif op == "lop3":
            kinds = ["b32"] * 4
        elif op in ("mad", "mad24") and "wide" in modifiers:
            kinds[2] = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}[kind]
        # The most frequent instructions are operators: that compiles quicker.
        if op in ("shl", "shr") and not carries and re.fullmatch(r"\d+", operands[2]) and \
                int(operands[2]) < 8 * SIZES[kind]:
            kind = "u" + kind[1:] if op == "shl" or kind[0] == "b" else kind
            self.put(operands[0], f"{self.value(operands[1], kind)} {'<<' if op == 'shl' else '>>'} {operands[2]}", kind)
            return
        # What wraps needs no sign.
        wraps = (op in ("add", "sub", "and", "or", "xor", "not", "shl", "neg") and not modifiers) or \
            (op in ("mul", "mad") and modifiers == ["lo"])
        if wraps and kind in ("s32", "s64", "b32", "b64", "u32", "u64") and not carries:
            kind = {"4": "u32", "8": "u64"}[str(SIZES[kind])]
            kinds = [kind if k != "u32" or op != "shl" else k for k in kinds]
            values = [self.value(o, k) for o, k in zip(operands[1:], kinds)]
            symbol = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}.get(op)
            expression = f"{values[0]} {symbol} {values[1]}" if symbol else \
                f"{values[0]} * {values[1]}" if op == "mul" else \
                f"{values[0]} * {values[1]} + {values[2]}" if op == "mad" else \
                f"{function}<{CPP_TYPES[kind]}>({', '.join(values)})"
            self.put(operands[0], expression, kind)
            return
        values = [self.value(o, k) for o, k in zip(operands[1:], kinds)]
        if carries:
            values.append("carry")
            function += "_cc"
        same_type = (kind in ("f32", "f64") or kind in INTEGERS) and op != "testp"
        self.put(operands[0], f"{function}<{CPP_TYPES[kind]}>({', '.join(values)})", kind if same_type else None)

    def carry(self, parts, operands):
        """addc, subc, madc: they read the carry, and with .cc write it."""
        kind = parts[-1]
        modifiers = [part for part in parts[1:-1] if part != "cc"]
        function = "_".join(["ptx", parts[0]] + modifiers) + ("_cc" if "cc" in parts else "")
        values = [self.value(o, kind) for o in operands[1:]]
        self.put(operands[0], f"{function}<{CPP_TYPES[kind]}>({', '.join(values)}, carry)")

    do_addc = do_subc = do_madc = carry

    def do_mov(self, parts, operands):
        kind = parts[-1]
        target, source = operands
        if target.startswith("{"):
            names = split_operands(target[1:-1])
            for i, one in enumerate(names):
                self.put(one, f"part<uint{SIZES[kind] * 8 // len(names)}_t>({self.value(source, kind)}, {i})")
        elif source.startswith("{"):
            names = split_operands(source[1:-1])
            piece = {1: "b8", 2: "b16", 4: "b32"}[SIZES[kind] // len(names)]
            self.put(target, f"join<uint{SIZES[kind] * 8}_t>(" + ", ".join(self.value(n, piece) for n in names) + ")")
        else:
            self.put(target, self.value(source, kind), kind)

    def do_cvta(self, parts, operands):
        space = self.space_of(parts)
        direction = "to" if "to" in parts else "from"
        self.put(operands[0], f"cvta_{direction}_{space}({self.value(operands[1], 'u64')})")

    def do_cvt(self, parts, operands):
        if parts[-1] == "f32" and parts[-2] in ("bf16x2", "f16x2") and len(operands) == 3:
            self.put(operands[0], f"cvt_pack<{CPP_TYPES[parts[-2]]}>({self.value(operands[1], 'f32')}, "
                                  f"{self.value(operands[2], 'f32')})")
            return
        if "tf32" in parts:
            self.put(operands[0], f"cvt_{parts[1]}_tf32({self.value(operands[1], 'f32')})")
            return
        to, source = parts[-2], parts[-1]
        rounding = [p for p in parts[1:-2] if p in ("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")]
        saturate = "true" if "sat" in parts else "false"
        mode = rounding[0] if rounding else "none"
        value = self.value(operands[1], source)
        if {to, source} <= INTEGERS and saturate == "false":
            self.put(operands[0], f"{CPP_TYPES[to]}({value})", to)
        else:
            self.put(operands[0], f"cvt<{CPP_TYPES[to]}, {CPP_TYPES[source]}, Rounding::{mode}, {saturate}>({value})", to)

    def comparison(self, name, kind, operands):
        """Whether operand 1 compares to operand 2 in this way."""
        a, b = (self.value(operand, kind) for operand in operands[1:3])
        if name in OPERATORS and (kind in INTEGERS or kind in ("f32", "f64") and name != "ne"):
            return f"{a} {OPERATORS[name]} {b}"
        return f"compare_{name}<{CPP_TYPES[kind]}>({a}, {b})"

    def do_setp(self, parts, operands):
        targets = operands[0].split("|")
        test = self.comparison(parts[1], parts[-1], operands)
        combine = [p for p in parts[2:-1] if p in ("and", "or", "xor")]
        if combine:
            with_operator = {"and": "&&", "or": "||", "xor": "!="}[combine[0]]
            other = self.value(operands[3], "pred")
            results = [f"({test}) {with_operator} {other}", f"!({test}) {with_operator} {other}"]
        else:
            results = [test, f"!({test})"]
        if len(targets) == 2:
            self.emit("{")
            self.emit(f"const bool first = {results[0]}, second = {results[1]};")
            self.put(targets[0], "first")
            self.put(targets[1], "second")
            self.emit("}")
        else:
            self.put(targets[0], results[0], "pred")

    def do_set(self, parts, operands):
        to, test = parts[-2], self.comparison(parts[1], parts[-1], operands)
        yes = "1.0f" if to == "f32" else f"~{CPP_TYPES[to]}(0)"
        self.put(operands[0], f"({test}) ? {yes} : {CPP_TYPES[to]}(0)")

    def do_selp(self, parts, operands):
        kind = parts[-1]
        self.put(operands[0], f"{self.value(operands[3], 'pred')} ? {self.value(operands[1], kind)} : "
                              f"{self.value(operands[2], kind)}")

    def do_slct(self, parts, operands):
        kind, test = parts[-2], parts[-1]
        self.put(operands[0], f"{self.value(operands[3], test)} >= 0 ? {self.value(operands[1], kind)} : "
                              f"{self.value(operands[2], kind)}")

    # --- memory -----------------------------------------------------------------------------------------------

    def vector(self, parts):
        for part in parts:
            if re.fullmatch(r"v\d", part):
                return int(part[1:])
        return 1

    def do_ld(self, parts, operands):
        space, kind, count = self.space_of(parts), parts[-1], self.vector(parts)
        address = self.address(operands[1], space)
        cpp = CPP_TYPES[kind]
        plain = space in ("param", "const")
        load = f"load_plain<{cpp}, {count}>({address})" if plain else \
            f"load_{space}<{cpp}, {count}>(t, {address}, {self.new_site()})"
        if count == 1:
            self.put(operands[0], f"load_one<{cpp}>({address})" if plain else f"{load}.at[0]", kind)
            return
        self.emit("{")
        self.emit(f"const auto loaded = {load};")
        for i, name in enumerate(split_operands(operands[0][1:-1])):
            self.put(name, f"loaded.at[{i}]", kind)
        self.emit("}")

    do_ldu = do_ld

    def do_st(self, parts, operands):
        space, kind, count = self.space_of(parts), parts[-1], self.vector(parts)
        address = self.address(operands[0], space)
        cpp = CPP_TYPES[kind]
        names = split_operands(operands[1][1:-1]) if count > 1 else [operands[1]]
        values = ", ".join(self.value(name, kind) for name in names)
        if space == "param":
            self.emit(f"store_plain<{cpp}, {count}>({address}, {{{values}}});")
        else:
            self.emit(f"store_{space}<{cpp}, {count}>(t, {address}, {{{values}}}, {self.new_site()});")

    def do_atom(self, parts, operands):
        space, kind = self.space_of(parts), parts[-1]
        action = next(p for p in parts if p in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"))
        if kind in ("f32", "f64", "bf16x2", "f16x2", "bf16", "f16"):
            raise Unknown("an atomic on floats: their order, and so the result, would differ from run to run")
        values = ", ".join(self.value(o, kind) for o in operands[2:])
        self.put(operands[0], f"atomic_{action}<{CPP_TYPES[kind]}>(t, Space::{space_name(space)}, "
                              f"{self.address(operands[1], space)}, {values}, {self.new_site()})")

    def do_red(self, parts, operands):
        self.do_atom(parts, ["_"] + operands)

    def do_membar(self, parts, operands):
        self.emit("(void)0;")

    do_fence = do_prefetch = do_membar

    # --- control ----------------------------------------------------------------------------------------------

    def do_bra(self, parts, operands):
        self.emit(f"goto {identifier(operands[0])};")

    def do_brx(self, parts, operands):
        self.emit(f"switch ({self.value(operands[0], 'u32')}) {{")
        self.lines.append(("targets", operands[1]))
        self.emit("}")

    def do_ret(self, parts, operands):
        self.emit("return;")

    def do_exit(self, parts, operands):
        if not self.is_kernel:
            raise Unknown("exit in a device function")
        self.emit("return;")

    def do_trap(self, parts, operands):
        self.emit(f"trap(t, {self.new_site()});")

    def do_call(self, parts, operands):
        targets = []
        if operands[0].startswith("("):
            targets = split_operands(operands[0][1:-1])
            operands = operands[1:]
        function = operands[0]
        arguments = split_operands(operands[1][1:-1]) if len(operands) > 1 else []
        if function not in self.module.declared:
            raise Unknown(f"the call of {function}")
        self.callees.add(function)
        self.emit(f"{identifier(function)}(" + ", ".join(["t"] + [self.calls_params[a] for a in targets + arguments])
                  + ");")

    # --- barriers and warps -------------------------------------------------------------------------------------

    def do_bar(self, parts, operands):
        self.collective = True
        site = self.new_site()
        if parts[1] == "warp":
            self.emit(f"sync_warp(t, {self.value(operands[0], 'u32')}, {site});")
        elif parts[1] == "sync":
            count = self.value(operands[1], "u32") if len(operands) > 1 else "0"
            self.emit(f"sync_block(t, {self.value(operands[0], 'u32')}, {count}, {site});")
        elif parts[1] == "red":
            what = parts[2]
            source = operands[-1]
            self.put(operands[0], f"sync_block_{what}(t, {self.value(operands[1], 'u32')}, "
                                  f"{self.value(source, 'pred')}, {site})")
        else:
            raise Unknown(f"the barrier {'.'.join(parts)}")

    do_barrier = do_bar

    def do_shfl(self, parts, operands):
        self.collective = True
        targets = operands[0].split("|")
        kind = parts[2] if parts[1] == "sync" else parts[1]
        values = ", ".join([self.value(operands[1], "b32")] + [self.value(o, "u32") for o in operands[2:]])
        self.emit("{")
        self.emit(f"const Shuffled shuffled = shuffle(t, Shuffle::{kind}, {values}, {self.new_site()});")
        self.put(targets[0], "shuffled.value")
        if len(targets) == 2:
            self.put(targets[1], "shuffled.in_range")
        self.emit("}")

    def do_vote(self, parts, operands):
        self.collective = True
        kind = parts[2]
        self.put(operands[0], f"vote_{kind}(t, {self.value(operands[1], 'pred')}, {self.value(operands[2], 'u32')}, "
                              f"{self.new_site()})")

    def do_activemask(self, parts, operands):
        raise Unknown("activemask: which lanes run together is not defined")

    def do_ldmatrix(self, parts, operands):
        self.collective = True
        count = int(next(p for p in parts if re.fullmatch(r"x[124]", p))[1:])
        transposed = "true" if "trans" in parts else "false"
        self.emit("{")
        self.emit(f"const auto loaded = load_matrix<{count}, {transposed}>(t, {self.address(operands[1], 'shared')}, "
                  f"{self.new_site()});")
        names = split_operands(operands[0][1:-1])
        for i, name in enumerate(names):
            self.put(name, f"loaded.at[{i}]")
        self.emit("}")

    def do_mma(self, parts, operands):
        self.collective = True
        shape = next(p for p in parts if re.fullmatch(r"m\d+n\d+k\d+", p))
        types = parts[-4:]
        if types[0] != "f32" or types[1] != types[2] or types[1] not in ("bf16", "tf32", "f16"):
            raise Unknown(f"the product {'.'.join(parts)}")
        fragments = [split_operands(o[1:-1]) for o in operands]
        a, b = (", ".join(self.value(n, "b32") for n in fragments[i]) for i in (1, 2))
        c = ", ".join(self.value(n, "f32") for n in fragments[3])
        self.emit("{")
        self.emit(f"const auto product = multiply_{shape}_{types[1]}(t, {{{a}}}, {{{b}}}, {{{c}}}, "
                  f"{self.new_site()});")
        for i, name in enumerate(fragments[0]):
            self.put(name, f"product.at[{i}]")
        self.emit("}")

    def do_cp(self, parts, operands):
        if parts[1] != "async":
            raise Unknown(".".join(parts))
        if "commit_group" in parts:
            self.emit("commit_copies(t);")
        elif "wait_group" in parts:
            self.emit(f"wait_copies(t, {self.value(operands[0], 'u32')});")
        elif "wait_all" in parts:
            self.emit("commit_copies(t);")
            self.emit("wait_copies(t, 0);")
        else:
            size = int(operands[2], 0)
            source = self.value(operands[3], "u32") if len(operands) > 3 else f"{size}u"
            self.emit(f"copy_async<{size}>(t, {self.address(operands[0], 'shared')}, "
                      f"{self.address(operands[1], 'global')}, {source}, {self.new_site()});")


def space_name(space):
    return {"global": "global", "shared": "shared", "generic": "generic", "local": "local"}[space]


class Module:
    """One PTX file."""

    def __init__(self, name):
        self.name = name
        self.files = {}
        self.variables = {}   # module-level .global and .const: name -> C++ definition
        self.shared = {}      # name -> (bytes, alignment, dynamic)
        self.functions = {}
        self.declared = {}    # device functions: name -> C++ signature; they may be called before they are defined
        self.kernels = []
        self.sites = {}
        self.blocks = []      # of each basic block of all functions: instructions by class

    def site(self, *location):
        return self.sites.setdefault(location, len(self.sites))

    def shared_variable(self, text):
        match = re.fullmatch(r"(?:\.(?:visible|extern|weak)\s+)*\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
                             r"(?:\[(\d*)\])?", text)
        if not match:
            raise Unknown(f"the declaration {text}")
        count = match[4]
        dynamic = count == ""
        size = int(count or 1) * SIZES[match[2]]
        self.shared[match[3]] = (0 if dynamic else size, int(match[1] or SIZES[match[2]]), dynamic)

    def variable(self, text):
        match = re.fullmatch(r"(?:\.(?:visible|extern|weak)\s+)*\.(global|const)\s+(?:\.attribute\([^)]*\)\s+)?"
                             r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?(?:\s*=\s*(.*))?", text)
        if not match:
            raise Unknown(f"the declaration {text}")
        _, align, kind, name, count, initial = match.groups()
        cpp = CPP_TYPES[kind]
        values = ""
        if initial:
            numbers = split_operands(initial.strip("{} ")) if initial.startswith("{") else [initial]
            values = ", ".join(self.constant(number.strip(), kind) for number in numbers)
        self.variables[name] = (f"alignas({align or SIZES[kind]}) {cpp} {identifier(name)}_variable[{count or 1}] = "
                                f"{{{values}}};")

    @staticmethod
    def constant(number, kind):
        if match := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", number):
            return f"float_of(0x{match[1]}u)"
        if match := re.fullmatch(r"0[dD]([0-9A-Fa-f]{16})", number):
            return f"double_of(0x{match[1]}ull)"
        return f"{CPP_TYPES[kind]}({int(number, 0)}ull)"

    def header(self, text):
        """A .entry or .func: its name and parameters."""
        match = re.match(r"(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\s+(?:\(([^)]*)\)\s*)?([\w$]+)\s*"
                         r"(?:\(([^)]*)\))?(.*)", text)
        kind, result, name, params, rest = match.groups()
        function = Function(self, name, kind == "entry")
        offset = 0
        arguments = []
        for group, text_of_params in (("result", result), ("param", params)):
            for param in split_operands(text_of_params or ""):
                one = re.fullmatch(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*(?:\.align\s+\d+"
                                   r"\s+)?)?(?:\.align\s+\d+\s+)?([\w$]+)(?:\[(\d+)\])?", param)
                if not one:
                    raise Unknown(f"the parameter {param}")
                size = SIZES[one[2]] * int(one[4] or 1)
                if function.is_kernel:
                    align = int(one[1] or SIZES[one[2]])
                    offset = (offset + align - 1) // align * align
                    function.params[one[3]] = offset
                    function.param_list.append((offset, size))
                    offset += size
                else:
                    function.params[one[3]] = identifier(one[3])
                    function.calls_params[one[3]] = identifier(one[3])
                    arguments.append(f"uint8_t* {identifier(one[3])}")
        function.param_bytes = offset
        if match := re.search(r"\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", rest or ""):
            function.max_threads = int(match[1]) * int(match[2] or 1) * int(match[3] or 1)
        if not function.is_kernel:
            self.declared[name] = function
        function.signature = f"static void {identifier(name)}({', '.join(['Thread& t'] + arguments)})"
        return function

    def read(self, text):
        function, pending, label, depth = None, None, None, 0
        self.files = {int(number): os.path.normpath(name) for number, name in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text,
                                                                      re.MULTILINE)}
        for number, statement in statements(text):
            try:
                if function is None:
                    if re.match(r"(\.(visible|weak|extern)\s+)*\.(entry|func)\b", statement):
                        pending = self.header(statement)
                    elif statement == "{" and pending:
                        function, pending, depth = pending, None, 1
                        function.start_block()
                    elif re.match(r"(\.(visible|weak|extern)\s+)*\.shared\b", statement):
                        self.shared_variable(statement)
                    elif re.match(r"(\.(visible|weak|extern)\s+)*\.(global|const)\b", statement):
                        self.variable(statement)
                    elif not re.match(r"\.(version|target|address_size|section|file|loc|alias)\b", statement) \
                            and statement not in "{}" and not statement.startswith(".b") and ":" not in statement:
                        raise Unknown(f"the statement {statement}")
                    continue
                if match := re.match(r"\.branchtargets\s+(.*)", statement):
                    function.branch_targets[label] = split_operands(match[1])
                    continue
                depth += (statement == "{") - (statement == "}")
                if depth == 0:
                    self.finish(function)
                    function = None
                    continue
                if statement.endswith(":"):
                    label = statement[:-1]
                function.statement(statement)
            except Unknown as unknown:
                raise Unknown(f"line {number}: {unknown}") from None

    def finish(self, function):
        body = []
        for line in function.lines:
            if isinstance(line, tuple):
                targets = function.branch_targets[line[1]]
                body += [f"  case {i}: goto {identifier(target)};" for i, target in enumerate(targets)]
            else:
                body.append(line.replace("kDynamicShared", str((function.shared_bytes + 15) // 16 * 16)))
        # The label of a branch table stands for no place in the code.
        labels = {identifier(name) for name in function.branch_targets}
        body = [line for line in body if line.rstrip(":") not in labels or not line.endswith(":")]
        function.body = body
        self.functions[function.name] = function
        if function.is_kernel:
            self.kernels.append(function)

    def waits(self, function):
        """Whether a function or one that it calls waits for other threads."""
        return function.collective or any(self.waits(self.functions[name]) for name in function.callees)

    def write(self, output):
        out = ["// Generated by cuda/emulation/translate.py from PTX: do not edit.", '#include "cuda/emulation/ptx.h"', "",
               "namespace halfstep::emulation {", "namespace {", ""]
        out += [definition for definition in self.variables.values()]
        out += ["}  // namespace", ""]
        out += [f"{function.signature};" for function in self.functions.values()]
        for function in self.functions.values():
            out.append(f"{function.signature} {{")
            out.append("  [[maybe_unused]] uint32_t carry = 0;")
            out += function.body
            out.append("}")
            out.append(f'#line {len(out) + 2} "{output}"')
        classes = sorted({what for block in self.blocks for what in block})
        out.append("static const char* const kClasses[] = {" + "".join(f'"{c}", ' for c in classes) + "nullptr};")
        out.append("static const BlockCount kCounts[] = {")
        for number, block in enumerate(self.blocks):
            out.append("  " + "".join(f"{{{number}, {classes.index(what)}, {times}}}, "
                                      for what, times in sorted(block.items())))
        out.append("  {0, 0, 0}};")
        out.append("static const Site kSites[] = {")
        for location in self.sites:
            file, line = (location + (0, 0))[:2] if location[0] != "" else (0, 0)
            caller = location[2:] if len(location) == 4 else (0, 0)
            out.append(f'  {{"{self.files.get(file, "unknown")}", {line}, "{self.files.get(caller[0], "")}", {caller[1]}}},')
        out.append("  {nullptr, 0, nullptr, 0}};")
        for i, kernel in enumerate(self.kernels):
            out.append(f"static const Param kParams{i}[] = {{" +
                       "".join(f"{{{offset}, {size}}}, " for offset, size in kernel.param_list) + "{0, 0}};")
        out.append("static const Kernel kKernels[] = {")
        for i, kernel in enumerate(self.kernels):
            out.append(f'  {{"{kernel.name}", {identifier(kernel.name)}, kParams{i}, {len(kernel.param_list)}, '
                       f"{kernel.param_bytes}, {kernel.shared_bytes}, {'true' if self.waits(kernel) else 'false'}, "
                       f"{kernel.max_threads}}},")
        out.append("  {}};")
        variables = "".join(f'{{"{name}", {identifier(name)}_variable, sizeof({identifier(name)}_variable)}}, '
                            for name in self.variables)
        out.append(f"static const Variable kVariables[] = {{{variables}{{}}}};")
        out.append(f"extern const Module module_{self.name};")
        out.append(f'const Module module_{self.name} = {{"{self.name}", kKernels, kVariables, kSites, kClasses, kCounts, '
                   f'{len(self.blocks)}}};')
        out.append("static const bool kRegistered = register_module(&module_" + self.name + ");")
        out += ["", "}  // namespace halfstep::emulation", ""]
        return "\n".join(out)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, target, name = sys.argv[1:]
    module = Module(identifier(name))
    with open(source, encoding="utf-8") as file:
        text = file.read()
    try:
        module.read(text)
    except Unknown as unknown:
        sys.exit(f"[translate] {source}: expected PTX that is known, got {unknown}; add it to {sys.argv[0]}")
    with open(target, "w", encoding="utf-8") as file:
        file.write(module.write(target))


if __name__ == "__main__":
    main()
