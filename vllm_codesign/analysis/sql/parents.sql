-- Spans that have others within them, and the request they lie in.
parents AS (
    SELECT DISTINCT TraceId, SpanId, ParentSpanId
    FROM {table:Identifier}
    WHERE ScopeName = 'vllm_codesign'
        AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
        AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
        AND SpanName IN ('engine.queue', 'prefill', 'decode')
)
