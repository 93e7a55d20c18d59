"""Conditions on scores, such as "static < 0.9 and lufs > -40".

Python's syntax for numbers, names of scores, + - * /, comparisons, and, or,
not, abs, min and max, and nothing else; no code is run.
"""

import ast
import itertools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ccl_jax.config import suggest

_MAX_LENGTH = 1000
_OPERATORS = {
  ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
  ast.Div: operator.truediv, ast.USub: operator.neg, ast.UAdd: operator.pos,
  ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
  ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_FUNCTIONS = {"abs": abs, "min": min, "max": max}
Value = Callable[[Mapping[str, Any]], Any]


def parse(text: str, names: Collection[str]) -> Callable[[Mapping], bool]:
  """Returns a function from a clip's scores to whether it meets a condition.

  A number that a clip lacks makes every comparison with it false.

  Args:
    names: of the scores.

  Raises:
    ValueError: anything else than such an expression, or an unknown name.
  """
  problem = f"longer than {_MAX_LENGTH} characters"
  if len(text) <= _MAX_LENGTH:
    try:
      value = _build(ast.parse(text.strip(), mode="eval").body, names)
      return lambda scores: bool(value(scores))
    except SyntaxError as error:
      problem = error.msg
    except (RecursionError, MemoryError):
      problem = "nested too deeply"
    except ValueError as error:
      problem = str(error)
  raise ValueError(
    f"The condition {text[:80]!r} cannot be read: {problem}. Expected one such"
    " as 'static < 0.9 and lufs > -40'."
  )


def _build(node: ast.expr, names: Collection[str]) -> Value:
  """Returns the function of a node; ValueError if it is not of the language."""

  def build(*nodes: ast.expr) -> list[Value]:
    return [_build(each, names) for each in nodes]

  match node:
    case ast.Constant(value=bool() | int() | float() as constant):
      return lambda scores: constant
    case ast.Name(id=name):
      if name not in names:
        raise ValueError(
          f"there is no score '{name}'.{suggest(name, names)} There are"
          f" {', '.join(sorted(names))}"
        )
      return lambda scores: scores.get(name)
    case ast.BoolOp(op=op, values=nodes):
      values, join = build(*nodes), all if isinstance(op, ast.And) else any
      return lambda scores: join(value(scores) for value in values)
    case ast.UnaryOp(op=ast.Not(), operand=operand):
      (value,) = build(operand)
      return lambda scores: not value(scores)
    case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
      return _apply(_OPERATORS[type(op)], build(operand))
    case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
      return _apply(_OPERATORS[type(op)], build(left, right))
    case ast.Compare(left=left, ops=ops, comparators=rest) if (
      _OPERATORS.keys() >= set(map(type, ops))
    ):
      values = build(left, *rest)
      pairs = zip(ops, itertools.pairwise(values), strict=True)
      tests = [_apply(_OPERATORS[type(op)], pair) for op, pair in pairs]
      return lambda scores: all(test(scores) for test in tests)
    case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if (
      name in _FUNCTIONS and len(args) >= 1 + (name != "abs")
    ):
      if name == "abs" and len(args) > 1:
        raise ValueError("abs takes one number")
      return _apply(_FUNCTIONS[name], build(*args))
  raise ValueError(f"'{ast.unparse(node)[:40]}' is not allowed")


def _apply(function: Callable, values: Sequence[Value]) -> Value:
  """Returns the function of values; None if one of them is not known."""

  def apply(scores: Mapping[str, Any]) -> Any:
    found = [value(scores) for value in values]
    if any(x is None or isinstance(x, str) for x in found):
      return None
    try:
      return function(*found)
    except (ZeroDivisionError, OverflowError):
      return None

  return apply
