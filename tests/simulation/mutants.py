"""Mutants of the package's decisions and of its protocol: one text in one file, replaced by another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A fault that is put into a copy of the package."""

    name: str
    file: str
    old: str
    new: str


CLAIMS, CUTTING, NODE = "operations/succession/claims.py", "operations/succession/cutting.py", "node/node.py"
POOLING, PROMOTION = "decision/pooling.py", "decision/promotion.py"
MEMBER, SITUATION, SYNCHRONY = (
    "decision/streaming_member.py",
    "decision/situation.py",
    "operations/succession/synchrony.py",
)
MUTANTS = (
    Mutant("a majority is one node less", "definition/cluster.py", "len(self.nodes) // 2 + 1", "len(self.nodes) // 2"),
    Mutant("a claim needs one vote less", CLAIMS, "if len(noted) < here.cluster.majority:", "if len(noted) < 1:"),
    Mutant("a refused vote counts", CLAIMS, "in answers.items() if answer.taken}", "in answers.items()}"),
    Mutant(
        "a node claims a term that it knows", CLAIMS,
        "if not here.note_term(term, **", "if None is here.note_term(term, **",
    ),
    Mutant(
        "a later excuse does not end a claim", CLAIMS,
        "and latest > decided:", "and latest > (10**9, 0):",
    ),
    Mutant(
        "the start of a term needs no majority", CLAIMS,
        "Excuse(term, 0, kept))) < here.cluster.majority", "Excuse(term, 0, kept))) < 0",
    ),
    Mutant("a claim does not note the lead", NODE, "self.remember(led=term, **changes)", "self.remember(**changes)"),
    Mutant(
        "a claim that was overtaken takes effect", NODE,
        "            if term < self.record.term:", "            if term < 0:",
    ),
    Mutant("a term is taken twice", NODE, "if term <= self.record.term:", "if term < self.record.term:"),
    Mutant("a term is not stored", NODE, "self.remember(term=term, **changes)", "self.remember(**changes)"),
    Mutant("a record is not saved", NODE, "changed.save(paths.RECORD)", "changed.with_changes()"),
    Mutant("a record is not synced", "ground/files.py", "os.fsync(stream.fileno())", "stream.fileno()"),
    Mutant("an excuse of an earlier term counts", NODE, "excuse.term < self.record.term or ", ""),
    Mutant("facts from before a stall count", NODE, "began > _LONGEST_SECONDS", "began > 1e9"),
    Mutant(
        "one missing standby too many", PROMOTION,
        "0 < cluster.synchronous <= len(missing)", "0 < cluster.synchronous < len(missing)",
    ),
    Mutant(
        "missing standbys do not matter", PROMOTION,
        "0 < cluster.synchronous <= len(missing)", "cluster.synchronous < 0",
    ),
    Mutant(
        "the least advanced standby takes over", PROMOTION,
        "return max((one for one in standbys", "return min((one for one in standbys",
    ),
    Mutant("a writable node does not block a promotion", PROMOTION, "    if writable:\n", "    if not facts.nodes:\n"),
    Mutant("two nodes may be promoted at once", PROMOTION, "if any(other.promoting for", "if any(False for"),
    Mutant(
        "a replaced primary goes on", MEMBER,
        "    if primary is not mine:\n        return (Stop", "    if primary is not mine:\n        return () and (Stop",
    ),
    Mutant(
        "a booting primary needs no majority", MEMBER,
        "    if not situation.majority:", "    if not situation.facts.nodes:",
    ),
    Mutant(
        "a booting primary ignores a later term", MEMBER,
        "if mine.led < situation.latest and", "if mine.led < 0 and",
    ),
    Mutant("a booting primary ignores newer data", MEMBER, "if any(_goes_before(other, mine)", "if any(False"),
    Mutant("a diverged standby follows", MEMBER, "    if fits is False:\n", "    if fits is None:\n"),
    Mutant("any writable node is the primary", SITUATION, "if member.led >= latest]", "if member.led >= 0]"),
    Mutant("the earliest term counts", SITUATION, "max((member.term for", "min((member.term for"),
    Mutant(
        "the position does not matter", SITUATION,
        "member.timeline or 0, member.position.bytes if member.position else 0\n", "member.timeline or 0, 0\n",
    ),
    Mutant("standbys are excused at once", SYNCHRONY, ">= cluster.synchronous\n\n\ndef kept", ">= 0\n\n\ndef kept"),
    Mutant(
        "the last standby is dropped", SYNCHRONY,
        "    if _usable(cluster, primary, facts, dropped) < cluster.synchronous:\n        return ()",
        "    if not facts.nodes:\n        return ()",
    ),
    Mutant(
        "an excuse outlives the return of a standby", SYNCHRONY,
        "rest = tuple(name for name in excuse.names if name not in back)", "rest = excuse.names",
    ),
    Mutant(
        "a promotion claims nothing", "operations/succession/new_primary.py",
        "                claims.claim_promotion(here, term, mine, decided=decided, loss=loss)\n", "",
    ),
    Mutant(
        "a booting primary claims nothing", "operations/succession/new_primary.py",
        "        claims.claim(here, action.term, kept=synchrony.kept(here.record), loss=loss)\n", "",
    ),
    Mutant(
        "any server may start", "agent/answers.py",
        "go = any(isinstance(action, Start | Resume) for action in actions)", "go = True",
    ),
    Mutant("a standby stays with its primary", CUTTING, "        return _cut(here)\n", "        return mine\n"),
    Mutant(
        "a former primary is not killed", CUTTING,
        "    if postmaster.runs(here.server.instance):", "    if not here and postmaster.runs(here.server.instance):",
    ),
    Mutant(
        "a node that becomes a primary has given something up", CUTTING,
        "return None if here.under_way.promoting else given_up", "return given_up",
    ),
    Mutant("nodes that may acknowledge do not matter", CLAIMS, "    if able:\n", "    if able and not able:\n"),
    Mutant("more WAL on another standby does not matter", CLAIMS, "    if ahead:\n", "    if ahead and not ahead:\n"),
    Mutant(
        "a promotion keeps the origins that it only expected", CLAIMS,
        '{"origins": timelines.received(here, mine)}', "{}",
    ),
    Mutant(
        "a standby follows an earlier primary again", "operations/postgresql_service.py",
        "if 0 < action.term < here.record.term:", "if 0 < action.term < 0:",
    ),
    Mutant(
        "a primary that is cut off goes on", MEMBER,
        "if fencing.is_due(situation.cluster, situation.policy.alone_seconds):",
        "if situation.policy.alone_seconds < 0:",
    ),
    Mutant("a return needs no majority", MEMBER, "    if not situation.confirmed:\n", "    if not situation.facts:\n"),
    Mutant(
        "a witness with a later term is a contact", "decision/fencing.py",
        "return (*away, *later) if later else", "return () if later else",
    ),
    Mutant(
        "a replaced primary was promoted by hand", SITUATION,
        " and not _was_replaced(one, latest)", "",
    ),
    Mutant(
        "timelines with the same number are the same", "decision/facts/facts.py",
        "in range(1, timeline + 1):", "in range(0):",
    ),
    Mutant("pgpool-II is never redirected", POOLING, "    if _is_redirected(", "    if not pgpool and _is_redirected("),
    Mutant(
        "a detached node is never attached", POOLING,
        "and _fit(situation, member):", "and _fit(situation, member) is None:",
    ),
    Mutant(
        "a node that must not serve clients stays attached", POOLING,
        "if believed is BackendState.UP and unfit:", "if believed is BackendState.DOWN and unfit:",
    ),
    Mutant("a copy comes before pgpool-II", "decision/decide.py", "first = copies or any(", "first = any("),
    Mutant(
        "a failed action stops those for pgpool-II", "agent/agent.py",
        "stopped.add(of_pgpool)", "stopped.update((True, False))",
    ),
    Mutant(
        "a server that hangs is alive", "decision/liveness/silence.py",
        "return probe is not None and not probe.answered and probe.began >= hanging.since", "return False",
    ),
    Mutant(
        "pg_rewind compares timelines with the same number", "copying/copying.py",
        "if _rewindable(here) and _tells_apart(here, source):", "if _rewindable(here):",
    ),
)  # fmt: skip
