"""Where the servers are (embedded, standalone, sentinel, cluster), and the roles they play."""

from rtx.topology.base import DATABASES, Role, Topology
from rtx.topology.roles import Roles

__all__ = ["DATABASES", "Role", "Roles", "Topology"]
