"""`configs/ccl.py` with the mesh of a pod, and values that fit its memory:

    --config=configs/pods.py:pod=v5p-4x4x4,size=14b,stage=joint

The other arguments are those of `ccl.py`. `python -m ccl_jax.compile` checks a
config without a TPU; `tests/budgets` has the results for these. Programs for
tpu7x can only be read by jaxlib 0.11.
"""

from ml_collections import ConfigDict

from configs import ccl

# Overrides for each pod. A microbatch has at least data x fsdp samples. v5p has
# no all-gather over 64 chips of one axis, but over 4 x 16 (see sharding.py).
# `remat` keeps as many activations as the memory takes.
PODS = {
  "v5p-4x4x4": {
    "mesh.data": 4, "mesh.fsdp": 16, "model.remat": "attention_ffn",
  },
  "v6e-16x16": {"mesh.data": 4, "mesh.fsdp": 16, "mesh.context": 4},
  "v5e-16x16": {
    "mesh.data": 4, "mesh.fsdp": 16, "mesh.context": 4, "model.remat": "full",
    # Little memory: no gathered keys, and no moving average.
    "sharding.self_attention": "ulysses", "optimizer.ema_decay": 0.0,
  },
  "v5e-4x4": {"mesh.data": 1, "mesh.fsdp": 16},
  "tpu7x-4x4x4": {
    "mesh.data": 4, "mesh.fsdp": 16, "mesh.context": 2,
    # libtpu cannot print a program that uses the sparse cores.
    "xla_options": ("no_sparse_core",),
  },
  "v5e-4x4-two-slices": {
    "mesh.data": 2, "mesh.fsdp": 16, "mesh.num_slices": 2,
  },
  # To sample data x fsdp clips at once.
  "v5e-2x4": {"mesh.data": 1, "mesh.fsdp": 8},
  "v6e-2x4": {
    "mesh.data": 1, "mesh.fsdp": 2, "mesh.context": 4,
    "sampling.batch_passes": False,  # one guidance pass at a time
  },
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
  """Returns the config of a pod, with as many microbatches as it needs."""
  chosen = ccl.parse_arg(arg, {"pod": tuple(PODS)} | ccl.CHOICES)
  overrides = PODS[chosen.pop("pod", "v5p-4x4x4")]
  if "mesh.num_slices" in overrides:
    chosen = {"fsdp_over": "slice"} | chosen
  c = ccl.make_config(**chosen)
  c.update_from_flattened_dict({"model.remat": "attention"} | overrides)
  if c.model.video:  # One sample at a time on each shard.
    shards = c.mesh.data * c.mesh.fsdp
    c.grad_accumulation_steps = -(-c.batch_size // shards)
  else:
    c.model.remat = "linear"
  return c
