"""Guidance: a rule of weights over variants of the condition.

c is the prompt, n the negative prompt, x the other stream as the route lets it
be seen, L learnable context only. With scales s, s_t (text), s_m (cross):

    none             v(c,x)
    text             v(n,x) + s [v(c,x) - v(n,x)]                   Ovi
    ucg2             v(n,L) + s [v(c,x) - v(n,L)]                   CCL, Eq. 5
    ucg3             v(n,L) + s_m [v(n,x) - v(n,L)]
                            + s_t [v(c,x) - v(n,x)]                 CCL, Eq. 6
    ucg3_text_first  v(n,L) + s_t [v(c,L) - v(n,L)]
                            + s_m [v(c,x) - v(c,L)]
    multimodal       v(c,x) + (s_t - 1) [v(c,x) - v(n,x)]
                            + (s_m - 1) [v(c,x) - v(c,drop)]        LTX-2
    sync             v(c,null) + s [v(c,x) - v(c,null)]             Harmony

"drop" and "null" are in `forward_passes`. Collecting terms gives each variant
one weight, v = sum_k w_k v_k, hence ucg2 with s = 1 is v(c,x) exactly.

Scales of 4 make v larger than any velocity of the data. With a rescale of r,
and std over the generated part of a sample's stream (Lin et al. 2023, arXiv
2305.08891, section 3.4):

    v <- (1 - r) v + r v std(v(c,x)) / std(v)                              (1)
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ccl_jax.array_types import Array, State, expand, other
from ccl_jax.diffusion.flow import Velocity
from ccl_jax.diffusion.forward_passes import (
  Condition,
  ForwardPass,
  Variant,
  pass_inputs,
  run_batched,
  run_in_turn,
)
from ccl_jax.diffusion.guidance_transforms import Terms, Transform


@dataclass(frozen=True)
class GuidanceRule:
  """v(base) + sum of (scale - offset) [v(plus) - v(minus)].

  A term is (name of the scale, plus, minus, offset).
  """

  base: Variant
  terms: tuple[tuple[str, Variant, Variant, float], ...] = ()

  @property
  def variants(self) -> tuple[Variant, ...]:
    """Returns the distinct variants."""
    pairs = [variant for _, *pair, _ in self.terms for variant in pair]
    return tuple(dict.fromkeys([self.base, *pairs]))

  def passes(self, streams: Iterable[str]) -> tuple[ForwardPass, ...]:
    """Returns the distinct passes for the outputs of all `streams`."""
    return tuple(
      dict.fromkeys(_forward_pass(v, s) for s in streams for v in self.variants)
    )

  def weights(
    self, stream: str, scales: Mapping[str, Any]
  ) -> dict[ForwardPass, Any]:
    """Returns the weight of each pass in one stream's output, by its scales."""
    weights = Counter({self.base: 1.0})
    for name, plus, minus, offset in self.terms:
      scale = _find_scale(scales, name)
      weights[plus] += scale - offset
      weights[minus] -= scale - offset
    return {_forward_pass(v, stream): w for v, w in weights.items()}

  def differences(
    self,
    stream: str,
    scales: Mapping[str, Any],
    outputs: Mapping[ForwardPass, Array],
  ) -> Terms:
    """Returns (scale - 1, v(plus), v(minus)) of each term, for a transform.

    Args:
      scales, outputs: of the stream, by name and by pass.
    """
    return [
      (
        _find_scale(scales, name) - 1,
        outputs[_forward_pass(plus, stream)],
        outputs[_forward_pass(minus, stream)],
      )
      for name, plus, minus, _ in self.terms
    ]


def _find_scale(scales: Mapping[str, Any], name: str) -> Any:
  """Returns a scale; ValueError if it is missing."""
  if name not in scales:
    raise ValueError(
      f"Scale '{name}' is missing in {sorted(scales)}: expected one for each"
      " term of the guidance rule."
    )
  return scales[name]


def _forward_pass(variant: Variant, stream: str) -> ForwardPass:
  return ForwardPass(
    variant, other(stream) if variant.other == "null" else None
  )


CX, NX = Variant("prompt", "seen"), Variant("negative", "seen")
CL, NL = Variant("prompt", "context"), Variant("negative", "context")
DROP, NULL = Variant("prompt", "dropped"), Variant("prompt", "null")

