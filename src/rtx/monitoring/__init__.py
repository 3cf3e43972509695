"""Metrics for Prometheus, and health for load balancers and people."""

from rtx.monitoring.endpoint import serve_metrics
from rtx.monitoring.health import Health, RoleState, of
from rtx.monitoring.metrics import render
from rtx.monitoring.servers import ServerMetrics

__all__ = ["Health", "RoleState", "ServerMetrics", "of", "render", "serve_metrics"]
