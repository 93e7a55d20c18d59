"""Matches tables of rules with the arrays of a file and the parameters of ours.

Exactly one rule must fill each parameter, each array of the file must be used
exactly once, and shapes and kinds of numbers must agree; otherwise one error
lists all differences.
"""

import collections
import dataclasses
import difflib
import functools
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import PyTree
from ccl_jax.convert.layouts import WeightLayout
from ccl_jax.convert.rules import FIELD, LAYER, Rule, Table
from ccl_jax.params import trees

_MAX_LINES = 10  # of each kind in an error

Shapes = Mapping[str, Any]  # name -> anything with .shape and .dtype
Size = TypeVar("Size")  # settings of a model


@dataclasses.dataclass(frozen=True)
class Assignment:
  """A rule applied to certain arrays: `ours`, or a row of each, from `theirs`.

  Attributes:
    theirs: names in the file.
    ours: paths of parameters.
    row: index on the leading axis of each of `ours`; None for the entire array.
    layout: between them.
  """

  theirs: tuple[str, ...]
  ours: tuple[str, ...]
  row: int | None
  layout: WeightLayout

  @property
  def index(self) -> int | types.EllipsisType:
    """Returns what selects the row, or all, of one of `ours`."""
    return ... if self.row is None else self.row


def match(table: Table, theirs: Shapes, ours: Shapes) -> list[Assignment]:
  """Returns how the parameters `ours` are made of the arrays `theirs`.

  Args:
    theirs: name -> shape and dtype, of the file.
    ours: path -> shape and dtype, of the model.

  Raises:
    ValueError: some array is not used exactly once, some parameter is not
      filled exactly once, or shapes or kinds of numbers differ.
  """
  assignments = derive(table, ours)
  expected = {name: a for a in assignments for name in a.theirs}
  ignored = _ignored(table, theirs)
  extra = [n for n in theirs if n not in expected and n not in ignored]
  missing = [name for name in expected if name not in theirs]
  lacking = set(missing)
  complete = [a for a in assignments if lacking.isdisjoint(a.theirs)]
  _raise_if_any(
    {
      "only in the file": extra,
      "not in the file": missing,
      "used and ignored": [n for n in theirs if n in expected and n in ignored],
      "of another shape or type": _differences(complete, theirs, ours),
    },
    {
      "only in the file": (
        lambda n: f"{n} {_shape(theirs[n])}{_nearest(n, missing)}"
      ),
      "not in the file": (
        lambda n: f"{n} for {' + '.join(expected[n].ours)}{_nearest(n, extra)}"
      ),
    },
  )
  return assignments


def derive(table: Table, ours: Shapes) -> list[Assignment]:
  """Returns the assignments that make `ours`, from the table alone.

  Their `theirs` are the names of a file that holds this model. The rows of a
  stacked parameter follow one another, from the first.

  Raises:
    ValueError: a parameter without a rule or with several, or an array that
      would be used twice.
  """
  # Each once: templates of one rule may match several paths of one assignment.
  found = list(dict.fromkeys(a for rule in table for a in _applied(rule, ours)))
  uses = collections.Counter(name for a in found for name in a.theirs)
  fills = collections.Counter((path, a.row) for a in found for path in a.ours)
  filled = dict.fromkeys(path for path, _ in fills)
  _raise_if_any(
    {
      "parameters without a rule": [
        f"{path} {_shape(x)}" for path, x in ours.items() if path not in filled
      ],
      "parameters with several rules": sorted(
        {path for (path, _), times in fills.items() if times > 1}
      ),
      "made by a rule, but not in the model": [
        path for path in filled if path not in ours
      ],
      "arrays used twice": [name for name, times in uses.items() if times > 1],
    }
  )
  return found


def count_differences(table: Table, theirs: Shapes, ours: Shapes) -> int:
  """Returns how many names `match` would report, to choose among tables.

  Where all names fit, it is the number of shapes that do not.
  """
  try:
    assignments = derive(table, ours)
  except ValueError:
    return len(theirs) + len(ours)
  expected = {name for a in assignments for name in a.theirs}
  names = expected.symmetric_difference(theirs)
  if names := names.difference(_ignored(table, theirs)):
    return len(names)
  return len(_differences(assignments, theirs, ours))


def recognise(
  theirs: Shapes,
  sizes: Mapping[Any, Size],
  tables: Callable[[Size], Mapping[str, Table]],
  shapes: Callable[[Size], PyTree],
) -> tuple[Any, str]:
  """Returns the (size, naming scheme) with the names nearest to the file's.

  Args:
    theirs: name -> shape and dtype, of the file.
    sizes: name of a size -> its settings.
    tables: settings -> {naming scheme: its table}.
    shapes: settings -> the model's parameters.
  """
  differences = {}
  for size, settings in sizes.items():
    ours = trees.flatten(shapes(settings))
    for scheme, table in tables(settings).items():
      differences[size, scheme] = count_differences(table, theirs, ours)
  return min(differences, key=differences.get)


