#!/usr/bin/env bash
# Adapters of a frozen image model, on the world of demo.sh: trains a tiny image
# transformer on single frames of the latents, freezes it, trains the adapters for
# video and sound, and scores t2av on held-out clips. Finished parts are kept.
#   bash launch/demo_avdit.sh [FOLDER] [IMAGE_STEPS] [STEPS]
#                    (default runs/demo, that of demo.sh; 4000 steps of each)
if [[ ${1-} == -* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit || exit 1
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
folder="${1:-runs/demo}"
[ -d "$folder/prompt" ] || bash launch/demo.sh "$folder"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
config=configs/avdit.py:size=tiny
began=$SECONDS
say() { printf '\n== %s (%d s so far)\n' "$1" "$((SECONDS - began))"; }

say "Training the image model, frame by frame: $folder/image"
python -m ccl_jax.train --config=$config,stage=image --workdir="$folder/image" \
  --config.data.path="$folder/latents" --config.num_train_steps="${2:-4000}" \
  --config.eval.tasks='()'

say "Training the adapters, the image model frozen: $folder/avdit"
python -m ccl_jax.train --config=$config --workdir="$folder/avdit" \
  --config.data.path="$folder/latents" --config.num_train_steps="${3:-4000}" \
  --config.init.from_runs="(('video/.*', '$folder/image'),)" \
  --config.eval.tasks='()'

say "Generating and scoring held-out clips: $folder/avdit_results"
python -m ccl_jax.evaluate --workdir="$folder/avdit" --data="$folder/latents" \
  --clips="$folder/world" --output="$folder/avdit_results" --tasks=t2av \
  --splits=easy

say "Done"
echo "Look at $folder/avdit_results/sheet.png and table.md."
