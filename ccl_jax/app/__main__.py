"""A page to try a model: python -m ccl_jax.app --workdir=DIR

It shows all tasks, with uploads where they take one, the progress of every
step, and the clip with its sound, mel and files, and where its attention goes
if that is ticked. It is served on this machine only; --host=0.0.0.0 lets
everyone in who can reach it, and nobody is asked for a password. Requests wait
in a queue of --queue, and are refused beyond.

Needs gradio: pip install "gradio>=6.31,<7"
"""

import pathlib
import tempfile

from absl import flags

from ccl_jax import command
from ccl_jax.app.session import Session
from ccl_jax.app.ui import build
from ccl_jax.generation.pipeline import Pipeline

WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a training run.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")
HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
PORT = flags.DEFINE_integer("port", 7860, "Port to listen on.")
QUEUE = flags.DEFINE_integer("queue", 8, "Requests that may wait.", 1)
MEGABYTES = flags.DEFINE_integer("megabytes", 100, "Of an upload, at most.", 1)
SECONDS = flags.DEFINE_float("seconds", 300.0, "Of an upload, at most.", 0.0)


def serve() -> None:
  """Reads the flags and serves until it is stopped.

  Raises:
    ValueError: no such run, no gradio, or an address that is not free.
  """
  try:
    import gradio
  except ImportError as error:
    raise ValueError(
      f"the page needs gradio ({error}): pip install 'gradio>=6.31,<7'"
    ) from error
  pipeline = Pipeline.load(WORKDIR.value, STEP.value)
  about = {
    "checkpoint": {"workdir": WORKDIR.value, "step": pipeline.step},
    "fps": pipeline.shape.fps,
  }
  with tempfile.TemporaryDirectory() as folder:
    studio = Session(pipeline, about, pathlib.Path(folder), SECONDS.value)
    page = build(gradio, studio).queue(max_size=QUEUE.value)
    print(f"The page: http://{HOST.value}:{PORT.value}", flush=True)
    try:
      page.launch(
        server_name=HOST.value,
        server_port=PORT.value,
        max_file_size=f"{MEGABYTES.value}mb",
        allowed_paths=[folder],
        footer_links=[],
        quiet=True,
        share=False,
        show_error=True,
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"]),
      )
    except OSError as error:  # the port is taken, or the host not ours
      raise ValueError(f"--host, --port: {error}") from error


if __name__ == "__main__":
  command.run(serve, ("workdir",))
