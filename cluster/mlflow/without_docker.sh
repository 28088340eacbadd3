#!/usr/bin/env bash
# The server of compose.yaml without Docker: PostgreSQL, a bucket, MLflow with basic auth, from the same .env.
#
#   cd cluster/mlflow && cp example.env .env && chmod 600 .env      then change every value in .env
#   bash without_docker.sh FOLDER                                   Ctrl-C ends all of it; the same command goes on with the same data
#
# FOLDER (default: ~/amun_mlflow) keeps the database, and the store if it is SeaweedFS. Needed: a virtual environment with
# "mlflow[auth]", psycopg2-binary and boto3, PostgreSQL (Debian: postgresql), and SeaweedFS (weed) unless MLFLOW_S3_ENDPOINT_URL in
# .env names another S3 store, which knows the user `mlflow`. Each is started again when it ends. Not as root: PostgreSQL refuses it.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="${1:-$HOME/amun_mlflow}"

fail() {
  echo "error: $1" >&2
  exit 2
}

[ "$(id -u)" != 0 ] || fail "PostgreSQL does not run as root: use another user"
[ -r "${AMUN_ENV:-$here/.env}" ] || fail "${AMUN_ENV:-$here/.env} is not there: cp example.env .env, and change every value"
set -a
# shellcheck source=/dev/null
. "${AMUN_ENV:-$here/.env}"
set +a
: "${POSTGRES_PASSWORD:?set it in .env}" "${STORE_PASSWORD:?set it in .env}" "${MLFLOW_HOSTS:?set it in .env}"
: "${MLFLOW_ADMIN:?set it in .env}" "${MLFLOW_ADMIN_PASSWORD:?set it in .env}" "${MLFLOW_SECRET_KEY:?set it in .env}"
database_port="${POSTGRES_PORT:-5432}" store_port="${STORE_PORT:-9000}"

# As in compose.yaml; start.sh refuses the example's values, so it looks first.
export MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2://mlflow:$POSTGRES_PASSWORD@127.0.0.1:$database_port/mlflow"
export MLFLOW_ARTIFACTS_DESTINATION=s3://mlflow/ AWS_ACCESS_KEY_ID=mlflow AWS_SECRET_ACCESS_KEY="$STORE_PASSWORD"
export MLFLOW_AUTH_ADMIN_USERNAME="$MLFLOW_ADMIN" MLFLOW_AUTH_ADMIN_PASSWORD="$MLFLOW_ADMIN_PASSWORD"
export MLFLOW_FLASK_SERVER_SECRET_KEY="$MLFLOW_SECRET_KEY" MLFLOW_SERVER_ALLOWED_HOSTS="$MLFLOW_HOSTS"
export MLFLOW_BIND="${MLFLOW_ADDRESS:?set it in .env}"
bash "$here/start.sh" --check

python -c 'import boto3, mlflow.server, psycopg2' || fail "activate a virtual environment with mlflow[auth], psycopg2-binary and boto3"
command -v postgres > /dev/null || PATH="$PATH:$(printf '%s\n' /usr/lib/postgresql/*/bin | tail -n 1)"
command -v postgres > /dev/null || fail "there is no PostgreSQL here (Debian: apt install postgresql)"
if [ -z "${MLFLOW_S3_ENDPOINT_URL:-}" ] && ! command -v weed > /dev/null; then
  fail "there is no weed (SeaweedFS) on the PATH; install it, or name an S3 store in MLFLOW_S3_ENDPOINT_URL"
fi

# Run a command again whenever it ends, as Docker's `restart` does, in a process group that ends with this script.
keep() {
  trap 'kill -- "-$child" 2> /dev/null; wait; exit' TERM
  while :; do
    setsid "$@" &
    child=$!
    wait "$child" || true
    echo "$1 has ended; it starts again" >&2
    sleep 1
  done
}

# await PROBLEM LOG COMMAND: try for a minute.
await() {
  local problem="$1" log="$2"
  shift 2
  for _ in {1..60}; do
    if "$@" 2>> "$log"; then return; fi
    sleep 1
  done
  fail "$problem: $(tail -n 1 "$log")"
}

umask 077
mkdir -p "$folder"
trap 'trap - INT TERM; kill $(jobs -p) 2> /dev/null; wait' EXIT
trap 'exit 0' INT TERM

if [ ! -f "$folder/database/PG_VERSION" ]; then
  rm -rf "$folder/database"
  initdb --pgdata="$folder/database" --username=mlflow --auth=scram-sha-256 --encoding=UTF8 \
    --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") > "$folder/initdb.log"
fi
keep postgres -D "$folder/database" -h 127.0.0.1 -p "$database_port" -k "" >> "$folder/database.log" 2>&1 &
await "PostgreSQL does not start" "$folder/database.log" pg_isready --quiet --host=127.0.0.1 --port="$database_port"
export PGPASSWORD="$POSTGRES_PASSWORD"
psql=(psql --quiet --tuples-only --host=127.0.0.1 --port="$database_port" --username=mlflow --dbname=postgres)
"${psql[@]}" --command="SELECT 1 FROM pg_database WHERE datname = 'mlflow'" | grep -q 1 \
  || "${psql[@]}" --command="CREATE DATABASE mlflow"
unset PGPASSWORD

if [ -z "${MLFLOW_S3_ENDPOINT_URL:-}" ]; then
  export MLFLOW_S3_ENDPOINT_URL="http://127.0.0.1:$store_port"
  cat > "$folder/s3.json" << JSON
{"identities": [{"name": "mlflow", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "mlflow", "secretKey": "$STORE_PASSWORD"}]}]}
JSON
  mkdir -p "$folder/store"
  keep weed server -dir="$folder/store" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.port="$store_port" \
    -s3.config="$folder/s3.json" >> "$folder/store.log" 2>&1 &
fi
await "no bucket at $MLFLOW_S3_ENDPOINT_URL" "$folder/store.log" python "$here/make_bucket.py" "$MLFLOW_S3_ENDPOINT_URL" mlflow

keep bash "$here/start.sh" &
wait
