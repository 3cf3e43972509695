"""Metrics for Prometheus, and health for load balancers and people."""

from rtx.monitoring.health import Health, RoleState, of
from rtx.monitoring.metrics import render

__all__ = ["Health", "RoleState", "of", "render"]
