#!/usr/bin/env bash
# From nothing to a pretrained, evaluated demo and its report. Usage: bash launch/local.sh [WORKDIR]
source "$(dirname "$0")/env.sh" test
workdir=${1:-runs/tats_demo}
python -m jaxvid.main --config=configs/tats_demo.py --workdir="$workdir"
echo "report: $workdir/report.html"
