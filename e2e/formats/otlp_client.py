"""Logs with Python's logging through the OpenTelemetry SDK's OTLP/HTTP exporter. Argument: the sidecar's URL."""
import logging
import sys

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

provider = LoggerProvider(resource=Resource.create({"service.name": "sdk-python"}))
exporter = OTLPLogExporter(endpoint=sys.argv[1] + "/v1/logs", compression=Compression.Gzip)
provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
log = logging.getLogger("audit")
log.setLevel(logging.INFO)
log.addHandler(LoggingHandler(logger_provider=provider))
for number in range(200):
    log.warning("signed in", extra={"action": "user.login", "user.id": f"u-{number}", "log.record.uid": f"otel-{number}"})
log.info("a log record that is no audit event")
provider.shutdown()
