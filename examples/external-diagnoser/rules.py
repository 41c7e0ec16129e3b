"""From an anomaly to a diagnosis. No Kafka here: JSON in, JSON out."""

# kind of anomaly: (fault type, recommended action, whether anything automatic can help, confidence, cause)
RULES = {
    "low_tool_success": ("tool_failure", "retry_with_backoff", True, 0.8, "calls of the tool fail again and again"),
    "loop": ("loop", "force_replan", True, 0.95, "the agent goes round in circles"),
    "malformed_output": ("quality_degradation", "retry", True, 0.95, "the model's output could not be read as an action"),
    "state_drift": ("state_drift", "retry", True, 0.95, "the model was shown what is not the agent's"),
    "low_confidence": ("quality_degradation", "monitor", True, 0.6, "the model was unsure of this step's action"),
    "low_coherence": ("quality_degradation", "reset_state", True, 0.6, "the thoughts no longer belong together"),
    "context_pressure": ("context_overflow", "prune_context", True, 0.95, "the context is nearly full"),
    "high_tokens": ("context_overflow", "prune_context", True, 0.6, "the agent's goals take far more tokens than usual"),
    "budget_spent": ("budget_exceeded", "notify_human", False, 0.95, "a budget is spent"),
    "high_latency": ("latency_degradation", "monitor", True, 0.6, "steps take far longer than usual"),
    "low_health": ("state_drift", "reset_state", True, 0.6, "health fell without a single cause"),
    "engine_fault": ("engine_fault", "rebuild_engine", True, 0.95, "the inference engine broke"),
}
UNKNOWN = ("unknown", "monitor", True, 0.3, "nothing is known about this kind of anomaly")

# How bad a tool's error is: (recommended action, whether anything automatic can help, confidence, cause)
TOOL_ERRORS = {
    "transient": ("retry_with_backoff", True, 0.95, "failed for a moment"),
    "recoverable": ("repair_tool_call", True, 0.8, "refuses the agent's calls"),
    "fatal": ("notify_human", False, 0.95, "will not work until somebody mends it"),
    None: ("retry_with_backoff", True, 0.6, "failed, how badly is not known"),
}

SEVERE = ("high", "critical")

# What a diagnosis takes over from its anomaly as it is, so that policies can go by it.
EVIDENCE = ("sequence", "step", "health", "context_ratio", "tool")


def diagnose(anomaly: dict, diagnosis_id: str, name: str) -> dict:
    """The diagnosis of `anomaly`, in the form of `schemas/diagnosis.schema.json`."""
    fault_type, action, recoverable, confidence, cause = find(anomaly)
    metric, value, baseline = anomaly["metric"], anomaly["value"], anomaly["baseline"]
    found = {
        "diagnosis": diagnosis_id,
        "agent": anomaly["agent"],
        "goal": anomaly.get("goal"),
        "anomalies": [anomaly["anomaly"]],
        "fault_type": fault_type,
        "severity": anomaly["severity"],
        "root_cause": cause,
        "recommended_action": action,
        "recoverable": recoverable,
        "confidence": confidence,
        "diagnosed_by": name,
        "reasoning": f"{anomaly['kind']}: {metric} is {value:g} against {baseline:g} (over {anomaly['window']})",
    }
    found.update({evidence: anomaly[evidence] for evidence in EVIDENCE if evidence in anomaly})
    if anomaly["kind"] in ("low_confidence", "low_coherence", "low_health"):
        found["fallen_by"] = max(0.0, baseline - value)
    return found


def find(anomaly: dict) -> tuple:
    kind, tool = anomaly["kind"], anomaly.get("tool")
    if kind == "tool_failure" and tool:
        action, recoverable, confidence, what = TOOL_ERRORS.get(tool.get("error_tier"), TOOL_ERRORS[None])
        cause = f"{tool['name']} {what}: {first_line(tool.get('error'))}"
        return "tool_failure", action, recoverable, confidence, cause
    fault_type, action, recoverable, confidence, cause = RULES.get(kind, UNKNOWN)
    # A tool that fails for everybody is left alone for a while, whoever calls it.
    if kind == "low_tool_success" and anomaly["agent"].startswith("tool:"):
        action = "circuit_breaker"
    # One unsure or slow step is watched; what is severe needs more.
    if action == "monitor" and anomaly["severity"] in SEVERE:
        action = {"low_confidence": "reset_state", "high_latency": "model_downshift"}.get(kind, action)
    return fault_type, action, recoverable, confidence, cause


def first_line(error) -> str:
    lines = (error or "").strip().splitlines()
    return lines[0][:200] if lines else "no error given"
