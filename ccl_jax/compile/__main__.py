r"""Compiles the real training step for a TPU pod, on a machine without a TPU:

    python -m ccl_jax.compile --config=configs/ccl.py:size=14b,stage=joint \
        --topology=v5p:4x4x4 [--program=train|sample] [--json=FILE]

Costs nothing, takes a minute or two, needs libtpu (pip install libtpu). Prints
the memory of each device, useful and executed FLOPs, bytes sent over each axis
of the mesh, and the step time that the chip's published rates would allow. The
step, the sharding rules and the compiler are those of `ccl_jax.train`.
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

from ccl_jax import command
from ccl_jax.compile.lowering import compile_report
from ccl_jax.cost import report
from ccl_jax.storage.text_files import write_json

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
TOPOLOGY = flags.DEFINE_string(
  "topology", None, "Chips to compile for, such as v5p:4x4x4."
)
PROGRAM = flags.DEFINE_enum(
  "program", "train", ["train", "sample"],
  "The training step, or the sampler's loop.",
)  # fmt: skip
TASK = flags.DEFINE_string(
  "task", "t2av", "Inference task, with --program=sample."
)
JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
HLO = flags.DEFINE_string(
  "hlo_output", None, "File to write the compiled program's text to."
)


def main() -> None:
  """Compiles the program of the flags and prints its figures."""
  found, text = compile_report(
    CONFIG.value.to_dict(), TOPOLOGY.value, PROGRAM.value, TASK.value
  )
  if JSON.value:
    write_json(epath.Path(JSON.value), found)
  if HLO.value:
    epath.Path(HLO.value).write_text(text)
  print(
    f"{found['program']} on {found['topology']}: {found['chips']} chips,"
    f" {found['devices']} devices as {found['mesh']}, batch"
    f" {found['batch_size']} in {found['parts']} part(s); compiled in"
    f" {found['compile_seconds']:.0f} s\n"
  )
  print(report.table(found))


if __name__ == "__main__":
  command.run(main, ("config", "topology"))
