"""Compiles the real training step for a TPU pod, on a machine without a TPU:

    python -m ccl_jax.compile --config=configs/ccl.py:size=14b,stage=joint \
        --topology=v5p:4x4x4 [--what=train|sample] [--json=FILE] [--config.x=..]

Costs nothing, takes a minute or two, needs libtpu (pip install libtpu). Tells
the memory of each device, FLOPs useful and executed, what goes over which axis
of the mesh, and the step time that the chip's published rates would allow. It
is the same step, with the same rules and the same compiler, as `train` runs.
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

from ccl_jax import command
from ccl_jax.compile.lowering import compile_report
from ccl_jax.cost import report
from ccl_jax.files import write_json

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", None, "Such as v5p:4x4x4.")
WHAT = flags.DEFINE_enum("what", "train", ["train", "sample"], "What to run.")
TASK = flags.DEFINE_string("task", "t2av", "What is sampled.")
JSON = flags.DEFINE_string("json", None, "File for the numbers.")
TEXT = flags.DEFINE_string("hlo", None, "File for the compiled program.")


def main() -> None:
  """Reads the flags, compiles, prints."""
  found, text = compile_report(
    CONFIG.value.to_dict(), TOPOLOGY.value, WHAT.value, TASK.value
  )
  if JSON.value:
    write_json(epath.Path(JSON.value), found)
  if TEXT.value:
    epath.Path(TEXT.value).write_text(text)
  print(
    f"{found['what']} on {found['topology']}: {found['chips']} chips,"
    f" {found['devices']} devices as {found['mesh']}, batch {found['batch']}"
    f" in {found['accumulate']} part(s); compiled in"
    f" {found['compile_seconds']:.0f} s\n"
  )
  print(report.table(found))


if __name__ == "__main__":
  command.run(main, ("config", "topology"))
