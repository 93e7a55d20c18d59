"""The page: its components, and what its button does.

Every function takes `gr`, the gradio module, which only the server of a page
needs to have installed.
"""

import traceback
from collections.abc import Callable
from typing import Any

from ccl_jax.app.session import MAX_CHARACTERS, Result, Session
from ccl_jax.diffusion import guidance, tasks
from ccl_jax.generation import requests
from ccl_jax.generation.pipeline import Pipeline

TITLE = """# Joint video and sound
Say what is seen, then **what is spoken, in "quotation marks"**, then what is
heard: one text for both. Clips of {shape.seconds:.2f} s, {shape.size[1]} x \
{shape.size[0]} pixels, {shape.fps:g} frames a second."""
TASKS = {
  "t2av": "text → video and sound",
  "i2av": "text, first frame → video and sound",
  "a2v": "text, sound → video",
  "v2a": "text, video → sound",
  "t2v": "text → video",
  "i2v": "text, first frame → video",
  "t2a": "text → sound",
}
EXAMPLES = (
  'A red face talks. A ball bounces. "a i u" A low voice. Clicks.',
  'A blue face talks. "o o a" A high voice.',
  "A ball bounces. Clicks.",
)
SCALES = (
  "video_guidance_scale",
  "audio_guidance_scale",
  "cross_guidance_scale",
)
_HOUR = 3600


def build(gr: Any, session: Session) -> Any:
  """Builds the page."""
  with gr.Blocks(
    title="ccl_jax", analytics_enabled=False, delete_cache=(_HOUR, 24 * _HOUR)
  ) as page:
    gr.Markdown(TITLE.format(shape=session.pipeline.shape))
    with gr.Row():
      with gr.Column():
        fields, sampling, attention = controls(gr, session.pipeline)
        with gr.Row():
          button = gr.Button("Generate", variant="primary", elem_id="go")
          stop = gr.Button("Stop", elem_id="stop")
        gr.Examples([[text] for text in EXAMPLES], [fields["prompt"]])
      with gr.Column():
        shown = results(gr)

    change_inputs(gr, fields, session.pipeline)
    made = button.click(
      make_generate(gr, session, list(fields), list(sampling)),
      [attention, *fields.values(), *sampling.values()],
      list(shown.values()),
      concurrency_limit=1,
      show_progress_on=[shown["video"], shown["sound"]],
    )

    def end(visitor: gr.Request):
      session.stop(visitor.session_hash)
      gr.Info("Stopped.")

    # What waits is cancelled, what runs ends at its next step.
    stop.click(
      end, cancels=[made], concurrency_limit=None, api_visibility="private"
    )
  return page


def change_inputs(gr: Any, fields: dict[str, Any], pipeline: Pipeline) -> None:
  """Lets the choice of a task show the inputs that it takes."""

  def change(name):
    task = tasks.inference_task(name)
    taken = pipeline.inputs_of(task)
    updates = {name: {"visible": name in taken} for name in requests.INPUTS}
    updates["image"]["label"] = image_label(task)
    return [gr.update(**update) for update in updates.values()]

  fields["task"].change(
    change,
    fields["task"],
    [fields[name] for name in requests.INPUTS],
    api_visibility="private",
    show_progress="hidden",
  )


def image_label(task: tasks.InferenceTask) -> str:
  """Returns what an image is to a task."""
  return "Picture to look like" if task.reference else "First frame"


def make_generate(
  gr: Any, session: Session, fields: list[str], sampling: list[str]
) -> Callable[..., list[Any]]:
  """Returns what the button does.

  It takes whether to show attention and a value of each of the names, and
  returns the values of the components of `results`.

  Args:
    fields: names of a request's fields.
    sampling: names of settings.
  """

  def generate(
    visitor: gr.Request,
    attention,
    *values,
    progress=gr.Progress(),  # noqa: B008
  ):
    num = len(fields)

    def report(stage, done, of):
      # While a program is compiled "0/20 steps" would look like a hang.
      progress((done, of) if done else 0.0, desc=stage, unit="steps")

    try:
      result = session.request(
        dict(zip(fields, values[:num], strict=True)),
        dict(zip(sampling, values[num:], strict=True)),
        report,
        attention,
        visitor.session_hash,
      )
    except Exception as error:
      text = str(error)
      if not isinstance(error, ValueError):
        traceback.print_exc()
        text = "This could not be made; the server's log says why."
      raise gr.Error(text, duration=None, print_exception=False) from error
    if result.note:
      gr.Info(result.note)
    return show(gr, result)

  return generate


