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

"drop" switches the cross-modal module off. "null" replaces the other stream by
a reference at t = 0, a static video or a muted sound; it differs for the two
outputs, so it takes two passes. Collecting terms gives each variant one weight,
v = sum_k w_k v_k, hence ucg2 with s = 1 is v(c,x) exactly.

Scales of 4 make v larger than any velocity of the data. With a rescale of r,
and std over the generated part of a sample's stream (Lin et al. 2023, arXiv
2305.08891, section 3.4):

    v <- (1 - r) v + r v std(v(c,x)) / std(v)                              (1)

Passes run as one forward of p times the batch, interleaved sample by sample,
(b p), so that a sharded batch stays on its devices; or in sequence.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, State, interleave, other
from ccl_jax.diffusion import flow
from ccl_jax.diffusion.flow import Velocity
from ccl_jax.diffusion.guidance_transforms import Transform, zero_init


@dataclass(frozen=True)
class Variant:
  """One way to condition the model.

  Attributes:
    text: "prompt" or "negative".
    other: how a stream reads the other one: "seen" (as routed), "context" (it
      reads context tokens only), "dropped" or "null".
  """

  text: str
  other: str

  @property
  def reference(self) -> tuple[str, str] | None:
    """Returns (text, latents) that a reference runs on; None if unread.

    The latents are "given" or "null".
    """
    latents = {"seen": "given", "null": "null"}.get(self.other)
    return latents and (self.text, latents)


class ForwardPass(NamedTuple):
  """One run of the model: a variant and, if that nulls a stream, which one."""

  variant: Variant
  nulled: str | None = None


@dataclass(frozen=True)
class GuidanceRule:
  """v(base) + sum of (scale - offset) [v(plus) - v(minus)].

  Attributes:
    base: variant with weight 1.
    terms: tuples (name of the scale, plus, minus, offset).
  """

  base: Variant
  terms: tuple[tuple[str, Variant, Variant, float], ...] = ()

  @property
  def variants(self) -> tuple[Variant, ...]:
    """Returns the distinct variants."""
    pairs = [variant for _, *pair, _ in self.terms for variant in pair]
    return tuple(dict.fromkeys([self.base, *pairs]))

  def passes(self, stream: str) -> tuple[ForwardPass, ...]:
    """Returns the passes that one stream's output needs."""
    return tuple(_forward_pass(v, stream) for v in self.variants)

  def weights(
    self, stream: str, scales: Mapping[str, Any]
  ) -> dict[ForwardPass, Any]:
    """Returns the weight of each pass in one stream's output.

    Args:
      scales: of the stream, by name.

    Raises:
      ValueError: a scale of the rule is missing.
    """
    weights = Counter({self.base: 1.0})
    for name, plus, minus, offset in self.terms:
      if name not in scales:
        raise ValueError(f"Scale '{name}' is missing in {sorted(scales)}.")
      weights[plus] += scales[name] - offset
      weights[minus] -= scales[name] - offset
    return {_forward_pass(v, stream): w for v, w in weights.items()}


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


def passes(
  rule: GuidanceRule, streams: Sequence[str]
) -> tuple[ForwardPass, ...]:
  """Returns the distinct passes for the outputs of all `streams`."""
  return tuple(dict.fromkeys(p for s in streams for p in rule.passes(s)))


def references(rule: GuidanceRule) -> tuple[tuple[str, str], ...]:
  """Returns the (text, latents) that references run on.

  For all variants of the rule and for v(c,x), see `Variant.reference`.
  """
  found = dict.fromkeys(v.reference for v in (CX, *rule.variants))
  return tuple(reference for reference in found if reference)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("text", "negative", "route", "image", "null"),
  meta_fields=("cached", "variants"),
)
@dataclass(frozen=True)
class Condition:
  """The condition of a velocity; as a pytree, its leaves may be anything.

  Attributes:
    text: embedded prompts, (b, l, d).
    negative: embedded negative prompts, for rules that need them.
    route: who sees what, a `Route`; for a sampler the task's.
    image: an `Image`, for models with image conditioning.
    null: latents of both streams that broadcast to the state, for "sync".
    cached: reference streams that are absent from the state because the
      velocity has their keys and values.
    variants: of the passes that the rows hold side by side, (b p); set by
      `guide`.
  """

  text: Any
  negative: Any = None
  route: Any = None
  image: Any = None
  null: Any = None
  cached: tuple[str, ...] = ()
  variants: tuple[Variant, ...] = ()

  def text_of(self, name: str) -> Any:
    """Returns the text called "prompt" or "negative"."""
    return self.text if name == "prompt" else self.require("negative")

  def require(self, field: str) -> Any:
    """Returns a field; ValueError if it is None."""
    value = getattr(self, field)
    if value is None:
      raise ValueError(f"This guidance needs condition.{field}, got None.")
    return value


