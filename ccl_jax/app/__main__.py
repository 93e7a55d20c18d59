"""A page to try a model: python -m ccl_jax.app --workdir=DIR

It offers every task, with uploads for tasks that need them, and shows the
progress, the clip with its sound, mel and files and, if ticked, its attention.
It is served on this machine only; --host=0.0.0.0 opens it to everyone who can
reach the machine, without a password. Up to --max_queue requests wait; further
ones are refused. Uploads and results are deleted when the page ends, or, if it
was killed, when the next one starts.

Needs gradio: pip install "gradio>=6.31,<7"
"""

import os
import pathlib
import signal
import sys

from absl import flags

from ccl_jax import command
from ccl_jax.app.folder import temporary_folder
from ccl_jax.app.session import Session
from ccl_jax.app.ui import build
from ccl_jax.generation.pipeline import Pipeline

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Workdir of the training run to try."
)
STEP = command.define_step()
HOST = flags.DEFINE_string(
  "host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all."
)
PORT = flags.DEFINE_integer(
  "port", 7860, "Port to listen on.", lower_bound=1, upper_bound=65_535
)
MAX_QUEUE = flags.DEFINE_integer(
  "max_queue", 8, "Requests that may wait; further ones are refused.",
  lower_bound=1,
)  # fmt: skip
MAX_UPLOAD_MB = flags.DEFINE_integer(
  "max_upload_mb", 100, "Size of an upload in megabytes, at most.",
  lower_bound=1,
)  # fmt: skip
MAX_UPLOAD_SECONDS = flags.DEFINE_float(
  "max_upload_seconds", 300.0, "Length of an uploaded sound or video, at most.",
  lower_bound=0.0,
)  # fmt: skip


def serve() -> None:
  """Serves the page until it is stopped; ValueError if it cannot be served."""
  try:
    import gradio
  except ImportError as error:
    raise ValueError(
      f"the page needs gradio ({error}): pip install 'gradio>=6.31,<7'"
    ) from error
  pipeline = Pipeline.load(WORKDIR.value, STEP.value)
  # Results say which run they are of, and not where it lies.
  name = pathlib.Path(WORKDIR.value).absolute().name
  about = {
    "checkpoint": {"workdir": name, "step": pipeline.step},
    "fps": pipeline.shape.fps,
  }
  # So that a service manager's stop removes the folder below too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
  with temporary_folder() as folder:
    results, uploads = folder / "results", folder / "uploads"
    results.mkdir()
    uploads.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    session = Session(pipeline, about, results, MAX_UPLOAD_SECONDS.value)
    page = build(gradio, session).queue(max_size=MAX_QUEUE.value)
    print(f"The page: http://{HOST.value}:{PORT.value}", flush=True)
    try:
      page.launch(
        server_name=HOST.value,
        server_port=PORT.value,
        max_file_size=f"{MAX_UPLOAD_MB.value}mb",
        allowed_paths=[str(results)],
        footer_links=[],
        quiet=True,
        share=False,
        show_error=False,  # only gr.Error: others have paths and internals
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"]),
      )
    except OSError as error:  # The port is taken, or the host another machine.
      raise ValueError(f"--host, --port: {error}") from error
    finally:
      # What runs would write into the folder while it is deleted.
      session.close()


if __name__ == "__main__":
  command.run(serve, ("workdir",))
