"""CCL in plain PyTorch: runs the export of `convert to-torch`, on a GPU too.

    model = CCL.from_pretrained("EXPORT", device="cuda")
    velocity = model(state, t, text, route)

The files `torch_*.py` beside this one, apart from `torch_files.py`, import
nothing else of this package: to use them elsewhere, copy them and change their
imports. Latents are channels last, "video" (b, f, h, w, c) and "audio"
(b, m, c); either may be absent. Times are in [0, 1], 1 is noise;
torch_sampling.make_route makes routes.

Each stream has the names of diffusers' WanTransformer3DModel. In every layer,
each stream attends through `fusion` to learnable context tokens and, if the
sample's route says so, to tokens of nearby frames of the other stream. A video
stream like Wan2.1's I2V is conditioned on an image by channels beside its
latents, which are zeros without an image, and by tokens beside the text.
Matrices are multiplied in the model's dtype, everything else is in float32.
"""

import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ccl_jax.convert.torch_layers import (
  EPS,
  Attention,
  LayerNorm,
  axis_dims,
  make_rope,
  rotate,
)
from ccl_jax.convert.torch_lora import add_lora
from ccl_jax.convert.torch_stream import (
  OTHER,
  STREAMS,
  Stream,
  audio_starts,
  frames_and_places,
)

AUDIO_RATE = 31.25  # latents a second
FLOAT32 = (
  "norm", "scale_shift_table", "time_embedder", "time_proj", ".time.",
  "head_rows",
)  # fmt: skip
# Options of the fusion that a config leaves out: of "cca", and of "gated".
DEFAULTS = dict(
  num_audio_lct=8, num_video_lct=128, tarp=True, dcr=True, positions="index",
  audio_window_radius=1, video_window_radius=0, fps=25.0,
)  # fmt: skip
GATED = dict(num_audio_lct=0, num_video_lct=0, tarp=False, dcr=False)
# Keys in the sections "fusion" and "sampling" of earlier exports -> today's.
RENAMED = dict(
  audio_context="num_audio_lct", audio_half="audio_window_radius",
  video_context="num_video_lct", video_half="video_window_radius",
  audio_scale="audio_guidance_scale", video_scale="video_guidance_scale",
  cross_scale="cross_guidance_scale", rescale="guidance_rescale",
  audio_cross_scale="audio_cross_guidance_scale", method="solver",
  steps="num_inference_steps",
)  # fmt: skip


def upgrade(config):
  """Returns the config of an export with today's names of its keys."""
  sections = {s: config.get(s, {}) for s in ("fusion", "sampling")}
  return config | {
    s: {RENAMED.get(key, key): x for key, x in section.items()}
    for s, section in sections.items()
  }


def param_dtype(name, dtype):
  """Returns float32 for norms, modulation and time, else `dtype`."""
  return torch.float32 if any(part in name for part in FLOAT32) else dtype


def frame_times(positions, f, c, fps):
  """Returns where f video frames, and c audio latents for each, are in time."""
  frame = torch.arange(f).double()
  latent = torch.arange(int(audio_starts(f, c)[-1])).double()
  if positions in ("index", "unscaled"):
    return dict(video=frame, audio=latent / (c if positions == "index" else 1))
  # c may be the whole number next to what the rates give; else it is exact.
  exact = 4 * AUDIO_RATE / fps
  per_frame = exact if c == round(exact) else c
  unit = {"seconds": 1.0, "fine": per_frame}[positions]
  middle = torch.where(frame == 0, 0.125, frame - 0.25)
  return dict(video=middle * unit, audio=(latent + 0.5) / per_frame * unit)


class CrossAttention(Attention):
  """One side of the fusion: width d attends to context and width d_other."""

  def __init__(self, d, d_other, e, num_context):
    super().__init__(d, d_other, e)
    self.norm, self.norm_other = LayerNorm(d, EPS), LayerNorm(d_other, EPS)
    self.context = nn.Parameter(torch.empty(num_context, d_other))

  def forward(self, x, y, ropes, mask, on):
    """Adds attention from x to the context and y (or None), where `on` (b,)."""
    q = rotate(self.query(self.norm(x).flatten(1, 2)), ropes[0])
    context = self.key_value(self.context[None].type_as(x))
    k, v = (a.expand(len(x), -1, -1, -1) for a in context)
    if y is not None:
      other_k, other_v = self.key_value(self.norm_other(y).flatten(1, 2))
      k = torch.cat([k, rotate(other_k, ropes[1])], 2)
      v = torch.cat([v, other_v], 2)
    out = self.attend(q, (k, v), mask=mask).view_as(x)
    return torch.addcmul(x, out, on[:, None, None, None].type_as(x))


