#!/usr/bin/env bash
# Prepares one node: `ray up` runs it on every host, and again after every change of the sources.
#
#   AMUN_SHARED=/shared/amun AMUN_NODES=3 [MLFLOW_TRACKING_URI=http://HOST:5000] [PYTHON=python3.11] bash setup_node.sh
#
# It installs this repository, as locked, into ~/amun_venv; lets every login shell find it; and makes ~/amun_output, where a
# sweep writes, a link to the shared folder. What it changes: ~/amun_venv, ~/amun_output, ~/.amun_env and one line of ~/.bashrc.
set -euo pipefail

fail() {
  echo "error: $(hostname): $1" >&2
  exit 1
}

source_folder="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
venv="$HOME/amun_venv"

[ -n "${AMUN_SHARED:-}" ] || fail "AMUN_SHARED is not set; it names the folder that all hosts share"
if ! { [ -d "$AMUN_SHARED" ] && [ -w "$AMUN_SHARED" ]; }; then
  fail "AMUN_SHARED=$AMUN_SHARED is not a writable folder here; mount it"
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
  || fail "$python is not Python 3.11 or newer: $("$python" --version 2>&1); set PYTHON"

chmod 600 "$HOME/.ray/auth_token" || fail "no token in ~/.ray/auth_token; on your machine: ray get-auth-token --generate"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "$python cannot make a virtual environment in $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$source_folder/constraints.txt" "${source_folder}[cluster]" \
  || fail "the package could not be installed; pip says why above"

if [ -e "$HOME/amun_output" ] && [ ! -L "$HOME/amun_output" ]; then
  fail "$HOME/amun_output is a folder of its own; move it away, it becomes a link to $AMUN_SHARED"
fi
ln -sfn "$AMUN_SHARED" "$HOME/amun_output"

# RAY_AUTH_MODE is named on every node: left unset, a head and a worker decide differently whether to ask for the token.
{
  echo "export PATH=$(printf %q "$venv/bin"):\$PATH"
  printf 'export RAY_AUTH_MODE=token\n'
  printf 'export AMUN_NODES=%q\n' "${AMUN_NODES:-1}"
  if [ -n "${MLFLOW_TRACKING_URI:-}" ]; then
    printf 'export MLFLOW_TRACKING_URI=%q\n' "$MLFLOW_TRACKING_URI"
  fi
} > "$HOME/.amun_env"
grep -qsF '. ~/.amun_env' "$HOME/.bashrc" || echo '. ~/.amun_env' >> "$HOME/.bashrc"
