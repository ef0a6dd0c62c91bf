"""Run PostgreSQL and pgpool-II in a system without systemd, as the unit would run them."""

from __future__ import annotations

from tests.chroot import Answer, Chroot

_SESSION = """
conf={conf}
as_postgres() {{ runuser -u postgres -- "$@"; }}
ask() {{ as_postgres psql -X -A -t "$@" -c 'SELECT 40 + 2' postgres; }}
rm -rf /run/postgresql /tmp/.s.PGSQL.* /tmp/pgpool.log # as after a reboot
install -d -o postgres -g postgres -m 2775 /run/postgresql
touch /tmp/pgpool.log
pg_ctlcluster {major} main start
cd /tmp
as_postgres /usr/sbin/pgpool -n -f "$conf" >/tmp/pgpool.log 2>&1 &
pgpool=$!
tries=0
until grep -q 'pgpool-II successfully started' /tmp/pgpool.log; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$pgpool" 2>/dev/null; then
        cat /tmp/pgpool.log
        echo 'pgpool-II does not run'
        exit 9
    fi
    sleep 0.2
done
{script}
kill -INT $(cat /var/run/postgresql/pgpool.pid)
wait "$pgpool" || echo "pgpool-II ended with $?"
pg_ctlcluster {major} main stop -m fast
"""


def with_pgpool(
    system: Chroot, major: int, script: str, *, conf: str = "/etc/pgpool2/pgpool.conf", before: str = ""
) -> Answer:
    """Run `script` while both serve; it can call `ask PSQL-OPTIONS` (which prints 42) and `as_postgres COMMAND`.

    The status is 9 if pgpool-II did not start.
    """
    return system.attempt(f"{before}\n{_SESSION.format(major=major, conf=conf, script=script)}")
