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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ccl_jax.convert.layouts import WeightLayout
from ccl_jax.convert.rules import FIELD, LAYER, Rule, Table

_MAX_LINES = 10  # of each kind in an error

Shapes = Mapping[str, Any]  # name -> anything with .shape and .dtype


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


@dataclasses.dataclass(frozen=True)
class Coverage:
  """Gaps and overlaps of a table over the parameters of a model.

  Attributes:
    unfilled: parameters that no rule makes.
    filled_twice: parameters with a row, or all, that several rules make.
    unknown: paths that a rule makes beside its parameters, not in the model.
    used_twice: arrays of the file that several rules use.
  """

  unfilled: list[str]
  filled_twice: list[str]
  unknown: list[str]
  used_twice: list[str]


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
  both = [n for n in theirs if n in expected and n in ignored]
  lacking = set(missing)
  complete = [a for a in assignments if lacking.isdisjoint(a.theirs)]
  _raise_if_any(
    {
      "only in the file": (
        extra,
        lambda n: f"{n} {_shape(theirs[n])}{_nearest(n, missing)}",
      ),
      "not in the file": (
        missing,
        lambda n: f"{n} for {' + '.join(expected[n].ours)}{_nearest(n, extra)}",
      ),
      "used and ignored": (both, str),
      "of another shape or type": (_differences(complete, theirs, ours), str),
    }
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
  found = dict.fromkeys(a for rule in table for a in _applied(rule, ours))
  coverage = measure_coverage(found, ours)
  _raise_if_any(
    {
      "parameters without a rule": (
        coverage.unfilled,
        lambda path: f"{path} {_shape(ours[path])}",
      ),
      "parameters with several rules": (coverage.filled_twice, str),
      "made by a rule, but not in the model": (coverage.unknown, str),
      "arrays used twice": (coverage.used_twice, str),
    }
  )
  return list(found)


def measure_coverage(
  assignments: Iterable[Assignment], ours: Shapes
) -> Coverage:
  """Returns how `assignments` cover the parameters `ours`."""
  uses, fills = collections.Counter(), collections.Counter()
  for assignment in assignments:
    uses.update(assignment.theirs)
    fills.update((path, assignment.row) for path in assignment.ours)
  filled = dict.fromkeys(path for path, _ in fills)
  return Coverage(
    unfilled=[path for path in ours if path not in filled],
    filled_twice=sorted({path for (path, _), k in fills.items() if k > 1}),
    unknown=[path for path in filled if path not in ours],
    used_twice=[name for name, k in uses.items() if k > 1],
  )


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


def shapes_of_ours(
  assignment: Assignment, theirs: Shapes
) -> list[tuple[int, ...]]:
  """Returns the shapes that the layout makes of theirs.

  Raises:
    ValueError: the layout does not apply to such shapes.
  """
  shapes = tuple(tuple(theirs[n].shape) for n in assignment.theirs)
  layout = assignment.layout
  try:
    return list(_made_shapes(layout.to_ours, shapes))
  except Exception as error:  # einops and numpy each raise their own.
    reason = str(error).strip().splitlines()[-1].strip()
    raise ValueError(f"{layout.name} does not apply: {reason}") from error


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


def _field_values(
  templates: tuple[str, ...], names: Iterable[str]
) -> Iterator[dict[str, str]]:
  """Yields each distinct set of values of the placeholders in the names."""
  found = {}
  for template in templates:
    for name in names:
      if hit := _regex(template).fullmatch(name):
        found[tuple(sorted(hit.groupdict().items()))] = None
  yield from (dict(items) for items in found)


def _applied(rule: Rule, ours: Shapes) -> Iterator[Assignment]:
  """Yields the assignments of a rule, one per layer of stacked parameters."""
  for values in _field_values(rule.ours, ours):
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
  for assignment in assignments:
    there = " + ".join(f"{n} {_shape(theirs[n])}" for n in assignment.theirs)
    expected = _target_shapes(assignment, ours)
    here = " + ".join(
      f"{path} {shape}"
      for path, shape in zip(assignment.ours, expected, strict=True)
    )
    try:
      made = shapes_of_ours(assignment, theirs)
    except ValueError as error:
      lines.append(f"{there} for {here}: {error}")
      continue
    if made != expected:
      lines.append(f"{there} gives {made}, not {here}")
    target = ours[assignment.ours[0]]
    for name in assignment.theirs:
      kinds = {_kind(theirs[name]), *(_kind(ours[x]) for x in assignment.ours)}
      if len(kinds) > 1:
        lines.append(
          f"{name} is {theirs[name].dtype}, {assignment.ours[0]} is"
          f" {target.dtype}"
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
  problems: dict[str, tuple[Sequence[str], Callable[[str], str]]],
) -> None:
  """Raises one ValueError with some lines of each kind of problem.

  Args:
    problems: title -> names with that problem, and how to make a line of one.
  """
  text = []
  for title, (found, line) in problems.items():
    if found:
      text.append(f"{title} ({len(found)}):")
      text += [f"  {line(x)}" for x in found[:_MAX_LINES]]
      text += ["  ..."] * (len(found) > _MAX_LINES)
  if text:
    raise ValueError("the arrays do not fit the model:\n" + "\n".join(text))
