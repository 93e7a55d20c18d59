"""AV-DiT (arXiv 2406.07686): adapters of a frozen image transformer.

    python -m ccl_jax.train --config=configs/avdit.py:size=xl \
        --workdir=DIR --config.data.path=DIR --config.init.from_runs=\
        '(("video/((blocks|time)/.*|text/bias)", "DIT"),)'

DIT is made by `python -m ccl_jax.convert from-torch --model=dit`. Video and
audio run through the same frozen blocks; see `ccl_jax/models/README.md`.

Arguments after the colon, with the default first:
  size       xl     DiT-XL/2; the first and last layer, and that of the text,
                    learn too, as Wan's latents and captions differ from DiT's
             tiny   for the synthetic data; all of the image model is frozen
  stage      joint  the adapters
             image  the image model alone, on each frame of the video's latents
  fsdp_over  pod, slice, context: as in configs/ccl.py
  pod        any, or v5e-4x4: as in configs/pods.py, for size=xl

[P] the paper, [S] second-hand; all else is ours to choose.
"""

from ml_collections import ConfigDict

from configs import ccl, pods

CHOICES = {
  "size": ("xl", "tiny"),
  "stage": ("joint", "image"),
  "fsdp_over": ccl.CHOICES["fsdp_over"],
  "pod": ("any", "v5e-4x4"),
}
FROZEN = {"xl": "video/(blocks|time)/.*", "tiny": "video/.*"}


def get_config(arg: str = "") -> ConfigDict:
  """Returns the config; `--config.a.b=value` overrides any value."""
  chosen = ccl.parse_arg(arg, CHOICES)
  size, stage = chosen.get("size", "xl"), chosen.get("stage", "joint")
  fsdp_over, pod = chosen.get("fsdp_over", "pod"), chosen.get("pod", "any")
  is_tiny, is_image = size == "tiny", stage == "image"
  c = ccl.make_config(
    size="tiny" if is_tiny else "14b",
    stage="video" if is_image else "joint",
    fsdp_over=fsdp_over,
  )
  with c.unlocked():
    if not is_tiny:
      use_xl(c)
    channels = c.model.video.channels
    sizes = {name: c.model.video[name] for name in ("width", "ffn", "heads")}
    c.model.video = dict(
      backbone="dit", patch=2, channels=channels, learns_variance=False,
      prediction_type="flow_prediction", **sizes,
    )  # fmt: skip
    c.model.fusion = dict(kind="frames")
    split = ccl.SPLITS[fsdp_over]
    rules = (
      (".*/blocks/time_rows/kernel", (None, split, "tensor")),
      (".*/head_rows/kernel", (split, "tensor")),
    )
    rate = 3e-3 if is_tiny else 1e-4
    c.optimizer.learning_rates = ((".*", rate),)
    c.objective.first_frame_probability = 0.0
    if not is_image:
      rules += (
        ("fusion/.*_lora/./a/kernel", (None, split)),
        ("fusion/.*_lora/./b/kernel", (None, None, split)),
      )
      join_streams(c, sizes)
      rate = rate if is_tiny else 5e-4  # [S]
      c.optimizer.learning_rates = ((FROZEN[size], 0.0), (".*", rate))
      c.optimizer.frozen_dtype = "compute"
    c.sharding.params = rules + tuple(c.sharding.params)
  if pod != "any":
    pods.use_pod(c, pod)
  return c


def join_streams(c: ConfigDict, sizes: dict[str, int]) -> None:
  """Adds the audio, in the video's blocks, and what learns beside them."""
  channels, per_frame = (
    c.model.audio[name] for name in ("channels", "tokens_per_frame")
  )
  c.model.audio = dict(
    backbone="shared", channels=channels, tokens_per_frame=per_frame,
    prediction_type="flow_prediction", **sizes,
  )  # fmt: skip
  c.model.fusion = dict(
    kind="avdit", adapter_ratio=0.25, lora_rank=16, window_radius=1
  )
  # A share of streams that do not meet, for guidance.
  c.objective.probabilities = (0.1, 0.0, 0.0, 0.9)
  c.sampling.cache_reference = False
  c.eval.tasks = ("t2av",)


def use_xl(c: ConfigDict) -> None:
  """Sets the sizes of DiT-XL/2, and the paper's clips and recipe."""
  c.model.num_layers = 28
  c.model.video.update(width=1152, ffn=4608, heads=16)
  c.encode.frames, c.encode.size = 61, (256, 256)  # 16 latent frames [S]
  c.num_train_steps, c.batch_size = 100_000, 16  # [S]
