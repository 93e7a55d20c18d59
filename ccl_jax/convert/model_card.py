"""The model card of an export: what it is, how to run it, who may use it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import codecs
from ccl_jax.convert.workdirs import ABOUT, Run

# Codecs of ccl_jax.codecs.api by the model that they are.
_MODELS = {
  "wan_video": "wan-vae",
  "mmaudio": "mmaudio",
  "umt5": "umt5",
  "clip": "clip",
}
_LOADING = {
  "CCL": """\
`ccl_jax/convert/torch_*.py` need PyTorch and safetensors alone; latents come
from and go to the codecs in `run/`.

```python
from ccl_jax.convert.torch_model import CCL

model = CCL.from_pretrained("THIS FOLDER", device="cuda")
```

In JAX, to sample or to train on:

```bash
python -m ccl_jax.convert from-torch --model=ccl \\
    --input="THIS FOLDER" --output=RUN
python -m ccl_jax.sample --workdir=RUN --out=OUT --task=t2av --prompt='...'
```
""",
  "WanTransformer3DModel": """\
The video stream alone, without what it reads from the sound where it has one:
with Wan2.1's VAE and text encoder a Wan2.1 model.

```python
from diffusers import WanTransformer3DModel

model = WanTransformer3DModel.from_pretrained("THIS FOLDER/transformer")
```
""",
}
_TEXT = """\
# {class}, step {step}

A diffusion transformer for {kind}, trained with ccl_jax, an open implementation
of Cross-Modal Context Learning: {parameters:,} parameters in {dtype},
{averaged}.

## Prompts

One text for picture and sound: what is seen, the spoken words in quotation
marks, what is heard.

    A man waves at the camera. "Hello!" Wind, and a warm voice.

{clip}

## Loading

{loading}
## Licences

The parameters were trained by whoever ran the training, who says what they may
be used for. What they were made with has licences of its own:

{licences}

## Config of the run

```json
{config}
```
"""


def text(run: Run, about: Mapping[str, Any]) -> str:
  """The card.

  about: of `export.to_torch`.
  """
  streams = [s for s in STREAMS if run.model.get(s) is not None]
  kind = " and ".join(streams if about["class"] == "CCL" else ["video"])
  average = "a moving average" if about["averaged"] else "no moving average"
  clip = "Clips are those of the run's codecs."
  if run.clip:
    y, x = run.clip["size"]
    clip = (
      f"Clips have {run.clip['frames']} frames of {x} x {y} pixels at"
      f" {run.clip['fps']:g} a second."
    )
  licences = list(_licences(run)) or ["- nothing that is known here."]
  return _TEXT.format_map(
    {
      **about,
      "kind": kind,
      "averaged": average,
      "clip": clip,
      "loading": _LOADING[about["class"]],
      "licences": "\n".join(licences),
      "config": json.dumps(dict(run.config), indent=2, sort_keys=True),
    }
  )


def _licences(run: Run) -> Iterator[str]:
  """A line for each codec with learned weights, and each model begun from."""
  file = run.workdir / "codecs" / "codecs.json"
  described = json.loads(file.read_text()) if file.exists() else {}
  for codec in described.values():
    if (name := _MODELS.get(codec["kind"])) is not None:
      model = codecs.MODELS[name]
      yield f"- codec {name}: {model.licence}. {model.notice}".rstrip()
  started = [s for _, s in run.config.get("initial", {}).get("sources", ())]
  for folder in [run.workdir, *map(epath.Path, dict.fromkeys(started))]:
    if (folder / ABOUT).exists():
      about = json.loads((folder / ABOUT).read_text())
      if "licence" in about:
        yield f"- begun from {about['model']}: {about['licence']}"
