"""Requests to the web as this machine makes them: by its certificates and proxies, those that only apt knows too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from . import apt_conf

if TYPE_CHECKING:
    import requests

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_REFUSED = 400


def get(
    address: str, *, timeout: float | tuple[float, float], headers: Mapping[str, str] | None = None
) -> requests.Response:
    """Return the answer to a GET whose body is still to be read; raises requests.RequestException.

    A proxy of apt's that refuses, as one for packages alone does, is passed by.
    """
    import requests  # noqa: PLC0415 - slow to import, seldom needed

    def ask(proxies: dict[str, str] | None) -> requests.Response:
        try:
            return asked(proxies, _bundle())
        except requests.exceptions.SSLError:
            if own := apt_conf.certificates():
                return asked(proxies, own)
            raise

    def asked(proxies: dict[str, str] | None, bundle: str | bool) -> requests.Response:
        return requests.get(
            address, headers=dict(headers or {}), stream=True, timeout=timeout, verify=bundle, proxies=proxies
        )

    named = requests.utils.select_proxy(address, requests.utils.get_environ_proxies(address))
    proxy = None if named else apt_conf.proxy(address)
    refused = None
    if proxy is not None and proxy.startswith(("http://", "https://")):
        with suppress(requests.ConnectionError):
            answer = ask({"http": proxy, "https": proxy})
            if answer.status_code < _REFUSED:
                return answer
            refused = answer
    try:
        answer = ask(None)
    except requests.ConnectionError:
        if refused is None:
            raise
        return refused
    if refused is not None:
        refused.close()
    return answer


def _bundle() -> str | bool:
    """Return the certificates to check by: the environment's choice, else this machine's, else those of requests."""
    chosen = any(name in os.environ for name in _BUNDLES)
    return True if chosen or not apt_conf.CERTIFICATES.exists() else str(apt_conf.CERTIFICATES)