# Stream -> what a transform with momentum hands on to the next step.
Memory = Mapping[str, tuple[Array, ...]]


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
    batched: all passes in one call; else a call for each, with p = 1: slower,
      in the memory of one pass.
    rescale: r of eq. 1; a rule of your own then needs v(c,x).
    transform: another way to add the terms, see `guidance_transforms`; a rule
      of your own then needs v(c,x), and must be it where all scales are 1.
    zero_above: stream -> time from which on its velocity is 0.

  Returns:
    velocity'(state, t, condition). It raises ValueError if the condition lacks
    what the rule needs. Called with a fourth argument, a memory of a transform
    with momentum (`first_memory`), it returns (velocity, next memory).
  """

  def guided(state, t, condition: Condition, memory: Memory | None = None):
    distinct = passes(rule, tuple(state))
    inputs = [_inputs(p, state, t, condition) for p in distinct]
    run = _run_batched if batched else _run_in_turn
    outputs = dict(zip(distinct, run(velocity, inputs), strict=True))
    result, following = {}, {}
    for s in state:
      time = flow.expand(t[s], state[s].ndim)
      weights = rule.weights(s, scales[s])
      result[s] = sum(w * outputs[p][s] for p, w in weights.items())
      if transform:
        terms = [
          (
            scales[s][name] - 1,
            *(outputs[_forward_pass(v, s)][s] for v in pair),
          )
          for name, *pair, _ in rule.terms
        ]
        plain = outputs[ForwardPass(CX)][s]
        result[s], following[s] = transform(
          plain, terms, state[s], time, memory[s] if memory else ()
        )
      if rescale:
        plain = outputs[ForwardPass(CX)][s]
        mask = time > 0
        ratio = _std(plain, mask) / jnp.maximum(_std(result[s], mask), 1e-12)
        result[s] = result[s] * (1 - rescale + rescale * ratio)
      if zero_above:
        result[s] = zero_init(result[s], time, zero_above[s])
    return result if memory is None else (result, following or memory)

  return guided


def first_memory(rule: GuidanceRule, state: State) -> Memory:
  """Returns the memory of a transform with momentum before the first step."""
  return {
    s: tuple(jnp.zeros(x.shape, jnp.float32) for _ in rule.terms)
    for s, x in state.items()
  }


Inputs = tuple[State, State, Condition]


def _run_batched(velocity: Velocity, inputs: Sequence[Inputs]) -> list[State]:
  """Runs all passes as one batch, sample by sample."""
  variants = tuple(v for _, _, c in inputs for v in c.variants)
  # Equal static fields make the passes trees of one structure.
  inputs = [(x, t, replace(c, variants=variants)) for x, t, c in inputs]
  outputs = velocity(*interleave(*inputs))
  parts = {s: _separate(x, len(inputs)) for s, x in outputs.items()}
  return [{s: parts[s][i] for s in parts} for i in range(len(inputs))]


def _run_in_turn(velocity: Velocity, inputs: Sequence[Inputs]) -> list[State]:
  """Runs the passes one after the other."""
  outputs = [velocity(*each) for each in inputs]
  return jax.tree.map(lambda x: x.astype(jnp.float32), outputs)


def _inputs(
  run: ForwardPass, state: State, t: State, condition: Condition
) -> Inputs:
  """Returns the inputs of one pass."""
  variant, nulled = run
  route = condition.route
  if nulled is not None:
    state, t, route = _null(nulled, state, t, condition)
  elif variant.other == "context":
    no = jnp.zeros_like(route.exchanges)
    route = route._replace(sees=dict.fromkeys(route.sees, no))
  elif variant.other == "dropped":
    route = route._replace(exchanges=jnp.zeros_like(route.exchanges))
  own = Condition(
    text=condition.text_of(variant.text), route=route, image=condition.image,
    variants=(variant,),
  )  # fmt: skip
  return state, t, own


def _null(stream: str, state: State, t: State, condition: Condition):
  """Makes `stream` a reference at t = 0 that holds the null latents."""
  null, route = condition.require("null"), condition.route
  no = jnp.zeros_like(route.exchanges)
  route = route._replace(
    sees=route.sees | {stream: no},
    is_generated=route.is_generated | {stream: no},
  )
  if stream in condition.cached:
    return state, t, route
  if stream not in state:
    raise ValueError(
      f"This guidance replaces the {stream}, but the state has only"
      f" {sorted(state)}. Use another rule for a stream alone."
    )
  latents = jnp.broadcast_to(null[stream], state[stream].shape)
  t = t | {stream: jnp.zeros_like(t[stream])}
  return state | {stream: latents}, t, route


def _std(x: Array, mask: Array) -> Array:
  """Returns the standard deviation of each sample where `mask`, (b, 1, ...)."""
  axes = tuple(range(1, x.ndim))
  mask = jnp.broadcast_to(mask, x.shape)
  count = jnp.maximum(jnp.sum(mask, axes, keepdims=True), 1).astype(x.dtype)
  mean = jnp.sum(jnp.where(mask, x, 0), axes, keepdims=True) / count
  square = jnp.where(mask, jnp.square(x - mean), 0)
  return jnp.sqrt(jnp.sum(square, axes, keepdims=True) / count)


def _separate(x: Array, p: int) -> list[Array]:
  """Splits (b p, ...) into p float32 arrays (b, ...)."""
  x = x.reshape(-1, p, *x.shape[1:]).astype(jnp.float32)
  return [x[:, i] for i in range(p)]
