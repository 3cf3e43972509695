"""The doctor: looks at live servers and says what is wrong, why, and the fix."""

from rtx.monitoring.doctor.checks import CHECKS, Words
from rtx.monitoring.doctor.examination import examine
from rtx.monitoring.doctor.findings import (
    SEVERITIES,
    Finding,
    Report,
    ServerSummary,
    Severity,
    Unseen,
)

__all__ = [
    "CHECKS",
    "SEVERITIES",
    "Finding",
    "Report",
    "ServerSummary",
    "Severity",
    "Unseen",
    "Words",
    "examine",
]
