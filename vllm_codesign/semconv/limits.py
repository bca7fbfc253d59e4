"""How much of a string and of a span is kept."""

MAX_STRING_BYTES = 2048  # Tempo cuts attribute values there
MAX_EVENTS = 128  # the OpenTelemetry SDK's default limit per span
