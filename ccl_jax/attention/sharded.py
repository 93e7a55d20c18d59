"""Attention on a mesh: what each shard holds, and what it fetches first.

A kernel sees one shard, so every call is inside of `shard_map`: samples over
the batch's axes, heads over `tensor`, queries over `context`. Keys and values:

    self-attention  "gather": all-gathered over context (their gradients are
                    reduce-scattered); "ulysses": tokens are exchanged for
                    heads, k heads over c shards, and the result back
    text, full      every shard has all keys
    windows         over `context`, frames are a batch axis of the "framed"
                    backend, which the compiler splits by itself: a frame's
                    keys are on its own shard, save a halo of `half` frames
"""

import dataclasses
import functools

import jax
from jax.sharding import PartitionSpec

from ccl_jax.array_types import Array, Float
from ccl_jax.attention.api import attend
from ccl_jax.attention.mask import Full, Mask, Window
from ccl_jax.attention.target import target_of
from ccl_jax.sharding import ONE_DEVICE, Layout, Spec

SELF_ATTENTION = "self_attention"  # its name for remat policies
_FULL = Mask()


@dataclasses.dataclass(frozen=True)
class Attention:
  """Attention of a model, by a backend on a layout."""

  backend: str | None = None
  layout: Layout = ONE_DEVICE

  def self_attention(
    self,
    stream: str,
    q: Float[Array, "b n k e"],
    k: Float[Array, "b m k e"],
    v: Float[Array, "b m k e"],
    num_keys: int,
  ) -> Float[Array, "b n k e"]:
    """Runs self-attention of a stream; keys after `num_keys` are padding.

    Raises:
      ValueError: heads that the mesh does not divide.
    """
    pattern = Full(num_keys if num_keys < k.shape[1] else None)
    call = functools.partial(
      attend, mask=Mask(pattern), backend=self.backend,
      target=target_of(self.layout.device), name=SELF_ATTENTION,
    )  # fmt: skip
    if self.layout.mesh is None:
      return call(q, k, v)
    spec = self._heads(stream, q.shape[2])
    if self.layout.size(spec[1]) > 1:
      call = MODES[self.layout.self_attention](call, spec[1])
    return self._shard_map(call, [spec] * 3, spec)(q, k, v)

  def cross_attention(
    self,
    stream: str,
    q: Float[Array, "b n k e"],
    k: Float[Array, "b m k e"],
    v: Float[Array, "b m k e"],
    mask: Mask = _FULL,
  ) -> Float[Array, "b n k e"]:
    """Runs a stream's queries on keys of the text or of the other stream."""
    if self.layout.mesh is None:
      return attend(q, k, v, mask, backend=self.backend)
    # Plain jax: the compiler splits the frames and fetches each halo.
    if isinstance(mask.pattern, Window) and self.layout.size("context") > 1:
      return attend(q, k, v, mask, backend="framed")
    spec = self._heads(stream, q.shape[2])
    keys = (spec[0], None, *spec[2:])
    # A shard masks its own samples and queries, but all keys. shard_map takes
    # arrays only, so the static pattern and what is None stay outside of it.
    arrays = {
      name: array
      for name, array in mask._asdict().items()
      if name != "pattern" and array is not None
    }
    specs = {
      "k_lengths": spec[:1], "q_segments": spec[:2], "k_segments": keys[:2],
    }  # fmt: skip

    def local(q, k, v, arrays):
      return attend(
        q, k, v, Mask(mask.pattern, **arrays), backend=self.backend,
        target=target_of(self.layout.device),
      )  # fmt: skip

    of_arrays = {name: PartitionSpec(*specs[name]) for name in arrays}
    mapped = self._shard_map(local, [spec, keys, keys], spec, of_arrays)
    return mapped(q, k, v, arrays)

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

  def _shard_map(self, function, in_specs: list[Spec], out_spec: Spec, *more):
    """Maps a function of one shard's arguments; `more` are PartitionSpecs."""
    return jax.shard_map(
      function,
      mesh=self.layout.mesh,
      in_specs=(*(PartitionSpec(*spec) for spec in in_specs), *more),
      out_specs=PartitionSpec(*out_spec),
      check_vma=False,
    )


def _gather(call, axis):
  """Sends all keys and values to every shard; queries stay."""

  def local(q, k, v):
    k, v = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (k, v))
    return call(q, k, v)

  return local


def _ulysses(call, axis):
  """Sends all tokens of some heads to every shard, and the result back."""

  def local(q, k, v):
    q, k, v = (
      jax.lax.all_to_all(x, axis, split_axis=2, concat_axis=1, tiled=True)
      for x in (q, k, v)
    )
    out = call(q, k, v)
    return jax.lax.all_to_all(
      out, axis, split_axis=1, concat_axis=2, tiled=True
    )

  return local


MODES = {"gather": _gather, "ulysses": _ulysses}
