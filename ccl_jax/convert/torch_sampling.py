"""From a prompt to latents with `torch_model.CCL`: guidance and samplers.

    latents = sample(model, "a2v", text, negative, given={"audio": latents})

Guidance is a weighted sum of velocities over variants of the condition, as in
`diffusion.guidance`. c is the prompt, n the negative prompt; x is the other
stream as the task lets it be seen, L learnable context only. With the stream's
scale s and the cross-modal scale r:

    ucg2  (1 - s) v(n,L) + s v(c,x)
    ucg3  (1 - r) v(n,L) + (r - s) v(n,x) + s v(c,x)        others: see RULES
"""

import math
from typing import NamedTuple

import torch

from ccl_jax.convert.torch_solvers import choose, schedule, solve
from ccl_jax.convert.torch_stream import OTHER, STREAMS

# Task -> the streams that take part, and those that are complete inputs.
TASKS = {
  "t2av": (STREAMS, ()),
  "i2av": (STREAMS, ()),  # i: the first frame of the video is an input
  "t2v": (("video",), ()),
  "i2v": (("video",), ()),
  "t2a": (("audio",), ()),
  "a2v": (STREAMS, ("audio",)),
  "v2a": (STREAMS, ("video",)),
}
# Settings that a config leaves out; there is guidance at each
# guidance_every-th of the sigmas from guidance_low to guidance_high.
DEFAULTS = dict(
  solver="unipc", num_inference_steps=50, shift=5.0, guidance="ucg2",
  video_guidance_scale=4.0, audio_guidance_scale=3.0, cross_guidance_scale=2.5,
  audio_cross_guidance_scale=None, guidance_low=0.0, guidance_high=1.0,
  guidance_rescale=0.0, audio_shift=None, guidance_transform="none",
  apg_eta=0.0, apg_norm_threshold=0.0, apg_momentum=0.0, zero_init_steps=0,
  guidance_every=1,
)  # fmt: skip


class Variant(NamedTuple):
  """One way to run the model.

  Attributes:
    text: "prompt" or "negative".
    other: how a stream gets the other one: "seen" (as routed), "context" only,
      "dropped" (no cross-modal module) or "null" (a static video or a muted
      sound, as a reference).
  """

  text: str
  other: str


CX, NX = Variant("prompt", "seen"), Variant("negative", "seen")
CL, NL = Variant("prompt", "context"), Variant("negative", "context")
DROP, NULL = Variant("prompt", "dropped"), Variant("prompt", "null")

# Guidance rule: scales (s, r) -> weight of each variant.
RULES = {
  "none": lambda s, r: {CX: 1},
  "text": lambda s, r: {NX: 1 - s, CX: s},
  "ucg2": lambda s, r: {NL: 1 - s, CX: s},
  "ucg3": lambda s, r: {NL: 1 - r, NX: r - s, CX: s},
  "ucg3_text_first": lambda s, r: {NL: 1 - s, CL: s - r, CX: r},
  "multimodal": lambda s, r: {CX: s + r - 1, NX: 1 - s, DROP: 1 - r},
  "sync": lambda s, r: {NULL: 1 - s, CX: s},
}


def make_route(tasks, device=None):
  """Returns the route, see `CCL.forward`, of samples with these TASKS."""
  rows = [choose(TASKS, task, "task") for task in tasks]

  def tensor(values):
    return torch.tensor(list(values), device=device)

  generated = {
    s: tensor(s in streams and s not in given for streams, given in rows)
    for s in STREAMS
  }
  both = tensor(streams == STREAMS for streams, _ in rows)
  return {
    "sees": {s: x & both for s, x in generated.items()},
    "is_generated": generated,
    "exchanges": torch.ones_like(both),
  }