def controls(gr: Any, pipeline: Pipeline) -> tuple[dict, dict, Any]:
  """Builds the components of a request's fields, the sampling and attention."""
  names = [name for name in TASKS if name in pipeline.tasks]
  task = tasks.inference_task(names[0])
  first = pipeline.inputs_of(task)  # what the page begins with
  fields = {
    "task": gr.Dropdown(
      [(TASKS[name], name) for name in names], value=names[0], label="Task",
      elem_id="task",
    ),
    "prompt": gr.Textbox(
      label="Prompt",
      elem_id="prompt",
      lines=3,
      max_length=MAX_CHARACTERS,
      placeholder=EXAMPLES[0],
      info='Spoken words in "quotation marks".',
    ),
    "image": gr.Image(
      label=image_label(task), type="filepath", sources=["upload"],
      visible="image" in first, elem_id="image",
    ),
    "audio": gr.Audio(
      label="Sound", type="filepath", sources=["upload"],
      visible="audio" in first, elem_id="audio",
    ),
    "video": gr.Video(
      label="Video", sources=["upload"], visible="video" in first,
      elem_id="video",
    ),
  }  # fmt: skip
  # Gradio would open and convert an image, with errors of many lines that have
  # paths. It makes components anew for each visitor, hence in their class.
  gr.Image.preprocess = lambda self, file: file and file.path
  with gr.Accordion("More", open=False):
    fields["negative"] = gr.Textbox(
      label="Negative prompt", max_length=MAX_CHARACTERS
    )
    fields["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0)
    chosen = pipeline.sampling
    sampling = {
      "num_inference_steps": gr.Slider(
        1, 100, chosen.num_inference_steps, step=1, label="Steps"
      ),
      "guidance": gr.Dropdown(
        list(guidance.RULES), value=chosen.guidance, label="Guidance"
      ),
    }
    for name in SCALES:
      label = name.replace("_", " ").capitalize()
      sampling[name] = gr.Slider(
        0, 15, getattr(chosen, name), step=0.1, label=label
      )
    attention = gr.Checkbox(
      False,
      label="Show attention",
      info="Between picture and sound; compiled the first time.",
      elem_id="look",
    )
  return fields, sampling, attention


def results(gr: Any) -> dict[str, Any]:
  """Builds the components of a result, by name."""
  return {
    "video": gr.Video(
      label="Clip", interactive=False, autoplay=True, height=320, elem_id="clip"
    ),
    "sound": gr.Audio(
      label="Sound", interactive=False, visible=False, elem_id="sound"
    ),
    "mel": gr.Image(
      label="Its mel", interactive=False, height=200, elem_id="mel", buttons=[]
    ),
    "attention": gr.Image(
      label="Its attention across streams",
      interactive=False,
      visible=False,
      elem_id="attention",
      buttons=["fullscreen"],
    ),
    "files": gr.File(
      label="Download",
      file_count="multiple",
      interactive=False,
      elem_id="files",
    ),
  }


def show(gr: Any, result: Result) -> list[Any]:
  """Returns the values of the components of `results`."""
  clip, is_video = str(result.clip), result.clip.suffix == ".mp4"
  attention = result.attention and str(result.attention)
  values = (
    clip if is_video else None, None if is_video else clip, result.mel,
    attention,
  )  # fmt: skip
  shown = [gr.update(value=x, visible=x is not None) for x in values]
  return [*shown, [str(file) for file in result.files]]
