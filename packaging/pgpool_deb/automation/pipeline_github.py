"""The pipeline for GitHub Actions. Every job has only the permissions that it needs; commits pin the actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import pipeline_steps as steps

IMAGE = "debian:trixie"
"""The oldest supported Debian image would suffice; the newest stable one has newer tools."""
CACHE = "/var/cache/pgpool-deb"
"""A fixed path, because CI engines change the home folder. It is a volume, because a container's own disk is an
overlay, on which roots cannot be mounted."""
RUNNER = "ubuntu-24.04"
CHECKOUT = "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8"  # v5.0.0
KEEP = "actions/cache@0400d5f644dc74513175e3cd8d07132dd4860809"  # v4.2.4
UPLOAD = "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02"  # v4.6.2
DOWNLOAD = "actions/download-artifact@634f93cb2916e3fdff6788551b99b062d0335ce0"  # v5.0.0
UPLOAD_PAGES = "actions/upload-pages-artifact@7b1f4a764d45c48632c6b24a0339c27f5614fb0b"  # v4.0.0
DEPLOY_PAGES = "actions/deploy-pages@d6db90164ac5ed86f2b6aed7e0febac5b3c0c03e"  # v4.0.5
INPUTS = ("packaging/**", "debian-templates/**", "requirements.lock")
FILE = "packages.yml"

EVERY_SIX_HOURS = "17 */6 * * *"
MONDAYS = "47 3 * * 1"
"""apt accepts a signed state for 30 days, so the repository needs new signatures before that."""
TASKS = ("publish", "promote", "renew", "update")

_DEFAULT = "github.ref_name == github.event.repository.default_branch"
_PUBLISHES = f"{_DEFAULT} && vars.{steps.URL} != ''"
_BUILDS = "github.event_name != 'schedule' && (inputs.task || 'publish') == 'publish'"
_GIT = {"REMOTE": "${{ github.server_url }}/${{ github.repository }}.git", **steps.GIT}
_TOKEN = {steps.TOKEN: "${{ github.token }}", steps.TOKEN_USER: "x-access-token"}
_GH = {"GH_TOKEN": "${{ github.token }}", "GH_REPO": "${{ github.repository }}"}
_BASE = {"DEFAULT": "${{ github.event.repository.default_branch || 'main' }}"}
_KEY = {steps.KEY: f"${{{{ secrets.{steps.KEY} }}}}"}
_CHECKED_OUT = {"uses": CHECKOUT, "with": {"persist-credentials": False}}

GithubJob = dict[str, Any]


def pipeline(releases: Sequence[str]) -> dict[str, Any]:
    """Return the workflow. Containers of cells are privileged, because they mount roots and boot hosts."""
    choice = {"type": "choice", "options": list(TASKS), "default": TASKS[0], "description": "the task to run"}
    text = {"type": "string", "description": "for promote: releases, comma-separated; empty for all"}
    return {
        "name": "packages",
        "on": {
            "push": {"branches": ["main"]},
            "pull_request": {},
            "schedule": [{"cron": EVERY_SIX_HOURS}, {"cron": MONDAYS}],
            "workflow_dispatch": {"inputs": {"task": choice, "release": text}},
        },
        "permissions": {"contents": "read"},
        "jobs": {
            "cell": _cell(releases),
            "publish": _writer(
                "packages-testing",
                f"${{{{ !cancelled() && {_BUILDS} && {_PUBLISHES} && github.event_name != 'pull_request' }}}}",
                steps.PUBLISH,
                cells=True,
            ),
            "promote": _writer(
                "packages-stable",
                f"${{{{ inputs.task == 'promote' && {_PUBLISHES} }}}}",
                steps.PROMOTE,
                more={steps.RELEASES: "${{ inputs.release }}"},
            ),
            "renew": _writer(
                "packages-testing",
                f"${{{{ vars.{steps.URL} != '' && (github.event.schedule == '{MONDAYS}' || "
                f"inputs.task == 'renew' && {_DEFAULT}) }}}}",
                steps.RENEW,
            ),
            "pages": _pages(),
            "update": _update(),
            "open": _open(),
            "proved": _proved(),
        },
    }


def _rooted(**more: str) -> GithubJob:
    """Return the keys of a job that mounts roots."""
    return {
        "runs-on": RUNNER,
        "container": {
            "image": IMAGE,
            "volumes": [f"pgpool-deb:{CACHE}"],
            "options": "--privileged --cgroupns=private",
        },
        "env": {"PGPOOL_DEB_CACHE": CACHE, **more},
        "timeout-minutes": 120,
    }


def _kept(name: str) -> GithubJob:
    hashed = ", ".join(f"'{pattern}'" for pattern in INPUTS)
    return {
        "name": "roots and compiler cache",
        "uses": KEEP,
        "with": {
            "path": CACHE,
            "key": f"pgpool-deb-{name}-${{{{ hashFiles({hashed}) }}}}",
            "restore-keys": f"pgpool-deb-{name}-",
        },
    }


def _cell(releases: Sequence[str]) -> GithubJob:
    name = "${{ matrix.release }}"
    return {
        "name": name,
        "if": f"${{{{ {_BUILDS} }}}}",
        **_rooted(),
        "concurrency": {"group": f"packages-${{{{ github.ref }}}}-{name}", "cancel-in-progress": True},
        "strategy": {"fail-fast": False, "matrix": {"release": list(releases)}},
        "steps": [
            {"name": "tools", "run": steps.PREPARE},
            _CHECKED_OUT,
            _kept(name),
            {"name": "build and prove", "run": steps.PROVE.format(release=name)},
            {
                "name": "report and packages",
                "if": "always()",
                "uses": UPLOAD,
                "with": {
                    "name": name,
                    "path": f"dist/report\ndist/{name}\n",
                    "if-no-files-found": "error",
                },
            },
        ],
    }


def _writer(
    environment: str, condition: str, command: str, *, cells: bool = False, more: dict[str, str] | None = None
) -> GithubJob:
    """Return a job that changes the repository, one at a time. Only one step has the key in its environment."""
    gathered = [
        {"name": "cells", "uses": DOWNLOAD, "with": {"path": "cells"}},
        {"name": "gather", "run": steps.GATHER},
    ]
    secret = f"${{{{ secrets.{steps.SYNC_SECRET} }}}}"
    return {
        **({"needs": ["cell"]} if cells else {}),
        "if": condition,
        "runs-on": RUNNER,
        "container": {"image": IMAGE},
        "environment": environment,
        "permissions": {"contents": "write"},
        "concurrency": {"group": "packages-repository", "cancel-in-progress": False},
        "timeout-minutes": 30,
        "env": {**_GIT, steps.URL: f"${{{{ vars.{steps.URL} }}}}"},
        "steps": [
            {"name": "tools", "run": steps.PREPARE_REPOSITORY},
            _CHECKED_OUT,
            *(gathered if cells else [{"name": "environment", "run": steps.ENVIRONMENT}]),
            {"name": "repository", "env": _TOKEN, "run": steps.FETCH},
            {"name": "sign", "env": {**_KEY, **(more or {})}, "run": command},
            {"name": "store", "env": _TOKEN, "run": steps.STORE},
            {
                "name": "synchronise",
                "env": {steps.SYNC: f"${{{{ vars.{steps.SYNC} }}}}", steps.SYNC_SECRET: secret},
                "run": steps.SYNCHRONISE,
            },
        ],
    }


def _pages() -> GithubJob:
    writers = ["publish", "promote", "renew"]
    return {
        "needs": writers,
        "if": f"${{{{ !cancelled() && contains(needs.*.result, 'success') && vars.{steps.SYNC} == '' }}}}",
        "runs-on": RUNNER,
        "environment": {"name": "github-pages", "url": "${{ steps.deployment.outputs.page_url }}"},
        "permissions": {"contents": "read", "pages": "write", "id-token": "write"},
        "concurrency": {"group": "packages-pages", "cancel-in-progress": False},
        "env": _GIT,
        "steps": [
            {"name": "repository", "env": _TOKEN, "run": steps.FETCH},
            {"name": "site", "run": steps.SITE},
            {"uses": UPLOAD_PAGES, "with": {"path": "site"}},
            {"id": "deployment", "uses": DEPLOY_PAGES},
        ],
    }


def _update() -> GithubJob:
    """Return the job that tries a new upstream release. It builds untrusted code, so its token may only read."""
    output = 'echo "branch=$branch" >>"$GITHUB_OUTPUT"\n'
    return {
        "if": f"${{{{ github.event.schedule == '{EVERY_SIX_HOURS}' || inputs.task == 'update' && {_DEFAULT} }}}}",
        **_rooted(**steps.GIT),
        "concurrency": {"group": "packages-update", "cancel-in-progress": False},
        "outputs": {"branch": "${{ steps.open.outputs.branch }}"},
        "steps": [
            {"name": "tools", "run": steps.PREPARE},
            _CHECKED_OUT,
            _kept("update"),
            {"name": "fetch open changes", "env": _TOKEN, "run": steps.KNOWN},
            {
                "name": "commit the news",
                "id": "open",
                "run": steps.OPEN + f"case $branch in\n  update/*) {output.strip()} ;;\nesac\n",
            },
            {
                "name": "change",
                "if": "${{ steps.open.outputs.branch != '' }}",
                "uses": UPLOAD,
                "with": {"name": "change", "path": steps.CHANGE, "if-no-files-found": "error"},
            },
        ],
    }


_PULL = f"""\
{steps.TAKE}\
git push --quiet "$REMOTE" "FETCH_HEAD:refs/heads/$branch"
title=$(git log -1 --format=%s FETCH_HEAD)
gh pr create --base "$DEFAULT" --head "$branch" --title "$title" --body "$(git log -1 --format=%b FETCH_HEAD)"
gh workflow run {FILE} --ref "$branch"
"""
"""It starts the workflow itself, because a push with this token starts none."""

_MERGE = f"""\
{steps.PROVED}\
git push --quiet "$REMOTE" "HEAD:refs/heads/$GITHUB_REF_NAME"
if [ "${{{steps.MERGE}:-}}" = hand ]; then
  echo "the pull request needs a manual merge"
