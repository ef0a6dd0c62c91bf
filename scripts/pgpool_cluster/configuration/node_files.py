"""Render the files of this node from cluster.yml, the cluster key, the record and what is on the machine."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from ..decision.facts import matching
from ..definition import key as keys
from ..definition.cluster import Service
from ..ground import files, log, paths, plain
from ..machine import certificates, hands, own, pgpool, server, server_facts
from ..machine.record import Record
from . import key_file, laid_files, pool_key
from .rehearsal import before
from .rendering import keep, rendered_paths, rendering
from .rendering.rendered_file import File, FileShare
from .users import Users


def render() -> tuple[tuple[File, ...], Users]:
    """Return the rendered files of this node, and the users that they include; raises ClusterError."""
    cluster, me, notes = server.this_node_looked_up()
    for note in notes:
        log.warning(note, stream=sys.stderr)
    key = key_file.read()
    record = Record.load(paths.RECORD)
    came, dropped = record.standbys_came, record.dropped
    facts = server.facts(cluster, me, standbys_came=came, dropped=dropped, upgrading=record.upgrading)
    laid = certificates.Laid.here()
    facts = replace(
        facts,
        laid=laid,
        certified=record.certified,
        proven=record.proven,
        own_database=record.own_database,
        heartbeat_keys=keys.heartbeat_keys((laid_files.content(paths.HEARTBEAT_KEY) or b"").decode("ascii", "replace")),
        below_home=_is_below_home(facts.data_directory, facts.home),
        own=_own(facts, member=record.system is not None),
        needs=matching.plain(record.needs),
        libraries=tuple(filter(plain.is_parameter, record.libraries)),
        logical=record.logical,
    )
    kept = pgpool.of_another_key(key.fingerprint)
    users = pool_key.encrypted_with(Users.load(paths.USERS), pool_key.needed(key))
    rendered = rendering.render(cluster, key, me, facts, paths.templates())
    before.refuse(cluster, me, facts, rendered)
    begun = Service.POSTGRESQL in me.runs and files.kind(Path(facts.data_directory, "PG_VERSION")) != 0
    stubs = {str(Path(facts.data_directory, name)) for name in rendered_paths.STUBS}
    wanted = [file for file in rendered if begun or str(file.path) not in stubs]
    return tuple(with_users(pool_key.kept_for(file) if kept else file, users) for file in wanted), users


def _own(facts: server_facts.ServerFacts, *, member: bool) -> own.Own:
    """Return the settings from the server's own files that the cluster honours."""
    there = laid_files.content(rendered_paths.drop_in(facts.postgresql)) if member else None
    return (
        facts.own if there is None else keep.limited_to_laid(facts.own, dict(own.lines(there.decode(errors="replace"))))
    )


def _is_below_home(data: str, home: str) -> bool:
    """Return whether ProtectHome= would hide PostgreSQL's data, or the home of postgres, from our units."""
    used = [os.path.realpath(home)]
    if data:
        used += [*hands.places(Path(data)), *hands.places(Path(data, "pg_tblspc"))]
    return any(place.startswith(("/home/", "/root/", "/run/user/")) for place in used)


def with_users(file: File, users: Users) -> File:
    """Return pool_passwd with the entries of all users, and any other file as it is."""
    if file.share is not FileShare.ENTRIES:
        return file
    text = "".join(f"{name}:{entry}\n" for name, entry in sorted(users.entries.items()))
    return replace(file, content=file.content + text.encode())
