"""The pipeline for GitLab, for a runner whose containers are privileged.

GitLab stores caches as zip files, which lose owners and devices, so jobs pack the toolkit's cache into one tar.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from . import pipeline_steps as steps

IMAGE = "debian:trixie"
CACHE = "$CI_PROJECT_DIR/.pgpool-deb"
"""Jobs cannot request volumes, but the checkout is on one."""
STAGES = ("cells", "proved", "publish", "pages", "promote", "promoted-pages")
TASK = "PGPOOL_DEB_TASK"
"""The variable that a schedule sets to `update` or `renew`."""

_SCHEDULED = '$CI_PIPELINE_SOURCE == "schedule"'
_PUBLISHES = f"$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH && ${steps.URL}"
_NO_SCHEDULE = {"if": _SCHEDULED, "when": "never"}
_ASIDE = f"archive_key=${steps.KEY}; unset {steps.KEY}"
_KEEPS = {
    "before_script": [
        steps.PREPARE,
        'mkdir -p "$PGPOOL_DEB_CACHE"',
        'if [ -f cache.tar.zst ]; then tar -C "$PGPOOL_DEB_CACHE" --numeric-owner -xpf cache.tar.zst; fi',
    ],
}
_GIT = [f"export {name}={shlex.quote(value)}" for name, value in steps.GIT.items()]
"""Exported in scripts, because GitLab would expand the token in the values of job variables."""
_PACK = 'tar -C "$PGPOOL_DEB_CACHE" --numeric-owner --zstd -cf cache.tar.zst .'

GitlabJob = dict[str, Any]


def pipeline(releases: Sequence[str]) -> dict[str, Any]:
    """Return the pipeline."""
    cells = {name: {"extends": ".cell", "variables": {"RELEASE": name}} for name in releases}
    publishes = {"if": _PUBLISHES}
    on_success_or_failure = {**publishes, "when": "always"}
    by_hand = {**publishes, "when": "manual"}
    return {
        "stages": list(STAGES),
        "variables": {
            "PGPOOL_DEB_CACHE": CACHE,
            "REMOTE": "$CI_SERVER_URL/$CI_PROJECT_PATH.git",
            steps.TOKEN_USER: "pipeline",
        },
        "default": {"image": IMAGE, "timeout": "2 hours"},
        ".cell": _cell(),
        **cells,
        "update": _update(),
        "open": _open(),
        "proved": _proved(),
        "publish": _writer("publish", "packages-testing", steps.PUBLISH, on_success_or_failure, gather=True),
        "renew": _writer("publish", "packages-testing", steps.RENEW, _task("renew")),
        "promote": {**_writer("promote", "packages-stable", steps.PROMOTE, by_hand), "allow_failure": True},
        "pages": _pages("pages", "publish", publishes),
        "renewed-pages": _pages("pages", "renew", _task("renew")),
        "promoted-pages": _pages("promoted-pages", "promote", publishes),
    }


def _task(name: str) -> dict[str, str]:
    return {"if": f'{_SCHEDULED} && ${TASK} == "{name}"'}


def _kept(name: str) -> GitlabJob:
    return {"key": f"pgpool-deb-{name}", "paths": ["cache.tar.zst"], "when": "always"}


def _cell() -> GitlabJob:
    release = "$RELEASE"
    move = f"if [ -f dist/report/report.json ]; then mkdir -p cells && cp -r dist cells/{release}; fi"
    return {
        "stage": "cells",
        "rules": [_NO_SCHEDULE, {"when": "on_success"}],
        **_KEEPS,
        "script": [steps.PROVE.format(release=release)],
        "after_script": [move, _PACK],
        "cache": _kept(release),
        "artifacts": {
            "name": release,
            "when": "always",
            "paths": [f"cells/{release}/report/", f"cells/{release}/{release}/"],
            "reports": {"junit": f"cells/{release}/report/junit.xml"},
            "expire_in": "4 weeks",
        },
    }


def _writer(stage: str, environment: str, command: str, rule: dict[str, str], *, gather: bool = False) -> GitlabJob:
    """Return a job that changes the repository, one at a time. Only the signing program gets the key."""
    rules = [rule] if "schedule" in rule["if"] else [_NO_SCHEDULE, rule]
    artifacts: GitlabJob = {} if gather else {"dependencies": []}
    return {
        "stage": stage,
        "rules": rules,
        **artifacts,
        "environment": {"name": environment},
        "resource_group": "packages-repository",
        "before_script": [_ASIDE, steps.PREPARE_REPOSITORY, *_GIT],
        "script": [
            steps.GATHER if gather else steps.ENVIRONMENT,
            steps.FETCH,
            f'{steps.KEY}="$archive_key" {command}unset archive_key\n',
            steps.STORE,
            steps.SYNCHRONISE,
        ],
    }


def _pages(stage: str, after: str, rule: dict[str, str]) -> GitlabJob:
    rules = [rule] if "schedule" in rule["if"] else [_NO_SCHEDULE, rule]
    return {
        "stage": stage,
        "needs": [after],
        "rules": [{"if": f"${steps.SYNC}", "when": "never"}, *rules],
        "before_script": [steps.PREPARE_GIT, *_GIT],
        "variables": {steps.TOKEN: "$CI_JOB_TOKEN", steps.TOKEN_USER: "gitlab-ci-token"},
        "script": [steps.FETCH, steps.SITE, "mv site public"],
        "pages": True,
        "artifacts": {"paths": ["public"], "expire_in": "1 day"},
    }


def _update() -> GitlabJob:
    """Return the job that tries a new upstream release. It builds untrusted code, so it has no token that may write."""
    return {
        "stage": "cells",
        "rules": [_task("update")],
        **_KEEPS,
        "script": [*_GIT, steps.KNOWN, steps.OPEN],
        "after_script": [_PACK],
        "cache": _kept("update"),
        "artifacts": {"paths": [steps.CHANGE], "expire_in": "1 week"},
    }


_OPTIONS = "-o merge_request.merge_when_pipeline_succeeds"
_PUSH = f"""\
if [ ! -f {steps.CHANGE} ]; then exit 0; fi
{steps.TAKE}\
merge="{_OPTIONS}"
if [ "${{{steps.MERGE}:-}}" = hand ]; then merge=; fi
if git show FETCH_HEAD:packaging/sources.toml | grep -q '^default = '; then merge=; fi
# shellcheck disable=SC2086
git push --quiet -o merge_request.create -o merge_request.target="$CI_DEFAULT_BRANCH" \\
  -o merge_request.remove_source_branch $merge "$REMOTE" "FETCH_HEAD:refs/heads/$branch"
"""
"""A release is merged once it is proved, an advisory of Debian's once its pipeline has passed."""

_PROVED = f"""\
{steps.PROVED}\
if [ -n "$version" ]; then
  merge="{_OPTIONS}"
  if [ "${{{steps.MERGE}:-}}" = hand ]; then merge=; fi
  # shellcheck disable=SC2086
  git push --quiet $merge "$REMOTE" "HEAD:refs/heads/$CI_COMMIT_BRANCH"
fi
"""


def _open() -> GitlabJob:
    return {
        "stage": "proved",
        "rules": [_task("update")],
        "environment": {"name": "packages-update"},
        "before_script": [steps.PREPARE_GIT, *_GIT],
        "script": [_PUSH],
    }


def _proved() -> GitlabJob:
    return {
        "stage": "proved",
        "rules": [_NO_SCHEDULE, {"if": "$CI_COMMIT_BRANCH =~ /^update\\//"}],
        "environment": {"name": "packages-update"},
        "before_script": [steps.PREPARE, *_GIT],
        "script": [_PROVED],
    }
