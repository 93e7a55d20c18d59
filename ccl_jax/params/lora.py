"""Low-rank adaptation (LoRA): a frozen linear layer learns a small difference.

    y = x W + (alpha / r) (x A) B,    A (d_in, r),  B (r, d_out)           (1)

B starts at zero. A and B are parameters beside W: X/lora/a/kernel and
X/lora/b/kernel for X/kernel; if layers are stacked, so are A and B. In
training, eq. 1 is computed as written: W + A B is never formed, W gets no
gradient, and a difference too small for the dtype of W is not lost. Everywhere
else `fold` adds A and B to W.

Small parameters P may be trained in full as well (`train_also`). A scale s
applies to their difference from the base too, and several LoRA add up:

    W + sum s (alpha / r) A B,    W + sum s (P - W)                        (2)

Thus s = 1 is the trained model and s = 0 the base.

Dropout sets input channels of A to zero for one step, the same channels for all
tokens of the batch, so it is a function of the parameters alone.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Array, PyTree
from ccl_jax.config import check_pairs, check_patterns
from ccl_jax.params import trees

_FACTOR = re.compile(r"(.*)/lora/[ab]/kernel")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
  """The `lora` section. Without rules there is no LoRA.

  Attributes:
    rules: ((regex, rank), ...) of the kernels of linear layers that get one.
    alpha: of eq. 1.
    dropout: the share of A's input channels that a step leaves out.
    train_also: regexes of parameters that are trained themselves.

  Raises:
    ValueError: rules that are not pairs, a number out of range, or
      `train_also` without rules, which would freeze nothing.
  """

  rules: tuple[tuple[str, int], ...] = ()
  alpha: float = 16.0
  dropout: float = 0.0
  train_also: tuple[str, ...] = ()

  def __post_init__(self):
    check_pairs("lora.rules", self.rules, int)
    check_patterns("lora.rules", (regex for regex, _ in self.rules))
    check_patterns("lora.train_also", self.train_also)
    if self.train_also and not self.rules:
      raise ValueError(
        f"lora.train_also={self.train_also} without lora.rules freezes nothing:"
        " expected rules of a LoRA, or optimizer.learning_rates of 0.0."
      )
    check_scale("lora.alpha", self.alpha)
    if not 0 <= self.dropout < 1:
      raise ValueError(f"lora.dropout is {self.dropout}: expected 0 <= it < 1.")

  def ranks(
    self, shapes: Mapping[str, tuple[int, ...]], kernels: Iterable[str]
  ) -> dict[str, int]:
    """Returns path -> rank of the kernels that get a LoRA.

    Args:
      shapes: of all parameters, by path.
      kernels: paths of those that linear layers multiply with.

    Raises:
      ValueError: a rule that matches no parameter or one that is no such
        kernel, two for the same, or a rank that the matrix cannot have.
    """
    ranks, kernels = {}, set(kernels)
    for regex, rank in self.rules:
      for path in _matched("rules", regex, shapes):
        if path not in kernels:
          raise ValueError(
            f"lora.rules: '{regex}' matches '{path}', which is not the kernel"
            " of a linear layer; end the regex with /kernel."
          )
        if path in ranks:
          raise ValueError(
            f"lora.rules: '{path}' is matched by '{regex}' and by a rule before"
            " it: expected one rule for each matrix."
          )
        if not 1 <= rank <= min(shapes[path][-2:]):
          raise ValueError(
            f"lora.rules: '{regex}' has rank {rank}, and '{path}' is"
            f" {shapes[path][-2:]}: expected 1 to {min(shapes[path][-2:])}."
          )
        ranks[path] = rank
    for regex in self.train_also:
      for path in _matched("train_also", regex, shapes):
        if path in ranks:
          raise ValueError(
            f"lora.train_also: '{regex}' matches '{path}', which has a LoRA by"
            " lora.rules: expected one of the two."
          )
    return ranks

  def rates(
    self, rates: Sequence[tuple[str, float]]
  ) -> tuple[tuple[str, float], ...]:
    """Returns rules of learning rates that freeze all that LoRA freezes."""
    if not self.rules:
      return rates
    trained = "|".join([_FACTOR.pattern, *self.train_also])
    return ((f"(?!(?:{trained})$).*", 0.0), *rates)


class Factors(NamedTuple):
  """A and B of eq. 1 for one kernel, and the scale of their product."""

  a: Any
  b: Any
  scale: float

  @property
  def size(self) -> int:
    """Returns the number of values."""
    return self.a.size + self.b.size


class Full(NamedTuple):
  """P of eq. 2 for one parameter, or, in files of others, P - W."""

  value: Any
  scale: float = 1.0
  is_difference: bool = False

  @property
  def size(self) -> int:
    """Returns the number of values."""
    return self.value.size


Changes = Mapping[str, Factors | Full]  # path of a parameter -> its change


def check_scale(name: str, scale: float) -> None:
  """Checks that a scale is a finite number; else raises ValueError."""
  if not math.isfinite(scale):
    raise ValueError(f"{name} is {scale}: expected a finite number.")


def base_of(path: str) -> str | None:
  """Returns the kernel that A or B at this path is for; None of others."""
  found = _FACTOR.fullmatch(path)
  return found and f"{found[1]}/kernel"


def pairs(leaves: Mapping[str, Any], alpha: float) -> dict[str, Factors]:
  """Returns path of a kernel -> its A and B, of all that are in the leaves.

  Args:
    leaves: path of a parameter -> array.
    alpha: of eq. 1.
  """
  found = {}
  for path, a in leaves.items():
    if path.endswith("/lora/a/kernel"):
      b = leaves[path.replace("/lora/a/kernel", "/lora/b/kernel")]
      found[base_of(path)] = Factors(a, b, alpha / a.shape[-1])
  return found


def without(params: PyTree) -> PyTree:
  """Returns parameters without any A and B."""
  leaves = trees.flatten(params)
  return trees.unflatten({p: x for p, x in leaves.items() if not base_of(p)})


def fold(kernel: Array, a: Array, b: Array, scale: float | Array) -> Array:
  """Returns W + scale A B in W's dtype, a layer at a time if stacked."""
  if kernel.ndim == 3:
    return jax.lax.map(lambda x: fold(*x, scale), (kernel, a, b))
  w, a, b = (x.astype(jnp.float32) for x in (kernel, a, b))
  product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
  return (w + scale * product).astype(kernel.dtype)