class CCL(nn.Module):
  """Both streams and their fusion, or one stream, by config.json."""

  def __init__(self, config):
    super().__init__()
    got = config.get("_class_name", "CCL"), config.get("ccl_version", 1)
    if got != ("CCL", 1):
      raise ValueError(
        f"config of {got}, expected ('CCL', 1). A video stream that was"
        " exported alone loads into diffusers' class of that name."
      )
    kind = config["fusion"]["kind"]
    defaults = DEFAULTS | (GATED if kind == "gated" else {})
    self.config, self.options = config, defaults | config["fusion"]
    for s in STREAMS:
      if config[s] is not None:
        setattr(self, s, self.make_stream(s))
    self.fusion = self.make_fusion()

  @classmethod
  def of(cls, config):
    """Returns the model of a config; of some kinds, a subclass."""
    if (config["audio"] or {}).get("in_context"):
      from ccl_jax.convert.torch_in_context import InContext as cls
    if (config["video"] or {}).get("backbone") == "dit":
      from ccl_jax.convert.torch_adapters import Adapted as cls
    return cls(config)

  def make_stream(self, s):
    """Returns a stream of the config."""
    depth, text_width = self.config["num_layers"], self.config["text_width"]
    return Stream(depth, text_width, **self.config[s])

  def make_fusion(self):
    """Returns the layers in which streams read each other."""
    is_joint = self.options["kind"] != "independent"
    return nn.ModuleList(
      nn.ModuleDict({s: self.cross_attention(s) for s in STREAMS})
      for _ in range(self.config["num_layers"] * is_joint)
    )

  def trunk(self, s):
    """Returns the stream that embeds the time and the prompt of a stream."""
    return getattr(self, s)

  def num_context(self, side):
    """Returns how many context tokens a side attends to."""
    return self.options[f"num_{OTHER[side]}_lct"]

  def cross_attention(self, side):
    """Returns the module of one side of the fusion."""
    own, other = getattr(self, side), getattr(self, OTHER[side])
    return CrossAttention(own.width, other.width, own.e, self.num_context(side))

  @classmethod
  def from_pretrained(cls, folder, dtype=None, device="cpu"):
    """Returns the model of an export; dtype None takes that of training."""
    path = pathlib.Path(folder) / "transformer" / "config.json"
    if not path.exists():
      raise ValueError(f"no '{path}': expected an export of `to-torch`.")
    with torch.device("meta"):
      model = cls.of(upgrade(json.loads(path.read_text())))
    dtype, tensors = dtype or getattr(torch, model.config["dtype"]), {}
    for shard in path.parent.glob("*.safetensors"):
      for name, x in load_file(shard, device=str(device)).items():
        tensors[name] = x.to(param_dtype(name, dtype))
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)

  def load_lora(self, path, scale=1.0):
    """Adds a LoRA to the weights, see `torch_lora.add_lora`; returns self."""
    return add_lora(self, path, scale)

  def forward(self, state, t, text, route, image=None):
    """Returns the velocity of each stream in `state`, in float32.

    Args:
      state: stream -> noisy latents.
      t: stream -> times, (b,), (b, f, 1) or (b, f, s).
      text: (b, l, d).
      route: bools of shape (b,): "sees", stream -> whether it sees the other;
        "is_generated", stream -> false for a reference; "exchanges", false to
        switch the fusion off.
      image: "latents" (b, f, h, w, 20), "tokens" (b, 257, 1280), or one of
        them.
    """
    images = {"video": image or {}, "audio": {}}
    self.check(state, images["video"])
    streams = {s: getattr(self, s) for s in STREAMS if s in state}
    grids = {s: stream.grid(state[s]) for s, stream in streams.items()}
    self.check_frames(grids, route)
    ropes = {s: streams[s].rope(*grids[s], text.device) for s in streams}
    prompts = {s: self.trunk(s).embed_prompt(text, images[s]) for s in streams}
    times = {s: self.trunk(s).embed_time(t[s], text) for s in streams}
    x = {s: stream.embed(state[s], images[s]) for s, stream in streams.items()}
    x = self.run_layers(x, times, prompts, ropes, grids, route, text.device)
    return {s: streams[s].output(x[s], times[s][0], state[s].shape) for s in x}

  def run_layers(self, x, times, prompts, ropes, grids, route, device):
    """Returns the tokens after all blocks."""
    sides = self.sides(grids, route, device) if self.fusion else {}
    kept = {s: route["is_generated"][s][:, None, None, None] for s in x}
    for i in range(self.config["num_layers"]):
      blocks = {s: getattr(self, s).blocks[i] for s in x}
      for s, p in blocks.items():
        x[s] = p.attend(x[s], times[s][1], prompts[s], ropes[s])
      seen = x
      if torch.is_grad_enabled():  # No gradient enters a reference.
        seen = {s: torch.where(kept[s], a, a.detach()) for s, a in x.items()}
      x |= {
        s: self.fusion[i][s](x[s], seen.get(OTHER[s]), *side)
        for s, side in sides.items()
      }
      x = {s: p.feed(x[s], times[s][1]) for s, p in blocks.items()}
    return x

  def check(self, state, image):
    """Raises a ValueError for streams or an image that the model lacks."""
    missing = [s for s in state if self.config.get(s) is None]
    if missing or not state:
      raise ValueError(
        f"got latents of {sorted(state)}, expected some of"
        f" {[s for s in STREAMS if self.config.get(s) is not None]}."
      )
    widths = self.video.image_widths if "video" in state else {}
    for name, x in image.items():
      if not x.shape[-1] == widths.get(name, 0) > 0:
        raise ValueError(
          f"{name} of an image are {tuple(x.shape)}, but this model and task"
          f" take {widths}: the last axis of each, 0 or absent for none."
        )

  def check_frames(self, grids, route):
    """Raises a ValueError for streams of unequal frames."""
    if len({f for f, _, _ in grids.values()}) != 1:
      raise ValueError(f"{grids=} (f, h, w): expected the same frames in each.")

  def sides(self, grids, route, device):
    """Returns side -> (ropes, mask, on), for sides that attend to anything."""
    o, sides = self.options, {}
    f, c = next(iter(grids.values()))[0], self.audio.c
    sizes = {"video": grids.get("video", ())[1:], "audio": (1, 1)}
    positions = o["positions"] if o["tarp"] else "unscaled"
    times = frame_times(positions, f, c, o["fps"])
    for s, other in OTHER.items():
      # With DCR an unseen stream is masked, and the context stays; without, or
      # with no context to stay, the side is off.
      routed = o["dcr"] and self.num_context(s) > 0
      if s not in grids or (other not in grids and not routed):
        continue
      dims, sees = axis_dims(getattr(self, s).e), route["sees"][s]
      ropes = [
        make_rope(times[of], *sizes[of], dims, device)
        for of in (s, other)
        if of in grids
      ]
      mask = self.mask(grids, s, sees if routed else None, device)
      on = route["exchanges"] if routed else route["exchanges"] & sees
      sides[s] = ropes, mask, on
    return sides

  def mask(self, grids, s, sees, device):
    """Returns (b | 1, 1, n | 1, context + m), true where s attends.

    That is to the context, and where it sees the other stream to nearby frames.
    """
    o, other = self.options, OTHER[s]
    if other not in grids or (sees is None and not o["tarp"]):
      return None
    frame, other_frame = (
      frames_and_places(f, h * w)[0] for f, h, w in (grids[s], grids[other])
    )
    distance = (frame[:, None] - other_frame).abs()
    near = (distance <= o[f"{other}_window_radius"]).to(device)
    mask = (near if o["tarp"] else torch.ones_like(near[:1]))[None, None]
    mask = mask if sees is None else mask & sees[:, None, None, None]
    return F.pad(mask, (self.num_context(s), 0), value=True)
