#!/usr/bin/env bash
# Compares on the demo's world how audio controls a video: ICAC's five attentions
# within the video's own transformer, and full attention after masked (the paper's
# two stages, half of the steps each), beside the gated baseline and CCL, all on
# a2v alone. Needs hours on 2 CPU cores. Finished parts are kept.
#   bash launch/demo_icac.sh [FOLDER]     (default runs/demo, that of demo.sh)
#   STEPS=2000 SEEDS=3 bash ...           steps in all and runs of each row
if [[ ${1-} == -* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit || exit 1
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
folder="${1:-runs/demo}"
[ -d "$folder/prompt" ] || bash launch/demo.sh "$folder"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
steps="${STEPS:-2000}"
icac=configs/icac.py:size=tiny,attention
half="num_train_steps=$((steps / 2))"
a2v="num_train_steps=$steps objective.probabilities=(0.1,0.9,0.0,0.0)"

python -m ccl_jax.ablate --data="$folder/latents" --clips="$folder/world" \
  --output="$folder/icac" --tasks=a2v --seeds="${SEEDS:-3}" --rows= \
  --row="gated gated text $a2v" \
  --row="cross $icac=cross2d ucg2 num_train_steps=$steps" \
  --row="frozen $icac=self2d_frozen ucg2 num_train_steps=$steps" \
  --row="self $icac=self2d ucg2 num_train_steps=$steps" \
  --row="full $icac=full3d ucg2 num_train_steps=$steps" \
  --row="stage1 $icac=masked3d ucg2 $half" \
  --row="stage2 $icac=full3d ucg2 after=stage1 $half" \
  --row="masked $icac=masked3d ucg2 num_train_steps=$steps" \
  --row="ccl cca ucg2 $a2v"
