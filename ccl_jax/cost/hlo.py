"""A parser of HLO text, which `compiled.as_text()` prints, one line per op.

    %dot.4 = f32[4,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}, ...
    name     type           opcode  operands       attributes

Ops belong to computations, `%body.3 (...) -> ... {` to `}`; one is the ENTRY.
Names may lack the % (as in `lowered.as_text(dialect="hlo")`). A type is one
array or a tuple of arrays; layouts and comments are skipped. The attributes of
a kernel may continue over several lines.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BEGIN = re.compile(r"^\s+(ROOT )?%?[\w.\-]+ = ")
_OP = re.compile(
  r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?)"
  r" (?P<opcode>[a-z][a-z0-9\-]*)\((?P<rest>.*)$",
  re.DOTALL,
)
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,<=]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_SAME = ("copy", "copy-start", "copy-done", "bitcast", "convert", "reshape")
_OPENING, _CLOSING = "({[", ")}]"

Array = tuple[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Op:
  """One instruction; `operands` are names, or a constant's literal."""

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str

  def attribute(self, key: str) -> str | None:
    """Returns the text after `key=`; None without the key."""
    _, found, rest = f", {self.attributes}".partition(f", {key}=")
    return next(_split(rest)).strip() if found else None

  def called(self, key: str) -> str | None:
    """Returns the computation that attribute `key` names."""
    value = self.attribute(key)
    return None if value is None else value.lstrip("%")

  @property
  def arrays(self) -> list[Array]:
    """Returns (dtype, dims) of each array in the result's type."""
    return [
      (dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d))
      for dtype, dims in _ARRAY.findall(self.type)
    ]

  @property
  def bytes(self) -> int:
    """Returns the size of the result, summed over a tuple."""
    return size(self.arrays)


@dataclasses.dataclass(frozen=True)
class Computation:
  """A computation: ops by name, in order; `root` is the result."""

  ops: dict[str, Op]
  root: str

  def leaf(self, name: str) -> Op | None:
    """Follows copies and bitcasts of `name` to the source; None if unknown."""
    op = self.ops.get(name)
    while op is not None and op.opcode in _SAME:
      op = self.ops.get(op.operands[0])
    return op

  def constant(self, name: str) -> int | None:
    """Returns the integer that `name` is a copy of, else None."""
    op = self.leaf(name)
    if op is None or op.opcode != "constant":
      return None
    literal = op.operands[0]
    return int(literal) if re.fullmatch(r"-?\d+", literal) else None


@dataclasses.dataclass(frozen=True)
class Program:
  """A module: computations by name, and the one that is run."""

  computations: dict[str, Computation]
  entry: str

  def __getitem__(self, name: str) -> Computation:
    return self.computations[name]


def parse(text: str) -> Program:
  """Returns the program of an HLO text.

  Raises:
    ValueError: the text has no ENTRY computation, or a line is not an op.
  """
  computations, entry, name, lines = {}, None, None, []
  for line in text.splitlines():
    if name is None:
      if header := _HEADER.match(line):
        name, lines = header["name"], []
        entry = name if header["entry"] else entry
    elif _END.match(line):
      computations[name] = _computation(name, lines)
      name = None
    elif _BEGIN.match(line):
      lines.append(line)
    elif lines:  # the attributes of a kernel hold line breaks
      lines[-1] += line
  if entry is None:
    raise ValueError(f"no ENTRY in this text; it begins {text[:80]!r}.")
  return Program(computations, entry)


def size(parts: list[Array]) -> int:
  """Returns the bytes of all arrays, without padding of their layouts."""
  return sum(
    math.ceil(math.prod(dims) * _bits(dtype) / 8) for dtype, dims in parts
  )


@functools.cache
def _bits(dtype: str) -> int:
  if dtype == "pred":
    return 8
  digits = re.match(r"[a-z]+(\d+)", dtype)  # f8e4m3fn has 8
  return int(digits[1]) if digits else 0  # token and opaque have none


def _computation(name: str, lines: list[str]) -> Computation:
  ops, root = {}, ""
  for line in lines:
    match = _OP.match(line)
    if match is None:
      raise ValueError(f"cannot read {line[:120]!r} of computation {name}.")
    inside = next(_split(match["rest"], ")"))
    parts = _split(_COMMENT.sub("", inside)) if inside else ()
    # An operand may be printed with its type before it.
    operands = (part.strip().split(" ")[-1] for part in parts)
    ops[match["name"]] = Op(
      match["name"],
      match["type"],
      match["opcode"],
      tuple(operand.lstrip("%") for operand in operands),
      match["rest"][len(inside) + 1 :].removeprefix(", "),
    )
    root = match["name"] if match["root"] else root
  return Computation(ops, root or next(reversed(ops)))


def _split(text: str, end: str = ",") -> Iterator[str]:
  """Yields the parts of `text` between `end`s that are in no brackets."""
  depth, start = 0, 0
  for i, letter in enumerate(text):
    if letter == end and depth == 0:
      yield text[start:i]
      start = i + 1
    depth += (letter in _OPENING) - (letter in _CLOSING)
  yield text[start:]
