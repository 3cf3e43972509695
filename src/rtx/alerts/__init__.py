"""Alerts as rules: kept in Redis, evaluated on the tick stream, fired once until re-armed."""

from rtx.alerts.engine import AlertEngine
from rtx.alerts.rules import AlertRule, RuleState, check
from rtx.alerts.service import AlertRules
from rtx.alerts.stats import AlertRuleStats

__all__ = ["AlertEngine", "AlertRule", "AlertRuleStats", "AlertRules", "RuleState", "check"]
