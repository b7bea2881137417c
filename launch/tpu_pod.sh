#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU VM pod. Makes the pod (or takes the one there is), copies this
# checkout to it (without .git, .venv and runs), installs, starts the same command on every host,
# follows worker 0, and does it all again when the pod was preempted: the run goes on from its last
# checkpoint. Ctrl-C leaves the run alone; the same command follows it again. The pod stays, and costs,
# until "gcloud compute tpus tpu-vm delete NAME --zone=ZONE".
# Usage: bash launch/tpu_pod.sh [--dry-run] NAME ZONE CONFIG --workdir=FOLDER [FLAGS of jaxvid.main]
#   --dry-run      print the commands for a pod that isn't there yet, and leave; what may be wrong with
#                  CONFIG, FLAGS and data says python -m jaxvid.main --mode=check, with the same flags
#   FOLDER         gs://bucket/folder, or a mount that every host has (see SETUP)
# Environment: ACCELERATOR=v5litepod-16  RUNTIME=v2-alpha-tpuv5-lite  SPOT=1 (0 = on demand)
#   PROJECT=that of gcloud  SETUP="command run on every host before installing"  WAIT=60 (seconds)
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "launch/tpu_pod.sh: $*" >&2; exit 2; }

dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
# A pod costs money: nobody asks for a dry run and gets a real one.
[[ " $* " != *" --dry-run "* ]] || fail "--dry-run comes first"
for name in NAME ZONE CONFIG; do
  case ${1:-} in "" | -*) fail "$name is missing; usage: [--dry-run] NAME ZONE CONFIG --workdir=FOLDER [FLAGS]" ;; esac
  declare "$name=$1"; shift
done
[ -f "${CONFIG%%:*}" ] || fail "CONFIG: no file ${CONFIG%%:*}"
[[ " $* " == *" --workdir="[!\ ]* ]] || fail "--workdir=FOLDER is missing: a folder that every host of the pod sees"
[[ " $* " =~ " --workdir="(/|[a-z0-9]+://) ]] || fail "--workdir: gs://... or an absolute path, as every host has it"
[[ " $* " != *" --distributed"* ]] || fail "--distributed is set by this script"
flags=("--config=$CONFIG" --distributed=auto --stopped_status=75 "$@")

where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
say() { printf '%q ' "$@" | sed 's/ $//'; echo; }
run() { if [ "$dry" ]; then say "$@"; else "$@"; fi; }
tpu() { local verb=$1; shift; run gcloud compute tpus tpu-vm "$verb" "$NAME" "${where[@]}" "$@"; }
on() { local worker=$1; shift; tpu ssh "--worker=$worker" "--command=$(say "$@")"; }
host() { local worker=$1; shift; on "$worker" bash jaxvid/launch/tpu_host.sh "$@"; }
state() {  # of the pod; MISSING: there is none; UNKNOWN: the reason is printed
  local found
  if found=$(tpu describe '--format=value(state)' 2>&1); then echo "$found" | tail -n 1
  elif [[ $found == *NOT_FOUND* ]]; then echo MISSING
  else echo "$found" >&2; echo UNKNOWN; fi
}
status() {  # of the run, by worker 0; empty: it can't be reached
  on 0 bash -c "bash jaxvid/launch/tpu_host.sh status 2> /dev/null || echo none" 2> /dev/null | tail -n 1 || true
}

make_pod() {
  tpu create "--accelerator-type=${ACCELERATOR:-v5litepod-16}" "--version=${RUNTIME:-v2-alpha-tpuv5-lite}" \
    $([ "${SPOT:-1}" = 0 ] || echo --spot)
}
start() {  # && all the way: "set -e" doesn't hold where the caller looks at the status
  local bundle=${TMPDIR:-/tmp}/jaxvid-$NAME.tgz
  run tar -czf "$bundle" --exclude=./.git --exclude=./.venv --exclude=./.pod --exclude=./runs --exclude=__pycache__ . &&
  run gcloud compute tpus tpu-vm scp "$bundle" "$NAME:jaxvid.tgz" "${where[@]}" --worker=all &&
  run rm "$bundle" &&
  on all bash -ec "mkdir -p jaxvid && tar -xzf jaxvid.tgz -C jaxvid${SETUP:+ && $SETUP}" &&
  host all install &&
  host all start "${flags[@]}"
}

if [ "$dry" ]; then state; make_pod; start; host 0 follow; status; exit; fi
[ "$(state)" != UNKNOWN ] || fail "gcloud can't look for $NAME"
while :; do
  case $(state) in
    READY) ;;
    MISSING)
      said=$(make_pod 2>&1) || {
        [[ $said == *capacity* ]] || fail "no pod: $said"
        echo "no capacity in $ZONE; again in ${WAIT:-60} s" >&2; sleep "${WAIT:-60}"
      }
      continue ;;
    PREEMPTED | TERMINATED | STOPPED) tpu delete --quiet || sleep "${WAIT:-60}"; continue ;;
    *) sleep "${WAIT:-60}"; continue ;;  # on its way to another state
  esac
  case $(status) in
    running) ;;
    "") sleep "${WAIT:-60}"; continue ;;
    *) start || { sleep "${WAIT:-60}"; continue; } ;;
  esac
  host 0 follow || true
  case $(status) in
    done) exit 0 ;;
    failed)
      # Hosts of a pod that is being taken away fail first: give its state time to say so.
      sleep "${WAIT:-60}"
      [ "$(state)" != READY ] || fail "the run failed; the logs: $(dry=1; host all follow)" ;;
  esac
done
