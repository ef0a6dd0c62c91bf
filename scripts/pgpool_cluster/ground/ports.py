"""The network ports of the services on a node."""

from __future__ import annotations

SSH = 22
POSTGRESQL = 5432
"""PostgreSQL's port on a node for which cluster.yml gives none."""
WATCHDOG = 9000
HEARTBEAT = 9694
"""The heartbeat of pgpool-II's watchdog, over UDP."""
AGENT_HEARTBEAT = 9695
"""The heartbeat between agents, over UDP."""
PCP = 9898
POOL = 9999
"""pgpool-II's port for clients if cluster.yml gives none."""
