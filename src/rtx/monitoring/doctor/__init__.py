"""The doctor: looks at live servers and says what is wrong, why, and the fix."""

from rtx.monitoring.doctor.examination import examine
from rtx.monitoring.doctor.findings import CHECKS, Finding, Report, ServerSummary, Severity

__all__ = ["CHECKS", "Finding", "Report", "ServerSummary", "Severity", "examine"]
