"""Shares of cross-modal attention on the other stream and on context tokens.

A token reads context tokens (LCT) and the other stream's tokens under one
softmax. Its *share* is the part on the other stream, as a mean over heads,

    share_i = mean_heads sum_{j in window(i)} softmax(q_i . [k0; k] / sqrt(e))_j

and 1 - share_i is on the LCT (Fig. 6 of the paper). It equals attention to
values that are 0 in the context and 1 elsewhere, so it is computed by the same
backend from the same queries and keys.
"""

import dataclasses

import einops
import jax
from flax import nnx

from ccl_jax.array_types import Array, Float, Image, PyTree, Route, State
from ccl_jax.models import functional


def attention_shares(
  graph: nnx.GraphDef,
  params: PyTree,
  state: State,
  t: dict[str, Array],
  text: Float[Array, "b l d"],
  route: Route,
  image: Image | None = None,
) -> dict[str, Array]:
  """Computes shares of all tokens in all layers; arguments as in `velocity`.

  Returns:
    "video": (layers, b, f, h, w), the grid of tokens, "audio": (layers, b, m);
    0 where a sample's route lets it see context only. Nothing for a stream
    alone, or if the streams never meet.
  """
  model = functional.bind(graph, params)
  inputs = model.embed(state, t, text, route, image)
  _, shares = model.run_layers(
    inputs, collect=lambda fusion, *seen: fusion.attention_shares(*seen)
  )
  shared, frames = inputs.shared, inputs.shared.clip_frames
  for s, share in shares.items():
    f, h, w = shared.grids[s]
    pattern = "l b (f h w) -> l b f h w"
    share = einops.rearrange(share, pattern, f=f, h=h, w=w)
    shares[s] = share[:, :, :frames]
  if "audio" in shares:
    grid = dataclasses.replace(shared.audio_grid, frames=frames)
    shares["audio"] = jax.vmap(grid.unpad)(shares["audio"][:, :, :, 0])
  return shares
