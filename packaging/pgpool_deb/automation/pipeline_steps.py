"""The scripts of a pipeline's jobs for every CI engine: POSIX shell around this project's own commands.

The package repository is stored on the branch BRANCH of the project. Its commits contain the whole folder, so losing a
cache loses no published file, and git refuses a push that does not follow the last one. Jobs check it out to FOLDER.

An engine's file sets REMOTE (the project's address without a credential), GIT, and KEY or TOKEN where a job needs it.
"""

from __future__ import annotations

BRANCH = "pgpool-deb-repository"
FOLDER = "repository/debian"
CHANGE = "dist/change.bundle"
KEY = "PGPOOL_DEB_ARCHIVE_KEY"
TOKEN = "PGPOOL_DEB_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_USER = "PGPOOL_DEB_TOKEN_USER"  # noqa: S105 - the name of a variable
URL = "PGPOOL_DEB_URL"
SYNC = "PGPOOL_DEB_REPOSITORY_SYNC"
SYNC_SECRET = "PGPOOL_DEB_SYNC_SECRET"  # noqa: S105 - the name of a variable
MERGE = "PGPOOL_DEB_MERGE"
RELEASES = "PROMOTE_RELEASES"

_INSTALL = "apt-get update && apt-get install -y --no-install-recommends"
PREPARE = f"{_INSTALL} ca-certificates git python3 python3-venv zstd"
PREPARE_REPOSITORY = f"{_INSTALL} ca-certificates git python3 python3-venv apt-utils gnupg gpgv openssh-client rsync"
"""Installs all that publish needs, so that it installs nothing while it has the key."""
PREPARE_GIT = f"{_INSTALL} ca-certificates git"
PROVE = "./invoke matrix --release {release}"
ENVIRONMENT = "./invoke --list >/dev/null"
"""Makes .venv before the job has a secret."""

GIT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_CONFIG_KEY_1": "credential.helper",
    "GIT_CONFIG_VALUE_1": f'!f() {{ echo "username=${TOKEN_USER}"; echo "password=${TOKEN}"; }}; f',
    "GIT_AUTHOR_NAME": "pipeline",
    "GIT_AUTHOR_EMAIL": "pipeline@localhost",
    "GIT_COMMITTER_NAME": "pipeline",
    "GIT_COMMITTER_EMAIL": "pipeline@localhost",
}
"""The environment of steps that use git. It takes the token from a variable, so no file or argument contains it."""

FETCH = f"""\
found=0
git ls-remote --exit-code --heads "$REMOTE" refs/heads/{BRANCH} >/dev/null || found=$?
case $found in
  0) git clone --quiet --depth 1 --single-branch --branch {BRANCH} "$REMOTE" repository ;;
  2) git init --quiet --initial-branch {BRANCH} repository ;;
  *) exit "$found" ;;
esac
echo .lock >>repository/.git/info/exclude
"""
"""A new repository starts only if the project answers that the branch does not exist."""

GATHER = "./invoke gather cells || [ $? -ne 2 ]\n"
"""A failed cell fails its own job and does not stop others from being published; status 2 means a damaged report."""

PUBLISH = f'./invoke publish --to {FOLDER} --new --key env:{KEY} --url "${URL}" --no-install\n'
RENEW = f"./invoke publish --to {FOLDER} --renew --key env:{KEY} --no-install\n"
PROMOTE = f'./invoke promote --in {FOLDER} ${{{RELEASES}:+--release "${RELEASES}"}} --key env:{KEY} --no-install\n'

STORE = f"""\
git -C repository add --all
if [ ! -e {FOLDER}/current ] || git -C repository diff --cached --quiet; then
  echo "nothing was published"
else
  git -C repository commit --quiet --message "$(readlink {FOLDER}/current)"
  git -C repository push --quiet "$REMOTE" HEAD:refs/heads/{BRANCH}
fi
"""

SYNCHRONISE = f"""\
if [ -n "${{{SYNC}:-}}" ]; then
  cd {FOLDER}
  sh -ec "${SYNC}"
fi
"""

SITE = f"""\
mkdir -p site
for name in dists keyring pool index.html repository.json; do
  cp -RL {FOLDER}/$name site/
done
"""
"""The state that clients see and the whole pool, without links, because Pages has none; the branch has older states."""

KNOWN = """\
git fetch --quiet origin '+refs/heads/update/*:refs/remotes/origin/update/*'
"""
"""It has no --depth, with which git fails if there is no such branch."""

OPEN = f"""\
./invoke update --open
branch=$(git branch --show-current)
case $branch in
  update/*) mkdir -p dist && git bundle create --quiet {CHANGE} "HEAD~1..$branch" ;;
esac
"""
"""This step builds untrusted upstream code, so it has no token that may write; a bundle carries its commit on."""

TAKE = f"""\
branch=$(git bundle list-heads {CHANGE} | sed -n 's,^[0-9a-f]* refs/heads/\\(update/[A-Za-z0-9.-]*\\)$,\\1,p')
git fetch --quiet {CHANGE} "refs/heads/$branch"
"""

VERSION = """\
version=$(sed -n 's/^default = "\\([0-9.]*\\)"$/\\1/p' packaging/sources.toml)
"""
"""The version that a change should prove; a change with Debian's advisories has none."""

PROVED = f"""\
./invoke gather cells
{VERSION}\
if [ -n "$version" ]; then
  ./invoke update --proved "$version"
  git commit --quiet --all --message "Call pgpool-II $version proved"
fi
"""
