"""Attention on a mesh: what each shard holds, and what it fetches first.

A kernel sees one shard, so every call is inside `shard_map`: samples are split
over the batch's axes, heads over `tensor`, queries over `context`. Keys and
values:

    self-attention  "gather": all-gathered over context (their gradients are
                    reduce-scattered); "ulysses": an all-to-all exchanges
                    tokens for heads, k heads over c shards, and another one
                    reverts this; every shard has all segments
    text, full      every shard has all keys
    windows         over `context`, frames are a batch axis of the "framed"
                    backend, which the compiler splits by itself: a frame's
                    keys are on its own shard, except a halo of `radius` frames
"""

import dataclasses
import functools

import jax
from jax.sharding import PartitionSpec

from ccl_jax.array_types import Array, Float
from ccl_jax.attention.api import BACKENDS, attend
from ccl_jax.attention.mask import FrameBlocks, Mask, Pattern, Window
from ccl_jax.attention.merging import Part
from ccl_jax.attention.target import target_of
from ccl_jax.params.sharding import ONE_DEVICE, Layout, Spec

SELF_ATTENTION = "self_attention"  # its name for remat policies
_FULL = Mask()


@dataclasses.dataclass(frozen=True)
class Attention:
  """Attention of a model, by a backend on a layout.

  Raises:
    ValueError: an unknown backend.
  """

  backend: str | None = None
  layout: Layout = ONE_DEVICE

  def __post_init__(self):
    if self.backend not in (None, *BACKENDS):
      raise ValueError(
        f"model.backend={self.backend}: expected one of {', '.join(BACKENDS)},"
        " or none for the best."
      )

  def self_attention(
    self,
    stream: str,
    q: Float[Array, "b n k e"],
    k: Float[Array, "b m k e"],
    v: Float[Array, "b m k e"],
    mask: Mask = _FULL,
    with_lse: bool = False,
  ) -> Float[Array, "b n k e"] | Part:
    """Runs self-attention of a stream, and returns its log-sum-exp if asked.

    Raises:
      ValueError: heads that the mesh does not divide, or blocks of frames whose
        queries are not all on one shard.
    """
    call = self._attend(SELF_ATTENTION, with_lse)
    if self.layout.mesh is None:
      return call(q, k, v, mask)
    spec, mode = self._heads(stream, q.shape[2]), self.layout.self_attention
    is_split = self.layout.size(spec[1]) > 1
    if is_split and mode == "gather" and isinstance(mask.pattern, FrameBlocks):
      raise ValueError(
        "a mask of frames cannot be split over `context` by"
        " sharding.self_attention='gather': take 'ulysses', no context axis, or"
        " the merged form of this attention."
      )
    if is_split:
      call = MODES[mode](call, spec[1])
    q_ids = spec[:2] if mode == "gather" else spec[:1]
    mapped = self._shard_map(call, spec, spec, mask.pattern, q_ids, with_lse)
    return mapped(q, k, v, mask)

  def cross_attention(
    self,
    stream: str,
    q: Float[Array, "b n k e"],
    k: Float[Array, "b m k e"],
    v: Float[Array, "b m k e"],
    mask: Mask = _FULL,
    with_lse: bool = False,
  ) -> Float[Array, "b n k e"] | Part:
    """Runs a stream's queries on keys of the text or of the other stream."""
    call = self._attend(None, with_lse)
    if self.layout.mesh is None:
      return call(q, k, v, mask)
    # Plain jax: the compiler splits the frames and fetches each halo.
    if isinstance(mask.pattern, Window) and self.layout.size("context") > 1:
      return call(q, k, v, mask, backend="framed")
    spec = self._heads(stream, q.shape[2])
    keys, q_ids = (spec[0], None, *spec[2:]), spec[:2]
    mapped = self._shard_map(call, spec, keys, mask.pattern, q_ids, with_lse)
    return mapped(q, k, v, mask)

  def _attend(self, name: str | None, with_lse: bool):
    """Returns `attend` of q, k, v and a mask by the backend, for a shard."""
    return functools.partial(
      attend, backend=self.backend, target=target_of(self.layout.device),
      name=name, with_lse=with_lse,
    )  # fmt: skip

  def _heads(self, stream: str, heads: int) -> Spec:
    """Returns the spec of (b, n, k, e); ValueError if it splits no heads."""
    spec = self.layout.spec(f"{stream}/heads")
    spec = (*spec, *(None,) * (4 - len(spec)))
    ways = self.layout.size(spec[2])
    if self.layout.self_attention == "ulysses":
      ways *= self.layout.size(spec[1])
    if heads % ways:
      raise ValueError(
        f"{stream}: {heads} heads cannot be split {ways} ways (tensor, and"
        " context under sharding.self_attention='ulysses'). Use 'gather', or a"
        " smaller axis."
      )
    return spec

  def _shard_map(
    self, call, spec: Spec, keys: Spec, pattern: Pattern, q_ids: Spec,
    with_lse: bool,
  ):  # fmt: skip
    """Maps a function of one shard's q, k, v and mask over the mesh.

    A shard masks its own samples, and their queries or all (`q_ids`), but all
    keys.
    """
    heads, keys, rows = (PartitionSpec(*s) for s in (spec, keys, spec[:1]))
    mask = Mask(pattern, rows, PartitionSpec(*q_ids), rows)
    return jax.shard_map(
      call,
      mesh=self.layout.mesh,
      in_specs=(heads, keys, keys, mask),
      out_specs=(heads, PartitionSpec(*spec[:3])) if with_lse else heads,
      check_vma=False,
    )


def _gather(call, axis):
  """Sends all keys and values to every shard; queries stay."""

  def local(q, k, v, mask):
    k, v = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (k, v))
    return call(q, k, v, mask)

  return local


def _ulysses(call, axis):
  """Sends all tokens of some heads to every shard, and the result back."""

  def local(q, k, v, mask):
    q, k, v = (
      jax.lax.all_to_all(x, axis, split_axis=2, concat_axis=1, tiled=True)
      for x in (q, k, v)
    )
    back = functools.partial(
      jax.lax.all_to_all,
      axis_name=axis, split_axis=1, concat_axis=2, tiled=True,
    )  # fmt: skip
    return jax.tree.map(back, call(q, k, v, mask))

  return local


MODES = {"gather": _gather, "ulysses": _ulysses}