elif gh pr merge --merge --delete-branch --match-head-commit "$(git rev-parse HEAD)" "$GITHUB_REF_NAME"; then
  gh workflow run {FILE} --ref "$DEFAULT"
elif [ -n "$version" ]; then
  gh workflow run {FILE} --ref "$GITHUB_REF_NAME"
else
  echo "the pull request needs a manual merge"
fi
"""
"""If branch protection requires checks of the last commit, the workflow runs on it again."""


def _open() -> GithubJob:
    return {
        "needs": ["update"],
        "if": "${{ needs.update.outputs.branch != '' }}",
        "runs-on": RUNNER,
        "permissions": {"contents": "write", "pull-requests": "write", "actions": "write"},
        "env": _GIT,
        "steps": [
            _CHECKED_OUT,
            {"name": "change", "uses": DOWNLOAD, "with": {"name": "change", "path": "dist"}},
            {"name": "pull request", "env": {**_TOKEN, **_GH, **_BASE}, "run": _PULL},
        ],
    }


def _proved() -> GithubJob:
    branch = "github.event_name == 'workflow_dispatch' && startsWith(github.ref, 'refs/heads/update/')"
    merge = {steps.MERGE: f"${{{{ vars.{steps.MERGE} }}}}"}
    return {
        "needs": ["cell"],
        "if": f"${{{{ {_BUILDS} && {branch} }}}}",
        "runs-on": RUNNER,
        "permissions": {"contents": "write", "pull-requests": "write", "actions": "write"},
        "env": _GIT,
        "steps": [
            _CHECKED_OUT,
            {"name": "cells", "uses": DOWNLOAD, "with": {"path": "cells"}},
            {"name": "environment", "run": steps.ENVIRONMENT},
            {"name": "proved", "env": {**_TOKEN, **_GH, **_BASE, **merge}, "run": _MERGE},
        ],
    }
