"""Several hosts on one machine: a bridge, and per host a network namespace with its own processes, /home, /tmp, sshd.

Each host is one process tree inside its own PID namespace: when its first process is killed the kernel ends all of it,
so `ray stop` in one host reaches no other host and nothing of the machine, and nothing is left behind. The same happens
when the tests are killed; the empty namespaces that then remain are removed by the next run.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync",
          "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "nft": "nftables", "ps": "procps"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GATEWAY = "10.77.0.254"  # leads nowhere, and says so at once
HOME, SHARED = "/home/amun", "/mnt/amun"  # inside every host
BOOT = """
set -e
mount --make-rprivate /
ip link set lo up
hostname "$AMUN_HOST"
mount --bind "$AMUN_FOLDER/home" /home
mount -t tmpfs tmpfs /mnt
cp -a /etc /mnt/etc
cp "$AMUN_FOLDER/passwd" /mnt/etc/passwd
rm -f /mnt/etc/resolv.conf
echo "nameserver $AMUN_GATEWAY" > /mnt/etc/resolv.conf
mount --bind /mnt/etc /etc
mkdir -p /mnt/amun /mnt/wheels /mnt/base /mnt/packages
mount --bind "$AMUN_PACKAGES" /mnt/packages
mount --bind "$AMUN_SHARED" /mnt/amun
mount --bind "$AMUN_WHEELS" /mnt/wheels
mount --bind "$AMUN_FOLDER" /mnt/base
mount -t tmpfs -o size=4g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
mount --bind "$AMUN_FOLDER/tmp" /tmp
exec env -i PATH="$PATH" /usr/sbin/sshd -D -e -f /mnt/base/sshd_config
"""
SSHD = """
HostKey /mnt/base/host_key
AuthorizedKeysFile /mnt/base/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
"""


def missing() -> str | None:
    """Why such hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = sorted({package for tool, package in NEEDED.items() if shutil.which(tool, path=SYSTEM_PATH) is None})
    if absent:
        return f"not installed: {', '.join(absent)}"
    name = f"amun-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no right to make network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


