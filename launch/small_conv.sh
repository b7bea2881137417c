#!/usr/bin/env bash
# Contrastive, predictive and speed methods on small data sets: optical flow, then every method with three
# seeds, then one table per set (docs/small_conv.md). Stopped, the same command goes on.
# Usage: bash launch/small_conv.sh OUT SET...
#   SET: NAME=MANIFEST.csv[,mean=M,std=S]   one's own videos and the pixel statistics that check_data prints
#        embedded                           the videos that jaxvid makes itself
source "$(dirname "$0")/env.sh" ""
[ $# -ge 2 ] || { sed -n '4,6s/^# //p' "$0" >&2; exit 2; }
out=$1; shift
for set in "$@"; do
  [[ $set == embedded || $set == *?=?* ]] || { echo "$set: neither NAME=MANIFEST.csv nor 'embedded'" >&2; exit 2; }
  manifest=${set#*=}; manifest=${manifest%%,*}
  [ "$set" = embedded ] || [ -f "$manifest" ] || { echo "$set: no file $manifest" >&2; exit 2; }
done
embedded="from jaxvid.data import config, embedded
print(embedded.embedded_folder(config.DataConfig(embedded_size=64)))"
flow() {  # NAME MANIFEST
  python -m jaxvid.tools.pack_videos --manifest="$2" --out="$out/$1/packed" --short_side=64
  python -m jaxvid.tools.make_flow --manifest="$out/$1/packed/manifest.csv" --out="$out/$1/flow" \
    --short_side=64 --jobs="$(nproc)"
}
for set in "$@"; do
  name=${set%%=*}; manifest=${set#*=}
  if [ "$set" = embedded ]; then manifest=$(python -c "$embedded")/manifest.csv; fi
  flow "$name" "${manifest%%,*}"
done
failed=0
for set in "$@"; do
  name=${set%%=*}; words=$(grep -o ',.*' <<< "$set" || true)
  python -m launch.sweep "configs/sweeps/small_conv.py:manifest=$out/$name/flow/manifest.csv,flow$words" \
    --out="$out/$name/runs" --jobs=2 || failed=$?
  [ $failed != 130 ] || break  # stopped
done
exit $failed
