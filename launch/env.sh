# Sourced by the other scripts: makes .venv, installs jaxvid for the platform at hand, activates it.
# Usage: source launch/env.sh EXTRAS        ("" = none; JAXVID_PLATFORM=cpu|cuda|tpu overrides the detection)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "jaxvid needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON=..." >&2
  exit 1
}
if [ -z "${JAXVID_PLATFORM:-}" ]; then
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then JAXVID_PLATFORM=cuda
  elif [ -n "${TPU_NAME:-}" ] || compgen -G '/dev/accel*' >/dev/null; then JAXVID_PLATFORM=tpu
  else JAXVID_PLATFORM=cpu; fi
fi
wanted="$JAXVID_PLATFORM $1 $(cksum < setup.py)"
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
  echo "installing jaxvid for $JAXVID_PLATFORM into .venv ..."
  "$python" -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -e ".[$JAXVID_PLATFORM${1:+,$1}]"
  echo "$wanted" > .venv/.installed
fi
source .venv/bin/activate
