"""The joint model: two streams, run block by block, joined by a fusion.

A dual block is: self-attention of both streams (`fusion.attend`), text,
`fusion.exchange`, feed-forward. Either stream may be absent: then the other
runs alone and reads only its context tokens, exactly as if it were routed so.
Layers are stacked, (num_layers, ...), and scanned.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.config import build
from ccl_jax.models import layers
from ccl_jax.models.dit import DiT
from ccl_jax.models.fusion import make_fusion
from ccl_jax.types import STREAMS, Array, Float, PyTree, Route, State

REMAT = {
  "none": jax.checkpoint_policies.everything_saveable,
  "linear": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Joint(nnx.Module):
  """Video and audio streams of equal depth, and the fusion between them.

  Args:
    video, audio: arguments of each `DiT`; None builds no such stream.
    fusion: `{"kind": name, ...}`, see `fusion.make_fusion`; a stream alone
      takes "independent".
    dtype: of the matrix products, "float32" or "bfloat16".
    remat: what the backward pass recomputes of each block: "none" of it,
      "full", or "linear": all but the outputs of its linear layers.
    scan: False unrolls the layers (to count FLOPs).
    backend: of attention; None chooses by platform.
  """

  def __init__(
    self, *, num_layers: int, text_width: int, video: Mapping | None,
    audio: Mapping | None, fusion: Mapping, rngs, dtype: str = "bfloat16",
    remat: str = "none", scan: bool = True, backend: str | None = None,
  ):  # fmt: skip
    if remat not in REMAT:
      raise ValueError(f"{remat=}: expected one of {', '.join(REMAT)}.")
    self.num_layers, self.remat, self.scan = num_layers, remat, scan
    self.backend, self.dtype = backend, jnp.dtype(dtype)
    given = {"video": video, "audio": audio}
    self.streams = tuple(s for s in STREAMS if given[s] is not None)
    shared = dict(
      num_layers=num_layers, text_width=text_width, dtype=self.dtype, rngs=rngs
    )
    for s in self.streams:
      stream = build(DiT, given[s], f"model.{s}", kind=s, **shared)
      setattr(self, s, stream)
    towers = {s: getattr(self, s) for s in self.streams}
    self.fusion = layers.stack(
      lambda r: make_fusion(
        fusion,
        widths={s: t.width for s, t in towers.items()},
        head_sizes={s: t.head_size for s, t in towers.items()},
        dtype=self.dtype,
        rngs=r,
      ),
      num_layers,
      rngs,
    )

  def __call__(
    self,
    state: State,
    t: dict[str, Array],
    text: Float[Array, "b l d"],
    route: Route,
  ) -> State:
    """Velocity of each stream in `state`, float32, in the latents' shape.

    t: stream -> times in [0, 1], (b,), or per token (b, f, 1) or (b, f, s).

    Raises:
      ValueError: a stream that was not built, or streams that do not match.
    """
    towers = self.towers(state)
    x = {s: tower.tokens(state[s]) for s, tower in towers.items()}
    grids = {s: towers[s].grid(state[s]) for s in state}
    if len({grid[0] for grid in grids.values()}) > 1:
      raise ValueError(
        f"{grids=} (f, h, w) differ in frames: crop or pad the audio latents"
        " to c per video latent frame."
      )
    x = {s: towers[s].embed(a.astype(self.dtype)) for s, a in x.items()}
    text = text.astype(self.dtype)
    texts = {s: tower.text(text) for s, tower in towers.items()}
    times = {s: tower.embed_time(t[s]) for s, tower in towers.items()}
    rows = {s: e[1] for s, e in times.items()}
    x = self.run_layers(x, rows, texts, route, grids)
    return {s: towers[s].output(x[s], times[s][0], grids[s]) for s in state}

  def towers(self, state: State) -> dict[str, DiT]:
    """The streams of `state`, in a fixed order."""
    absent = [s for s in state if s not in self.streams]
    if absent or not state:
      raise ValueError(
        f"got latents of {sorted(state)}; this model has {self.streams}."
      )
    return {s: getattr(self, s) for s in STREAMS if s in state}

  def run_layers(
    self,
    x: dict[str, Array],
    rows: dict[str, Array],
    texts: dict[str, Array],
    route: Route,
    grids: dict[str, tuple[int, int, int]],
  ) -> dict[str, Array]:
    """All blocks, scanned over the layer axis of their parameters."""
    stacks = {s: getattr(self, s).blocks for s in x} | {"fusion": self.fusion}
    split = {name: nnx.split(stack) for name, stack in stacks.items()}
    graphs = {name: graph for name, (graph, _) in split.items()}
    params = {name: p for name, (_, p) in split.items()}
    towers = {s: getattr(self, s) for s in x}
    angles = {s: tower.angles(*grids[s]) for s, tower in towers.items()}

    def layer(x, params):
      blocks = {name: nnx.merge(graphs[name], p) for name, p in params.items()}
      return self.block(blocks, x, rows, texts, angles, route, grids), None

    # A scan's backward pass is another loop: there is nothing to merge with.
    layer = jax.checkpoint(
      layer, policy=REMAT[self.remat], prevent_cse=not self.scan
    )
    if self.scan:
      return jax.lax.scan(layer, x, params)[0]
    for i in range(self.num_layers):
      x, _ = layer(x, jax.tree.map(lambda p, i=i: p[i], params))
    return x

  def block(
    self, blocks: dict[str, nnx.Module], x, rows, texts, angles, route, grids
  ) -> dict[str, Array]:
    """One dual block; every argument is stream -> value."""
    fusion, backend = blocks["fusion"], self.backend
    mods = {s: blocks[s].modulate(rows[s]) for s in x}
    qkv = {s: blocks[s].qkv(x[s], mods[s][0], angles[s]) for s in x}
    attended = fusion.attend(qkv, backend)
    x = {s: blocks[s].add_attended(x[s], attended[s], mods[s][0]) for s in x}
    x = {s: blocks[s].add_text(x[s], texts[s], backend) for s in x}
    added = fusion.exchange(x, grids, route, backend)
    x = {s: x[s] + added[s] if s in added else x[s] for s in x}
    return {s: blocks[s].add_ffn(x[s], mods[s][1]) for s in x}


def make_joint(settings: Mapping, key: Array) -> Joint:
  """A `Joint` from the `model` section of a config."""
  return build(Joint, settings, "model", rngs=nnx.Rngs(key))


def describe(settings: Mapping) -> tuple[nnx.GraphDef, PyTree]:
  """The model's static half and its parameters' shapes; allocates nothing."""

  def make(key):
    graph, params = nnx.split(make_joint(settings, key))
    return graph, nnx.to_pure_dict(params)

  return jax.eval_shape(make, jax.random.key(0))


def init_params(settings: Mapping, key: Array) -> PyTree:
  """Random parameters as a plain nested dict of arrays."""
  return nnx.to_pure_dict(nnx.split(make_joint(settings, key))[1])


def velocity(
  graph: nnx.GraphDef,
  params: PyTree,
  state: State,
  t: dict[str, Array],
  text: Float[Array, "b l d"],
  route: Route,
) -> State:
  """The model as a function of its parameters: the border of Flax."""
  return nnx.merge(graph, params)(state, t, text, route)
