"""The joint model: two streams, run block by block, joined by a fusion.

Either stream may be absent: then the other runs alone and reads only its
context tokens, exactly as if it were routed so. A stream may have no blocks of
its own: it runs through those of the other stream, its trunk. Layers are
stacked, (num_layers, ...), and scanned.

On a mesh, frames are padded to a multiple of the context axis, parameters are
gathered layer by layer, and `sharding.Layout` lays out activations.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ccl_jax.array_types import STREAMS, Array, Float, Image, Route, State
from ccl_jax.attention import Attention
from ccl_jax.config import check_choice
from ccl_jax.models.dit import NO_IMAGE, DiT
from ccl_jax.models.dual_block import (
  EmbeddedInputs,
  Tokens,
  dual_block,
  stream_ops,
)
from ccl_jax.models.fusion import (
  NO_CACHE,
  Fusion,
  FusionContext,
  KVCache,
  make_fusion,
)
from ccl_jax.models.remat import BLOCK_INPUT, REMAT
from ccl_jax.models.towers import make_stream, trunk_of
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout
from ccl_jax.params.weight_gathering import gather

PATHS = {s: f"{s}/blocks/" for s in STREAMS} | {"fusion": "fusion/"}
# (fusion, snapshot, shared) -> what is collected from a layer.
Collect = Callable[[Fusion, Tokens, FusionContext], Any]


class Joint(nnx.Module):
  """Video and audio streams of equal depth, and the fusion between them.

  Args:
    video, audio: arguments of each `DiT`; None builds no such stream. With
      in_context=True, those of an `InContextStream`.
    fusion: `{"kind": name, ...}`, see `fusion.make_fusion`; a stream alone
      takes "independent".
    dtype: of the matrix products, "float32" or "bfloat16".
    remat: what the backward pass recomputes of each block: "none"; "full", all
      of it; "linear", all but the outputs of linear layers; "attention", all
      but self-attention's output and log-sum-exp; "attention_ffn", all but
      these and the FFN's first product; "offload", as "attention", but these
      and the block's input are stored in the host's memory.
    scan: False unrolls the layers (to count FLOPs).
    backend: of attention; None chooses by platform.
    layout: where arrays live on a mesh.
  """

  def __init__(
    self, *, num_layers: int, text_width: int, video: Mapping | None,
    audio: Mapping | None, fusion: Mapping, rngs, dtype: str = "bfloat16",
    remat: str = "none", scan: bool = True, backend: str | None = None,
    layout: Layout = ONE_DEVICE,
  ):  # fmt: skip
    check_choice("model.remat", remat, REMAT)
    if num_layers < 1:
      raise ValueError(f"model.{num_layers=}: expected at least 1.")
    self.num_layers, self.remat, self.scan = num_layers, remat, scan
    self.attention, self.dtype = Attention(backend, layout), jnp.dtype(dtype)
    settings = {"video": video, "audio": audio}
    self.streams = tuple(s for s in STREAMS if settings[s] is not None)
    shared = dict(
      num_layers=num_layers, text_width=text_width, dtype=self.dtype, rngs=rngs
    )
    towers = {s: make_stream(s, settings[s], **shared) for s in self.streams}
    for s, tower in towers.items():
      setattr(self, s, tower)
    self.trunks = tuple((s, trunk_of(s, settings)) for s in self.streams)
    self.fusion = nnx_utils.stack(
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
    for s in set(self.streams) - set(self.fusion.updated):
      if self.trunk(s) == s:
        raise ValueError(
          f"model.fusion={dict(fusion)} leaves {s} tokens as they are embedded:"
          f" expected model.{s}.in_context=True, without blocks."
        )

  def trunk(self, s: str) -> str:
    """Returns the stream whose blocks update s: s unless it is in context."""
    return dict(self.trunks)[s]

  def __call__(
    self,
    state: State,
    t: dict[str, Array],
    text: Float[Array, "b l d"],
    route: Route,
    image: Image | None = None,
    cache: KVCache = NO_CACHE,
  ) -> State:
    """Returns the velocity of each stream in `state`, float32.

    Args:
      t: stream -> times in [0, 1], (b,), or per token (b, f, 1) or (b, f, s).
      image: for a video stream with image conditioning.
      cache: constant keys and values; a cached stream must be absent from
        `state`.

    Raises:
      ValueError: a stream that was not built, streams that do not match, or an
        image that the model cannot read.
    """
    inputs = self.embed(state, t, text, route, image)
    x, _ = self.run_layers(inputs, cache)
    frames, grids = inputs.shared.clip_frames, inputs.shared.grids
    velocity = {}
    for s, tower in self.towers(state).items():
      output = tower.output(x[s], inputs.times[s][0], grids[s], frames)
      velocity[s] = tower.prediction.velocity(output, state[s], t[s])
    return velocity

  def reference_kv(
    self, state: State, text: Float[Array, "b l d"], route: Route,
    cache: KVCache = NO_CACHE,
  ) -> dict[str, Any]:  # fmt: skip
    """Runs references: streams at t = 0 that see no other one.

    Returns:
      stream -> keys and values as the other side reads them, of all layers,
      (layers, b, n, k, e) each.

    Raises:
      ValueError: a fusion of which nothing can be cached.
    """
    if self.fusion.uncacheable:
      raise ValueError(
        f"{self.fusion.uncacheable}: pass --cache_reference=False"
        " (sampling.cache_reference in the config)."
      )
    t = {s: jnp.zeros(len(x)) for s, x in state.items()}
    inputs = self.embed(state, t, text, route)
    return self.run_layers(
      inputs, cache, lambda fusion, *seen: fusion.reference_kv(*seen)
    )[1]

  def context_kv(self) -> dict[str, Any]:
    """Returns keys and values of the context tokens, of all layers."""
    graph, params = nnx.split(self.fusion)
    layout = self.attention.layout

    def layer(_, params):
      params = gather(layout, params, PATHS["fusion"], self.dtype)
      return None, nnx.merge(graph, params).context_kv(self.dtype)

    params = nnx.to_pure_dict(params)
    return jax.lax.scan(layer, None, params, length=self.num_layers)[1]

  def embed(
    self,
    state: State,
    t: dict[str, Array],
    text: Float[Array, "b l d"],
    route: Route,
    image: Image | None = None,
  ) -> EmbeddedInputs:
    """Embeds latents, times and text; arguments as in a call."""
    # Latents to tokens; both streams have the same number of frames.
    towers = self.towers(state)
    images = self.images(state, image)
    x = {
      s: tower.tokens(tower.prediction.scale_input(state[s], t[s]), images[s])
      for s, tower in towers.items()
    }
    grids = {s: towers[s].grid(state[s]) for s in state}
    if len({grid[0] for grid in grids.values()}) > 1:
      raise ValueError(
        f"{grids=} (f, h, w) differ in frames: crop or pad the audio latents"
        " to c per video latent frame."
      )
    frames = next(iter(grids.values()))[0]
    pictures = image and image.references
    if pictures is not None:  # further frames of the video, at time 0
      more = towers["video"].tokens(pictures)
      x["video"] = jnp.concatenate([x["video"], more], 1)
      t = t | {"video": times_per_frame(t["video"], frames)}
      frames += more.shape[1]

    # Padded to frames that the context axis divides.
    layout = self.attention.layout
    f = layout.padded_frames(frames)
    x = {s: pad_frames(a, f) for s, a in x.items()}
    t = {s: pad_frames(a, f) if a.ndim > 1 else a for s, a in t.items()}
    grids = {s: (f, *grid[1:]) for s, grid in grids.items()}

    # Embedded to the width of each stream.
    x = {
      s: towers[s].embed_tokens(a.astype(self.dtype), grids[s])
      for s, a in x.items()
    }
    text = layout.constrain(text.astype(self.dtype), "batch")
    own = {s: tower for s, tower in towers.items() if self.trunk(s) == s}
    texts = {s: tower.prompt(text, images[s]) for s, tower in own.items()}
    trunks = {s: getattr(self, self.trunk(s)) for s in towers}
    times = {s: trunk.embed_time(t[s], text) for s, trunk in trunks.items()}
    has_audio = "audio" in self.streams
    per_frame = self.audio.tokens_per_frame if has_audio else None
    shared = FusionContext(
      grids, frames, route, self.attention, per_frame,
      image and image.has_references,
    )  # fmt: skip
    return EmbeddedInputs(x, times, texts, shared)

  def towers(self, state: State) -> dict[str, DiT]:
    """Returns the streams of `state`, in a fixed order."""
    absent = [s for s in state if s not in self.streams]
    if absent or not state:
      raise ValueError(
        f"got latents of {sorted(state)}; this model has {self.streams}."
      )
    return {s: getattr(self, s) for s in STREAMS if s in state}

  def images(self, state: State, image: Image | None) -> dict[str, Image]:
    """Returns the checked image conditioning of each stream of `state`."""
    images = dict.fromkeys(state, NO_IMAGE)
    if image is None:
      return images
    if "video" not in state:
      raise ValueError(
        f"an image is for the video stream, and the state has {sorted(state)}."
      )
    self.video.check_image(image, state["video"])
    if image.references is not None and not self.fusion.reads_references:
      raise ValueError(
        f"reference pictures {image.references.shape}: this model reads none."
        " Expected model.fusion.references=True of configs/icac.py, or no"
        " picture but a first frame."
      )
    if image.tokens is not None:
      tokens = image.tokens.astype(self.dtype)
      image = image._replace(
        tokens=self.attention.layout.constrain(tokens, "batch")
      )
    return images | {"video": image}

  def run_layers(
    self,
    inputs: EmbeddedInputs,
    cache: KVCache = NO_CACHE,
    collect: Collect | None = None,
  ) -> tuple[Tokens, Any]:
    """Runs all blocks, scanned over the layer axis of their parameters.

    Args:
      collect: called in every layer with its fusion and snapshot.

    Returns:
      The tokens, and what was collected, stacked over layers.
    """
    # A static graph and stacked parameters: each layer merges its own slice.
    stacks = {s: getattr(self, s).blocks for s in map(self.trunk, inputs.x)}
    graph, params = nnx.split(stacks | {"fusion": self.fusion})
    params = nnx.to_pure_dict(params)
    layer = self._make_layer(graph, inputs, collect)
    policy = REMAT[self.remat]
    if policy is not None:
      # A scan's backward pass is another loop: there is nothing to merge with.
      layer = jax.checkpoint(layer, policy=policy, prevent_cse=not self.scan)
    if self.scan:
      return jax.lax.scan(layer, inputs.x, (params, cache))
    x, collected = inputs.x, []
    for i in range(self.num_layers):
      x, of_layer = layer(x, jax.tree.map(lambda p: p[i], (params, cache)))  # noqa: B023
      collected.append(of_layer)
    return x, jax.tree.map(lambda *a: jnp.stack(a), *collected)

  def _make_layer(
    self, graph: nnx.GraphDef, inputs: EmbeddedInputs, collect: Collect | None
  ) -> Callable:
    """Returns layer(x, (params, cache)) -> (x, collected), to be scanned."""
    layout, shared = self.attention.layout, inputs.shared
    towers = {s: getattr(self, s) for s in inputs.x}
    angles = self.fusion.angles_of(shared)
    own = {s: a for s, a in towers.items() if s not in angles}
    angles |= {s: tower.angles(*shared.grids[s]) for s, tower in own.items()}
    ops = {s: stream_ops(self.attention, s) for s in inputs.x}

    def constrain(x: Tokens) -> Tokens:
      return {s: layout.constrain(a, f"{s}/tokens") for s, a in x.items()}

    def layer(x, slices):
      params, cache = slices
      # Named, so that a remat policy can keep or offload the block's input.
      x = constrain({s: checkpoint_name(a, BLOCK_INPUT) for s, a in x.items()})
      # Gathered inside of the layer: one layer's parameters are in memory.
      params = {
        name: gather(layout, params[name], path, self.dtype)
        for name, path in PATHS.items()
        if name in params
      }
      blocks = nnx.merge(graph, params)
      fusion = blocks.pop("fusion")
      own = {s: blocks[self.trunk(s)] for s in x if s in fusion.updated}
      x, snapshot = dual_block(own, fusion, x, inputs, angles, ops, cache)
      collected = collect and collect(fusion, snapshot, shared)
      return constrain(x), collected

    return layer


def times_per_frame(t: Array, f: int) -> Array:
  """Returns times for each of f frames, (b, f, 1) or (b, f, s)."""
  if t.ndim > 1:
    return t
  return jnp.broadcast_to(t[:, None, None], (len(t), f, 1))


def pad_frames(x: Array, f: int) -> Array:
  """Pads axis 1 with zeros to f frames."""
  missing = f - x.shape[1]
  return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
