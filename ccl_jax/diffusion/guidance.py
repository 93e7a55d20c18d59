"""Guidance: one row of weights over variants of the condition.

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

"drop" switches the cross-modal module off. "null" makes the other stream a
static video or a muted sound that drives this one as a reference at t = 0; it
differs for the two outputs, so it takes two passes. Collecting terms gives each
variant one weight: v = sum_k w_k v_k, hence ucg2 with s = 1 is v(c,x) exactly.

Scales of 4 make v larger than any velocity of the data. With a rescale of r,
and std over all that is generated of a sample's stream (Lin et al. 2023, arXiv
2305.08891, section 3.4):

    v <- (1 - r) v + r v std(v(c,x)) / std(v)                              (1)

Passes run as one forward of p times the batch, interleaved sample by sample,
(b p), so that a batch sharded over devices stays where it is; or in sequence.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ccl_jax import trees
from ccl_jax.array_types import Array, State, other
from ccl_jax.diffusion import flow
from ccl_jax.diffusion.flow import Velocity


@dataclass(frozen=True)
class Variant:
  """One way to run the model.

  Attributes:
    text: "prompt" or "negative".
    other: how a stream gets the other one: "seen" (as routed), "context",
      "dropped" or "null".
  """

  text: str
  other: str

  @property
  def source(self) -> str:
    """Which key of the condition holds the text."""
    return {"prompt": "text", "negative": "negative"}[self.text]

  @property
  def reference(self) -> tuple[str, str] | None:
    """What a reference stream runs on, if this reads one.

    Its text's key in the condition, and its latents: "given" or "null".
    """
    latents = {"seen": "given", "null": "null"}.get(self.other)
    return latents and (self.source, latents)


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
    """The distinct variants, in the order of `weights`."""
    pairs = [variant for _, *pair, _ in self.terms for variant in pair]
    return tuple(dict.fromkeys([self.base, *pairs]))

  def passes(self, stream: str) -> tuple[ForwardPass, ...]:
    """What has to run for one stream's output."""
    return tuple(
      ForwardPass(v, other(stream) if v.other == "null" else None)
      for v in self.variants
    )

  def weights(self, scales: Mapping[str, Any]) -> dict[Variant, Any]:
    """Weight of each distinct variant, for one stream's `scales` by name."""
    weights = Counter({self.base: 1.0})
    for name, plus, minus, offset in self.terms:
      if name not in scales:
        raise ValueError(f"Scale '{name}' is missing in {sorted(scales)}.")
      weights[plus] += scales[name] - offset
      weights[minus] -= scales[name] - offset
    return dict(weights)


CX, NX = Variant("prompt", "seen"), Variant("negative", "seen")
CL, NL = Variant("prompt", "context"), Variant("negative", "context")
DROP, NULL = Variant("prompt", "dropped"), Variant("prompt", "null")

ROWS = {
  "none": GuidanceRule(CX),
  "text": GuidanceRule(NX, (("scale", CX, NX, 0.0),)),
  "ucg2": GuidanceRule(NL, (("scale", CX, NL, 0.0),)),
  "ucg3": GuidanceRule(NL, (("cross", NX, NL, 0.0), ("text", CX, NX, 0.0))),
  "ucg3_text_first": GuidanceRule(
    NL, (("text", CL, NL, 0.0), ("cross", CX, CL, 0.0))
  ),
  "multimodal": GuidanceRule(
    CX, (("text", CX, NX, 1.0), ("cross", CX, DROP, 1.0))
  ),
  "sync": GuidanceRule(NULL, (("scale", CX, NULL, 0.0),)),
}


def row(name: str) -> GuidanceRule:
  """The row called `name`; ValueError lists the names."""
  if name not in ROWS:
    raise ValueError(
      f"Unknown guidance '{name}', expected one of {', '.join(ROWS)}."
    )
  return ROWS[name]


def passes(
  row: GuidanceRule, streams: Sequence[str]
) -> tuple[ForwardPass, ...]:
  """The distinct passes for the outputs of all `streams`."""
  return tuple(dict.fromkeys(p for s in streams for p in row.passes(s)))


def references(row: GuidanceRule) -> tuple[tuple[str, str], ...]:
  """What a reference has to run on, for this row and for the plain v(c,x)."""
  found = dict.fromkeys(v.reference for v in (CX, *row.variants))
  return tuple(reference for reference in found if reference)


