"""The baseline: gated full attention between the streams (section 3.1, Ovi).

    x += g * attention(x, y),   g = 1 where the sample's streams interact  (1)

It has no context tokens, windows or routing: it is CCA without its three parts.
"""

from ccl_jax.models.fusion.cca import CCA


def make_gated(
  widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
  tarp: bool = False, positions: str = "index", fps: float = 25.0,
) -> CCA:  # fmt: skip
  """Makes gated cross-attention; `tarp` is row 2 of the paper's Table 2."""
  return CCA(
    widths, head_sizes, rngs=rngs, dtype=dtype, num_audio_lct=0,
    num_video_lct=0, dcr=False, tarp=tarp, positions=positions, fps=fps,
  )  # fmt: skip
