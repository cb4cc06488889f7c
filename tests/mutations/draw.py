#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Finds where a header can be changed a little, draws some of these places, and writes headers that can do each change.

A place that is drawn is a mutant. All of them are written into one copy of the headers, each behind a switch that is
read from the environment when the program starts: `(tarn_mutant::is(17) ? (a <= b) : (a < b))`. So the programs are
compiled once for all mutants, and with no mutant set they are the unchanged ones.

What a header's text means is taken from how clang-format has laid it out: an operator between two spaces has two
operands, a `<` with no space before it begins template arguments, a `{` with none begins an initialiser. A place that
was read wrongly does not compile, and then it is no mutant.
"""
import bisect
import collections
import pathlib
import random
import re

SWITCH = """// SPDX-License-Identifier: MIT
#pragma once

// Which mutant is on: the number in TARN_MUTANT. With TARN_MUTANT_REACHED, a file, those that were come by are written
// there when the program ends, one byte each. What is evaluated by the compiler is never changed.

#include <cstdlib>
#include <fcntl.h>
#include <type_traits>
#include <unistd.h>

namespace tarn_mutant {

inline unsigned char reached[%(count)d];

inline int from_environment() {
  const char* const number = std::getenv("TARN_MUTANT");
  return number == nullptr ? 0 : std::atoi(number);
}
inline const int selected = from_environment();

struct Teller {
  const char* const path = std::getenv("TARN_MUTANT_REACHED");
  ~Teller() {
    if (path == nullptr) return;
    const int file = ::open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ::write(file, reached, sizeof reached) < 0) std::abort();
    ::close(file);
  }
};
inline const Teller teller;

