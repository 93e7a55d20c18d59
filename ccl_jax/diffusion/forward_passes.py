"""Forward passes of the model, one for each variant of its condition.

A variant takes the prompt or the negative prompt, and lets a stream read the
other one in one of four ways:

    seen       as the route says
    context    learnable context tokens only
    dropped    not at all: the cross-modal module is off
    null       as a reference at t = 0 with null latents, a static video or a
               muted sound; they differ for the two outputs, hence two passes

The p passes run as one forward pass of p times the batch, interleaved sample by
sample, (b p), so that a sharded batch stays on its devices; or in sequence.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ccl_jax.array_types import State, interleave
from ccl_jax.diffusion.flow import Velocity


@dataclass(frozen=True)
class Variant:
  """One way to condition the model.

  Attributes:
    text: "prompt" or "negative".
    other: how a stream reads the other one: "seen", "context", "dropped" or
      "null".
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
    variants: of the passes that the rows hold side by side, (b p).
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


# State, times and condition of a pass.
Inputs = tuple[State, State, Condition]


def pass_inputs(
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


def run_batched(velocity: Velocity, inputs: Sequence[Inputs]) -> list[State]:
  """Runs all passes as one batch, sample by sample."""
  variants = tuple(v for _, _, c in inputs for v in c.variants)
  # Equal static fields make the passes trees of one structure.
  inputs = [(x, t, replace(c, variants=variants)) for x, t, c in inputs]
  num, parts = len(inputs), {}
  for s, x in velocity(*interleave(*inputs)).items():
    x = x.reshape(-1, num, *x.shape[1:]).astype(jnp.float32)
    parts[s] = [x[:, i] for i in range(num)]
  return [{s: parts[s][i] for s in parts} for i in range(num)]


def run_in_turn(velocity: Velocity, inputs: Sequence[Inputs]) -> list[State]:
  """Runs the passes one after the other."""
  outputs = [velocity(*each) for each in inputs]
  return jax.tree.map(lambda x: x.astype(jnp.float32), outputs)
