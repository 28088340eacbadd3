#!/usr/bin/env bash
#SBATCH --job-name=amun
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=INT@120
#
# One sweep on a Slurm allocation: Ray starts on every node of it, the sweep runs on the first, Ray stops again.
#
#   sbatch cluster/slurm.sh --config cifar10_resnet18                 from a login node; the arguments are those of sweep.py
#   sbatch --nodes=8 cluster/slurm.sh --config cifar10_resnet18
#
# Before the first time, in a folder that all nodes see: python3 -m venv ~/amun_venv, then, in the repository,
# ~/amun_venv/bin/pip install --constraint constraints.txt '.[cluster]'. AMUN_VENV names another place.
# Submit from a folder that all nodes see too: results go to amun_output/ in it.
# A job that runs out of time is told two minutes before; the same command again goes on where it was.
set -euo pipefail

: "${SLURM_JOB_NODELIST:?run this through sbatch}"
venv="${AMUN_VENV:-$HOME/amun_venv}"
if [ ! -x "$venv/bin/ray" ]; then
  echo "error: no Ray in $venv; install the package there, or set AMUN_VENV" >&2
  exit 2
fi
export PATH="$venv/bin:$PATH"
cd "$SLURM_SUBMIT_DIR"
mkdir -p amun_output

# A token for this job alone, readable by its owner alone. The environment carries where it is, not what it is.
umask 077
RAY_AUTH_TOKEN_PATH="$SLURM_SUBMIT_DIR/amun_output/.token-$SLURM_JOB_ID"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one head do not meet
export AMUN_NODES="$SLURM_JOB_NUM_NODES"
echo "Ray on $SLURM_JOB_NUM_NODES node(s), head $head:$port"

srun --kill-on-bad-exit=1 ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats \
  -- env RAY_ADDRESS="$head:$port" amun-ray "$@"