@dataclass
class Host:
    """One host; `run` executes in it as its user would at a terminal."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen = field(repr=False)

    @property
    def home(self) -> Path:
        """The home of its user, seen from outside."""
        return self.folder / "home" / "amun"

    def command(self, shell: str) -> list[str]:
        child = first_child(self.process.pid)
        return ["nsenter", f"--target={child}", "--mount", "--pid", "--net", "--uts",
                "env", "-i", f"HOME={HOME}", f"PATH={SYSTEM_PATH}", "USER=root", "LOGNAME=root", "TERM=dumb",
                "bash", "-c", f". ~/.bashrc; cd ~; {shell}"]

    def run(self, shell: str, *, given: str = "", timeout: float = 300,
            check: bool = True) -> subprocess.CompletedProcess:
        """Run a command line that reads `given`; its output, stdout and stderr together, is in `.stdout`."""
        done = subprocess.run(self.command(shell), input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=timeout)
        assert done.returncode == 0 or not check, f"{self.name}: {shell}\n{done.stdout}"
        return done

    def python(self, program: str, *arguments: str, given: str = "") -> str:
        """Run a Python program; its output."""
        (self.folder / "tmp" / "program.py").write_text(program)
        return self.run(f"python /tmp/program.py {' '.join(arguments)}", given=given, timeout=120).stdout

    def start(self, shell: str, log: Path) -> subprocess.Popen:
        """Run a command line in the background."""
        with log.open("w") as file:
            return subprocess.Popen(self.command(shell), stdin=subprocess.DEVNULL, stdout=file,
                                    stderr=subprocess.STDOUT)


def first_child(pid: int) -> int:
    """The first process inside a PID namespace, whose maker is `pid`."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Network:
    """Hosts on one bridge; a context manager that removes everything at its end."""

    def __init__(self, folder: Path) -> None:
        """`folder` keeps everything that the hosts write."""
        self.folder, self.shared, self.wheels = folder, folder / "shared", folder / "wheels"
        self.tag = f"amun{os.getpid()}"
        self.hosts: dict[str, Host] = {}
        for path in (self.shared, self.wheels):
            path.mkdir(parents=True, exist_ok=True)
        self.template = make_template(folder / "venv")
        _quietly("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))

    def __enter__(self) -> "Network":
        _remove_leftovers()
        _quietly("ip", "netns", "add", f"{self.tag}-hub")
        self._in("hub", "ip", "link", "add", "bridge", "type", "bridge")
        self._in("hub", "ip", "link", "set", "bridge", "up")
        self._in("hub", "ip", "address", "add", f"{GATEWAY}/24", "dev", "bridge")
        self._in("hub", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")  # a router answers that there is no way on
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
                os.kill(first_child(host.process.pid), signal.SIGKILL)
            host.process.wait(30)
        for name in [*self.hosts, "hub"]:
            subprocess.run(["ip", "netns", "delete", f"{self.tag}-{name}"], capture_output=True)

    def add(self, name: str, address: str) -> Host:
        """A new host with an sshd that answers at `address`."""
        folder = self.folder / name
        self._prepare(folder)
        _quietly("ip", "netns", "add", f"{self.tag}-{name}")
        self._in("hub", "ip", "link", "add", name, "type", "veth",
                 "peer", "name", "eth0", "netns", f"{self.tag}-{name}")
        self._in("hub", "ip", "link", "set", name, "master", "bridge", "up")
        self._in(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        self._in(name, "ip", "link", "set", "eth0", "up")
        self._in(name, "ip", "link", "set", "lo", "up")
        # Ray takes the address from which it would call the outside for the address of the node.
        self._in(name, "ip", "route", "add", "default", "via", GATEWAY)
        environment = {"PATH": SYSTEM_PATH, "AMUN_HOST": name, "AMUN_FOLDER": str(folder),
                       "AMUN_SHARED": str(self.shared), "AMUN_WHEELS": str(self.wheels),
                       "AMUN_GATEWAY": GATEWAY,
                       "AMUN_PACKAGES": sysconfig.get_paths()["purelib"]}
        with (folder / "sshd.log").open("w") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", f"{self.tag}-{name}", "unshare", "--mount",
                 "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child", "bash", "-c", BOOT],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.hosts[name] = Host(name, address, folder, process)
        until(lambda: "Server listening" in (folder / "sshd.log").read_text(), 20, f"{folder / 'sshd.log'}")
        return self.hosts[name]

    def cut(self, name: str) -> None:
        """Unplug the cable of a host."""
        self._in("hub", "ip", "link", "set", name, "down")

    def restore(self, name: str) -> None:
        self._in("hub", "ip", "link", "set", name, "up")

    def _in(self, name: str, *command: str) -> None:
        _quietly("ip", "netns", "exec", f"{self.tag}-{name}", *command)

    def _prepare(self, folder: Path) -> None:
        """The files of a host: its user, ssh keys, and an offline pip that finds what this Python already has."""
        home = folder / "home" / "amun"
        for path in (home / ".ssh", home / ".config" / "pip", folder / "tmp"):
            path.mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        (folder / "passwd").write_text("\n".join([f"root:x:0:0:root:{HOME}:/bin/bash", *others]) + "\n")
        (folder / "sshd_config").write_text(SSHD)
        _quietly("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key"))
        shutil.copy(self.folder / "key.pub", folder / "authorized_keys")
        (home / ".config" / "pip" / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /mnt/wheels\n")
        # Long timeouts, and no lower priority for workers: all hosts share a few cores with other programs.
        (home / ".bashrc").write_text(f"export PATH={HOME}/amun_venv/bin:$PATH\n"
                                      "export RAY_agent_register_timeout_ms=300000 RAY_worker_niceness=0\n")
        shutil.copytree(self.template, home / "amun_venv", symlinks=True)


def make_template(folder: Path) -> Path:
    """A virtual environment with pip, `ray` and `mlflow`, which finds the packages of the Python running the tests."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "machine.pth").write_text("/mnt/packages\n")
    for old in [*site.glob("setuptools*"), *site.glob("pkg_resources*"), *site.glob("_distutils_hack*")]:
        shutil.rmtree(old)  # older than what PyTorch wants, and it would hide the one in /mnt/packages
    (site / "distutils-precedence.pth").unlink(missing_ok=True)
    for name, module, function in (("ray", "ray.scripts.scripts", "main"), ("mlflow", "mlflow.cli", "cli")):
        command = folder / "bin" / name
        command.write_text(f"#!{HOME}/amun_venv/bin/python\nfrom {module} import {function}\n{function}()\n")
        command.chmod(0o755)
    return folder


def _remove_leftovers() -> None:
    """The namespaces of test runs that were killed; no process is left in them."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name, pid in re.findall(r"^(amun(\d+)-\w+)", listed, re.MULTILINE):
        if not Path("/proc", pid).exists():
            _quietly("ip", "netns", "delete", name)


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
