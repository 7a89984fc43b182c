"""A real S3 server for tests: Ceph's radosgw from Debian's packages, unpacked into .server/, not installed.

No container and no root needed (except to refresh missing apt lists): one monitor, one object store in memory, one
gateway; about 2 s to start and 150 MB of memory. `python -m tests.support.s3_server` runs one by hand.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2] / ".server" / "ceph"
PACKAGES = """
    ceph-mon ceph-osd radosgw ceph-common ceph-base librados2 librbd1 librgw2 libcephfs2 libradosstriper1
    libgoogle-perftools4 libtcmalloc-minimal4 libboost-thread1.74.0 libboost-context1.74.0 libfmt9 libibverbs1
    librdmacm1 libnl-3-200 libnl-route-3-200 liblua5.3-0 librabbitmq4 libaio1 libsnappy1v5 libleveldb1d libdaxctl1
    libndctl6 libpmem1 libfuse2 liboath0
"""
ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
PATIENCE = 60.0


class NotAvailable(Exception):
    """The server is not available on this machine; the message says why."""


@dataclass
class S3Server:
    """A running server. endpoint: its URL; ACCESS_KEY and SECRET_KEY are its credentials."""

    endpoint: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path) -> S3Server:
        """Return a new, empty server with its data in this folder. Raises NotAvailable without its packages."""
        tree = _unpacked()
        environment = _environment(tree)
        server = cls(f"http://127.0.0.1:{_free_port()}")
        try:
            _start(server, folder, tree, environment)
        except BaseException:
            server.stop()
            raise
        return server

    def stop(self) -> None:
        """End its processes, the gateway first."""
        for process in reversed(self.processes):
            process.kill()  # nothing in it is kept
            process.wait()


def _unpacked() -> Path:
    """Return the folder of the packages' files; download them the first time (60 MB)."""
    if ROOT.is_dir():
        return ROOT
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotAvailable("the S3 server comes from Debian packages, and this machine has no apt-get and dpkg-deb")
    ROOT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as scratch:
        _download(Path(scratch))
        tree = Path(scratch) / "tree"
        for package in sorted(Path(scratch).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
        shutil.rmtree(tree / "usr" / "share")
        _check_libraries(tree)
        with suppress(OSError):  # another process was faster
            tree.rename(ROOT)
    return ROOT


def _download(folder: Path) -> None:
    download = ["apt-get", "download", "-q", *PACKAGES.split()]
    for command in (download, ["apt-get", "update", "-q"], download):
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if command is download and run.returncode == 0:
            return
    raise NotAvailable(f"Ceph's Debian 12 packages cannot be fetched: {run.stderr.strip().splitlines()[-1]}")


def _check_libraries(tree: Path) -> None:
    for binary in ("ceph-mon", "ceph-osd", "radosgw"):
        run = subprocess.run(
            ["ldd", tree / "usr" / "bin" / binary], env=_environment(tree), capture_output=True, text=True, check=False
        )
        missing = [line.split()[0] for line in run.stdout.splitlines() if "not found" in line]
        if missing:
            raise NotAvailable(f"{binary} needs libraries that this machine lacks: {', '.join(missing)}")


def _environment(tree: Path) -> dict[str, str]:
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    places = [libraries, tree / "lib/x86_64-linux-gnu", libraries / "ceph", tree / "usr/lib"]
    programs = [str(tree / "usr/bin"), str(tree / "usr/sbin"), os.environ.get("PATH", os.defpath)]
    return {"LD_LIBRARY_PATH": ":".join(map(str, places)), "PATH": ":".join(programs)}


def _start(server: S3Server, folder: Path, tree: Path, environment: Mapping[str, str]) -> None:
    monitor_port, store_id = _free_port(), str(uuid.uuid4())
    settings = folder / "ceph.conf"
    settings.write_text(_settings(folder, tree, monitor_port, server.endpoint.rpartition(":")[2]))
    environment = {**environment, "CEPH_CONF": str(settings)}
    for name in ("mon", "osd", "rgw", "run", "log"):
        (folder / name).mkdir()

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")

    def keep_running(*command: str) -> None:
        tied_to_us = ["setpriv", "--pdeathsig", "KILL", *command, "-f"]  # so that killed tests leave no server behind
        with (folder / "log" / f"{command[0]}.out").open("wb") as output:
            server.processes.append(subprocess.Popen(tied_to_us, env=environment, stdout=output, stderr=output))

    keyring, monitors = folder / "keyring", folder / "monmap"
    address = f"[v2:127.0.0.1:{monitor_port}]"
    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    run(
        "ceph-authtool",
        keyring,
        "--gen-key",
        "-n",
        "client.admin",
        "--cap",
        "mon",
        "allow *",
        "--cap",
        "osd",
        "allow *",
    )
    run("monmaptool", "--create", "--fsid", CLUSTER, "--addv", "a", address, monitors)
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
    keep_running("ceph-mon", "-i", "a")
    run(sys.executable, "-c", NEW_STORE, settings, store_id)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store_id)
    keep_running("ceph-osd", "-i", "0")
    keep_running("radosgw", "-n", "client.admin")
    _wait_for(server, folder)
    user = ["--uid", "test", "--display-name", "test", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
    run("radosgw-admin", "-n", "client.admin", "user", "create", *user)


def _wait_for(server: S3Server, folder: Path) -> None:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            urllib.request.urlopen(server.endpoint, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"The S3 server did not start; its log: {(folder / 'log' / 'radosgw.out').read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


CLUSTER = "11111111-2222-4333-8444-555555555555"

# Tells the monitor about a new object store. The ceph command could, too, but needs Python packages that are not here;
# the library is loaded in a process of its own, since the loader reads LD_LIBRARY_PATH only once.
NEW_STORE = """
import ctypes, json, sys
settings, store_id = sys.argv[1:]
rados = ctypes.CDLL("librados.so.2")
cluster, out, status = ctypes.c_void_p(), ctypes.c_char_p(), ctypes.c_char_p()
size = ctypes.c_size_t()
command = (ctypes.c_char_p * 1)(json.dumps({"prefix": "osd new", "uuid": store_id}).encode())
for answer in (
    rados.rados_create(ctypes.byref(cluster), b"admin"),
    rados.rados_conf_read_file(cluster, settings.encode()),
    rados.rados_connect(cluster),
    rados.rados_mon_command(
        cluster, command, ctypes.c_size_t(1), b"", ctypes.c_size_t(0),
        ctypes.byref(out), ctypes.byref(size), ctypes.byref(status), ctypes.byref(size),
    ),
):
    if answer:
        sys.exit(f"librados answered {answer}")
"""


def _settings(folder: Path, tree: Path, monitor_port: int, gateway_port: str) -> str:
    """Return Ceph's settings for one machine, without internal authentication, with one replica, data in memory."""
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    unencrypted = "\n".join(
        f"ms_{side}_mode = crc" for side in ("client", "service", "cluster", "mon_client", "mon_service", "mon_cluster")
    )
    return f"""
[global]
fsid = {CLUSTER}
mon_host = [v2:127.0.0.1:{monitor_port}/0]
public_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_allow_insecure_global_id_reclaim = true
{unencrypted}
keyring = {folder}/keyring
run_dir = {folder}/run
admin_socket = {folder}/run/$name.asok
log_file = {folder}/log/$name.log
mon_cluster_log_file = {folder}/log/cluster.log
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
plugin_dir = {libraries}/ceph
erasure_code_dir = {libraries}/ceph/erasure-code
osd_class_dir = {libraries}/rados-classes
osd_class_load_list = *
osd_class_default_list = *
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = 1073741824
[client]
rgw_frontends = beast endpoint=127.0.0.1:{gateway_port}
rgw_thread_pool_size = 16
rgw_run_sync_thread = false
rgw_dns_name = localhost
rgw_print_continue = true
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server.start(Path(folder))
        print(f"{server.endpoint}  access key {ACCESS_KEY}, secret key {SECRET_KEY}; ends with ctrl-c", flush=True)
        try:
            server.processes[-1].wait()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
