"""The fusions by name."""

from collections.abc import Mapping

from ccl_jax.config import build, check_choice
from ccl_jax.models.fusion.avdit import AVDiT, FrameByFrame
from ccl_jax.models.fusion.base import NO_CACHE, Fusion, FusionContext, KVCache
from ccl_jax.models.fusion.cca import CCA
from ccl_jax.models.fusion.icac import make_icac

__all__ = [
  "FUSIONS",
  "NO_CACHE",
  "Fusion",
  "FusionContext",
  "KVCache",
  "make_fusion",
  "make_gated",
]


def make_gated(
  widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
  tarp: bool = False, positions: str = "index", fps: float = 25.0,
) -> CCA:  # fmt: skip
  """Makes the baseline: gated full attention (section 3.1, Ovi).

  It is CCA without its three parts; with `tarp`, row 2 of the paper's Table 2.
  """
  return CCA(
    widths, head_sizes, rngs=rngs, dtype=dtype, num_audio_lct=0,
    num_video_lct=0, dcr=False, tarp=tarp, positions=positions, fps=fps,
  )  # fmt: skip


FUSIONS = {
  "independent": Fusion,
  "gated": make_gated,
  "cca": CCA,
  "icac": make_icac,
  "avdit": AVDiT,
  "frames": FrameByFrame,
}


def make_fusion(settings: Mapping, **extra) -> Fusion:
  """Makes the fusion of `settings["kind"]`; ValueError for an unknown key."""
  options = dict(settings)
  kind = options.pop("kind")
  check_choice("model.fusion.kind", kind, FUSIONS)
  return build(FUSIONS[kind], options, "model.fusion", **extra)
