"""Posts CloudEvents with the CloudEvents SDK for Python: structured, binary, and binary data. Argument: the sidecar's URL."""
import sys
import urllib.request

from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent


def post(headers, body):
    request = urllib.request.Request(sys.argv[1] + "/v1/events", data=body, headers=dict(headers), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status, answer.read().decode())


def event(number, data, **more):
    attributes = {"id": f"py-{number}", "source": "/sdk/python", "type": "order.deleted", "subject": f"order/{number}", "actorid": "ü 17", **more}
    return CloudEvent(attributes, data)


post(*to_structured(event(1, {"mode": "structured", "text": "naïve"})))
post(*to_binary(event(2, {"mode": "binary", "text": "naïve"}, datacontenttype="application/json")))
post(*to_structured(event(3, b"\xff\x00", datacontenttype="application/octet-stream")))