def guided(
  velocity: Velocity,
  row: GuidanceRule,
  scales: Mapping[str, Mapping[str, Any]],
  *,
  batched: bool = True,
  rescale: float = 0.0,
) -> Velocity:
  """A velocity function that runs the row's variants and adds them up.

  Args:
    velocity: called with float32 state, times and a condition: `{"text":
      (b p, l, d), "route": Route of (b p,), "variants": those of the p passes
      in their order}`, and what else the condition below holds, p times.
    row: from ROWS or your own.
    scales: stream -> {"scale": s, "text": s_t, "cross": s_m}, those that the
      row names.
    batched: all passes in one call; else a call for each, with p = 1: slower,
      in the memory of one pass.
    rescale: r of eq. 1; a row of your own then needs v(c,x).

  Returns:
    velocity'(state, t, condition) with the condition `{"text": (b, l, d),
    "negative": (b, l, d), "route": Route}` (`negative` only where the row needs
    it); for a null variant `"null"`: latents of both streams that broadcast
    to the state; and `"held"`: names of reference streams that are not in the
    state because `velocity` has them. ValueError if something is missing.
  """

  def guided_velocity(state: State, t: State, condition: dict) -> State:
    distinct = passes(row, tuple(state))
    inputs = [_inputs(p, state, t, condition) for p in distinct]
    variants = tuple(p.variant for p in distinct)
    run = _run_batched if batched else _run_in_turn
    parts = dict(zip(distinct, run(velocity, inputs, variants), strict=True))
    result = {}
    for s in state:
      weights = row.weights(scales[s]).values()
      own = zip(weights, row.passes(s), strict=True)
      result[s] = sum(w * parts[p][s] for w, p in own)
      if rescale:
        plain, mask = (
          parts[ForwardPass(CX)][s],
          flow.expand(t[s], state[s].ndim) > 0,
        )
        ratio = _std(plain, mask) / jnp.maximum(_std(result[s], mask), 1e-12)
        result[s] = result[s] * (1 - rescale + rescale * ratio)
    return result

  return guided_velocity


def _run_batched(velocity, inputs, variants) -> list[State]:
  state, t, condition = trees.interleave(*inputs)
  outputs = velocity(state, t, condition | {"variants": variants})
  parts = {s: _separate(x, len(inputs)) for s, x in outputs.items()}
  return [{s: parts[s][i] for s in parts} for i in range(len(inputs))]


def _run_in_turn(velocity, inputs, variants) -> list[State]:
  outputs = [
    velocity(state, t, condition | {"variants": (variant,)})
    for (state, t, condition), variant in zip(inputs, variants, strict=True)
  ]
  return jax.tree.map(lambda x: x.astype(jnp.float32), outputs)


def _inputs(run: ForwardPass, state: State, t: State, condition: dict):
  """Inputs (state, t, condition) of one pass."""
  variant, nulled = run
  route = condition["route"]
  if nulled is not None:
    state, t, route = _null(nulled, state, t, condition)
  elif variant.other == "context":
    none = jnp.zeros_like(route.exchanges)
    route = route._replace(video_sees_audio=none, audio_sees_video=none)
  elif variant.other == "dropped":
    route = route._replace(exchanges=jnp.zeros_like(route.exchanges))
  own = {"text", "negative", "null", "held"}
  shared = {key: x for key, x in condition.items() if key not in own}
  text = required(condition, variant.source)
  return state, t, shared | {"text": text, "route": route}


def required(condition: dict, key: str) -> Any:
  """condition[key]; ValueError if it is not there."""
  if key not in condition:
    raise ValueError(f"This guidance needs condition['{key}'], got none.")
  return condition[key]


def _null(stream: str, state: State, t: State, condition: dict):
  """Makes `stream` a reference at t = 0 that holds the null latents."""
  null, route = required(condition, "null"), condition["route"]
  none = jnp.zeros_like(route.exchanges)
  route = route._replace(
    **{f"{stream}_is_generated": none, f"{stream}_sees_{other(stream)}": none}
  )
  if stream in condition.get("held", ()):
    return state, t, route
  if stream not in state:
    raise ValueError(
      f"This guidance replaces the {stream}, but the state has only"
      f" {sorted(state)}. Use another row for a stream alone."
    )
  latents = jnp.broadcast_to(null[stream], state[stream].shape)
  t = t | {stream: jnp.zeros_like(t[stream])}
  return state | {stream: latents}, t, route


def _std(x: Array, mask: Array) -> Array:
  """Standard deviation of each sample where `mask`, (b, 1, ...)."""
  axes = tuple(range(1, x.ndim))
  mask = jnp.broadcast_to(mask, x.shape)
  count = jnp.maximum(jnp.sum(mask, axes, keepdims=True), 1)
  mean = jnp.sum(jnp.where(mask, x, 0), axes, keepdims=True) / count
  square = jnp.where(mask, jnp.square(x - mean), 0)
  return jnp.sqrt(jnp.sum(square, axes, keepdims=True) / count)


def _separate(x, p: int):
  """(b p, ...) -> p float32 arrays (b, ...)."""
  x = x.reshape(-1, p, *x.shape[1:]).astype(jnp.float32)
  return [x[:, i] for i in range(p)]