RULES = {
  name: GuidanceRule(base, tuple(terms))
  for name, base, *terms in (
    ("none", CX),
    ("text", NX, ("scale", CX, NX, 0.0)),
    ("ucg2", NL, ("scale", CX, NL, 0.0)),
    ("ucg3", NL, ("cross", NX, NL, 0.0), ("text", CX, NX, 0.0)),
    ("ucg3_text_first", NL, ("text", CL, NL, 0.0), ("cross", CX, CL, 0.0)),
    ("multimodal", CX, ("text", CX, NX, 1.0), ("cross", CX, DROP, 1.0)),
    ("sync", NULL, ("scale", CX, NULL, 0.0)),
  )
}


def rule(name: str) -> GuidanceRule:
  """Returns the rule called `name`; a ValueError lists the names."""
  if name not in RULES:
    raise ValueError(
      f"Unknown guidance '{name}', expected one of {', '.join(RULES)}."
    )
  return RULES[name]


def references(rule: GuidanceRule) -> tuple[tuple[str, str], ...]:
  """Returns each `Variant.reference` of the rule and of v(c,x)."""
  found = dict.fromkeys(v.reference for v in (CX, *rule.variants))
  return tuple(reference for reference in found if reference)


# Stream -> what a transform with momentum hands on to the next step.
TransformState = Mapping[str, tuple[Array, ...]]


def guide(
  velocity: Velocity,
  rule: GuidanceRule,
  scales: Mapping[str, Mapping[str, Any]],
  *,
  batched: bool = True,
  rescale: float = 0.0,
  transform: Transform | None = None,
  zero_above: Mapping[str, float] | None = None,
) -> Velocity:
  """Returns a velocity function that combines the passes of a rule.

  Args:
    velocity: called with state, times and a `Condition` of p passes side by
      side, (b p), in the order of its `variants`.
    rule: from RULES or your own.
    scales: stream -> {"scale": s, "text": s_t, "cross": s_m}, those that the
      rule names.
    batched: all passes in one call; else a call for each: slower, in the memory
      of one pass.
    rescale: r of eq. 1; a custom rule then needs v(c,x).
    transform: another way to add the terms, see `guidance_transforms`; a
      custom rule then needs v(c,x), and must equal it if all scales are 1.
    zero_above: stream -> time from which on its velocity is 0.

  Returns:
    velocity'(state, t, condition). It raises ValueError if the condition lacks
    what the rule needs. Called with a fourth argument, the state of a transform
    with momentum (`init_transform_state`), it returns (velocity, next state).
  """
  run = run_batched if batched else run_in_turn

  def guided(state, t, condition: Condition, transform_state=None):
    distinct = rule.passes(state)
    inputs = [pass_inputs(p, state, t, condition) for p in distinct]
    outputs = dict(zip(distinct, run(velocity, inputs), strict=True))
    result, following = {}, {}
    for s in state:
      time = expand(t[s], state[s].ndim)
      own = {p: x[s] for p, x in outputs.items()}
      if transform:
        terms = rule.differences(s, scales[s], own)
        before = transform_state[s] if transform_state else ()
        result[s], following[s] = transform(
          own[ForwardPass(CX)], terms, state[s], time, before
        )
      else:
        weights = rule.weights(s, scales[s])
        result[s] = sum(w * own[p] for p, w in weights.items())
      if rescale:
        plain = own[ForwardPass(CX)]
        result[s] = _rescale(result[s], plain, time > 0, rescale)
      if zero_above:
        result[s] = jnp.where(time >= zero_above[s], 0, result[s])
    if transform_state is None:
      return result
    return result, following or transform_state

  return guided


def init_transform_state(rule: GuidanceRule, state: State) -> TransformState:
  """Returns the state of a transform with momentum before the first step."""
  return {
    s: tuple(jnp.zeros(x.shape, jnp.float32) for _ in rule.terms)
    for s, x in state.items()
  }


def _rescale(v: Array, plain: Array, mask: Array, r: float) -> Array:
  """Returns eq. 1 of v, where `plain` is v(c,x) and `mask` is generated."""
  ratio = _std(plain, mask) / jnp.maximum(_std(v, mask), 1e-12)
  return v * (1 - r + r * ratio)


def _std(x: Array, mask: Array) -> Array:
  """Returns the standard deviation of each sample where `mask`, (b, 1, ...)."""
  axes = tuple(range(1, x.ndim))
  mask = jnp.broadcast_to(mask, x.shape)
  count = jnp.maximum(jnp.sum(mask, axes, keepdims=True), 1).astype(x.dtype)
  mean = jnp.sum(jnp.where(mask, x, 0), axes, keepdims=True) / count
  square = jnp.where(mask, jnp.square(x - mean), 0)
  return jnp.sqrt(jnp.sum(square, axes, keepdims=True) / count)
