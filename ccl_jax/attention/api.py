"""Entry point of attention: checks the arguments and chooses a backend.

Backends are functions of (q, k, v, mask, target, name, with_lse), equal in
value and in all gradients. One that does not support its arguments raises
NotImplementedError(reason) while it is traced; the reason is logged once and
the next one is tried:

    pattern   TPU                   GPU                CPU
    full      splash, reference     cudnn, reference   reference
    window    framed if narrow,     framed             framed, reference if
              else as full                             there are few pairs
    blocks    as full               reference          reference
"""

import functools

import jax
from absl import logging
from jax.ad_checkpoint import checkpoint_name

from ccl_jax.array_types import Array, Float
from ccl_jax.attention import cudnn, reference, splash, windowed
from ccl_jax.attention.mask import Mask, Pattern, Window
from ccl_jax.attention.merging import Part
from ccl_jax.attention.target import CompileTarget, target_of
from ccl_jax.ops import cpu


def _named(attend):
  """Returns the backend, for any target, with its result named for remat."""

  def call(q, k, v, mask, target, name, with_lse):
    out = attend(q, k, v, mask, with_lse)
    return out if name is None else checkpoint_name(out, name)

  return call


BACKENDS = {
  "reference": _named(reference.attend),
  "framed": _named(windowed.attend),
  "splash": splash.attend,
  "cudnn": cudnn.attend,
}
# Keys of a query up to which a window is narrow, of one frame or of several.
# "framed" stores the logits of all queries, n times these keys, and copies keys
# for every frame that sees them; splash keeps logits on the chip, copies none.
MAX_FRAMED_KEYS = 2048
MAX_COPIED_KEYS = 512
_FULL = Mask()


def choose(platform: str, pattern: Pattern, n: int, m: int) -> tuple[str, ...]:
  """Returns the backends to try, best first; `reference` does everything.

  Args:
    n, m: number of queries and keys.
  """
  if isinstance(pattern, Window):
    if platform == "cpu" and n * m <= cpu.MAX_DENSE_PAIRS:
      return ("reference",)
    most = MAX_COPIED_KEYS if pattern.radius else MAX_FRAMED_KEYS
    is_narrow = pattern.keys_per_query <= most
    if platform != "tpu" or is_narrow:
      return "framed", "reference"
  best = {"tpu": ("splash",), "gpu": ("cudnn",)}.get(platform, ())
  return *best, "reference"


def attend(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b m k e"],
  v: Float[Array, "b m k e"],
  mask: Mask = _FULL,
  *,
  backend: str | None = None,
  target: CompileTarget | None = None,
  name: str | None = None,
  with_lse: bool = False,
) -> Float[Array, "b n k e"] | Part:
  """Returns softmax(q k^T / sqrt(e)) v over the keys that `mask` allows.

  The softmax is float32, the output has q's dtype. The output of a query that
  sees no key is undefined.

  Args:
    backend: a key of `BACKENDS`, to have that one or an error.
    target: device to compile for; by default this process's. Differs when a
      CPU compiles for a TPU that is elsewhere.
    name: of the result (and of splash's and cuDNN's log-sum-exp) for remat
      policies that save by name.
    with_lse: return the output and each query's log-sum-exp, about -1e30 where
      it sees no key, which has no weight in `merging.merge`.

  Raises:
    ValueError: shapes that do not fit, an unknown `backend`, or one that does
      not support this.
  """
  _check_shapes(q, k, v, mask)
  target = target or target_of(jax.devices()[0])
  arguments = q, k, v, mask, target, name, with_lse
  if backend not in (None, *BACKENDS):
    raise ValueError(
      f"Unknown attention backend '{backend}'. Known: {', '.join(BACKENDS)}."
    )
  best = choose(target.platform, mask.pattern, q.shape[1], k.shape[1])
  for each in (backend,) if backend else best:
    try:
      return BACKENDS[each](*arguments)
    except NotImplementedError as reason:
      if backend:
        raise ValueError(
          f"Attention backend '{backend}' cannot do this: {reason}"
        ) from reason
      _log_once(f"Attention backend '{each}' was passed over: {reason}")
  raise AssertionError("unreachable: the reference supports everything")


def _check_shapes(q, k, v, mask):
  (b, n, *rest), m = q.shape, k.shape[1]
  if k.shape != (b, m, *rest) or v.shape != k.shape:
    raise ValueError(
      "attend needs q (b n k e) and k, v (b m k e), got"
      f" {q.shape=}, {k.shape=}, {v.shape=}."
    )
  mask.check(b, n, m)


@functools.cache
def _log_once(message: str) -> None:
  logging.warning(message)
