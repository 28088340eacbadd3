"""Before `ray up`: one line per host of a cluster file, saying whether it can be reached and has what is needed.

    python cluster/check_hosts.py cluster/cluster.yaml      exit code 0 when every host is ready, 2 when one is not

`ray up` itself waits a quarter of an hour for a host that refuses the key. The first check notes each host's key
in ~/.ssh/known_hosts; a host that later shows another one is named.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

SECONDS = 10
NEEDS = """python=${PYTHON:-python3}
$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \\
  || echo 'no Python 3.11 or newer with venv'
command -v rsync > /dev/null || echo 'no rsync'
[ -w "$AMUN_SHARED" ] || echo "no writable folder $AMUN_SHARED"
"""
REASONS = {"IDENTIFICATION HAS CHANGED": "shows another host key than ~/.ssh/known_hosts has: another machine, or a "
                                         "stranger; if you know why, ssh-keygen -R {host}",
           "Permission denied": "refuses the key {key} for user {user}",
           "Could not resolve hostname": "there is no host of that name",
           "timed out": f"nothing answers within {SECONDS} s: no such host, or a firewall",
           "No route to host": "there is no such host in its network",
           "Connection refused": "the host is up, but no sshd answers"}


def main(path: str) -> int:
    """Check every host of the file; returns the exit code."""
    try:
        config = yaml.safe_load(Path(path).read_text())
        provider, auth = config["provider"], config["auth"]
        hosts = [provider["head_ip"], *provider["worker_ips"]]
        user, key = auth["ssh_user"], str(Path(auth["ssh_private_key"]).expanduser())
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        print(f"error: {path}: not a cluster file with provider local: {error}", file=sys.stderr)
        return 2
    if not Path(key).is_file():
        print(f"error: auth.ssh_private_key: there is no file {key}", file=sys.stderr)
        return 2
    settings = re.findall(r"\b(AMUN_SHARED|PYTHON)=(\S+)", " ".join(config.get("setup_commands", [])))
    script = "".join(f"export {name}={value}\n" for name, value in settings) + NEEDS
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(asker(user, key, script), hosts))
    for host, problem in zip(hosts, answers, strict=True):
        print(f"{host}: {problem or 'ready'}")
    return 2 if any(answers) else 0


def asker(user: str, key: str, script: str) -> Callable[[str], str]:
    """A function that runs `script` on a host and returns what is wrong there, or nothing."""
    def ask(host: str) -> str:
        done = subprocess.run(
            ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", f"ConnectTimeout={SECONDS}",
             "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR",
             f"{user}@{host}", "bash", "--login", "-i", "-s"], input=script, capture_output=True, text=True)
        if done.returncode == 255:  # ssh's own failure
            said = done.stderr.strip().splitlines()[-1:] or ["ssh failed"]
            return next((reason.format(key=key, user=user, host=host) for word, reason in REASONS.items()
                         if word in done.stderr), said[0])
        return "; ".join(done.stdout.strip().splitlines())
    return ask


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_hosts.py cluster/cluster.yaml")
    sys.exit(main(sys.argv[1]))
