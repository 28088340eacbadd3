"""A real Slurm on hosts of network namespaces: one controller, a node on each host with two CPUs and two fake GPUs."""

import re
import secrets
import shutil
import subprocess
from pathlib import Path

import hosts
import team as teams

NODES = {"head": teams.HEAD, "worker": teams.WORKER}
NEEDED = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
CONFIG = """
ClusterName=amun
SlurmctldHost=head({head})
SlurmUser=root
StateSaveLocation=/mnt/base/state
SlurmdSpoolDir=/mnt/base/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmdLogFile=/mnt/base/slurmd.log
SlurmctldLogFile=/mnt/base/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
SlurmdParameters=config_overrides
MailProg=/bin/true
Epilog=/mnt/base/epilog.sh
ReturnToService=2
KillWait=60
SlurmdTimeout=20
{nodes}
PartitionName=all Nodes=ALL Default=YES
""".format(head=teams.HEAD, nodes="\n".join(
    f"NodeName={name} NodeAddr={address} CPUs=2 RealMemory=4000 Gres=gpu:2" for name, address in NODES.items()))
FOLDER = f"{hosts.SHARED}/sweeps"  # from which jobs are submitted


class Slurm:
    """Slurm on `network`, with the package installed on each host as `cluster/slurm.sh` says."""

    def __init__(self, network: hosts.Network) -> None:
        self.network, self.folder = network, network.shared / "sweeps"
        self.folder.mkdir()
        key = network.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        teams.fetch_build_tools(network)
        for name, address in NODES.items():
            self._start(network.add(name, address), key)
        shutil.copytree(teams.REPOSITORY, self.folder / "amun_ray", ignore=teams.SKIPPED)
        shutil.copy(teams.HERE / "several_hosts.yaml", self.folder)
        shutil.copy(teams.HERE / "pinned.py", self.folder)
        self.head.run("slurmctld")
        for host in network.hosts.values():
            host.run(f"cd {FOLDER}/amun_ray && ~/amun_venv/bin/python -m pip install --quiet "
                     "--constraint constraints.txt '.[cluster]'", timeout=600)
        self.network.hosts["worker"].run("slurmd -N worker")
        self.start_node("head")

    @property
    def head(self) -> hosts.Host:
        return self.network.hosts["head"]

    def start_node(self, name: str) -> None:
        """Start, or start again, Slurm's daemon of a node, and wait until both are idle."""
        self.network.hosts[name].run(f"slurmd -N {name}")
        hosts.until(lambda: self.head.run("sinfo --noheader --format '%D %t'").stdout.split() == ["2", "idle"], 120,
                    "both nodes are idle")

    def submit(self, options: str = "", arguments: str = "") -> str:
        """`sbatch` of the shipped script with the sweep of several hosts; the number of the job."""
        said = self.head.run(
            f"cd {FOLDER} && PYTHONPATH={FOLDER} sbatch --cpus-per-task=2 --gpus-per-node=2 --no-requeue {options} "
            f"amun_ray/cluster/slurm.sh --config {FOLDER}/several_hosts.yaml --allow-code pinned "
            f"{arguments or f'--output {hosts.SHARED}/several_hosts'}").stdout
        return number_of(said)

    def until(self, job: str, words: str) -> None:
        """Wait until a job has printed `words`."""
        hosts.until(lambda: words in self.text(job) or self.over(job), 900, f"{words} in slurm-{job}.out")
        assert words in self.text(job), self.text(job)

    def text(self, job: str) -> str:
        """What a job has printed so far."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        return re.search(r"JobState=(\w+)", self.head.run(f"scontrol show job {job}").stdout)[1]

    def over(self, job: str) -> bool:
        return self.state(job) not in ("PENDING", "RUNNING", "COMPLETING")

    def ended(self, job: str) -> str:
        """The state in which a job ends."""
        hosts.until(lambda: self.over(job), 1200, f"job {job} ends")
        return self.state(job)

    def _start(self, host: hosts.Host, key: Path) -> None:
        """munged, the configuration and the fake GPUs of a host; Slurm itself starts when all hosts are there."""
        for number in range(2):
            subprocess.run(["mknod", str(host.folder / f"gpu{number}"), "c", "1", "3"], check=True)
        shutil.copy(key, host.folder / "munge.key")
        (host.folder / "slurm.conf").write_text(CONFIG)
        (host.folder / "gres.conf").write_text("Name=gpu File=/mnt/base/gpu[0-1]\n")
        epilog = host.folder / "epilog.sh"  # without cgroups Slurm does not find processes that have left their session
        epilog.write_text("#!/bin/sh\npkill -KILL -f 'raylet|gcs_server|ray::|/ray/'; exit 0\n")
        epilog.chmod(0o755)
        (host.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not looked for: a host has none
        hostnames = "".join(f"{address} {name}\n" for name, address in NODES.items())
        host.run(f"printf '127.0.0.1 localhost\n{hostnames}' > /etc/hosts; "
                 "mkdir -p /etc/slurm /run/munge /mnt/base/spool /mnt/base/state; "
                 "cp /mnt/base/*.conf /etc/slurm/; chmod 755 /run/munge; "
                 "install -m 400 /mnt/base/munge.key /run/munge/key; "
                 "munged --force --key-file /run/munge/key --socket /run/munge/munge.socket.2 "
                 "--log-file /run/munge/log --pid-file /run/munge/pid --seed-file /run/munge/seed")


def number_of(said: str) -> str:
    """The number of the job that `sbatch` has submitted."""
    return re.search(r"Submitted batch job (\d+)", said)[1]
