#!/usr/bin/env bash
# What tpu_pod.sh asks of one host. Usage: bash launch/tpu_host.sh install | start FLAGS... | follow | status
# The log, the process id and the exit status of the run lie in .pod/.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .pod
running() { [ -e .pod/pid ] && grep -qs jaxvid "/proc/$(cat .pod/pid)/cmdline"; }

case ${1:-} in
  install)
    # Images of TPU VMs may come with an older Python.
    if [ -z "${PYTHON:-}" ] && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      apt="sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600"
      $apt update && $apt install -y python3.11-venv
      export PYTHON=python3.11
    fi
    JAXVID_PLATFORM=${JAXVID_PLATFORM:-tpu}
    source launch/env.sh ""
    ;;
  start)
    shift
    if running; then exit 0; fi
    rm -f .pod/exit
    # In a session of its own: it must outlive the connection.
    setsid nohup bash -c 'python=$1; shift; "$python" -m jaxvid.main "$@"; echo $? > .pod/exit' jaxvid \
      .venv/bin/python "$@" > .pod/log 2>&1 < /dev/null &
    echo $! > .pod/pid
    ;;
  follow) tail -n +1 -f --pid="$(cat .pod/pid)" .pod/log ;;
  status) # running | done | stopped (it saved, and goes on when started again) | failed | none
    if running; then echo running; exit; fi
    case $(cat .pod/exit 2> /dev/null) in
      0) echo done ;;
      75) echo stopped ;;
      *) if [ -e .pod/pid ]; then echo failed; else echo none; fi ;;
    esac
    ;;
  *) echo "usage: bash launch/tpu_host.sh install | start FLAGS... | follow | status" >&2; exit 2 ;;
esac
