"""What Schemathesis takes for wrong and is not: JSON for protobuf allows null for a field left out and an enum told by its number, and a busy
machine may have no time for an answer."""

import json
import time

import requests.adapters
import schemathesis

ENUMS = {"sort", "status"}
NOT_NOW = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "OVERLOADED", "OUTCOME_UNKNOWN", "NEIGHBOUR_UNAVAILABLE", "CONFLICT", "REQUEST_IN_PROGRESS"}
PATIENCE = 30  # seconds


def has_null(value):
    if isinstance(value, dict):
        return any(has_null(inner) for inner in value.values())
    if isinstance(value, list):
        return any(has_null(inner) for inner in value)
    return value is None


@schemathesis.hook
def filter_case(context, case):
    query = case.query or {}
    numbered = any(name in ENUMS and str(value).lstrip("-").isdigit() for name, value in query.items())
    return not numbered and not has_null(case.body)


def is_passing(response):
    if response.status_code not in (409, 503, 504):
        return False
    try:
        details = json.loads(response.content).get("details", [])
        return any(detail.get("reason") in NOT_NOW for detail in details)
    except (AttributeError, ValueError):
        return False


def patient(send):
    """Sends the same request, with its idempotency key, until the answer says more than that it cannot be now."""

    def send_until_answered(self, request, **kwargs):
        end = time.monotonic() + PATIENCE
        response = send(self, request, **kwargs)
        while is_passing(response) and time.monotonic() < end:
            time.sleep(0.2)
            response = send(self, request, **kwargs)
        return response

    return send_until_answered


requests.adapters.HTTPAdapter.send = patient(requests.adapters.HTTPAdapter.send)
