"""An image model applied to videos: each frame attends to itself."""

from ccl_jax.array_types import Array
from ccl_jax.attention import Mask, Window
from ccl_jax.models.fusion.base import QKV, Fusion, FusionContext


class FrameByFrame(Fusion):
  """Frames that never meet, and audio that attends to all of itself."""

  def attend(self, qkv: QKV, shared: FusionContext) -> dict[str, Array]:
    """Attends within each frame of the video, and over all of the audio."""
    audio = {s: x for s, x in qkv.items() if s == "audio"}
    attended = super().attend(audio, shared)
    if "video" in qkv:
      _, h, w = shared.grids["video"]
      frame = Mask(Window(h * w, h * w, radius=0))
      attend = shared.attention.cross_attention
      attended["video"] = attend("video", *qkv["video"], frame)
    return attended
