"""`configs/ccl.py` with the mesh of a pod or of GPUs, and what fits its memory:

    --config=configs/pods.py:pod=v5p-4x4x4,size=14b,stage=joint

The other arguments are those of `ccl.py`. `python -m ccl_jax.compile` checks a
config without a TPU; `tests/budgets` has the results for these. Programs for
tpu7x can only be read by jaxlib 0.11.
"""

from ml_collections import ConfigDict

from configs import ccl

# Overrides for each pod. A microbatch has at least data x fsdp samples. v5p has
# no all-gather over 64 chips of one axis, but over 4 x 16, see
# ccl_jax/params/sharding.py.
# `remat` keeps as many activations as the memory takes. 320 samples do not fill
# many more than 64 groups, so larger pods split frames (`context`) and take all
# samples of a group at once: the weights are then gathered once a step.
PODS = {
  "v5p-4x4x4": {
    "mesh.data": 4, "mesh.fsdp": 16, "model.remat": "attention_ffn",
  },
  "v5p-4x8x8": {  # 64 groups of 5 samples
    "mesh.data": 8, "mesh.fsdp": 8, "mesh.context": 4,
    "sharding.self_attention": "ulysses", "model.remat": "attention_ffn",
    "grad_accumulation_steps": 1,
  },
  "v5p-8x8x16": {  # 128 groups of 3: a sixth of the rows is padding
    "mesh.data": 8, "mesh.fsdp": 16, "mesh.context": 8,
    "sharding.self_attention": "ulysses", "model.remat": "linear",
    "grad_accumulation_steps": 1,
  },
  "v5p-16x16x16": {  # 64 times v5p-4x4x4, batch and all
    "mesh.data": 256, "mesh.fsdp": 16, "batch_size": 20480,
    "grad_accumulation_steps": 5,
  },
  "v6e-16x16": {
    "mesh.data": 4, "mesh.fsdp": 16, "mesh.context": 4,
    "sharding.self_attention": "ulysses", "model.remat": "attention_ffn",
  },
  "v5e-16x16": {
    "mesh.data": 4, "mesh.fsdp": 16, "mesh.context": 4, "model.remat": "full",
    # Little memory: no gathered keys, and no moving average.
    "sharding.self_attention": "ulysses", "optimizer.ema_decay": 0.0,
  },
  "v5e-4x4": {"mesh.data": 1, "mesh.fsdp": 16},
  "tpu7x-4x4x4": {
    "mesh.data": 4, "mesh.fsdp": 16, "mesh.context": 2,
    "sharding.self_attention": "ulysses", "model.remat": "attention_ffn",
  },
  "tpu7x-4x8x8": {  # 64 groups of 5, on 8 of the 512 cores
    "mesh.data": 8, "mesh.fsdp": 8, "mesh.context": 8,
    "sharding.self_attention": "ulysses", "model.remat": "attention_ffn",
    "grad_accumulation_steps": 1,
  },
  "v5e-4x4-two-slices": {
    "mesh.data": 2, "mesh.fsdp": 16, "mesh.num_slices": 2,
  },
  # Cards of 80 GB, for size=1.3b.
  "gpu-1": {"mesh.data": 1, "mesh.fsdp": 1},
  "gpu-8": {
    "mesh.data": 1, "mesh.fsdp": 8, "model.remat": "attention_ffn",
    "grad_accumulation_steps": 20, "xla_options": ("overlap",),
  },
  # To sample data x fsdp clips at once.
  "v5e-2x4": {"mesh.data": 1, "mesh.fsdp": 8},
  "v6e-2x4": {
    "mesh.data": 1, "mesh.fsdp": 2, "mesh.context": 4,
    "sampling.batch_passes": False,  # one guidance pass at a time
  },
}  # fmt: skip
# Parameters are split over `fsdp` alone, with copies along `data`: slices send
# each other only gradients then, and no width of the models has 4,096 parts.
HYBRID = ("v5e-4x4-two-slices", "v5p-16x16x16")


def get_config(arg: str = "") -> ConfigDict:
  """Returns the config of a pod, with as many microbatches as it needs."""
  chosen = ccl.parse_arg(arg, {"pod": tuple(PODS)} | ccl.CHOICES)
  pod = chosen.pop("pod", "v5p-4x4x4")
  if pod in HYBRID:
    chosen = {"fsdp_over": "slice"} | chosen
  c = ccl.make_config(**chosen)
  use_pod(c, pod)
  return c


def use_pod(c: ConfigDict, pod: str) -> None:
  """Sets the mesh of a pod, and what fits its memory."""
  overrides = PODS[pod]
  shards = overrides["mesh.data"] * overrides["mesh.fsdp"]
  # One sample at a time on each shard.
  defaults = {
    "model.remat": "attention",
    "grad_accumulation_steps": -(-c.batch_size // shards),
  }
  c.update_from_flattened_dict(defaults | overrides)
  if not c.model.video:  # No frames to split, and all samples at once.
    c.mesh.data *= c.mesh.context
    c.mesh.context = c.grad_accumulation_steps = 1
    c.model.remat = "linear"