def shapes_of_theirs(
  assignment: Assignment, ours: Shapes
) -> list[tuple[int, ...]]:
  """Returns the shapes that the inverse layout makes of ours."""
  shapes = tuple(_target_shapes(assignment, ours))
  return list(_made_shapes(assignment.layout.to_theirs, shapes))


def _target_shapes(
  assignment: Assignment, ours: Shapes
) -> list[tuple[int, ...]]:
  """Returns the shapes of the parameters, or of the row, that are assigned."""
  skipped = 0 if assignment.row is None else 1
  return [tuple(ours[path].shape)[skipped:] for path in assignment.ours]


@functools.lru_cache(4096)
def _made_shapes(
  make: Callable[..., tuple[np.ndarray, ...]], shapes: tuple
) -> tuple[tuple[int, ...], ...]:
  # One number broadcast to the shape: transposing it takes no memory.
  arrays = [np.broadcast_to(np.ones((), np.float32), s) for s in shapes]
  return tuple(x.shape for x in make(*arrays))


@functools.cache
def _regex(template: str) -> re.Pattern:
  """Returns a pattern in which {i} matches digits, the same ones each time."""
  pattern, seen = "", set()
  for k, part in enumerate(FIELD.split(template)):
    if k % 2 == 0:
      pattern += re.escape(part)
    else:
      pattern += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
      seen.add(part)
  return re.compile(pattern)


def _applied(rule: Rule, ours: Shapes) -> Iterator[Assignment]:
  """Yields the assignments of a rule, one per layer of stacked parameters."""
  hits = (_regex(t).fullmatch(path) for t in rule.ours for path in ours)
  distinct = dict.fromkeys(
    tuple(sorted(hit.groupdict().items())) for hit in hits if hit
  )
  for values in map(dict, distinct):
    paths = tuple(t.format(**values) for t in rule.ours)
    rows: Iterable[int | None] = [None]
    if rule.is_stacked and paths[0] in ours:
      rows = range(ours[paths[0]].shape[0])
    for row in rows:
      filled = values if row is None else {**values, LAYER: row}
      names = tuple(t.format(**filled) for t in rule.theirs)
      yield Assignment(names, paths, row, rule.layout)


def _ignored(table: Table, theirs: Shapes) -> set[str]:
  """Returns the names that a rule without parameters matches."""
  templates = [t for rule in table if not rule.ours for t in rule.theirs]
  return {n for n in theirs if any(_regex(t).fullmatch(n) for t in templates)}


def _differences(
  assignments: list[Assignment], theirs: Shapes, ours: Shapes
) -> list[str]:
  """Returns a line for each assignment whose shapes or dtypes disagree."""
  lines = []
  for a in assignments:
    there = " + ".join(f"{n} {_shape(theirs[n])}" for n in a.theirs)
    expected = _target_shapes(a, ours)
    named = zip(a.ours, expected, strict=True)
    here = " + ".join(f"{path} {shape}" for path, shape in named)
    try:
      shapes = tuple(tuple(theirs[n].shape) for n in a.theirs)
      made = list(_made_shapes(a.layout.to_ours, shapes))
    except Exception as error:  # einops and numpy each raise their own.
      reason = str(error).strip().splitlines()[-1].strip()
      lines.append(
        f"{there} for {here}: {a.layout.name} does not apply: {reason}"
      )
      continue
    if made != expected:
      lines.append(f"{there} gives {made}, not {here}")
    first = a.ours[0]
    for name in a.theirs:
      if len({_kind(theirs[name]), *(_kind(ours[x]) for x in a.ours)}) > 1:
        lines.append(
          f"{name} is {theirs[name].dtype}, {first} is {ours[first].dtype}"
        )
  return lines


def _kind(x: Any) -> str:
  """Returns "floating" for dtypes that cast to one another, else the dtype."""
  name = str(x.dtype)
  if name.startswith("float8") or name.startswith("float4"):
    return name  # Quantized: its scales would be needed.
  return "floating" if jnp.issubdtype(np.dtype(x.dtype), jnp.floating) else name


def _shape(x: Any) -> str:
  return str(tuple(x.shape))


def _nearest(name: str, others: Sequence[str]) -> str:
  found = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
  return f"; nearest: {found[0]}" if found else ""


def _raise_if_any(
  problems: Mapping[str, Sequence[str]],
  describe: Mapping[str, Callable[[str], str]] = {},
) -> None:
  """Raises one ValueError with some lines of each kind of problem.

  Args:
    problems: title -> lines, or names with that problem.
    describe: title -> how to make a line of a name.
  """
  text = []
  for title, found in problems.items():
    if found:
      text.append(f"{title} ({len(found)}):")
      lines = map(describe.get(title, str), found[:_MAX_LINES])
      text += [f"  {line}" for line in lines]
      text += ["  ..."] * (len(found) > _MAX_LINES)
  if text:
    raise ValueError("the arrays do not fit the model:\n" + "\n".join(text))
