"""In-context audio control (ICAC, arXiv 2512.18772): speech drives a video.

    python -m ccl_jax.train --config=configs/icac.py:size=14b \
        --workdir=DIR --config.data.path=DIR \
        --config.init.from_runs='(("video/.*", "WAN"),)' \
        --config.init.fresh='("audio/.*",)'

Audio latents are clean tokens in the video's transformer: always given, never
generated. What else is needed, see `ccl_jax/models/README.md`.

Arguments after the colon, with the default first:
  size       14b    as in configs/ccl.py, of the video; audio has its width
             1.3b
             tiny
  attention  masked3d       all tokens attend, audio within its frame
             full3d         all tokens attend
             cross2d        a layer: video reads the audio of its frame
             self2d_frozen  a layer: video reads video and audio of its frame
             self2d         the same, and audio reads both
  fsdp_over  pod, slice, context: as in configs/ccl.py
  pod        any, or v5p-4x4x4, v5p-4x8x8: as in configs/pods.py, for size=14b

The paper trains full3d in two stages, masked first: the second run takes
`attention=full3d`, `--config.init.from_runs='((".*", "STAGE1"),)'` and
`--config.init.fresh='()'`. It tells no sizes, rates or steps: those are ours.
"""

from ml_collections import ConfigDict

from configs import ccl, pods

CHOICES = {
  "size": ccl.CHOICES["size"],
  "attention": (
    "masked3d", "full3d", "cross2d", "self2d_frozen", "self2d",
  ),
  "fsdp_over": ccl.CHOICES["fsdp_over"],
  "pod": ("any", "v5p-4x4x4", "v5p-4x8x8"),
}  # fmt: skip
NEVER_UPDATED = ("cross2d", "self2d_frozen")


def get_config(arg: str = "") -> ConfigDict:
  """Returns the config; `--config.a.b=value` overrides any value."""
  chosen = ccl.parse_arg(arg, CHOICES)
  attention = chosen.pop("attention", "masked3d")
  pod = chosen.pop("pod", "any")
  c = ccl.make_config(**chosen)
  with c.unlocked():
    video = c.model.video
    c.model.audio.in_context = True
    c.model.audio.update(width=video.width, ffn=video.ffn, heads=video.heads)
    c.model.fusion = dict(
      kind="icac", attention=attention,
      rope_audio="same_t_offgrid",  # or "same_t_zero", "none"
      form="merged",  # of masked3d; or "blocks", equal in value
      references=False,  # or True: pictures in context
    )  # fmt: skip
    # a2v, and a share without sound for guidance, which also trains t2v.
    c.objective.probabilities = (0.1, 0.9, 0.0, 0.0)
    c.objective.video_weight, c.objective.audio_weight = 1.0, 0.0
    c.objective.reference_probability = 0.0  # the share with a picture
    if chosen.get("size") != "tiny":
      rates = (("(audio|fusion)/.*", 1e-4), (".*", 1e-5))
      c.optimizer.learning_rates = rates
    c.sampling.cache_reference = attention in NEVER_UPDATED
    c.eval.tasks = ("a2v", "t2v")
  if pod != "any":
    pods.use_pod(c, pod)
  return c