def vary(variant, nulled, state, t, texts, route, null):
  """Returns the model's arguments for one variant, which may null a stream."""
  if variant.text not in texts:
    raise ValueError("this guidance needs the negative text, got none.")
  off = torch.zeros_like(route["exchanges"])
  if variant.other == "context":
    route = route | {"sees": dict.fromkeys(STREAMS, off)}
  elif variant.other == "dropped":
    route = route | {"exchanges": off}
  elif variant.other == "null":
    if null is None or nulled not in state:
      raise ValueError(
        f"this guidance nulls the {nulled}: pass latents of both streams as"
        f" `null`, and choose a task with both, not {sorted(state)}."
      )
    state = state | {nulled: null[nulled].expand_as(state[nulled])}
    t = t | {nulled: torch.zeros_like(t[nulled])}
    route = route | {"sees": route["sees"] | {nulled: off}}
  return state, t, texts[variant.text], route


def guided(
  model, rule, scales, state, t, texts, route, null=None, rescale=0.0,
  image=None,
):  # fmt: skip
  """Returns the velocity by a rule of RULES; all variants run as one batch.

  Args:
    scales: stream -> (s, r).
    texts: "prompt" and "negative" -> (b, l, d).
    null: for "sync", latents of both streams.
    rescale: from 0 to 1, how far the standard deviation returns to that of
      v(c,x) (arXiv 2305.08891, section 3.4).
    image: condition of the video, the same in all variants.
  """
  weights = {s: choose(RULES, rule, "guidance")(*scales[s]) for s in state}
  # A null variant replaces the other stream, so it differs by output.
  passes = {
    s: {(v, OTHER[s] if v.other == "null" else None): w for v, w in own.items()}
    for s, own in weights.items()
  }
  distinct = list(dict.fromkeys(p for own in passes.values() for p in own))
  calls = [vary(*p, state, t, texts, route, null) for p in distinct]
  states, times, prompts, routes = zip(*calls, strict=True)
  images = None if image is None else concat([image] * len(distinct))
  made = model(
    concat(states), concat(times), concat(prompts), concat(routes), images
  )
  result = {}
  for s, x in made.items():
    parts = dict(zip(distinct, x.chunk(len(distinct)), strict=True))
    v = result[s] = sum(w * parts[p] for p, w in passes[s].items())
    if rescale:
      free = t[s].reshape(*t[s].shape, *[1] * (v.ndim - t[s].ndim)) > 0
      ratio = std(parts[CX, None], free) / std(v, free).clamp(min=1e-12)
      result[s] = v * (1 - rescale + rescale * ratio)
  return result


def std(x, mask):
  """Returns the standard deviation of each sample under a mask, (b, 1, ...)."""
  mask, axes = mask.expand_as(x), tuple(range(1, x.ndim))
  count = mask.sum(axes, keepdim=True).clamp(min=1)
  mean = (x * mask).sum(axes, keepdim=True) / count
  square = (x - mean).square() * mask
  return (square.sum(axes, keepdim=True) / count).sqrt()


def concat(dicts):
  """Returns the tensors of several nested dicts, concatenated by name."""
  if isinstance(dicts[0], dict):
    return {name: concat([d[name] for d in dicts]) for name in dicts[0]}
  return torch.cat(dicts)


