"""`configs/ccl.py`, laid out for a pod:

    --config=configs/pods.py:pod=v5p-4x4x4,size=14b,stage=joint

Other arguments than `pod` are those of `ccl.py`. `tests/budgets` holds what
those need that were compiled for their topologies. Programs for tpu7x are read
back by jaxlib 0.11 only.
python -m ccl_jax.compile tells before a pod is asked for.
"""

from ml_collections import ConfigDict

from configs import ccl

# data x fsdp is how many samples a part of the batch has at least; on v5p 64
# chips along one axis have no all-gather, 4 x 16 do (see sharding.py).
PODS = {
  "v5p-4x4x4": dict(data=4, fsdp=16),
  "v6e-16x16": dict(data=4, fsdp=16, context=4),
  "v5e-16x16": dict(data=4, fsdp=16, context=4),
  "v5e-4x4": dict(data=1, fsdp=16),
  "tpu7x-4x4x4": dict(data=4, fsdp=16, context=2),
  "v5e-4x4-two-slices": dict(data=2, fsdp=16, num_slices=2),
  # To sample: as many clips at once as data x fsdp.
  "v5e-2x4": dict(data=1, fsdp=8),
  "v6e-2x4": dict(data=1, fsdp=2, context=4),
}
# What is kept for the backward pass, as much as the memory takes.
REMAT = {"v5p-4x4x4": "attention_ffn", "v5e-16x16": "full"}


def get_config(arg: str = "") -> ConfigDict:
  """The config with the mesh of a pod, and as many parts as it then needs."""
  items = dict(item.partition("=")[::2] for item in arg.split(",") if item)
  pod = items.pop("pod", "v5p-4x4x4")
  if pod not in PODS:
    raise ValueError(f"config {pod=}: expected one of {', '.join(PODS)}.")
  if "num_slices" in PODS[pod]:
    items.setdefault("fsdp_over", "slice")
  c = ccl.get_config(",".join(f"{k}={v}" for k, v in items.items()))
  c.unlock()
  c.mesh.update(PODS[pod])
  c.model.remat = REMAT.get(pod, "attention") if c.model.video else "linear"
  if pod == "v6e-2x4":
    c.sampling.batch_passes = False  # one pass after the other, in less memory
  if pod == "v5e-16x16":  # short of memory: no whole keys, and no average
    c.sharding.self_attention, c.optimizer.ema_decay = "ulysses", 0.0
  if pod.startswith("tpu7x"):
    c.xla_options = (
      "no_sparse_core",
    )  # as libtpu cannot print a program with them
  if c.model.video:  # one sample at a time on each shard of the batch
    c.grad_accumulation_steps = max(
      1, c.batch_size // (c.mesh.data * c.mesh.fsdp)
    )
  c.lock()
  return c
