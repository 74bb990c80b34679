"""The REST API over endpoints, workergroups, templates and workers."""

from __future__ import annotations

from stoker.console.app import create_app
from stoker.console.ca import CertificateAuthority
from stoker.console.control import Control

__all__ = ["CertificateAuthority", "Control", "create_app"]
