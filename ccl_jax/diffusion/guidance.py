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

All passes run as one forward of p times the batch. They are interleaved sample
by sample, (b p), so that a batch sharded over devices stays where it is.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.diffusion.flow import Velocity
from ccl_jax.types import Route, State, other


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


@dataclass(frozen=True)
class Row:
  """v(base) + sum of (scale - offset) [v(plus) - v(minus)].

  Attributes:
    base: variant with weight 1.
    terms: tuples (name of the scale, plus, minus, offset).
  """

  base: Variant
  terms: tuple[tuple[str, Variant, Variant, float], ...] = ()

  @property
  def count(self) -> int:
    """How many distinct variants, hence forward passes."""
    pairs = [variant for _, *pair, _ in self.terms for variant in pair]
    return len({self.base, *pairs})

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
  "none": Row(CX),
  "text": Row(NX, (("scale", CX, NX, 0.0),)),
  "ucg2": Row(NL, (("scale", CX, NL, 0.0),)),
  "ucg3": Row(NL, (("cross", NX, NL, 0.0), ("text", CX, NX, 0.0))),
  "ucg3_text_first": Row(NL, (("text", CL, NL, 0.0), ("cross", CX, CL, 0.0))),
  "multimodal": Row(CX, (("text", CX, NX, 1.0), ("cross", CX, DROP, 1.0))),
  "sync": Row(NULL, (("scale", CX, NULL, 0.0),)),
}


def row(name: str) -> Row:
  """The row called `name`; ValueError lists the names."""
  if name not in ROWS:
    raise ValueError(
      f"Unknown guidance '{name}', expected one of {', '.join(ROWS)}."
    )
  return ROWS[name]


def guided(
  velocity: Velocity, row: Row, scales: Mapping[str, Mapping[str, Any]]
) -> Velocity:
  """A velocity function that runs the row's variants and adds them up.

  Args:
    velocity: called once, with a batch of p samples for each one, float32
      state, times, and `{"text": (b p, l, d), "route": Route of (b p,)}`.
    row: from ROWS or your own.
    scales: stream -> {"scale": s, "text": s_t, "cross": s_m}, those that the
      row names.

  Returns:
    velocity'(state, t, condition) with the condition `{"text": (b, l, d),
    "negative": (b, l, d), "route": Route}` (`negative` only where the row needs
    it), and for a null variant `"null"`: latents of both streams that broadcast
    to the state. ValueError if something needed is missing.
  """

  def guided_velocity(state: State, t: State, condition: dict) -> State:
    weights = {s: row.weights(scales[s]) for s in state}
    # A pass is a variant and, if that nulls a stream, which one.
    passes = {
      s: [(v, other(s) if v.other == "null" else None) for v in weights[s]]
      for s in state
    }
    distinct = list(dict.fromkeys(p for s in state for p in passes[s]))
    inputs = [_variant(*p, state, t, condition) for p in distinct]
    outputs = velocity(*jax.tree.map(_interleave, *inputs))
    parts = {
      s: dict(zip(distinct, _separate(outputs[s], len(distinct)), strict=True))
      for s in state
    }
    return {
      s: sum(
        w * parts[s][p]
        for w, p in zip(weights[s].values(), passes[s], strict=True)
      )
      for s in state
    }

  return guided_velocity


def _variant(
  variant: Variant, nulled: str | None, state: State, t: State, condition: dict
):
  """Inputs (state, t, condition) of one pass."""
  route = condition["route"]
  source = {"prompt": "text", "negative": "negative"}[variant.text]
  needed = [source] + ["null"] * (nulled is not None)
  for key in needed:
    if key not in condition:
      raise ValueError(f"This guidance needs condition['{key}'], got none.")
  if nulled is not None:
    state, t, route = _null(nulled, state, t, route, condition["null"])
  elif variant.other == "context":
    none = jnp.zeros_like(route.exchanges)
    route = route._replace(video_sees_audio=none, audio_sees_video=none)
  elif variant.other == "dropped":
    route = route._replace(exchanges=jnp.zeros_like(route.exchanges))
  return state, t, {"text": condition[source], "route": route}


def _null(stream: str, state: State, t: State, route: Route, null: State):
  """Makes `stream` a reference at t = 0 that holds the null latents."""
  if stream not in state:
    raise ValueError(
      f"This guidance replaces the {stream}, but the state has only"
      f" {sorted(state)}. Use another row for a stream alone."
    )
  none = jnp.zeros_like(route.exchanges)
  latents = jnp.broadcast_to(null[stream], state[stream].shape)
  return (
    state | {stream: latents},
    t | {stream: jnp.zeros_like(t[stream])},
    route._replace(
      **{f"{stream}_is_generated": none, f"{stream}_sees_{other(stream)}": none}
    ),
  )


def _interleave(*parts):
  """p arrays (b, ...) -> (b p, ...), sample by sample."""
  x = jnp.stack(parts, axis=1)
  return x.reshape(-1, *x.shape[2:])


def _separate(x, p: int):
  """(b p, ...) -> p float32 arrays (b, ...)."""
  x = x.reshape(-1, p, *x.shape[1:]).astype(jnp.float32)
  return [x[:, i] for i in range(p)]
