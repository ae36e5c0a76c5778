"""containerd's filter language: which objects a list or a subscription is about.

A filter is a comma-separated list of selectors that must all hold; of several filters one must hold::

    name==alpine
    labels."com.example/role"~=^web,labels.debug
    namespace==moby,topic~=|^/tasks/|

A selector is a path of fields and perhaps an operator and a value. Without them the field must be
there; ``==`` wants it there and equal; ``!=`` and ``~=`` take a field that is not there as empty.
Fields are letters, digits and underscores, or double-quoted. A value runs to the next comma or space,
or is double-quoted; after ``~=`` it may also stand between slashes or bars, and is a regular
expression of RE2. Within quotes the escapes are Go's.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import re2 as _untyped_re2  # pyright: ignore[reportMissingTypeStubs]

from orlopd.plugin.errors import InvalidArgument

FieldPath = tuple[str, ...]
Adaptor = Callable[[FieldPath], str | None]
"""Gives the value of an object's field by its path, or None where the object has no such field."""

MAX_FILTER = 64 << 10


class Operator(enum.Enum):
    """How a selector compares."""

    PRESENT = ""
    EQUAL = "=="
    NOT_EQUAL = "!="
    MATCHES = "~="


@dataclass(frozen=True, slots=True)
class Selector:
    """One condition on one field."""

    path: FieldPath
    operator: Operator = Operator.PRESENT
    value: str = ""
    pattern: Any = None

    def match(self, adaptor: Adaptor) -> bool:
        """Whether the object behind ``adaptor`` meets the condition."""
        found = adaptor(self.path)
        match self.operator:
            case Operator.PRESENT:
                return found is not None
            case Operator.EQUAL:
                return found == self.value
            case Operator.NOT_EQUAL:
                return (found or "") != self.value
            case Operator.MATCHES:
                return self.pattern.search(found or "") is not None


@dataclass(frozen=True, slots=True)
class Filter:
    """Alternatives, each a list of selectors that must all hold. Without any, everything matches."""

    alternatives: tuple[tuple[Selector, ...], ...] = ()

    def match(self, adaptor: Adaptor) -> bool:
        """Whether the object behind ``adaptor`` passes."""
        if not self.alternatives:
            return True
        return any(all(selector.match(adaptor) for selector in each) for each in self.alternatives)


EVERYTHING = Filter()


def parse(filters: Sequence[str]) -> Filter:
    """Read filters, of which one must hold. None at all, or an empty one, lets everything pass.

    :raises InvalidArgument: a filter is malformed; the message names the column
    """
    if not filters or "" in filters:
        # The others must be well-formed all the same.
        for text in filters:
            _Parser(text).parse()
        return EVERYTHING
    return Filter(tuple(_Parser(text).parse() for text in filters))


def in_map(path: FieldPath, values: Mapping[str, str]) -> str | None:
    """The entry of ``values`` that a path names; dots in the key need no quotes."""
    return values.get(".".join(path))


# No types come with it. Its searches take time linear in the text, whatever a client asks for.
_re2: Any = _untyped_re2
_RE2_OPTIONS = _re2.Options()
_RE2_OPTIONS.log_errors = False

