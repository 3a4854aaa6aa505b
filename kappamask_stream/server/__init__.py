"""The Triton on this machine, seen from the client: its environment and leases on it."""

from kappamask_stream.server.environment import ServerEnvironment
from kappamask_stream.server.installation import install_environment
from kappamask_stream.server.lease import LocalServer, lease_local_server, server_status, stop_server

__all__ = [
    "LocalServer",
    "ServerEnvironment",
    "install_environment",
    "lease_local_server",
    "server_status",
    "stop_server",
]
