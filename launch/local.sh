#!/usr/bin/env bash
# From nothing to a pretrained, evaluated demo and its report. Usage: bash launch/local.sh [WORKDIR]
source "$(dirname "$0")/env.sh" test
# glibc gives large blocks back at once and faults them in again at every step: keep them.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1000000000000}
workdir=${1:-runs/tats_demo}
python -m jaxvid.main --config=configs/tats_demo.py --workdir="$workdir"
echo "report: $workdir/report.html"