_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_SIMPLE_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_OPERATORS = {operator.value: operator for operator in Operator if operator is not Operator.PRESENT}


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def parse(self) -> tuple[Selector, ...]:
        if len(self.text) > MAX_FILTER:
            raise InvalidArgument(f"filter has {len(self.text)} characters, at most {MAX_FILTER} are allowed")
        if "\0" in self.text:
            self.fail("a zero byte cannot be part of a filter", self.text.index("\0"))
        if not self.text:
            return ()
        selectors = [self.selector()]
        while self.at < len(self.text):
            if self.text[self.at] != ",":
                self.fail(f"unexpected {self.text[self.at]!r}, want ',' or the end")
            self.at += 1
            selectors.append(self.selector())
        return tuple(selectors)

    def selector(self) -> Selector:
        path = [self.field()]
        while self.peek() == ".":
            self.at += 1
            path.append(self.field())
        if self.peek() in {",", ""}:
            return Selector(tuple(path))
        operator = self.operator()
        self.skip_space()
        start = self.at
        value = self.value(operator)
        pattern = self.compile(value, start) if operator is Operator.MATCHES else None
        return Selector(tuple(path), operator, value, pattern)

    def field(self) -> str:
        self.skip_space()
        if self.peek() == '"':
            return self.quoted()
        found = _FIELD.match(self.text, self.at)
        if found is None:
            self.fail(f"{self.here()}, want a field: letters, digits and '_', or a quoted name")
        self.at = found.end()
        return found[0]

    def operator(self) -> Operator:
        self.skip_space()
        found = _OPERATOR.match(self.text, self.at)
        if found is None:
            self.fail(f"{self.here()}, want one of ==, != and ~=")
        operator = _OPERATORS.get(found[0])
        if operator is None:
            self.fail(f"unsupported operator {found[0]!r}, want one of ==, != and ~=")
        self.at = found.end()
        return operator

    def value(self, operator: Operator) -> str:
        first = self.peek()
        if first == '"' or (first and first in "/|" and operator is Operator.MATCHES):
            return self.quoted()
        if first and first in "/|":
            self.fail(
                f"a value between {first!r} is a regular expression, which only ~= takes; use double quotes"
            )
        if not first or first in ",.=!~":
            self.fail(f"{self.here()}, want a value; one that starts so must be quoted")
        start = self.at
        while self.peek() not in {",", ""} and self.peek().isprintable() and not self.peek().isspace():
            self.at += 1
        if start == self.at:
            self.fail(f"unexpected {first!r} in a value, quote it")
        return self.text[start : self.at]

    def quoted(self) -> str:
        quote, start = self.text[self.at], self.at
        self.at += 1
        out = bytearray()
        while (char := self.peek()) != quote:
            if char in {"", "\n"}:
                self.fail(f"the quoted text that starts here is not ended by {quote!r}", start)
            self.at += 1
            out += self.escape(quote) if char == "\\" else char.encode("utf-8", "surrogatepass")
        self.at += 1
        # Escapes can spell bytes that are no UTF-8; no field holds such, but a filter may ask.
        return out.decode("utf-8", "surrogateescape")

    def escape(self, quote: str) -> bytes:
        start = self.at - 1
        char = self.peek()
        self.at += 1
        if char == quote:
            return char.encode()
        if char in _SIMPLE_ESCAPES:
            return bytes([_SIMPLE_ESCAPES[char]])
        if char in _HEX_ESCAPES:
            number = self.digits(self.at, _HEX_ESCAPES[char], 16, start)
            if char == "x":
                return bytes([number])
            if number > 0x10FFFF:
                self.fail("there is no such character", start)
            return chr(number).encode("utf-8", "replace")
        if char and char in "01234567":
            number = self.digits(self.at - 1, 3, 8, start)
            if number > 255:
                self.fail("an octal escape goes up to \\377", start)
            return bytes([number])
        return self.fail(f"there is no escape \\{char}; a backslash itself is written \\\\", start)

    def digits(self, start: int, count: int, base: int, escape: int) -> int:
        text = self.text[start : start + count]
        try:
            if len(text) < count or not text.isalnum() or not text.isascii():
                raise ValueError
            number = int(text, base)
        except ValueError:
            self.fail(f"the escape wants {count} digits of base {base}", escape)
        self.at = start + count
        return number

    def compile(self, pattern: str, start: int) -> Any:
        try:
            return _re2.compile(pattern, _RE2_OPTIONS)
        except (_re2.error, UnicodeEncodeError) as error:
            why: Any = error.args[0]
            why = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(error)
        return self.fail(f"not a regular expression of RE2: {why}", start)

    def skip_space(self) -> None:
        while self.peek().isspace():
            self.at += 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def here(self) -> str:
        return f"unexpected {self.peek()!r}" if self.peek() else "unexpected end"

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        column = (self.at if at is None else at) + 1
        raise InvalidArgument(f"filter {self.text[:200]!r}, column {column}: {why}: invalid argument")
