#!/usr/bin/env bash
# Starts the MLflow server; everything it needs comes from the environment, nothing secret from the command line.
# With --check it only looks at that.
set -euo pipefail

: "${MLFLOW_BACKEND_STORE_URI:?}" "${MLFLOW_ARTIFACTS_DESTINATION:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"
: "${MLFLOW_AUTH_ADMIN_USERNAME:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_SERVER_ALLOWED_HOSTS:?}"

fail() {
  echo "error: $1" >&2
  exit 2
}

for name in MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_BACKEND_STORE_URI AWS_SECRET_ACCESS_KEY; do
  case "${!name:-}" in
    *change-me*) fail "$name is still the example's: change it" ;;
  esac
done
[ "${#MLFLOW_AUTH_ADMIN_PASSWORD}" -ge 12 ] || fail "MLFLOW_AUTH_ADMIN_PASSWORD must have twelve characters or more"
[ "$MLFLOW_AUTH_ADMIN_PASSWORD" != password1234 ] || fail "MLFLOW_AUTH_ADMIN_PASSWORD is MLflow's default: change it"
[ "${#MLFLOW_FLASK_SERVER_SECRET_KEY}" -ge 32 ] || fail "MLFLOW_FLASK_SERVER_SECRET_KEY must have 32 characters or more"

[ "${1:-}" != --check ] || exit 0

# Users live in the same kind of database as runs do; the file is readable by its owner alone.
umask 077
export MLFLOW_AUTH_CONFIG_PATH="$HOME/basic_auth.ini"
cat > "$MLFLOW_AUTH_CONFIG_PATH" << INI
[mlflow]
default_permission = READ
database_uri = ${MLFLOW_AUTH_DATABASE_URI:-$MLFLOW_BACKEND_STORE_URI}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = 60
INI

# Jobs are for the scoring of language models; their seven processes have nothing to do here.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

exec mlflow server --app-name basic-auth --host "${MLFLOW_BIND:-0.0.0.0}" --port "${MLFLOW_BIND_PORT:-5000}" --workers "${MLFLOW_WORKERS:-4}"