def draw_noise(config, streams, seeds, device="cpu"):
  """Returns the noise of one clip per seed, the same on every device."""
  (y, x), f = config["clip"]["size"], 1 + (config["clip"]["frames"] - 1) // 4

  def draw(s, seed):
    channels = config[s]["channels"]
    shape = (f, y // 8, x // 8, channels)
    if s == "audio":
      last = f * config[s]["tokens_per_frame"] - 0.5  # as audio_starts rounds
      shape = math.ceil(round(last, 6)), channels
    generator = torch.Generator().manual_seed(2 * seed + STREAMS.index(s))
    return torch.randn(shape, generator=generator)

  return {
    s: torch.stack([draw(s, seed) for seed in seeds]).to(device)
    for s in streams
  }


def read_settings(config, settings):
  """Returns all sampling settings: `settings`, else the config's, else ours."""
  for name in settings:
    choose(DEFAULTS, name, "setting")
  return DEFAULTS | config.get("sampling", {}) | settings


def check_supported(settings):
  """Raises a ValueError for settings that only the sampler in JAX has."""
  if settings["audio_shift"] not in (None, settings["shift"]):
    raise ValueError("audio_shift is not supported here: only shift is.")
  if settings["guidance_transform"] != "none" or settings["zero_init_steps"]:
    raise ValueError(
      "guidance_transform and zero_init_steps are not supported"
      " here: only guidance_rescale is."
    )


def guided_steps(settings):
  """Yields for each step whether it has guidance."""
  low, high = settings["guidance_low"], settings["guidance_high"]
  count = 0  # of the steps from low to high
  sigmas = schedule(settings["num_inference_steps"], settings["shift"])
  for sigma in sigmas[:-1]:
    is_inside = low <= sigma <= high
    yield is_inside and count % settings["guidance_every"] == 0
    count += is_inside


def stream_scales(settings, streams):
  """Returns stream -> its scales (s, r)."""
  cross = dict.fromkeys(STREAMS, settings["cross_guidance_scale"])
  if settings["audio_cross_guidance_scale"] is not None:
    cross["audio"] = settings["audio_cross_guidance_scale"]
  return {s: (settings[f"{s}_guidance_scale"], cross[s]) for s in streams}


def check_given(task, given):
  """Raises a ValueError unless `given` are the inputs of a task."""
  _, references = choose(TASKS, task, "task")
  wanted = [("video",), ("image",)] if task[0] == "i" else [references]
  if task in ("a2v", "t2v"):
    wanted.append((*references, "image"))
  if tuple(given) not in wanted:
    raise ValueError(
      f"task '{task}' got the inputs {tuple(given)}, expected"
      f" {' or '.join(map(str, wanted))}."
    )


@torch.no_grad()
def sample(
  model, task, text, negative=None, *, given=None, noise=None, null=None,
  seed=0, **settings,
):  # fmt: skip
  """Returns the latents of a task's streams, inputs included.

  Args:
    text, negative: (b, l, d); the second may broadcast.
    given: latents of the audio for a2v, of the video for v2a; for i2av and i2v
      of the first frame ("video"), or, for a model with image conditioning,
      "image" with the "latents" and "tokens" of
      codecs.image_condition.make_image; for a2v and t2v "image" may have the
      "references" and "has_references" of `torch_in_context`.
    noise: stream -> (b, ...); None draws that of seeds seed .. seed + b - 1.
    null: for guidance "sync", latents of both streams.
    settings: override those of the config, see DEFAULTS.
  """
  given = dict(given or {})
  check_given(task, given)
  (streams, references), b = TASKS[task], len(text)
  o, image = read_settings(model.config, settings), given.pop("image", None)
  check_supported(o)
  if noise is None:
    seeds = range(seed, seed + b)
    noise = draw_noise(model.config, streams, seeds, text.device)
  scales, texts = stream_scales(o, streams), {"prompt": text}
  if negative is not None:
    texts["negative"] = negative.expand_as(text)
  route = make_route([task] * b, text.device)

  def pin(state):
    """Puts the inputs in place of the first noisy latents, or of all."""
    ends = {s: state[s][:, x.shape[1] :] for s, x in given.items()}
    return state | {s: torch.cat([given[s], x], 1) for s, x in ends.items()}

  def velocity(state, sigma):
    t = {s: torch.full((b,), sigma, device=text.device) for s in streams}
    t |= {s: torch.zeros_like(t[s]) for s in references}
    if task[0] == "i" and image is None:  # The first frame has no noise.
      later = torch.arange(state["video"].shape[1], device=text.device) > 0
      t["video"] = t["video"][:, None, None] * later[:, None]
    rule, rescale = "none", 0
    if next(is_guided):
      rule, rescale = o["guidance"], o["guidance_rescale"]
    args = pin(state), t, texts, route, null, rescale, image
    return guided(model, rule, scales, *args)

  is_guided, steps = guided_steps(o), o["num_inference_steps"]
  return pin(solve(velocity, noise, o["solver"], steps, o["shift"]))
