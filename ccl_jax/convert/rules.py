"""Tables that say which array of another program is which parameter of ours.

    Rule("blocks.{layer}.ffn.{i}.weight", "video/blocks/ffn/{i}/kernel", LINEAR)

A table is a tuple of rules and is read both ways. Names are templates: `{i}`
stands for digits and is on both sides. `{layer}` may be absent in ours: there
the layers are stacked, and it is the index on the leading axis. A rule may join
several arrays or split one (then names are tuples). `ours=()` is for what files
hold that is no parameter, such as tables of filters.

Every parameter is filled by exactly one rule, every array of the file is used
exactly once, and shapes and kinds of numbers agree; otherwise one error lists
both differences.
"""

import collections
import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ccl_jax.convert.layouts import SAME, Layout

_SHOWN = 10  # lines of each kind in an error
_FIELD = re.compile(r"\{(\w+)\}")
LAYER = "layer"

Names = str | tuple[str, ...]
Shapes = Mapping[str, Any]  # of what has .shape and .dtype


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line of a table.

  Args:
    theirs: template, or several that together make `ours`.
    ours: template of a path, several that `theirs` makes, or () to ignore it.
    layout: from arrays of theirs to arrays of ours (of one layer).

  Raises:
    ValueError: the sides do not have the same placeholders.
  """

  theirs: Names
  ours: Names
  layout: Layout = SAME

  def __post_init__(self):
    for side in ("theirs", "ours"):
      names = getattr(self, side)
      names = (names,) if isinstance(names, str) else names
      object.__setattr__(self, side, names)
    fields = {frozenset(_FIELD.findall(name)) for name in self.theirs}
    for name in self.ours:
      own = frozenset(_FIELD.findall(name))
      fields |= {own | {LAYER} if self.is_stacked else own}
    if len(fields) > 1:
      raise ValueError(
        f"{self}: expected the same {{placeholders}} in all names; only"
        f" {{{LAYER}}} may be absent, in all of ours."
      )

  @property
  def is_stacked(self) -> bool:
    """Whether each layer of theirs is a row of ours."""
    field = f"{{{LAYER}}}"
    return field in self.theirs[0] and not any(field in x for x in self.ours)

  def __str__(self) -> str:
    return f"rule {' + '.join(self.theirs)} -> {' + '.join(self.ours) or '-'}"


@dataclasses.dataclass(frozen=True)
class Assignment:
  """A rule for certain arrays: `ours` (or a row of each) is made of `theirs`.

  Attributes:
    theirs: names in the file.
    ours: paths of parameters.
    row: on the leading axis of each of `ours`; None for all of it.
    layout: between them.
  """

  theirs: tuple[str, ...]
  ours: tuple[str, ...]
  row: int | None
  layout: Layout


Table = Sequence[Rule]


def match(table: Table, theirs: Shapes, ours: Shapes) -> list[Assignment]:
  """How the parameters `ours` are made of the arrays `theirs`.

  Args:
    theirs: name -> what has a shape and a dtype.
    ours: path -> the same.

  Raises:
    ValueError: some array is not used exactly once, some parameter is not
      filled exactly once, or shapes or kinds of numbers differ.
  """
  pieces = derive(table, ours)
  expected = {name: piece for piece in pieces for name in piece.theirs}
  ignored = {
    name
    for rule in table
    if not rule.ours
    for name in theirs
    if any(_regex(t).fullmatch(name) for t in rule.theirs)
  }
  extra = [n for n in theirs if n not in expected and n not in ignored]
  missing = [name for name in expected if name not in theirs]
  both = [n for n in theirs if n in expected and n in ignored]
  lacking = set(missing)
  whole = [p for p in pieces if lacking.isdisjoint(p.theirs)]
  _complain(
    {
      "only in the file": (
        extra,
        lambda n: f"{n} {_shape(theirs[n])}{_near(n, missing)}",
      ),
      "not in the file": (
        missing,
        lambda n: f"{n} for {' + '.join(expected[n].ours)}{_near(n, extra)}",
      ),
      "used and ignored": (both, str),
      "of another shape or type": (_misfits(whole, theirs, ours), str),
    }
  )
  return pieces


def derive(table: Table, ours: Shapes) -> list[Assignment]:
  """The pieces that make `ours`, from the table alone: names of a new file.

  Raises:
    ValueError: a parameter without a rule or with several, or an array that
      would be used twice.
  """
  pieces: dict[Assignment, None] = {}
  for rule in table:
    for values in _assignments(rule.ours, ours):
      paths = tuple(t.format(**values) for t in rule.ours)
      rows: Iterable[int | None] = [None]
      if rule.is_stacked and paths[0] in ours:
        rows = range(ours[paths[0]].shape[0])
      for row in rows:
        filled = values if row is None else {**values, LAYER: row}
        names = tuple(t.format(**filled) for t in rule.theirs)
        pieces[Assignment(names, paths, row, rule.layout)] = None
  used = collections.Counter(n for p in pieces for n in p.theirs)
  slots = collections.Counter((x, p.row) for p in pieces for x in p.ours)
  count = {path: None for path, _ in slots}
  twice = {path for (path, _), times in slots.items() if times > 1}
  absent = [path for path in ours if path not in count]
  _complain(
    {
      "parameters without a rule": (
        absent,
        lambda path: f"{path} {_shape(ours[path])}",
      ),
      "parameters with several rules": (sorted(twice), str),
      "rules for a part of what they make": (
        [path for path in count if path not in ours],
        str,
      ),
      "arrays used twice": ([n for n, k in used.items() if k > 1], str),
    }
  )
  return list(pieces)


def misfit(table: Table, theirs: Shapes, ours: Shapes) -> int:
  """How many names `match` would complain of; to choose among layouts."""
  try:
    expected = {n for piece in derive(table, ours) for n in piece.theirs}
  except ValueError:
    return len(theirs) + len(ours)
  return len(expected.symmetric_difference(theirs))


@functools.cache
def _regex(template: str) -> re.Pattern:
  """{i} as a group of digits; again in the same name, the same digits."""
  pattern, seen = "", set()
  for k, part in enumerate(_FIELD.split(template)):
    if k % 2 == 0:
      pattern += re.escape(part)
    else:
      pattern += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
      seen.add(part)
  return re.compile(pattern)


def _assignments(
  templates: tuple[str, ...], names: Iterable[str]
) -> Iterator[dict[str, str]]:
  """What the placeholders stand for in any of the names, each once."""
  found = {}
  for template in templates:
    for name in names:
      if hit := _regex(template).fullmatch(name):
        found[tuple(sorted(hit.groupdict().items()))] = None
  yield from (dict(items) for items in found)


def shapes_of_ours(piece: Assignment, theirs: Shapes) -> list[tuple[int, ...]]:
  """Shapes that the layout makes of theirs.

  Raises:
    ValueError: it does not apply to such shapes.
  """
  shapes = tuple(tuple(theirs[n].shape) for n in piece.theirs)
  try:
    return list(_made_shapes(piece.layout.to_ours, shapes))
  except Exception as error:  # einops and numpy each raise their own.
    reason = str(error).strip().splitlines()[-1].strip()
    raise ValueError(f"{piece.layout.name} does not apply: {reason}") from error


def shapes_of_theirs(piece: Assignment, ours: Shapes) -> list[tuple[int, ...]]:
  """Shapes that the way back makes of ours."""
  skipped = 0 if piece.row is None else 1
  shapes = tuple(tuple(ours[path].shape)[skipped:] for path in piece.ours)
  return list(_made_shapes(piece.layout.to_theirs, shapes))


@functools.lru_cache(4096)
def _made_shapes(
  make: Callable[..., tuple[np.ndarray, ...]], shapes: tuple
) -> tuple[tuple[int, ...], ...]:
  # One number seen as a whole array: a transposition of it takes no memory.
  arrays = [np.broadcast_to(np.ones((), np.float32), s) for s in shapes]
  return tuple(x.shape for x in make(*arrays))


def _misfits(
  pieces: list[Assignment], theirs: Shapes, ours: Shapes
) -> list[str]:
  """A line for each piece whose shapes or kinds of numbers differ."""
  lines = []
  for piece in pieces:
    there = " + ".join(f"{n} {_shape(theirs[n])}" for n in piece.theirs)
    skipped = 0 if piece.row is None else 1
    expected = [tuple(ours[path].shape)[skipped:] for path in piece.ours]
    here = " + ".join(
      f"{path} {shape}"
      for path, shape in zip(piece.ours, expected, strict=True)
    )
    try:
      made = shapes_of_ours(piece, theirs)
    except ValueError as error:
      lines.append(f"{there} for {here}: {error}")
      continue
    if made != expected:
      lines.append(f"{there} gives {made}, not {here}")
    for name in piece.theirs:
      kinds = {_kind(theirs[name]), *(_kind(ours[x]) for x in piece.ours)}
      if len(kinds) > 1:
        lines.append(
          f"{name} is {_dtype(theirs[name])}, {piece.ours[0]} is"
          f" {_dtype(ours[piece.ours[0]])}"
        )
  return lines


def _kind(x: Any) -> str:
  """Floating numbers can be cast to one another, nothing else."""
  name = _dtype(x)
  if name.startswith("float8") or name.startswith("float4"):
    return name  # Quantized: its scales would be needed.
  return "floating" if jnp.issubdtype(np.dtype(x.dtype), jnp.floating) else name


def _dtype(x: Any) -> str:
  return str(x.dtype)


def _shape(x: Any) -> str:
  return str(tuple(x.shape))


def _near(name: str, others: Sequence[str]) -> str:
  found = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
  return f"; nearest: {found[0]}" if found else ""


def _complain(
  problems: dict[str, tuple[Sequence[str], Callable[[str], str]]],
) -> None:
  """One ValueError with some lines of each kind, if there are any.

  problems: title -> what has it, and how to make a line of one.
  """
  text = []
  for title, (found, line) in problems.items():
    if found:
      text.append(f"{title} ({len(found)}):")
      text += [f"  {line(x)}" for x in found[:_SHOWN]]
      text += ["  ..."] * (len(found) > _SHOWN)
  if text:
    raise ValueError("the arrays do not fit the model:\n" + "\n".join(text))
