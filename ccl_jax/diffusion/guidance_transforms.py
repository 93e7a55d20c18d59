"""Guidance transforms: other ways to add the terms of a rule.

Every rule of `guidance.RULES` is v(c,x) + sum_k (s_k - 1) d_k, with a
difference d_k = v(plus) - v(minus) for each scale. Products and norms below are
over a sample's stream, without what is given (t = 0), in float32.

cfg_zero, CFG-Zero* (Fan et al. 2025, arXiv 2503.18886), fits the length of the
unconditional velocity; its zero-init is `zero_above` of `guidance.guide`:

    d_k = v(plus) - a v(minus),   a = <v(plus), v(minus)> / |v(minus)|^2     (1)

apg, adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416), works on
predicted data D = x - t v: differences longer than r are shortened to r, and
only the share eta of their part along D(c,x), which saturates, is kept:

    e_k = -t d_k,   e_k <- e_k min(1, r / |e_k|),   p_k = <e_k, D> / |D|^2 D
    D <- D + sum_k (s_k - 1) (e_k - p_k + eta p_k)                       (2)

With momentum b (negative in the paper), each e_k is first added to m_k, that of
the previous guided step, which a sampler passes on from step to step:

    m_k <- e_k + b m_k,   e_k <- m_k      (m_k = 0 at first)               (3)
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from ccl_jax.array_types import Array

TRANSFORMS = ("none", "cfg_zero", "apg")
_TINY = 1e-12
# (s_k - 1, v(plus), v(minus)) of each scale.
Terms = Sequence[tuple[float, Array, Array]]
# m_k of eq. 3; none without momentum.
TransformState = tuple[Array, ...]
# (v(c,x), terms, x, t that broadcasts to x, state) -> velocity, new state.
Transform = Callable[
  [Array, Terms, Array, Array, TransformState], tuple[Array, TransformState]
]


def make_transform(
  name: str, eta: float, norm_threshold: float, momentum: float
) -> Transform | None:
  """Returns one of TRANSFORMS; None for "none".

  Args:
    eta: of eq. 2, at least 0; 1 keeps all of the parallel part.
    norm_threshold: r of eq. 2, at least 0; 0 for no limit.
    momentum: b of eq. 3, between -1 and 1; 0 for none.

  Raises:
    ValueError: an unknown name.
  """
  if name not in TRANSFORMS:
    raise ValueError(
      f"Unknown guidance transform '{name}', expected one of"
      f" {', '.join(TRANSFORMS)}."
    )
  own = functools.partial(
    apg, eta=eta, norm_threshold=norm_threshold, momentum=momentum
  )
  return {"none": None, "cfg_zero": cfg_zero, "apg": own}[name]


def cfg_zero(
  plain: Array,
  terms: Terms,
  x: Array,
  t: Array,
  transform_state: TransformState,
) -> tuple[Array, TransformState]:
  """Returns the velocity of eq. 1, which needs no state."""
  guided, mask = plain, t > 0
  for weight, plus, minus in terms:
    square = jnp.maximum(_dot(minus, minus, mask), _TINY)
    guided += weight * (plus - _dot(plus, minus, mask) / square * minus)
  return guided, transform_state


def apg(
  plain: Array,
  terms: Terms,
  x: Array,
  t: Array,
  transform_state: TransformState,
  *,
  eta: float,
  norm_threshold: float,
  momentum: float,
) -> tuple[Array, TransformState]:
  """Returns the velocity of eq. 2, and the state of eq. 3."""
  guided, mask = plain, t > 0
  data = x - t * plain
  square = jnp.maximum(_dot(data, data, mask), _TINY)
  added_up = []
  for i, (weight, plus, minus) in enumerate(terms):
    e = -t * (plus - minus)
    if momentum:
      e += momentum * transform_state[i]
      added_up.append(e)
    if norm_threshold:
      norm = jnp.sqrt(jnp.maximum(_dot(e, e, mask), _TINY))
      e *= jnp.minimum(1, norm_threshold / norm)
    parallel = _dot(e, data, mask) / square * data
    # D grows by the sum, so v = (x - D) / t falls by it over t.
    added = weight * (e + (eta - 1) * parallel)
    guided -= jnp.where(mask, added / jnp.where(mask, t, 1), 0)
  return guided, tuple(added_up)


def _dot(a: Array, b: Array, mask: Array) -> Array:
  """Returns the products of each sample, (b, 1, ...)."""
  axes = tuple(range(1, a.ndim))
  return jnp.sum(jnp.where(mask, a * b, 0), axes, keepdims=True)
