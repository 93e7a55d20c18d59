"""LoRA: a trained model learns a speaker or a style from some forty clips.

    python -m ccl_jax.train --config=configs/lora.py:size=14b,target=all \
        --workdir=DIR --config.data.path=DIR \
        --config.init.from_runs='((".*", "BASE_RUN"),)'

Arguments after the colon, with the default first:
  size       14b    as in configs/ccl.py
             1.3b
             tiny
  target     all    both streams and the context attention (CCA) between them
             audio  the audio stream alone; the picture's stays as it is
             cca    CCA alone; both streams stay as they are
  fsdp_over  pod, slice, context: as in configs/ccl.py
             context
  pod        any, or v6e-2x4, v5e-4x4, gpu-1 (a card of 80 GB): a mesh and
             what fits its memory with size=14b, or v5e-2x4 with size=1.3b
"""

from ml_collections import ConfigDict

from configs import ccl

# Overrides for each pod, checked by `tests/budgets`.
PODS = {
  "any": {},
  "v6e-2x4": {"mesh.fsdp": 8, "grad_accumulation_steps": 2},
  "v5e-4x4": {  # the frames of a clip on four chips
    "mesh.fsdp": 4, "mesh.context": 4, "grad_accumulation_steps": 4,
    "sharding.self_attention": "ulysses",
  },
  "v5e-2x4": {"mesh.fsdp": 8, "grad_accumulation_steps": 2},
  "gpu-1": {  # one clip at a time
    "mesh.fsdp": 1, "grad_accumulation_steps": 16,
  },
}  # fmt: skip
CHOICES = {
  "size": ccl.CHOICES["size"],
  "target": ("all", "audio", "cca"),
  "fsdp_over": ccl.CHOICES["fsdp_over"],
  "pod": tuple(PODS),
}
TARGETS = {
  "all": ("video/blocks/.*/kernel", "audio/blocks/.*/kernel"),
  "audio": ("audio/blocks/.*/kernel",),
  "cca": (),
}


def get_config(arg: str = "") -> ConfigDict:
  """Returns the config; `--config.a.b=value` overrides any value."""
  chosen = ccl.parse_arg(arg, CHOICES)
  target, pod = chosen.pop("target", "all"), chosen.pop("pod", "any")
  if pod == "v5e-4x4":
    chosen = {"fsdp_over": "context"} | chosen
  c = ccl.make_config(**chosen)
  is_tiny = chosen.get("size", "").startswith("tiny")
  with c.unlocked():
    c.num_train_steps, c.batch_size = (200, 8) if is_tiny else (1000, 16)
    c.lora = make_lora(target, rank=8 if is_tiny else 32)
    # The second rate is that of lora.train_also; all else is frozen.
    rates = (2e-3, 1e-3) if is_tiny else (1e-4, 1e-5)
    c.optimizer.learning_rates = ((".*/lora/.*", rates[0]), (".*", rates[1]))
    c.optimizer.frozen_dtype = "compute"  # bfloat16 where products are
    c.optimizer.warmup_steps = 20
    c.optimizer.ema_decay = 0.99
    c.checkpoint.save_interval_steps = 100 if is_tiny else 250
    c.eval.every_steps = 200 if is_tiny else 250
  c.update_from_flattened_dict(PODS[pod])
  return c


def make_lora(target: str, rank: int) -> ConfigDict:
  """Returns the `lora` section; see `ccl_jax/params/lora.py`."""
  lora = ConfigDict()
  lora.rules = tuple((regex, rank) for regex in TARGETS[target])
  lora.alpha = float(rank)  # A B is added alpha / rank times
  lora.dropout = 0.0
  lora.train_also = ()
  if target != "audio":
    lora.rules += (("fusion/.*/kernel", rank),)
    lora.train_also = ("fusion/.*/context",)  # the context tokens (LCT)
  return lora