constexpr bool is(int number) noexcept {
  if (std::is_constant_evaluated()) return false;
  __atomic_store_n(&reached[number], 1, __ATOMIC_RELAXED);
  return number == selected;
}

}  // namespace tarn_mutant
"""

TOKEN = re.compile(r"""
    (?P<skip>//[^\n]*|/\*.*?\*/|^[ ]*\#(?:[^\n\\]|\\.)*)
  | (?P<literal>R"\((?:.|\n)*?\)"|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)+')
  | (?P<number>\d(?:[\w.]|'\d)*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark>\.\.\.|<=>|<<=|>>=|->\*|::|->|\+\+|--|<<|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\[\[|.)
""", re.VERBOSE | re.DOTALL | re.MULTILINE)

# How strongly what has two operands binds them.
BINDS = {"*": 10, "/": 10, "%": 10, "+": 9, "-": 9, "<<": 8, ">>": 8, "<=>": 7, "<": 6, "<=": 6, ">": 6, ">=": 6,
         "==": 5, "!=": 5, "&": 4, "^": 3, "|": 2, "&&": 1, "||": 0}
ASSIGNS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
ENDS = {",", ";", "?", ":", "return", "co_return", "co_await", "else", "throw", "do", "case", *ASSIGNS}
OPENS, CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">", "[[": "]"}, {")", "]", "}", ">"}

# What takes the place of what.
SWAPS = {"<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="],
         "&&": ["||"], "||": ["&&"], "+": ["-"], "-": ["+"], "+=": ["-="], "-=": ["+="], "++": ["--"], "--": ["++"],
         "true": ["false"], "false": ["true"], "min": ["max"], "max": ["min"]}
KIND = {**dict.fromkeys(["<", "<=", ">", ">=", "==", "!="], "comparison"), **dict.fromkeys(["&&", "||"], "logical"),
        **dict.fromkeys(["+", "-", "+=", "-="], "plus and minus"), **dict.fromkeys(["++", "--"], "count up and down"),
        **dict.fromkeys(["true", "false"], "true and false"), **dict.fromkeys(["min", "max"], "min and max")}
NOT_A_STATEMENT = set("""if for while do switch case default else const constexpr static auto using typedef struct class
    enum template typename try catch goto assert static_assert co_return co_await co_yield unsigned int bool char void
    throw new delete namespace friend public private protected extern thread_local asm""".split())

# Behind these, what is in the brackets is for the compiler, or is an assert, which changes nothing.
FOR_THE_COMPILER = {"constexpr", "noexcept", "decltype", "sizeof", "alignas", "alignof", "assert", "static_assert",
                    "requires", "explicit"}

Token = collections.namedtuple("Token", "text kind at line spaced followed")

# A place: tokens [first, last) of a header, and what may be there instead.
Place = collections.namedtuple("Place", "header first last line kind change render")


class Header:
    """A header's text as tokens, with what is bracketed, and what is evaluated when the program runs."""

    def __init__(self, name, text):
        self.name, self.text, self.lines = name, text, text.split("\n")
        starts = [match.end() for match in re.finditer(r"\n", text)]
        self.tokens = []
        for match in TOKEN.finditer(text):
            if match.lastgroup == "skip" or match[0].isspace():
                continue
            end = match.end()
            self.tokens.append(Token(match[0], match.lastgroup, match.start(), bisect.bisect(starts, match.start()) + 1,
                                     match.start() == 0 or text[match.start() - 1].isspace(),
                                     end == len(text) or text[end].isspace()))
        self._match()
        self._sort()

    def is_code(self, line):
        text = self.lines[line].strip()
        return bool(text) and not text.startswith("//")

    def word(self, i):
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def source(self, first, last):
        end = self.tokens[last - 1]
        return self.text[self.tokens[first].at:end.at + len(end.text)]

    def _match(self):
        """For each bracket its other one; for each token the bracket around it."""
        self.other, self.around, stack = {}, [], []
        for i, token in enumerate(self.tokens):
            opens = token.text in OPENS and (token.text != "<" or self._begins_arguments(i))
            closes = token.text in CLOSES and bool(stack) and token.text == OPENS[self.word(stack[-1])]
            if closes:
                self.other[i] = stack[-1]
                self.other[stack.pop()] = i
            self.around.append(stack[-1] if stack else None)
            if opens:
                stack.append(i)

    def _begins_arguments(self, i):
        token, before = self.tokens[i], self.word(i - 1)
        return before == "template" or (not token.spaced and before != "operator" and not token.followed)

    def _sort(self):
        """Says for each token whether it runs: inside a function, and not for the compiler."""
        self.kinds, self.runs = {}, []
        until = -1  # to where all is for the compiler
        for i, token in enumerate(self.tokens):
            around = self.around[i]
            kind = "top" if around is None else self.kinds.get(around, "other")
            if token.text == "{" and i in self.other:
                self.kinds[i] = self._kind_of_brace(i, kind)
            elif i in self.other and self.other[i] > i:
                outside = token.text in {"<", "[["} or (self.word(i - 1) in FOR_THE_COMPILER)
                runs = {"block": "list", "list": "list", "compiled": "compiled"}
                self.kinds[i] = "compiled" if outside else runs.get(kind, "other")
            if self._begins_statement(i) and token.text in {"constexpr", "static", "using", "static_assert", "assert",
                                                            "typedef", "case"}:
                until = max(until, self._end_of_statement(i))
            self.runs.append(kind in {"block", "list"} and i > until)

    def _kind_of_brace(self, i, outer):
        before, head = self.word(i - 1), self._head(i)
        if outer == "compiled" or "concept" in head or before == "requires":
            return "compiled"
        if before == ")" and self.word(self.other.get(i - 1, 0) - 1) == "requires":
            return "compiled"
        initialiser = not self.tokens[i].spaced or before in {"=", ",", "(", "return", "{"}
        if outer in {"block", "list"}:
            if head and head[0] in {"struct", "class", "union", "enum"}:
                return "class"
            return "list" if initialiser and before not in {"{", ")"} and not self._begins_statement(i) else "block"
        if outer in {"other", "compiled"}:
            return "other"
        if "namespace" in head or "extern" in head:
            return "top"
        if any(word in head for word in ("class", "struct", "union", "enum")) and ")" not in head[-1:]:
            return "compiled" if "enum" in head else "class"
        return "other" if initialiser else "block"

    def _head(self, i):
        """The words of the declaration that the brace ends, without what is in its brackets."""
        words, j = [], i - 1
        while j >= 0 and self.word(j) not in {";", "{"} and self.around[j] == self.around[i]:
            if self.word(j) in CLOSES and j in self.other:
                if self.word(j) == "}" and self.kinds.get(self.other[j]) in {"block", "class", "top"}:
                    break
                words.append(self.word(j))
                j = self.other[j] - 1
                continue
            words.append(self.word(j))
            j -= 1
        return words[::-1]

    def _begins_statement(self, i):
        around = self.around[i]
        if around is None or self.word(around) != "{" or self.kinds.get(around) != "block":
            return False
        before = self.word(i - 1)
        if before in {"{", ";", "else"} or (before == "}" and self.kinds.get(self.other[i - 1]) == "block"):
            return before != "{" or i - 1 == around
        return before == ")" and self._head_of_control(i - 1)

    def _head_of_control(self, close):
        """Whether the parenthesis closes what follows if, while or for."""
        before = self.other.get(close, 0) - 1
        return self.word(before) in {"if", "while", "for", "switch"} or (
            self.word(before) == "constexpr" and self.word(before - 1) == "if")

    def _end_of_statement(self, i):
        while i < len(self.tokens) and self.word(i) != ";" and not (self.word(i) == ":" and self.word(i - 1) != ":"):
            i = self.other[i] + 1 if i in self.other and self.other[i] > i else i + 1
        return i

    # --- The places. -------------------------------------------------------------------------------------------------

    def places(self):
        """Returns (the places, how many more there would be that the compiler evaluates, or that are no statements)."""
        found, left_out = [], 0
        for i, token in enumerate(self.tokens):
            place = self._place_at(i)
            for one in place:
                if self.runs[i]:
                    found.append(one)
            left_out += bool(place) and not self.runs[i]
            if self.runs[i] and self._begins_statement(i):
                found += self._statement_at(i)
        return found, left_out

    def _place_at(self, i):
        token = self.tokens[i]
        text = token.text
        if text in BINDS and text in SWAPS and token.spaced and token.followed and i not in self.other:
            return self._binary(i)
        if text in {"true", "false"}:
            return [self._make(i, i + 1, KIND[text], f"{text} -> {SWAPS[text][0]}",
                               lambda inner, on: f"({on} ? {SWAPS[text][0]} : {inner})")]
        if token.kind == "number" and re.fullmatch(r"\d+", text) and self.word(i - 1) not in {"case", "operator"}:
            return [self._make(i, i + 1, "constant", f"{text} -> {other}",
                               lambda inner, on, other=other: f"({on} ? {other} : {inner})")
                    for other in ([int(text) + 1, int(text) - 1] if int(text) else [1])]
        if text in {"min", "max"} and self.word(i - 1) == "::" and self.word(i - 2) == "std":
            end = i + 1
            if self.word(end) == "<" and end in self.other:
                end = self.other[end] + 1
            if self.word(end) == "(":
                return [self._make(i - 2, self.other[end] + 1, KIND[text], f"{text} -> {SWAPS[text][0]}",
                                   lambda inner, on: f"({on} ? {inner.replace(text, SWAPS[text][0], 1)} : {inner})")]
        if text in {"++", "--"} and not token.followed and self.word(i + 1) not in {"(", "*"}:
            end = self._end_of_operand(i + 1)
            if end == i + 1:
                return []  # behind its operand
            return [self._make(i, end, KIND[text], f"{text} -> {SWAPS[text][0]}",
                               lambda inner, on: f"({on} ? {SWAPS[text][0]}{inner[2:]} : {inner})")]
        if text in {"if", "while"} and self.word(i + 1) == "(":
            return self._condition(i)
        return []

    def _make(self, first, last, kind, change, render):
        where = " ".join(self.source(first, last).split())
        if len(where) > 60:
            where = where[:57] + "..."
        shown = change if kind in {"condition", "statement"} else f"{change} in `{where}`"
        return Place(self, first, last, self.tokens[first].line, kind, shown, render)

    def _binary(self, i):
        text = self.word(i)
        first, last = self._left(i), self._right(i)
        if first == i or last == i + 1 or "..." in {self.word(i - 1), self.word(i + 1)}:
            return []
        if text in {"+", "-"} and "0" in {self.source(first, i), self.source(i + 1, last)}:
            return []  # the same
        if any(self.word(j)[0] == '"' for j in range(first, last) if self.tokens[j].kind == "literal"):
            return []  # strings
        def make(other):
            def render(inner, on, pieces):
                return f"({on} ? ({pieces(first, i)} {other} {pieces(i + 1, last)}) : ({inner}))"
            render.wants_pieces = True
            return self._make(first, last, KIND[text], f"{text} -> {other}", render)
        return [make(other) for other in SWAPS[text]]

    def _left(self, i):
        binds, j = BINDS[self.word(i)], i
        while j > 0:
            text, token = self.word(j - 1), self.tokens[j - 1]
            if j - 1 in self.other:
                if self.other[j - 1] > j - 1:
                    return j  # its bracket
                if text == ")" and self._head_of_control(j - 1):
                    return j
                if text == "}" and self.tokens[self.other[j - 1]].spaced:
                    return j
                j = self.other[j - 1]
                continue
            if text in ENDS or (text in BINDS and token.spaced and token.followed and BINDS[text] < binds):
                return j
            j -= 1
        return j

    def _right(self, i):
        binds, j = BINDS[self.word(i)], i + 1
        while j < len(self.tokens):
            text, token = self.word(j), self.tokens[j]
            if j in self.other:
                if self.other[j] < j:
                    return j
                j = self.other[j] + 1
                continue
            if text in ENDS or (text in BINDS and token.spaced and token.followed and BINDS[text] <= binds):
                return j
            j += 1
        return j

    def _end_of_operand(self, j):
        while j < len(self.tokens):
            text = self.word(j)
            if j in self.other and self.other[j] > j:
                j = self.other[j] + 1
            elif self.tokens[j].kind == "name" or text in {"::", ".", "->"}:
                j += 1
            else:
                return j
        return j

    def _condition(self, i):
        first, last = i + 2, self.other[i + 1]
        for j in range(first, last):
            if self.word(j) == ";" and self.around[j] == i + 1:
                first = j + 1
        if first >= last or any(self.word(j) == "=" and self.around[j] == i + 1 for j in range(first, last)):
            return []  # it declares
        shown = " ".join(self.source(first, last).split())
        return [self._make(first, last, "condition", f"not ({shown})",
                           lambda inner, on: f"({on} != static_cast<bool>({inner}))")]

    def _statement_at(self, i):
        word, end = self.word(i), self._end_of_statement(i)
        if self.word(end) != ";" or word in NOT_A_STATEMENT:
            return []
        if self.word(end - 3) == "is_held":
            return []  # for the analysis of threads alone
        before = i - 1
        if word == "return":
            # In a branch alone: what follows it is what would come else.
            brace = self.word(before) != ")"
            if brace:
                before = self.around[i] - 1
                if self.word(end + 1) != "}":
                    return []
            if self.word(before) != ")" or self.word(self.other.get(before, 0) - 1) != "if":
                return []
        elif word not in {"break", "continue"}:
            if self.tokens[i].kind == "name" or word == "::":
                j = self._end_of_operand(i)
                declares = any(self.tokens[k].kind == "name"
                               and (self.tokens[k - 1].kind == "name" or self.word(k - 1) == ">")
                               for k in range(i + 1, j) if self.around[k] == self.around[i])
                if declares or (self.word(j) not in ASSIGNS | {";", "<<"}):
                    return []
                if any(self.word(k) == "{" and self.around[k] == self.around[i] for k in range(i, j)):
                    return []
            elif word == "(":
                if self.source(i, i + 3) != "(void)":
                    return []
            elif word not in {"*", "++", "--"}:
                return []
        shown = " ".join(self.source(i, end + 1).split())
        found = [self._make(i, end + 1, "statement", f"without `{shown}`",
                            lambda inner, on: f"{{ if (!{on}) {inner} }}")]
        for j in range(i, end):
            if self.word(j) in {"+=", "-="} and self.around[j] == self.around[i]:
                text = self.word(j)

                def render(inner, on, pieces, j=j, text=text):
                    return f"if ({on}) {{ {pieces(i, j)} {SWAPS[text][0]} {pieces(j + 1, end)}; }} else {inner}"
                render.wants_pieces = True
                if self.word(i - 1) in {"{", ";", "}"}:
                    found.append(self._make(i, end + 1, KIND[text], f"{text} -> {SWAPS[text][0]}", render))
        return found


# --- Drawn and written. ----------------------------------------------------------------------------------------------

def headers_in(include):
    """Of the library itself: tarn/testing is for tests."""
    return [Header(str(path.relative_to(include)), path.read_text()) for path in sorted(include.rglob("*.hpp"))
            if path.parent.name != "testing"]


def draw(headers, count, seed):
    """Returns up to `count` places, the headers taken by their lines of code, no place twice, in the order drawn."""
    chance = random.Random(seed)
    places = {header.name: header.places()[0] for header in headers}
    lines = {header.name: sum(header.is_code(i) for i in range(len(header.lines))) for header in headers}
    drawn, taken = [], collections.defaultdict(set)
    while len(drawn) < count and any(places.values()):
        names = [name for name in places if places[name]]
        name = chance.choices(names, [lines[name] for name in names])[0]
        # By kind first: else half of them would be statements.
        kind = chance.choice(sorted({place.kind for place in places[name]}))
        of_kind = [i for i, place in enumerate(places[name]) if place.kind == kind]
        place = places[name].pop(chance.choice(of_kind))
        span = (place.first, place.last)
        if any(crosses(span, other) or (span == other) for other in taken[name]):
            continue
        taken[name].add(span)
        drawn.append(place)
    return drawn


def crosses(a, b):
    return a[0] < b[0] < a[1] < b[1] or b[0] < a[0] < b[1] < a[1]


def render(header, mutants):
    """Returns the header's text with the mutants in it, (number, place) each, on the lines that they were on."""
    by_span = {(place.first, place.last): (number, place) for number, place in mutants}

    def piece(first, last, but=None):
        """The text of [first, last), with what is inside it, but not the place `but` itself."""
        out, at, i = [], header.tokens[first].at, first
        end = header.tokens[last - 1].at + len(header.tokens[last - 1].text)
        while i < last:
            spans = [span for span in by_span if span[0] == i and span[1] <= last and span != but
                     and (but is None or not (span[0] <= but[0] and span[1] >= but[1]))]
            if not spans:
                i += 1
                continue
            span = max(spans, key=lambda span: span[1])
            out.append(header.text[at:header.tokens[i].at])
            number, place = by_span[span]
            on, inner = f"tarn_mutant::is({number})", piece(*span, but=span)
            if getattr(place.render, "wants_pieces", False):
                out.append(place.render(inner, on, piece))
            else:
                out.append(place.render(inner, on))
            at = header.tokens[span[1] - 1].at + len(header.tokens[span[1] - 1].text)
            i = span[1]
        out.append(header.text[at:end])
        return "".join(out)

    if not mutants:
        return header.text
    tokens = header.tokens
    body = piece(0, len(tokens))
    text = header.text[:tokens[0].at] + body + header.text[tokens[-1].at + len(tokens[-1].text):]
    return text.replace("#pragma once\n\n", "#pragma once\n#include <tarn_mutant.hpp>\n", 1)  # no line moves


def write(to, places, without=()):
    """Writes the headers with the places as mutants 1, 2, ... into `to`, but for those numbers."""
    of = collections.defaultdict(list)
    for number, place in enumerate(places, 1):
        if number not in without:
            of[place.header.name].append((number, place))
    for header in {place.header.name: place.header for place in places}.values():
        (to / header.name).write_text(render(header, of[header.name]))
    (to / "tarn_mutant.hpp").write_text(SWITCH % {"count": len(places) + 1})


if __name__ == "__main__":
    found = collections.Counter()
    left = 0
    for one in headers_in(pathlib.Path(__file__).resolve().parents[2] / "include"):
        listed, out = one.places()
        found.update(place.kind for place in listed)
        left += out
    print(found, sum(found.values()), "left out:", left)
