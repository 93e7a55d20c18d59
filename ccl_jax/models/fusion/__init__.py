"""The fusions by name."""

from collections.abc import Mapping

from ccl_jax.config import build
from ccl_jax.models.fusion.avdit import AVDiT
from ccl_jax.models.fusion.base import (
  NO_CACHE,
  Fusion,
  FusionContext,
  Grid,
  KVCache,
)
from ccl_jax.models.fusion.cca import CCA
from ccl_jax.models.fusion.frame_by_frame import FrameByFrame
from ccl_jax.models.fusion.gated import make_gated
from ccl_jax.models.fusion.icac import make_icac

__all__ = [
  "FUSIONS",
  "NO_CACHE",
  "Fusion",
  "FusionContext",
  "Grid",
  "KVCache",
  "make_fusion",
]


def make_independent(widths, head_sizes, *, rngs, dtype) -> Fusion:
  """Makes two towers that never meet."""
  return Fusion()


def make_frames(widths, head_sizes, *, rngs, dtype) -> Fusion:
  """Makes streams that never meet, nor do frames of the video."""
  return FrameByFrame()


FUSIONS = {
  "independent": make_independent,
  "gated": make_gated,
  "cca": CCA,
  "icac": make_icac,
  "avdit": AVDiT,
  "frames": make_frames,
}


def make_fusion(settings: Mapping, **extra) -> Fusion:
  """Makes the fusion that `settings["kind"]` names from the other keys.

  Raises:
    ValueError: an unknown kind or key.
  """
  options = dict(settings)
  kind = options.pop("kind")
  if kind not in FUSIONS:
    raise ValueError(f"fusion {kind=}: expected one of {', '.join(FUSIONS)}.")
  return build(FUSIONS[kind], options, "model.fusion", **extra)
