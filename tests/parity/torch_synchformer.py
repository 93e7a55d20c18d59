"""Synchformer in PyTorch, with the names of the published file.

The sound's transformer is transformers' ASTModel, the gathering layers are
PyTorch's TransformerEncoderLayer; the rest follows the paper.
"""

import torch
from einops import rearrange, repeat
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def _heads(x, heads):
  return rearrange(x, "... n (h e) -> ... h n e", h=heads)


def _attend(q, k, v, heads):
  found = scaled_dot_product_attention(*(_heads(x, heads) for x in (q, k, v)))
  return rearrange(found, "... h n e -> ... n (h e)")


class DividedAttention(nn.Module):
  def __init__(self, d, to, back):
    super().__init__()
    self.to, self.back = to, back
    self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)

  def forward(self, x, frames):
    q, k, v = self.qkv(x).chunk(3, -1)
    first = _attend(q[:, :1], k, v, 12)
    rest = [rearrange(y[:, 1:], self.to, f=frames) for y in (q, k, v)]
    times = len(rest[0]) // len(x)
    for i, y in ((1, k), (2, v)):
      seen = repeat(y[:, :1], "b 1 d -> (b r) 1 d", r=times)
      rest[i] = torch.cat([seen, rest[i]], 1)
    out = rearrange(_attend(*rest, 12), self.back, b=len(x), f=frames)
    return self.proj(torch.cat([first, out], 1))


class Mlp(nn.Module):
  def __init__(self, d):
    super().__init__()
    self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

  def forward(self, x):
    return self.fc2(nn.functional.gelu(self.fc1(x)))


class DividedBlock(nn.Module):
  def __init__(self, d):
    super().__init__()
    self.norm1, self.norm2, self.norm3 = (
      nn.LayerNorm(d, eps=1e-6) for _ in range(3)
    )
    flat = "b (f n) d"
    self.attn = DividedAttention(
      d, f"{flat} -> (b f) n d", f"(b f) n d -> {flat}"
    )
    self.timeattn = DividedAttention(
      d, f"{flat} -> (b n) f d", f"(b n) f d -> {flat}"
    )
    self.mlp = Mlp(d)

  def forward(self, x, frames):
    x = x + self.timeattn(self.norm3(x), frames)
    x = x + self.attn(self.norm1(x), frames)
    return x + self.mlp(self.norm2(x))


class Gather(nn.TransformerEncoderLayer):
  def __init__(self, d):
    super().__init__(
      d, 12, 4 * d, 0.0, nn.GELU(), batch_first=True, norm_first=True,
      layer_norm_eps=1e-6,
    )  # fmt: skip
    self.cls_token = nn.Parameter(torch.zeros(1, 1, d))

  def forward(self, x):
    first = self.cls_token.expand(len(x), -1, -1)
    return super().forward(torch.cat([first, x], 1))[:, 0]


class Video(nn.Module):
  def __init__(self, d, layers, patches):
    super().__init__()
    self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
    self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, d))
    self.temp_embed = nn.Parameter(torch.zeros(1, 8, d))
    self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, d, 16, 16)})
    kernel = (2, 16, 16)
    self.patch_embed_3d = nn.ModuleDict(
      {"proj": nn.Conv3d(3, d, kernel, kernel)}
    )
    self.blocks = nn.ModuleList(DividedBlock(d) for _ in range(layers))
    self.norm = nn.LayerNorm(d, eps=1e-6)
    self.spatial_attn_agg = Gather(d)

  def forward(self, x):
    """(b, 3, t, y, x) -> (b, t / 2, d)."""
    x = self.patch_embed_3d["proj"](x)
    frames = x.shape[2]
    x = x.flatten(2).transpose(1, 2)
    n = x.shape[1] // frames
    x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
    positions = self.pos_embed[:, 1:].repeat(1, frames, 1)
    positions = positions + self.temp_embed.repeat_interleave(n, 1)
    x = x + torch.cat([self.pos_embed[:, :1], positions], 1)
    for block in self.blocks:
      x = block(x, frames)
    x = self.norm(x[:, 1:])
    x = rearrange(x, "b (f n) d -> (b f) n d", f=frames)
    x = self.spatial_attn_agg(x)
    return rearrange(x, "(b f) d -> b f d", f=frames)


class Audio(nn.Module):
  def __init__(self, d, layers):
    super().__init__()
    from transformers import ASTConfig, ASTModel

    self.ast = ASTModel(
      ASTConfig(
        hidden_size=d, intermediate_size=4 * d, num_hidden_layers=layers,
        num_attention_heads=12, max_length=66, num_mel_bins=128,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
      )
    )  # fmt: skip
    self.freq_attn_agg = Gather(d)

  def forward(self, mel):
    """(b, t, mel) -> (b, t / 11, d)."""
    x = self.ast(mel).last_hidden_state[:, 2:]
    x = rearrange(x, "b (f t) d -> (b t) f d", t=6)
    return rearrange(self.freq_attn_agg(x), "(b t) d -> b t d", t=6)


class SelfAttention(nn.Module):
  def __init__(self, d):
    super().__init__()
    self.key, self.query, self.value, self.proj = (
      nn.Linear(d, d) for _ in range(4)
    )

  def forward(self, x):
    qkv = self.query(x), self.key(x), self.value(x)
    return self.proj(_attend(*qkv, 8))


class Block(nn.Module):
  def __init__(self, d):
    super().__init__()
    self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
    self.attn = SelfAttention(d)
    self.mlp = nn.Sequential(
      nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)
    )

  def forward(self, x):
    x = x + self.attn(self.ln1(x))
    return x + self.mlp(self.ln2(x))


class Offsets(nn.Module):
  def __init__(self, d, positions):
    super().__init__()
    self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(d), nn.LayerNorm(d)
    self.OFF_tok = nn.Parameter(torch.zeros(1, 1, d))
    self.MOD_tok = nn.Parameter(torch.zeros(1, 1, d))
    self.pos_emb_cfg = nn.ParameterDict(
      {"pos_emb": nn.Parameter(torch.zeros(1, positions, d))}
    )
    self.blocks = nn.Sequential(*(Block(d) for _ in range(3)))
    self.ln_f, self.off_head = nn.LayerNorm(d), nn.Linear(d, 21)

  def forward(self, v, a):
    x = [self.OFF_tok, self.vis_in_lnorm(v), self.MOD_tok, self.aud_in_lnorm(a)]
    x = torch.cat(x, 1)
    x = x + self.pos_emb_cfg["pos_emb"][:, : x.shape[1]]
    return self.off_head(self.ln_f(self.blocks(x))[:, 0])


class Synchformer(nn.Module):
  def __init__(self, d=24, layers=2, patches=4, positions=198):
    super().__init__()
    self.vfeat_extractor = Video(d, layers, patches)
    self.afeat_extractor = Audio(d, layers)
    self.vproj, self.aproj = nn.Linear(d, d), nn.Linear(d, d)
    self.transformer = Offsets(d, positions)

  def forward(self, video, mel):
    """Segments (s, 3, t, y, x) and (s, t, mel) of one clip -> (21,)."""
    v = self.vproj(self.vfeat_extractor(video)).flatten(0, 1)[None]
    a = self.aproj(self.afeat_extractor(mel)).flatten(0, 1)[None]
    return self.transformer(v, a)[0]
