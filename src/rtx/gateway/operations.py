"""Routes for those who run the gateway: health and metrics. Never limited, never behind a login."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from rtx.gateway.gateway import Gateway
from rtx.gateway.replies import JsonResponse, LiveReply
from rtx.monitoring import health, metrics
from rtx.monitoring.exposition import CONTENT_TYPE


@get("/health/live", summary="Whether the process runs", tags=["Operations"])
async def live() -> LiveReply:
    return LiveReply()


@get(
    "/health/ready",
    summary="Whether to send traffic here",
    description="200 when every part works; 503 with the same body when one does not.",
    responses={503: ResponseSpec(health.Health, description="A part does not work")},
    tags=["Operations"],
)
async def ready(gateway: NamedDependency[Gateway]) -> JsonResponse[health.Health]:
    found = health.of(await gateway.state.health())
    if found.ready:
        return JsonResponse(found)
    return JsonResponse(found, status_code=503, headers={"Retry-After": "1"})


@get("/metrics", media_type="text/plain", summary="Prometheus metrics", tags=["Operations"])
async def prometheus(gateway: NamedDependency[Gateway]) -> JsonResponse[bytes]:
    text, content_type = metrics.render(gateway.layer, gateway)
    return JsonResponse(text, headers={"Content-Type": content_type})


@get(
    "/metrics/servers",
    media_type="text/plain",
    summary="Prometheus metrics of the servers behind the gateway",
    description="Under redis_exporter's names, with `instance` and `group` as labels of their own.",
    tags=["Operations"],
)
async def servers(gateway: NamedDependency[Gateway]) -> JsonResponse[bytes]:
    return JsonResponse(await gateway.servers.text(), headers={"Content-Type": CONTENT_TYPE})
