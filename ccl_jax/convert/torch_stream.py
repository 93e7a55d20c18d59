"""One stream of `torch_model.CCL`: embeddings, blocks and the output.

Latents (b, f, h, w, c) of video and (b, m, c) of audio become tokens
(b, f, s, d) of f frames; the velocity has the shape of the latents.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ccl_jax.convert.torch_layers import (
  Block,
  Embedder,
  ImageEmbedder,
  axis_dims,
  gelu,
  make_rope,
  modulate,
)

STREAMS = ("video", "audio")
OTHER = {"video": "audio", "audio": "video"}


def audio_starts(f, c):
  """Returns the first audio latent of each of f frames, and their number.

  A latent belongs to the frame in whose span, c latents long, its middle falls.
  """
  borders = torch.arange(f + 1).double() * c - 0.5
  return borders.round(decimals=6).ceil().long()


def frames_and_places(f, c):
  """Returns each token's frame and place in it, of f frames of c tokens."""
  starts = audio_starts(f, c)
  frame = torch.arange(f).repeat_interleave(starts.diff())
  return frame, torch.arange(len(frame)) - starts[frame]


class Stream(nn.Module):
  """A stream: audio with c = `tokens_per_frame`, or video, where that is 0.

  Where c is not whole, all audio is one frame.
  """

  def __init__(
    self, num_layers, text_width, *, width, ffn, heads, channels, patch=1,
    tokens_per_frame=0, frequency_dim=256, condition_channels=0, image_width=0,
  ):  # fmt: skip
    super().__init__()
    self.width, self.e, self.half = width, width // heads, frequency_dim // 2
    self.c, self.patch, kernel = tokens_per_frame, patch, (1, patch, patch)
    # Width of each part of an image's condition; 0 if the stream has none.
    self.image_widths = {"latents": condition_channels, "tokens": image_width}
    d_in = channels + condition_channels
    self.patch_embedding = (
      nn.Linear(d_in, width) if self.c
      else nn.Conv3d(d_in, width, kernel, kernel)
    )  # fmt: skip
    self.condition_embedder = p = nn.Module()
    p.time_embedder = Embedder(frequency_dim, width)
    p.time_proj = nn.Linear(width, 6 * width)
    p.text_embedder = Embedder(text_width, width)
    if image_width:
      p.image_embedder = ImageEmbedder(image_width, width)
    self.blocks = nn.ModuleList(
      Block(width, ffn, self.e, image_width > 0) for _ in range(num_layers)
    )
    self.scale_shift_table = nn.Parameter(torch.empty(1, 2, width))
    self.proj_out = nn.Linear(width, channels * patch**2)

  def grid(self, z):
    """Returns the (f, h, w) tokens of latents; of audio (f, 1, c)."""
    if self.c:
      f, m = round(z.shape[1] / self.c), z.shape[1]
      if m != (whole := int(audio_starts(f, self.c)[-1])):
        raise ValueError(
          f"{m} audio latents: expected {whole} for {f} frames of {self.c:g}."
        )
      return f, 1, self.c
    return z.shape[1], z.shape[2] // self.patch, z.shape[3] // self.patch

  def rope(self, f, h, w, device):
    """Returns RoPE of self-attention: on a grid, audio along a sequence."""
    if self.c:
      latents = torch.arange(int(audio_starts(f, w)[-1]))
      return make_rope(latents, 1, 1, (self.e, 0, 0), device)
    return make_rope(torch.arange(f), h, w, axis_dims(self.e), device)

  def embed(self, z, image):
    """Returns the tokens (b, f, s, d) of latents."""
    if self.c:
      z = z[:, None] if self.c % 1 else z.unflatten(1, (-1, int(self.c)))
    else:
      zeros = z.new_zeros(*z.shape[:-1], self.image_widths["latents"])
      z = torch.cat([z, image.get("latents", zeros)], -1)
      z = z.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
      z = z.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(2, 3)
    p = self.patch_embedding
    return F.linear(z.type_as(p.weight), p.weight.flatten(1), p.bias)

  def embed_time(self, t, text):
    """Returns the embedding (b, f | 1, s | 1, d) of times, and 6 rows of it."""
    t, p = t[:, None, None] if t.ndim == 1 else t, self.condition_embedder
    frequency = 1e4 ** (-torch.arange(self.half, device=t.device) / self.half)
    angle = 1000 * t.float()[..., None] * frequency
    e = p.time_embedder(torch.cat([angle.cos(), angle.sin()], -1), F.silu)
    return e, p.time_proj(F.silu(e)).unflatten(-1, (6, -1))

  def embed_prompt(self, text, image):
    """Returns the tokens of the text, and of the image or None."""
    p = self.condition_embedder
    tokens = p.image_embedder(image["tokens"]) if "tokens" in image else None
    return p.text_embedder(text, gelu), tokens

  def output(self, x, e, shape):
    """Returns the velocity of latents of this shape, in float32."""
    shift, scale = (self.scale_shift_table + e[..., None, :]).unbind(-2)
    y = self.proj_out(modulate(x, shift, scale)).float()
    if not self.c:
      (b, f, h, w, c), p = shape, self.patch
      y = y.view(b, f, h // p, w // p, p, p, c).transpose(3, 4)
    return y.reshape(shape)
