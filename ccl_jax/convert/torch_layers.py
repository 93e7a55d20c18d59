"""Layers of `torch_model.CCL`, named as diffusers' WanTransformer3DModel.

Matrices are multiplied in the dtype of their weights; norms, modulation and
softmax are float32. Sequences are (b, n, d), in heads (b, k, n, e).
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

EPS = 1e-6
IMAGE_EPS = 1e-5
gelu = functools.partial(F.gelu, approximate="tanh")


def make_turn(time, h, w, dims, device):
  """cos and sin, (n, e / 2); axis i of (t, h, w) turns dims[i] channels."""
  places = time[:, None, None], torch.arange(h)[:, None], torch.arange(w)
  angles = []
  for p, d in zip(places, dims, strict=True):
    frequency = 1e4 ** (-torch.arange(0, d, 2).double() / d)
    angles.append((p[..., None] * frequency).expand(len(time), h, w, -1))
  angles = torch.cat(angles, -1).flatten(0, 2).float().to(device)
  return angles.cos(), angles.sin()


def axis_dims(e):
  """Channels of a head for t, h and w: 44, 42, 42 of 128."""
  side = 2 * (e // 6)
  return e - 2 * side, side, side


def rotate(x, turn):
  """Turns the pairs of neighbours in x (b, k, n, e), in float32."""
  a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
  cos, sin = turn
  turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
  return turned.flatten(-2).type_as(x)


def modulate(x, shift, scale):
  """x normalised, scaled by 1 + scale and shifted."""
  y = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
  return (y * (1 + scale) + shift).type_as(x)


class RMSNorm(nn.RMSNorm):
  """In float32, over the full width and not by head."""

  def forward(self, x):
    return super().forward(x.float()).type_as(x)


class LayerNorm(nn.LayerNorm):
  """In float32, with scale and bias."""

  def forward(self, x):
    return super().forward(x.float()).type_as(x)


class Embedder(nn.Module):
  """Linear, `activate`, linear: of the time and of the text."""

  def __init__(self, d_in, d):
    super().__init__()
    self.linear_1, self.linear_2 = nn.Linear(d_in, d), nn.Linear(d, d)

  def forward(self, x, activate):
    x = x.type_as(self.linear_1.weight)
    return self.linear_2(activate(self.linear_1(x)))


class FeedForward(nn.Module):
  """The same, through a width of its own: of blocks and of an image."""

  def __init__(self, d_in, ffn, d):
    super().__init__()
    up = nn.ModuleDict({"proj": nn.Linear(d_in, ffn)})
    self.net = nn.ModuleList([up, nn.Identity(), nn.Linear(ffn, d)])

  def forward(self, x, activate):
    up, _, down = self.net
    return down(activate(up["proj"](x)))


class ImageEmbedder(nn.Module):
  """CLIP's tokens of an image, (b, i, w), as blocks read them, (b, i, d)."""

  def __init__(self, w, d):
    super().__init__()
    self.norm1, self.norm2 = LayerNorm(w, IMAGE_EPS), LayerNorm(d, IMAGE_EPS)
    self.ff = FeedForward(w, w, d)

  def forward(self, tokens):
    tokens = tokens.type_as(self.ff.net[2].weight)
    return self.norm2(self.ff(self.norm1(tokens), F.gelu))


class Attention(nn.Module):
  """Queries of width d, keys and values of d_kv, in heads of e channels."""

  def __init__(self, d, d_kv, e):
    super().__init__()
    self.e = e
    self.to_q, self.to_k = nn.Linear(d, d), nn.Linear(d_kv, d)
    self.to_v, self.to_out = nn.Linear(d_kv, d), nn.Sequential(nn.Linear(d, d))
    self.norm_q, self.norm_k = RMSNorm(d, EPS), RMSNorm(d, EPS)

  def heads(self, x):
    return x.unflatten(-1, (-1, self.e)).transpose(1, 2)

  def query(self, x):
    return self.heads(self.norm_q(self.to_q(x)))

  def key_value(self, y):
    return self.heads(self.norm_k(self.to_k(y))), self.heads(self.to_v(y))

  def attend(self, q, *sources, mask=None):
    """What each source (k, v) gives by itself, added up and projected."""
    read = [F.scaled_dot_product_attention(q, *kv, mask) for kv in sources]
    out = functools.reduce(torch.add, read)
    return self.to_out(out.transpose(1, 2).flatten(2))


class PromptAttention(Attention):
  """Reads the text; and an image, by keys and values of its own."""

  def __init__(self, d, e, has_image):
    super().__init__(d, d, e)
    if has_image:
      self.add_k_proj, self.add_v_proj = nn.Linear(d, d), nn.Linear(d, d)
      self.norm_added_k = RMSNorm(d, EPS)

  def image_key_value(self, y):
    k, v = self.norm_added_k(self.add_k_proj(y)), self.add_v_proj(y)
    return self.heads(k), self.heads(v)

  def forward(self, x, text, image):
    sources = [self.key_value(text)]
    if image is not None:
      sources.append(self.image_key_value(image))
    return self.attend(self.query(x), *sources)


class Block(nn.Module):
  """x is (b, f, s, d), the rows of time (b, f | 1, s | 1, 6, d)."""

  def __init__(self, d, ffn, e, has_image):
    super().__init__()
    self.scale_shift_table = nn.Parameter(torch.empty(1, 6, d))
    self.attn1, self.attn2 = (
      Attention(d, d, e),
      PromptAttention(d, e, has_image),
    )
    self.norm2, self.ffn = LayerNorm(d, EPS), FeedForward(d, ffn, d)

  def attend(self, x, rows, prompt, turn):
    """Self-attention, then (text, image), the image None if there is none."""
    shift, scale, gate = (self.scale_shift_table + rows).unbind(-2)[:3]
    y, p = modulate(x, shift, scale).flatten(1, 2), self.attn1
    k, v = p.key_value(y)
    y = p.attend(rotate(p.query(y), turn), (rotate(k, turn), v))
    x = (x + y.view_as(x) * gate).type_as(x)
    return x + self.attn2(self.norm2(x).flatten(1, 2), *prompt).view_as(x)

  def feed(self, x, rows):
    """The feed-forward network."""
    shift, scale, gate = (self.scale_shift_table + rows).unbind(-2)[3:]
    return (x + self.ffn(modulate(x, shift, scale), gelu) * gate).type_as(x)
