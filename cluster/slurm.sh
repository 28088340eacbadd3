#!/usr/bin/env bash
#SBATCH --job-name=amun
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120
#
# One sweep on a Slurm allocation: Ray starts on every node of it, the sweep runs on the first, Ray stops again.
#
#   sbatch cluster/slurm.sh --config cifar10_resnet18                 from a login node; the arguments are those of sweep.py
#   sbatch --nodes=8 cluster/slurm.sh --config cifar10_resnet18
#   sbatch --array=0-1 cluster/slurm.sh mine.yaml other.yaml -- --set storage=/shared/store
#                                                                     a job for each config, with the arguments after `--` for all
#
# Before the first time, in a folder that all nodes see: python3 -m venv ~/amun_venv, then, in the repository,
# ~/amun_venv/bin/pip install --constraint constraints.txt '.[cluster]'. AMUN_VENV names another place.
# Submit from a folder that all nodes see too: results go to amun_output/ in it.
# A job that runs out of time is told two minutes before, ends with exit code 130, and the same command goes on where it was.
set -euo pipefail

: "${SLURM_JOB_NODELIST:?run this through sbatch}"
venv="${AMUN_VENV:-$HOME/amun_venv}"
if [ ! -x "$venv/bin/ray" ]; then
  echo "error: no Ray in $venv; install the package there, or set AMUN_VENV" >&2
  exit 2
fi
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  configs=()
  while [ "$#" -gt 0 ] && [ "$1" != -- ]; do configs+=("$1"); shift; done
  shift "$(($# > 0))"
  config="${configs[SLURM_ARRAY_TASK_ID]:-}"
  if [ -z "$config" ]; then
    echo "error: task $SLURM_ARRAY_TASK_ID of the array has no config: ${#configs[@]} are given, counted from 0" >&2
    exit 2
  fi
  set -- --config "$config" "$@"
fi
export PATH="$venv/bin:$PATH"
cd "$SLURM_SUBMIT_DIR"
mkdir -p amun_output

# A token for this job alone, readable by its owner alone. The environment carries where it is, not what it is.
umask 077
RAY_AUTH_TOKEN_PATH="$SLURM_SUBMIT_DIR/amun_output/.token-$SLURM_JOB_ID"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
driver="$SLURM_SUBMIT_DIR/amun_output/.driver-$SLURM_JOB_ID" # the process of the sweep, on this node: the first
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$driver"' EXIT

name="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
# By its address, so that no connection waits for DNS; some hosts know their own name as a loopback address.
head="$(getent ahostsv4 "$name" | awk '$1 !~ /^127\./ {print $1; exit}' || true)"
head="${head:-$name}"
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one head do not meet
export AMUN_NODES="$SLURM_JOB_NUM_NODES"
echo "Ray on $SLURM_JOB_NUM_NODES node(s), head $name, $head:$port"

# Ray's own limit, 30 seconds, is short where many nodes read the same files at once.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}"
# shellcheck disable=SC2016 # it is the inner shell that writes down its own number
srun --kill-on-bad-exit=1 ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats \
  -- env RAY_ADDRESS="$head:$port" bash -c 'echo $$ > "$0"; exec amun-ray "$@"' "$driver" "$@" &
step=$!

# The sweep alone is told: `ray symmetric-run` would kill it at once, and end as if all had gone well.
told=""
trap 'told=yes; kill -INT "$(cat "$driver")" || true' INT
status=0
while kill -0 "$step" 2> /dev/null; do
  status=0
  wait "$step" || status=$?
done
# The exit code of the step is that of the last node to end, and the other nodes are terminated.
[ "$status" = 0 ] || [ -z "$told" ] || status=130
exit "$status"
