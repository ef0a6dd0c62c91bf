"""Send web requests with this machine's certificates and proxies, including those that only apt is configured for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from . import apt_conf

if TYPE_CHECKING:
    import requests

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_FIRST_ERROR_STATUS = 400


def get(
    address: str, *, timeout: float | tuple[float, float], headers: Mapping[str, str] | None = None
) -> requests.Response:
    """Send a GET and return the response with its body unread; raises requests.RequestException.

    If apt's proxy refuses, for example because it serves only packages, the request is sent without it.
    """
    import requests  # noqa: PLC0415 - slow to import, seldom needed

    def ask(proxies: dict[str, str] | None) -> requests.Response:
        try:
            return send(proxies, _bundle())
        except requests.exceptions.SSLError:
            if own := apt_conf.certificates():
                return send(proxies, own)
            raise

    def send(proxies: dict[str, str] | None, bundle: str | bool) -> requests.Response:
        return requests.get(
            address, headers=dict(headers or {}), stream=True, timeout=timeout, verify=bundle, proxies=proxies
        )

    from_environment = requests.utils.select_proxy(address, requests.utils.get_environ_proxies(address))
    proxy = None if from_environment else apt_conf.proxy(address)
    refused = None
    if proxy is not None and proxy.startswith(("http://", "https://")):
        with suppress(requests.ConnectionError):
            answer = ask({"http": proxy, "https": proxy})
            if answer.status_code < _FIRST_ERROR_STATUS:
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
    """Return the certificates for verification: the environment's choice, else this machine's, else requests'."""
    chosen = any(name in os.environ for name in _BUNDLES)
    return True if chosen or not apt_conf.CERTIFICATES.exists() else str(apt_conf.CERTIFICATES)