def changes_by_path(
  loras: Iterable[Changes],
) -> dict[str, list[Factors | Full]]:
  """Returns path of a parameter -> what several LoRA do to it."""
  found = {}
  for changes in loras:
    for path, change in changes.items():
      found.setdefault(path, []).append(change)
  return found


def blend(w: Array | np.ndarray, full: Sequence[Full]) -> Any:
  """Returns W + sum s (P - W) in float32; at s = 1 of one P exactly P."""
  moved = sum(x.scale for x in full if not x.is_difference)
  mixed = w.astype(np.float32) * np.float32(1 - moved)
  for x in full:
    mixed = mixed + np.float32(x.scale) * x.value.astype(np.float32)
  return mixed


def drop(params: PyTree, key: Array, rate: float) -> PyTree:
  """Returns parameters whose A lack a random share of their input channels."""
  leaves = trees.flatten(params)
  for i, path in enumerate(p for p in leaves if p.endswith("/lora/a/kernel")):
    a = leaves[path]
    key_of_a = jax.random.fold_in(key, i)
    keep = jax.random.bernoulli(key_of_a, 1 - rate, (*a.shape[:-1], 1))
    leaves[path] = jnp.where(keep, a / (1 - rate), 0)
  return trees.unflatten(leaves)


def _matched(key: str, regex: str, paths: Iterable[str]) -> list[str]:
  """Returns the paths that a regex matches, at least one."""
  matched = [path for path in paths if re.fullmatch(regex, path)]
  if not matched:
    raise ValueError(
      f"lora.{key}: '{regex}' matches no parameter; their paths are like"
      f" {', '.join(list(paths)[:3])}."
    )
  return matched
