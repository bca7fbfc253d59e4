-- The spans below the roots, each once, with the request that they belong to: calls lie within a
-- phase, so theirs is one level further up.
children AS (
    SELECT
        s.TraceId AS TraceId,
        s.SpanId AS SpanId,
        coalesce(nullif(p.ParentSpanId, ''), s.Parent) AS Root,
        s.Name AS Name,
        s.Begun AS Begun,
        s.Ended AS Ended,
        s.Busy AS Busy
    FROM (
        SELECT
            TraceId,
            SpanId,
            max(ParentSpanId) AS Parent,
            max(SpanName) AS Name,
            max(toUnixTimestamp64Nano(Timestamp)) AS Begun,
            max(toUnixTimestamp64Nano(Timestamp) + toInt64(Duration)) AS Ended,
            coalesce(max(toInt64OrNull(SpanAttributes['codesign.busy_ns'])), 0) AS Busy
        FROM {table:Identifier}
        WHERE ScopeName = 'vllm_codesign'
            AND Timestamp >= fromUnixTimestamp64Nano({since:Int64})
            AND Timestamp < fromUnixTimestamp64Nano({last:Int64})
            AND SpanKind <> 'Server'
            AND SpanName NOT IN ('engine.step', 'schedule', 'execute', 'update', 'worker.prepare',
                'worker.forward', 'worker.sample', 'worker.kv_load', 'worker.kv_save')
        GROUP BY TraceId, SpanId
    ) AS s
    LEFT JOIN parents AS p ON p.TraceId = s.TraceId AND p.SpanId = s.Parent
)
